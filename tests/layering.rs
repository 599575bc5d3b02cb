//! The dependency law of ARCHITECTURE.md as a test: who may name whom, and who owns which crate.
//!
//! It reads lines, not syntax, and the house style keeps that sound: no `use crate::{a, b}` at
//! crate level and no `super::super`, which it checks as well. A module without a row fails, so
//! does a row without a module.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Who may name whom inside the crate: what a row does not list is forbidden to that module.
const LAW: &[(&str, &[&str])] = &[
    ("access", &[]),
    ("capacity", &[]),
    ("files", &[]),
    ("limits", &[]),
    ("machine", &[]),
    ("mulaw", &[]),
    ("plot", &[]),
    ("sound", &[]),
    ("telemetry", &[]),
    ("tls", &[]),
    ("broadcast", &[]),
    ("draw", &["limits"]),
    ("protocol", &["draw", "mulaw"]),
    ("resample", &[]),
    ("wav", &["resample"]),
    ("control", &["engine", "resample", "telemetry"]),
    ("corpus", &["files", "resample", "wav"]),
    ("compute", &[]),
    ("predictor", &["compute", "mulaw"]),
    ("model", &["draw", "files", "predictor"]),
    (
        "engine",
        &["machine", "model", "compute", "mulaw", "predictor"],
    ),
    (
        "bench",
        &[
            "files", "machine", "model", "compute", "engine", "plot", "resample",
        ],
    ),
    ("inspect", &["model", "engine", "plot"]),
    (
        "train",
        &[
            "corpus",
            "engine",
            "files",
            "model",
            "mulaw",
            "plot",
            "predictor",
            "wav",
        ],
    ),
    ("eval", &["corpus", "files", "model", "plot", "train"]),
    ("card", &["telemetry"]),
    (
        "net",
        &[
            "access",
            "broadcast",
            "control",
            "mulaw",
            "protocol",
            "resample",
            "state",
            "telemetry",
            "tls",
            "wav",
        ],
    ),
    (
        "listen",
        &[
            "protocol",
            "mulaw",
            "card",
            "resample",
            "telemetry",
            "tls",
            "wav",
        ],
    ),
    (
        "pump",
        &[
            "engine",
            "broadcast",
            "control",
            "machine",
            "mulaw",
            "resample",
            "sound",
            "telemetry",
        ],
    ),
    (
        "record",
        &["broadcast", "files", "mulaw", "telemetry", "wav"],
    ),
    // Values only: how a stream draws, devices, the names of instruction sets and of a recording's formats.
    ("config", &["draw", "engine", "limits", "record"]),
    ("signals", &[]),
    ("state", &["control", "draw", "files"]),
    (
        "setup",
        &[
            "capacity", "config", "engine", "machine", "model", "mulaw", "pump", "state", "wav",
        ],
    ),
    (
        "render",
        &["control", "mulaw", "pump", "resample", "setup", "wav"],
    ),
    (
        "audit",
        &[
            "corpus", "files", "model", "mulaw", "plot", "pump", "setup", "sound", "wav",
        ],
    ),
    (
        "daemon",
        &[
            "access",
            "broadcast",
            "capacity",
            "card",
            "config",
            "control",
            "machine",
            "model",
            "net",
            "protocol",
            "pump",
            "engine",
            "record",
            "setup",
            "signals",
            "state",
            "telemetry",
            "tls",
        ],
    ),
];

/// Crates that only these modules may name.
const OWNED: &[(&str, &[&str])] = &[
    ("alsa", &["card"]),
    ("axum", &["net"]),
    ("candle_core", &["train", "model"]),
    ("clap", &[]),
    ("cpal", &["card"]),
    ("crossbeam_channel", &["control"]),
    ("cudarc", &["engine", "train"]),
    ("eyre", &[]),
    ("flacenc", &["record"]),
    ("hound", &["corpus", "wav"]),
    ("hmac", &["access"]),
    ("hyper", &["net"]),
    ("indicatif", &[]),
    ("ipnet", &["config", "net"]),
    ("listenfd", &["daemon"]),
    ("jiff", &["bench", "record"]),
    ("ogg", &["net"]),
    ("opusic_c", &["net"]),
    (
        "plotters",
        &["audit", "bench", "eval", "inspect", "plot", "train"],
    ),
    ("png", &["audit"]),
    ("prometheus_client", &["net"]),
    ("realfft", &["audit", "sound"]),
    ("rtrb", &["pump", "card", "control", "net"]),
    ("rubato", &["resample"]),
    ("rustls_native_certs", &["tls"]),
    ("safetensors", &["model", "train"]),
    ("rustix", &["machine", "card", "bench"]),
    ("sd_notify", &["daemon"]),
    ("subtle", &["access"]),
    ("symphonia", &["corpus"]),
    ("tokio", &["net", "listen", "daemon", "signals", "tls"]),
    ("tokio_rustls", &["tls"]),
    ("tokio_tungstenite", &["listen"]),
    ("toml", &["config"]),
    ("tracing", &["daemon", "net", "record"]),
    ("ureq", &[]),
    ("walkdir", &["corpus"]),
];

