//! What was seen, for the verdict and the report.

use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::changes::Change;
use crate::faults::{Fault, Kind};
use crate::listeners::Tally;

/// Frames that the fake card plays in a second.
pub const RATE_HZ: f64 = 48_000.0;

/// Seconds of the soak.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn now_s(self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

/// Sleeps, but not into the end; whether the soak goes on.
pub fn sleep(duration: Duration, over: &watch::Receiver<bool>) -> bool {
    const NAP: Duration = Duration::from_millis(50);
    let end = Instant::now() + duration;
    while !*over.borrow() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        thread::sleep(left.min(NAP));
    }
    false
}

/// What `/metrics` says, as far as it matters here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Of the stream, that the callback gave to the card.
    pub frames: u64,
    pub underruns: u64,
    pub xruns: u64,
    pub errors: u64,
    pub rebuilds: u64,
    pub is_live: bool,
    pub codes: u64,
    pub late_chunks: u64,
    pub listeners: u64,
    pub seated: u64,
    pub packets_lost: u64,
    pub refused: u64,
    pub collapses: u64,
}

impl Figures {
    /// Everything that may cost the card sound, and is counted when it does.
    pub fn n_events(&self) -> u64 {
        self.underruns + self.xruns + self.errors + self.rebuilds
    }
}

/// Both ends of the card at an instant.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub at_s: f64,
    /// That the card has played, silence included.
    pub frames_played: u64,
    pub figures: Figures,
}

/// From well after a fault to the next, when the card should play without a gap.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub from: Reading,
    pub to: Reading,
}

impl Window {
    pub fn seconds(&self) -> f64 {
        self.to.at_s - self.from.at_s
    }

    fn played_s(&self) -> f64 {
        (self.to.frames_played - self.from.frames_played) as f64 / RATE_HZ
    }

    /// Time in which the card stood still; negative where it caught up.
    pub fn still_s(&self) -> f64 {
        self.seconds() - self.played_s()
    }

    /// Played by the card, but not of the stream; negative where the card's buffer grew fuller.
    pub fn silent_s(&self) -> f64 {
        let given = self.to.figures.frames - self.from.figures.frames;
        self.played_s() - given as f64 / RATE_HZ
    }

    /// Counted by the daemon meanwhile.
    pub fn n_events(&self) -> u64 {
        self.to.figures.n_events() - self.from.figures.n_events()
    }
}

/// The daemon from outside.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub at_s: f64,
    pub rss_kib: u64,
    pub n_threads: u64,
    pub n_descriptors: u64,
    /// Of the last minute, of the whole machine.
    pub machine_load: f64,
    pub is_ready: bool,
    pub figures: Figures,
}

/// How the daemon ended.
#[derive(Clone, Debug)]
pub struct End {
    /// `None` if a signal killed it.
    pub code: Option<i32>,
    /// From SIGTERM on.
    pub seconds: f64,
    /// It had ended by itself before it was asked to.
    pub was_gone: bool,
}

#[derive(Debug, Default)]
pub struct Record {
    pub seconds: f64,
    pub samples: Vec<Sample>,
    pub faults: Vec<Fault>,
    pub windows: Vec<Window>,
    pub changes: Vec<Change>,
    pub audience: Tally,
    pub end: Option<End>,
    /// Of the daemon, line by line.
    pub log: Vec<String>,
}

impl Record {
    /// Samples of the first and the second half, once the daemon has warmed up.
    pub fn halves(&self) -> (&[Sample], &[Sample]) {
        const WARM_S: f64 = 60.0;
        let cold = self.samples.partition_point(|sample| sample.at_s < WARM_S);
        let warm = &self.samples[cold..];
        warm.split_at(warm.len() / 2)
    }

    /// What was wrong with the card at some moment of this time, if anything was: it failed or healed.
    pub fn trouble_in(&self, begin_s: f64, end_s: f64) -> Option<Kind> {
        let is_in = |fault: &&Fault| {
            let healed_s = fault.end_s + fault.healing_s.unwrap_or(f64::INFINITY);
            fault.begin_s <= end_s && begin_s <= healed_s
        };
        self.faults.iter().find(is_in).map(|fault| fault.kind)
    }
}

/// The middle one, or the mean of the middle two.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
    }
}

pub fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0), |(sum, n), value| (sum + value, n + 1));
    sum / f64::from(n)
}
