//! What a soak has to show, and whether it did.

use std::fmt;

use crate::record::{Record, Window, mean, median};

/// Every fault heals within this, from its end.
pub const HEALING_MAX_S: f64 = 2.0;

/// Of the second half to the first.
const MEMORY_MAX: f64 = 0.02;

/// Descriptors and threads may differ by so much between the halves: what is open comes and goes.
const APART_MAX: f64 = 1.0;

/// What the two ends of the card are read apart, and what lies in its buffers, at both ends of a window.
pub const BLUR_S: f64 = 0.1;

/// From SIGTERM to the end.
const END_MAX_S: f64 = 2.0;

/// One thing that had to hold.
#[derive(Clone, Debug)]
pub struct Judgement {
    pub what: &'static str,
    pub holds: bool,
    /// What was seen.
    pub seen: String,
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.holds { "holds" } else { "FAILS" };
        write!(f, "{verdict}: {}: {}", self.what, self.seen)
    }
}

fn judgement(what: &'static str, holds: bool, seen: String) -> Judgement {
    Judgement { what, holds, seen }
}

pub fn judge(record: &Record) -> Vec<Judgement> {
    vec![
        healing(record),
        memory(record),
        flat(
            "descriptors are flat",
            record,
            |sample| sample.n_descriptors as f64 - sample.figures.listeners as f64,
            "besides those of listeners",
        ),
        flat(
            "threads are flat",
            record,
            |sample| sample.n_threads as f64,
            "of all kinds",
        ),
        card_losses(record),
        listeners(record),
        told_losses(record),
        changes(record),
        log(record),
        end(record),
    ]
}

fn healing(record: &Record) -> Judgement {
    let times = || record.faults.iter().filter_map(|fault| fault.healing_s);
    let n_never = record.faults.len() - times().count();
    let worst = times().fold(0.0, f64::max);
    let n_late = times().filter(|&seconds| seconds > HEALING_MAX_S).count();
    let seen = format!(
        "{} faults; median {:.2} s, worst {worst:.2} s, {n_late} later, {n_never} never",
        record.faults.len(),
        median(times()),
    );
    let holds = !record.faults.is_empty() && n_never == 0 && n_late == 0;
    judgement("every fault heals within 2 s of its end", holds, seen)
}

fn memory(record: &Record) -> Judgement {
    let (first, second) = record.halves();
    let mib = |half: &[crate::record::Sample]| mean(half.iter().map(|s| s.rss_kib as f64 / 1024.0));
    let (before, after) = (mib(first), mib(second));
    let change = after / before - 1.0;
    let seen = format!(
        "{before:.2} MiB in the first half, {after:.2} MiB in the second: {:+.2} %",
        100.0 * change
    );
    // Without samples nothing is shown.
    judgement(
        "memory is flat, within 2 %",
        change.abs() <= MEMORY_MAX,
        seen,
    )
}

fn flat(
    what: &'static str,
    record: &Record,
    of: fn(&crate::record::Sample) -> f64,
    which: &str,
) -> Judgement {
    let (first, second) = record.halves();
    // Not the mean: a card that is away has none, and how often that is seen is chance.
    let (before, after) = (median(first.iter().map(of)), median(second.iter().map(of)));
    let seen =
        format!("{before:.1} in the middle of the first half, {after:.1} of the second, {which}");
    judgement(what, (after - before).abs() <= APART_MAX, seen)
}

/// Whether the card lost more in this window than can be a matter of reading it, and nobody counted.
pub fn is_uncounted(window: &Window) -> bool {
    window.n_events() == 0 && window.still_s().max(window.silent_s()) > BLUR_S
}

fn card_losses(record: &Record) -> Judgement {
    let windows = &record.windows;
    let quiet = || windows.iter().filter(|window| window.n_events() == 0);
    let n_uncounted = windows.iter().filter(|window| is_uncounted(window)).count();
    let worst = |of: fn(&Window) -> f64| 1e3 * quiet().map(of).fold(0.0, f64::max);
    let seconds: f64 = windows.iter().map(Window::seconds).sum();
    let seen = format!(
        "{} windows without a fault, {seconds:.0} s; in {} nothing was counted, and the card stood still for {:.0} ms \
         at most and was silent for {:.0} ms at most (reading is as exact as {:.0} ms); {n_uncounted} lost more",
        windows.len(),
        quiet().count(),
        worst(Window::still_s),
        worst(Window::silent_s),
        1e3 * BLUR_S,
    );
    let holds = !windows.is_empty() && n_uncounted == 0;
    judgement("the card loses nothing that is not counted", holds, seen)
}

fn listeners(record: &Record) -> Judgement {
    let audience = &record.audience;
    let n_visits: u64 = audience.counts.values().map(|counts| counts.n_visits).sum();
    let n_packets: u64 = audience
        .counts
        .values()
        .map(|counts| counts.n_packets)
        .sum();
    let seen = format!(
        "{n_visits} visits and a witness, {} packets; {} out of step or cut off without reason",
        n_packets + audience.witness.n_packets,
        audience.faults.len(),
    );
    let holds = audience.faults.is_empty() && n_packets > 0 && audience.witness.n_visits == 1;
    judgement(
        "packets and positions are continuous, or the loss was told",
        holds,
        seen,
    )
}

fn told_losses(record: &Record) -> Judgement {
    let audience = &record.audience;
    let visits = audience.counts.values();
    let n_told: u64 = visits.map(|counts| counts.n_told_lost).sum();
    let n_told = n_told + audience.witness.n_told_lost;
    let n_counted = record
        .samples
        .last()
        .map_or(0, |sample| sample.figures.packets_lost);
    let seen =
        format!("{n_told} packets told to listeners, {n_counted} counted at the last sample");
    // The last sample is older than the last word to a listener.
    let newer = 5 * 50 * crate::listeners::N_SEATS as u64;
    judgement(
        "losses told are losses counted",
        n_told <= n_counted + newer,
        seen,
    )
}

fn changes(record: &Record) -> Judgement {
    let n_good = record
        .changes
        .iter()
        .filter(|change| change.is_good)
        .count();
    let wrong = record
        .changes
        .iter()
        .filter(|change| change.fault.is_some());
    let seen = format!(
        "{n_good} good ones, {} bad ones; {} were not taken so",
        record.changes.len() - n_good,
        wrong.clone().count()
    );
    let what = "a good configuration changes the station, a bad one nothing";
    judgement(what, wrong.count() == 0, seen)
}

fn log(record: &Record) -> Judgement {
    let n = |word: &str| {
        let holds = |line: &&String| line.contains(word);
        record.log.iter().filter(holds).count()
    };
    let n_bad = record
        .changes
        .iter()
        .filter(|change| !change.is_good)
        .count();
    let (n_panics, n_errors) = (n("panicked"), n("ERROR"));
    let seen = format!(
        "{} lines; {n_panics} of a panic, {n_errors} errors, where {n_bad} bad configurations ask for one each",
        record.log.len()
    );
    let what = "no panic in the log, no error but of bad configurations";
    judgement(what, n_panics == 0 && n_errors == n_bad, seen)
}

fn end(record: &Record) -> Judgement {
    let (holds, seen) = match &record.end {
        None => (false, "it did not end within a minute".to_owned()),
        Some(end) if end.was_gone => (false, format!("it ended by itself, with {:?}", end.code)),
        Some(end) => {
            let holds = end.code == Some(0) && end.seconds <= END_MAX_S;
            (
                holds,
                format!("code {:?} after {:.2} s", end.code, end.seconds),
            )
        }
    };
    judgement("SIGTERM ends it with 0 within 2 s", holds, seen)
}
