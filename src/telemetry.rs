//! Counters that the real-time threads raise and everybody else reads.
//!
//! Every write is one relaxed atomic operation: nobody waits, nothing allocates, and a reader sees
//! each figure whole though not all figures of one instant.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// All figures of a running daemon.
#[derive(Debug, Default)]
pub struct Telemetry {
    /// When it started, in seconds since 1970.
    pub start_time_s: Gauge,
    /// What there is room for.
    pub lanes: LaneTelemetry,
    /// What the generation thread has done.
    pub pump: PumpTelemetry,
    /// What each sound card has taken, in the order of the configuration.
    pub cards: Vec<Arc<CardTelemetry>>,
    /// What the network has sent.
    pub net: NetTelemetry,
    /// What would survive a restart.
    pub state: StateTelemetry,
    /// What was recorded.
    pub record: RecordTelemetry,
}

impl Telemetry {
    /// Of a daemon that may play on cards of these names.
    pub fn with_cards<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let card = |name: &str| CardTelemetry {
            name: name.into(),
            ..CardTelemetry::default()
        };
        let cards = names.into_iter().map(|name| Arc::new(card(name)));
        Self {
            cards: cards.collect(),
            ..Self::default()
        }
    }

    /// A figure of all cards together.
    pub fn of_cards(&self, figure: impl Fn(&CardTelemetry) -> &Counter) -> u64 {
        self.cards.iter().map(|card| figure(card).get()).sum()
    }
}

/// Raised by the recorders, all stations together.
#[derive(Debug, Default)]
pub struct RecordTelemetry {
    /// Samples in files.
    pub samples: Counter,
    /// Samples that should be and are not.
    pub lost: Counter,
    /// Files that got their names.
    pub files: Counter,
    /// Times that writing failed.
    pub failures: Counter,
    /// Stations that should be recorded and are not now.
    pub stopped: Gauge,
}

/// Raised by whoever writes the stations' states.
#[derive(Debug, Default)]
pub struct StateTelemetry {
    /// States written, all stations together.
    pub kept: Counter,
    /// States that could not be written.
    pub failed: Counter,
}

/// Told at start, once the machine was measured.
#[derive(Debug, Default)]
pub struct LaneTelemetry {
    /// Streams that play.
    pub open: Gauge,
    /// Streams that would play in time: those open, and more of the first station's model.
    pub capacity: Gauge,
}

/// Raised by the pump alone.
#[derive(Debug, Default)]
pub struct PumpTelemetry {
    /// Codes drawn, all streams together.
    pub codes: Counter,
    /// Chunks generated, all streams together.
    pub chunks: Counter,
    /// Chunks whose computation took longer than they play.
    pub late_chunks: Counter,
    /// How long the chunks due at a time took to compute, as a share of the time they play.
    pub chunk_load: LoadHistogram,
    /// Seconds that a step took, one code in all lanes that are due; of each chunk the mean.
    pub step_s: StepHistogram,
    /// Sound drawn in a second of work, in the last second; told by the daemon.
    pub x_realtime: Measure,
    /// Microseconds of sound that were not drawn when they were due, of stations that a timer paces,
    /// all together.
    pub lost_us: Counter,
    /// Engines that have failed while they played, for which the CPU engine plays on; told by the daemon.
    pub engine_failures: Counter,
    /// Streams that fell into noise and returned from it.
    pub noise_collapses: Counter,
    /// Streams that fell silent and returned from it.
    pub dead_collapses: Counter,
    /// Microseconds of sound generated but not yet played by the card or, without one, not yet due;
    /// of the station that has least.
    pub lead_us: Gauge,
}

/// Raised by the device's callback, by the card's supervisor, and where it says so by the pump.
#[derive(Debug, Default)]
pub struct CardTelemetry {
    /// What the configuration calls it.
    pub name: String,
    /// Times the device asked for a period.
    pub callbacks: Counter,
    /// Frames of the stream that were played (silence while starved not counted).
    pub frames: Counter,
    /// Times our ring ran dry and silence was played: our fault.
    pub ring_underruns: Counter,
    /// Frames of that silence: what the device asked for between the ring's running dry and its
    /// playing on.
    pub lost_frames: Counter,
    /// Times the device reported lost time: not ours.
    pub device_xruns: Counter,
    /// Errors the backend reported, of any other kind.
    pub backend_errors: Counter,
    /// Times the output was built anew.
    pub rebuilds: Counter,
    /// Frames waiting in the ring at the last callback.
    pub ring_frames: Gauge,
    /// Frames the ring holds.
    pub ring_capacity_frames: Gauge,
    /// Frames a second, as the device says; 0 while none was ever opened.
    pub rate_hz: Gauge,
    /// How much faster than it says its clock is, in parts of a million, by this machine's clock;
    /// unknown in the first minute of an output, and without a device.
    pub drift_ppm: Measure,
    /// Microseconds between a frame's callback and the DAC, as the device last reported.
    pub device_latency_us: Gauge,
    /// 1 while the device takes sound, 0 while there is none.
    pub is_live: Gauge,
    /// Frames that the pump left out, because the card had taken too little for too long.
    pub skipped_frames: Counter,
    /// Times that the pump let a timer pace the station, because the card asked for nothing.
    pub stalls: Counter,
    /// How much slower the pump has a card play that does not set its station's pace, in parts of a
    /// million; unknown of one that does.
    pub correction_ppm: Measure,
}

