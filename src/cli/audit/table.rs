//! The report as a person reads it.

use std::fmt::Write;

use longwave::audit::{Beside, Report, Source};
use longwave::pump::Collapse;

/// Stretches told one by one; the report has them all.
const STRETCHES_MAX: usize = 40;

/// A page of tables: counts, stretches, alarms, distributions.
pub fn page(report: &Report) -> String {
    let mut page = head(report);
    counts(&mut page, report);
    stretches(&mut page, report);
    alarms(&mut page, report);
    distributions(&mut page, report);
    page
}

fn head(report: &Report) -> String {
    let what = match &report.source {
        Source::File { path } => path.clone(),
        Source::Model {
            name, seed, draw, ..
        } => {
            format!("{name}, seed {seed}, {draw}")
        }
    };
    let (seconds, reference) = (report.summary.n_seconds, &report.reference);
    format!(
        "{what}: {seconds} s at {} Hz\nbeside {}: {} s\n\n",
        report.rate_hz, reference.origin, reference.n_seconds
    )
}

fn counts(page: &mut String, report: &Report) {
    let summary = &report.summary;
    line(
        page,
        format_args!("{:<10}{:>8}{:>9}", "verdict", "seconds", "share"),
    );
    let mut count = |name: &str, n: usize| {
        let percent = 100.0 * n as f64 / summary.n_seconds as f64;
        line(page, format_args!("{name:<10}{n:>8}{percent:>7.2} %"));
    };
    for (verdict, n) in &summary.n_of {
        count(verdict.name(), *n);
    }
    count("any", summary.n_flagged);
    page.push('\n');
}

fn stretches(page: &mut String, report: &Report) {
    if report.stretches.is_empty() {
        return;
    }
    line(page, format_args!("{:<20}{}", "from - to", "verdict"));
    for stretch in report.stretches.iter().take(STRETCHES_MAX) {
        let span = format!("{} - {}", clock(stretch.from_s), clock(stretch.to_s));
        line(page, format_args!("{span:<20}{}", stretch.verdict));
    }
    if let Some(n) = report.stretches.len().checked_sub(STRETCHES_MAX + 1) {
        line(page, format_args!("and {} more, in report.json", n + 1));
    }
    page.push('\n');
}

fn alarms(page: &mut String, report: &Report) {
    let times = match report.alarms.len() {
        1 => "once".into(),
        n => format!("{n} times"),
    };
    line(
        page,
        format_args!("a daemon's watch would have stepped in {times}"),
    );
    for alarm in report.alarms.iter().take(STRETCHES_MAX) {
        let second = clock(alarm.at_s as usize);
        let tenths = (alarm.at_s * 10.0) as usize % 10;
        let what = match alarm.collapse {
            Collapse::Noise => "noise",
            Collapse::Dead => "dead",
        };
        line(
            page,
            format_args!("{:<20}{what}", format!("{second}.{tenths}")),
        );
    }
    page.push('\n');
}

fn distributions(page: &mut String, report: &Report) {
    line(
        page,
        format_args!(
            "{:<19}{:>9}{:>9}{:>9}   {:>9}{:>9}{:>9}{:>9}",
            "", "1 %", "median", "99 %", "corpus 1%", "median", "99 %", "inside"
        ),
    );
    for beside in &report.distributions {
        line(page, format_args!("{}", distribution(beside)));
    }
}

fn distribution(beside: &Beside) -> String {
    let three = |quantiles: &[f32; 9]| {
        let [_, low, _, _, median, _, _, high, _] = quantiles;
        format!("{low:>9.2}{median:>9.2}{high:>9.2}")
    };
    let own = format!("{:<19}{}", beside.feature.name(), three(&beside.quantiles));
    match (&beside.reference, beside.inside) {
        (Some(reference), Some(inside)) => {
            let percent = 100.0 * inside;
            format!("{own}   {}{percent:>7.1} %", three(reference))
        }
        _ => own,
    }
}

fn clock(seconds: usize) -> String {
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    format!("{}:{:02}:{seconds:02}", minutes / 60, minutes % 60)
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(page, "{text}");
}
