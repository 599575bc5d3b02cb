//! One list of figures: what `/metrics` exports, what `docs/operating.md` explains, what the dashboard
//! and the alerts of `examples/monitoring` ask for.

use crate::server::Server;
use longwave::net::Settings;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// All figures and their kinds, those that are unknown at first included.
async fn exported() -> BTreeMap<String, String> {
    let server = Server::start(Settings::default()).await;
    let card = &server.telemetry.cards[0];
    card.drift_ppm.set(Some(1.0));
    card.correction_ppm.set(Some(1.0));
    server.telemetry.pump.x_realtime.set(Some(1.0));
    let text = server.text("GET", "/metrics").await;
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let kinds = kinds.map(|line| line.split_once(' ').unwrap());
    kinds
        .map(|(name, kind)| (name.into(), kind.into()))
        .collect()
}

/// Every word of `text` that can only be one of our figures.
fn named(text: &str) -> BTreeSet<String> {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_of_word(c));
    let names = words.filter(|word| {
        let rest = word.strip_prefix("longwave_");
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    });
    names.map(str::to_owned).collect()
}

/// The figures that `text` names, the series of a histogram under its name.
fn asked_for(text: &str, exported: &BTreeMap<String, String>) -> BTreeSet<String> {
    let series = ["_bucket", "_sum", "_count"];
    let family = |name: String| {
        let of = series.iter().find_map(|end| name.strip_suffix(end));
        let is_histogram = |of: &&str| exported.get(*of).is_some_and(|k| k == "histogram");
        of.filter(is_histogram).map(str::to_owned).unwrap_or(name)
    };
    named(text).into_iter().map(family).collect()
}

#[tokio::test]
async fn every_figure_is_explained_and_every_explained_one_is_there() {
    let exported = exported().await;
    let document = fs::read_to_string("docs/operating.md").unwrap();
    let (_, section) = document.split_once("\n## Monitoring\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut explained = BTreeSet::new();
    for row in section
        .lines()
        .filter(|line| line.starts_with("| `longwave_"))
    {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, name, unit, meaning, _] = cells[..] else {
            panic!("{row} has not three cells");
        };
        let name = name.trim_matches('`');
        assert!(!unit.is_empty() && !meaning.is_empty(), "{row}");
        assert!(explained.insert(name.to_owned()), "{name} is there twice");
    }
    let exported: BTreeSet<String> = exported.into_keys().collect();
    assert_eq!(explained, exported);
}

#[tokio::test]
async fn whatever_names_a_figure_names_one_that_is_there() {
    let exported = exported().await;
    let documents = fs::read_dir("docs").unwrap();
    let examples = fs::read_dir("examples/monitoring").unwrap();
    let files = documents.chain(examples).map(|entry| entry.unwrap().path());
    for file in files.filter(|file| file.is_file()) {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        for name in asked_for(&text, &exported) {
            assert!(exported.contains_key(&name), "{file:?} names {name}");
        }
    }
}

#[tokio::test]
async fn names_keep_prometheus_rules_and_each_has_help() {
    let server = Server::start(Settings::default()).await;
    let classic = server.text("GET", "/metrics").await;
    assert!(classic.contains("content-type: text/plain; version=0.0.4"));
    let lines = classic.lines().filter_map(|line| line.strip_prefix("# "));
    let headings: Vec<&str> = lines.collect();
    for pair in headings.chunks(2) {
        let [help, kind] = [0, 1].map(|at| pair[at].splitn(3, ' ').collect::<Vec<_>>());
        assert_eq!((help[0], kind[0], help[1]), ("HELP", "TYPE", kind[1]));
        let (name, help, kind) = (kind[1], help[2], kind[2]);
        assert!(!help.is_empty(), "{name} has no help");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        for end in [
            "_us", "_ms", "_s", "_hz", "_percent", "_kb", "_count", "_sum",
        ] {
            assert!(!name.trim_end_matches("_total").ends_with(end), "{name}");
        }
    }
    let head = format!(
        "GET /metrics HTTP/1.0\r\nHost: {}\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\r\n",
        server.addr
    );
    let open = server.say(&head).await;
    assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(open.ends_with("\n# EOF\n"), "{open}");
}

#[test]
fn every_alert_says_what_is_wrong_and_what_to_do_and_is_tried() {
    let rules = fs::read_to_string("examples/monitoring/alerts.yml").unwrap();
    let tests = fs::read_to_string("examples/monitoring/alerts_test.yml").unwrap();
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 10);
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        for part in ["expr:", "severity:", "summary:", "description:"] {
            assert!(alert.contains(part), "{name} has no {part}");
        }
        let is_tried = tests.contains(&format!("alertname=\"{name}\",alertstate"));
        assert!(is_tried, "{name} is not tried");
    }
}

#[test]
fn every_panel_has_a_question_a_title_and_a_unit() {
    let text = fs::read_to_string("examples/monitoring/dashboard.json").unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let title = panel["title"].as_str().unwrap();
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].is_string(), "{title}");
        assert!(
            panel["fieldConfig"]["defaults"]["unit"].is_string(),
            "{title}"
        );
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            let expression = target["expr"].as_str().unwrap();
            assert!(
                expression.contains("instance=~\"$instance\""),
                "{expression}"
            );
        }
    }
}
