//! The report as a person reads it.

use std::fmt::{self, Write};
use std::path::Path;

use longwave::audit::{Beside, Feature, Report, Source, Verdict};
use longwave::pump::Collapse;

use super::Audited;

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

/// A line for each stream, and one for all.
pub fn several(judged: &[Audited]) -> String {
    let mut page = String::new();
    let first = &judged[0].report.reference;
    line(
        &mut page,
        format_args!("beside {}: {} s\n", first.origin, first.n_seconds),
    );
    let names: Vec<String> = judged.iter().map(|one| name(&one.dir)).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0).max(6);
    line(
        &mut page,
        format_args!(
            "{:<width$}{:>9}{:>7}{:>6}{:>7}{:>8}{:>9}{:>9}{:>10}",
            "stream", "seconds", "noise", "dead", "stuck", "clicks", "loudest", "level", "flatness"
        ),
    );
    let rows: Vec<Row> = judged.iter().map(|one| Row::of(&one.report)).collect();
    for (name, row) in names.iter().zip(&rows) {
        line(&mut page, format_args!("{name:<width$}{row}"));
    }
    line(
        &mut page,
        format_args!("{:<width$}{}", "all", Row::all(&rows)),
    );
    page.push_str("\nloudest: the highest click ratio; level, flatness: share of seconds inside the corpus's middle 98 %\n");
    page
}

fn name(dir: &Path) -> String {
    let name = dir.file_name();
    name.map_or_else(String::new, |name| name.display().to_string())
}

/// What a stream's line says.
struct Row {
    n_seconds: usize,
    /// Of each verdict, in the order of [`Verdict::ALL`].
    n_of: [usize; 4],
    loudest: f32,
    /// Shares inside, of level and flatness.
    inside: [f64; 2],
}

impl Row {
    fn of(report: &Report) -> Self {
        let inside = |feature| {
            let all = report.distributions.iter();
            let beside = all.into_iter().find(|beside| beside.feature == feature);
            beside.and_then(|beside| beside.inside).unwrap_or(f64::NAN)
        };
        let clicks = report
            .seconds
            .iter()
            .map(|judged| judged.second.click_ratio);
        Self {
            n_seconds: report.summary.n_seconds,
            n_of: Verdict::ALL.map(|verdict| report.summary.n_of[&verdict]),
            loudest: clicks.fold(0.0, f32::max),
            inside: [Feature::LevelDbfs, Feature::FlatnessDb].map(inside),
        }
    }

    fn all(rows: &[Self]) -> Self {
        let n_seconds = rows.iter().map(|row| row.n_seconds).sum();
        let mean = |i: usize| {
            let sum = rows.iter().map(|row| row.inside[i] * row.n_seconds as f64);
            sum.sum::<f64>() / n_seconds as f64
        };
        Self {
            n_seconds,
            n_of: std::array::from_fn(|i| rows.iter().map(|row| row.n_of[i]).sum()),
            loudest: rows.iter().map(|row| row.loudest).fold(0.0, f32::max),
            inside: [mean(0), mean(1)],
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            n_seconds, loudest, ..
        } = self;
        let [noise, dead, stuck, clicks] = self.n_of;
        let [level, flatness] = self.inside.map(|share| 100.0 * share);
        write!(
            f,
            "{n_seconds:>9}{noise:>7}{dead:>6}{stuck:>7}{clicks:>8}{loudest:>9.2}"
        )?;
        write!(f, "{level:>7.2} %{flatness:>7.2} %")
    }
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