#[test]
fn modules_name_only_what_the_law_allows() {
    let mut faults = Vec::new();
    each_line(&mut |module, place, line| {
        let allowed = LAW.iter().find(|(name, _)| *name == module);
        let Some((_, allowed)) = allowed else {
            faults.push(format!("{place}: {module} has no row in LAW"));
            return;
        };
        let others = LAW.iter().map(|(other, _)| *other);
        for other in others.filter(|other| *other != module && !allowed.contains(other)) {
            if names(line, &format!("crate::{other}")) {
                faults.push(format!("{place}: {module} -> {other}"));
            }
        }
        for (owned, _) in OWNED.iter().filter(|row| !row.1.contains(&module)) {
            if names(line, owned) && line.contains(&format!("{owned}::")) {
                faults.push(format!("{place}: {module} -> the crate {owned}"));
            }
        }
        if line.contains("super::super") || line.contains("use crate::{") {
            faults.push(format!("{place}: a path that this test cannot read"));
        }
    });
    assert!(faults.is_empty(), "layering broken:\n{}", faults.join("\n"));
}

#[test]
fn a_module_below_the_root_does_not_climb_there() {
    let mut faults = Vec::new();
    walk(Path::new("src"), &mut |file, text| {
        // In these files `super` is the crate, and the law reads `crate::` alone.
        let depth = file.components().count();
        let is_at_root = depth == 2 || (depth == 3 && file.ends_with("mod.rs"));
        let code = text.split("\nmod tests {").next().unwrap_or("");
        let climbs = |line: &&str| names(line, "super") && !line.trim_start().starts_with("//");
        if is_at_root && let Some(line) = code.lines().find(climbs) {
            faults.push(format!("{}: {line}", file.display()));
        }
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_permission_that_nobody_uses_is_taken_back() {
    let mut used = BTreeSet::new();
    each_line(&mut |module, _, line| {
        let others = LAW.iter().map(|row| format!("crate::{}", row.0));
        let crates = OWNED.iter().map(|row| row.0.to_owned());
        for path in others.chain(crates).filter(|path| names(line, path)) {
            used.insert((module.to_owned(), path));
        }
    });
    let inside = LAW.iter().flat_map(|(module, allowed)| {
        let path = |other: &&str| (module.to_string(), format!("crate::{other}"));
        allowed.iter().map(path)
    });
    let owned = OWNED.iter().flat_map(|(owned, owners)| {
        let row = |owner: &&str| (owner.to_string(), owned.to_string());
        owners.iter().map(row)
    });
    let idle = inside.chain(owned).filter(|row| !used.contains(row));
    assert_eq!(idle.collect::<Vec<_>>(), []);
}

#[test]
fn every_row_of_the_law_has_its_module() {
    let mut modules = BTreeSet::new();
    walk(Path::new("src"), &mut |file, _| {
        modules.extend(module_of(file))
    });
    let rows: BTreeSet<String> = LAW.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(rows, modules);
}

#[test]
fn a_module_is_declared_after_all_that_it_may_name() {
    let lib = fs::read_to_string("src/lib.rs").unwrap();
    let place = |module: &str| lib.find(&format!("pub mod {module};")).unwrap_or(0);
    for (module, allowed) in LAW {
        let early = allowed.iter().find(|other| place(other) > place(module));
        assert_eq!(early, None, "{module} may name it, but it stands above");
    }
}

/// Visits the library's code, line by line, without comments.
fn each_line(visit: &mut dyn FnMut(&str, &str, &str)) {
    walk(Path::new("src"), &mut |file, text| {
        let Some(module) = module_of(file) else {
            return;
        };
        let code = text.lines().enumerate();
        for (n, line) in code.filter(|(_, line)| !line.trim_start().starts_with("//")) {
            visit(&module, &format!("{}:{}", file.display(), n + 1), line);
        }
    });
}

/// The library's module that a file belongs to; the program around it has no layer.
fn module_of(file: &Path) -> Option<String> {
    let first = file.strip_prefix("src").ok()?.iter().next()?.to_str()?;
    let module = first.trim_end_matches(".rs");
    (!matches!(module, "lib" | "main" | "cli")).then(|| module.to_owned())
}

/// Does `line` hold `path` as a whole path, not as a part of a longer identifier?
fn names(line: &str, path: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(path).any(|(at, _)| {
        !line[..at].ends_with(is_word) && !line[at + path.len()..].starts_with(is_word)
    })
}

fn walk(dir: &Path, visit: &mut dyn FnMut(&Path, &str)) {
    for entry in fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if entry.is_dir() {
            walk(&entry, visit);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            visit(&entry, &fs::read_to_string(&entry).unwrap());
        }
    }
}