/// Raised by the network's tasks.
#[derive(Debug, Default)]
pub struct NetTelemetry {
    /// Listeners connected now, over WebSocket and HTTP.
    pub listeners: Gauge,
    /// Sessions there are.
    pub sessions: Gauge,
    /// Connections closed to make room for others, before they asked for anything.
    pub pushed_out: Counter,
    /// Listeners ever connected.
    pub listeners_total: Counter,
    /// Listeners turned away because the house was full.
    pub refused: Counter,
    /// Requests without a token that was wanted, or with a wrong one.
    pub unauthorized: Counter,
    /// Packets sent.
    pub packets_sent: Counter,
    /// Bytes sent, of whatever was asked for.
    pub bytes_sent: Counter,
    /// Packets a listener was too slow for (and was told of).
    pub packets_lost: Counter,
    /// Listeners closed because they fell hopelessly behind.
    pub closed_slow: Counter,
    /// Underruns that listeners reported of their own jitter buffers.
    pub listener_underruns: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Raises the value by `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Lowers the value by `n`, which must have been added before.
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down and may be unknown.
#[derive(Debug)]
pub struct Measure(AtomicU64);

impl Default for Measure {
    fn default() -> Self {
        Self(AtomicU64::new(f64::NAN.to_bits()))
    }
}

impl Measure {
    /// Replaces the value; `None` while it is not known.
    pub fn set(&self, value: Option<f64>) {
        let bits = value.unwrap_or(f64::NAN).to_bits();
        self.0.store(bits, Ordering::Relaxed);
    }

    /// The value now, if it is known.
    pub fn get(&self) -> Option<f64> {
        let value = f64::from_bits(self.0.load(Ordering::Relaxed));
        (!value.is_nan()).then_some(value)
    }
}

/// Upper edges of [`LoadHistogram`]. Above 1 the model is too slow.
const LOAD_EDGES: [f64; 6] = [0.25, 0.5, 0.75, 0.9, 1.0, 1.5];

/// Upper edges of [`StepHistogram`], in seconds: among them what a code lasts at 48, 44.1, 24, 16 and
/// 8 kHz.
const STEP_EDGES: [f64; 16] = [
    5e-6, 10e-6, 15e-6, 20.8e-6, 22.7e-6, 30e-6, 41.7e-6, 50e-6, 62.5e-6, 80e-6, 100e-6, 125e-6,
    250e-6, 500e-6, 1e-3, 10e-3,
];

/// A histogram of compute time over audio time.
pub type LoadHistogram = Histogram<{ LOAD_EDGES.len() }>;

/// A histogram of times of a step.
pub type StepHistogram = Histogram<{ STEP_EDGES.len() }>;

/// How many observations fell below each of `N` edges.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    edges: [f64; N],
    buckets: [AtomicU64; N],
    above: AtomicU64,
    /// Of all observations, in billionths: they overflow after centuries.
    sum_billionths: AtomicU64,
}

impl Default for LoadHistogram {
    fn default() -> Self {
        Self::new(LOAD_EDGES)
    }
}

impl Default for StepHistogram {
    fn default() -> Self {
        Self::new(STEP_EDGES)
    }
}

impl<const N: usize> Histogram<N> {
    fn new(edges: [f64; N]) -> Self {
        Self {
            edges,
            buckets: [const { AtomicU64::new(0) }; N],
            above: AtomicU64::new(0),
            sum_billionths: AtomicU64::new(0),
        }
    }

    /// Counts one observation.
    pub fn observe(&self, value: f64) {
        let bucket = self.edges.iter().position(|&edge| value <= edge);
        let bucket = bucket.map_or(&self.above, |at| &self.buckets[at]);
        bucket.fetch_add(1, Ordering::Relaxed);
        self.sum_billionths
            .fetch_add((value * 1e9) as u64, Ordering::Relaxed);
    }

    /// Upper edges, the last without end, and how many observations fell below each and above the
    /// one before.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let edges = self.edges.iter().copied().chain([f64::INFINITY]);
        let counts = self.buckets.iter().chain([&self.above]);
        edges.zip(counts.map(|count| count.load(Ordering::Relaxed)))
    }

    /// How many observations there were.
    pub fn n_observed(&self) -> u64 {
        self.buckets().map(|(_, count)| count).sum()
    }

    /// The sum of all observations.
    pub fn sum(&self) -> f64 {
        self.sum_billionths.load(Ordering::Relaxed) as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_falls_into_the_bucket_below_its_edge() {
        let histogram = LoadHistogram::default();
        for load in [0.1, 0.25, 0.26, 1.0, 1.4, 7.0] {
            histogram.observe(load);
        }
        let counts: Vec<u64> = histogram.buckets().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 1, 1, 1]);
        assert_eq!(histogram.n_observed(), 6);
        assert!((histogram.sum() - 10.01).abs() < 1e-5);
    }

    #[test]
    fn a_measure_is_unknown_until_it_is_told_and_may_be_so_again() {
        let measure = Measure::default();
        assert_eq!(measure.get(), None);
        measure.set(Some(0.0));
        assert_eq!(measure.get(), Some(0.0));
        measure.set(None);
        assert_eq!(measure.get(), None);
    }
}
