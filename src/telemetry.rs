//! Counters that the real-time threads raise and everybody else reads.
//!
//! Every write is one relaxed atomic operation: nobody waits, nothing allocates, and a reader sees
//! each figure whole though not all figures of one instant.

use std::sync::atomic::{AtomicU64, Ordering};

/// All figures of a running daemon.
#[derive(Debug, Default)]
pub struct Telemetry {
    /// What there is room for.
    pub lanes: LaneTelemetry,
    /// What the generation thread has done.
    pub pump: PumpTelemetry,
    /// What the sound card has taken.
    pub card: CardTelemetry,
    /// What the network has sent.
    pub net: NetTelemetry,
    /// What would survive a restart.
    pub state: StateTelemetry,
    /// What was recorded.
    pub record: RecordTelemetry,
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
    /// Streams that fell into noise and returned from it.
    pub noise_collapses: Counter,
    /// Streams that fell silent and returned from it.
    pub dead_collapses: Counter,
    /// Codes generated but not yet played by the card or, without one, not yet due (a gauge).
    pub lead_codes: Gauge,
}

/// Raised by the device's callback and by the card's supervisor.
#[derive(Debug, Default)]
pub struct CardTelemetry {
    /// Times the device asked for a period.
    pub callbacks: Counter,
    /// Frames of the stream that were played (silence while starved not counted).
    pub frames: Counter,
    /// Times our ring ran dry and silence was played: our fault.
    pub ring_underruns: Counter,
    /// Times the device reported lost time: not ours.
    pub device_xruns: Counter,
    /// Errors the backend reported, of any other kind.
    pub backend_errors: Counter,
    /// Times the output was built anew.
    pub rebuilds: Counter,
    /// Frames waiting in the ring at the last callback.
    pub ring_frames: Gauge,
    /// Microseconds between a frame's callback and the DAC, as the device last reported.
    pub device_latency_us: Gauge,
    /// 1 while the device takes sound, 0 while there is none.
    pub is_live: Gauge,
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

/// Upper edges of [`LoadHistogram`]: compute time over audio time. Above 1 the model is too slow.
pub const LOAD_EDGES: [f64; 6] = [0.25, 0.5, 0.75, 0.9, 1.0, 1.5];

/// A histogram of compute time over audio time.
#[derive(Debug, Default)]
pub struct LoadHistogram {
    buckets: [AtomicU64; LOAD_EDGES.len() + 1],
    /// Sum of all loads, in millionths.
    sum_millionths: AtomicU64,
}

impl LoadHistogram {
    /// Counts one observation.
    pub fn observe(&self, load: f64) {
        let bucket = LOAD_EDGES
            .iter()
            .position(|&edge| load <= edge)
            .unwrap_or(LOAD_EDGES.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_millionths
            .fetch_add((load * 1e6) as u64, Ordering::Relaxed);
    }

    /// How many observations fell into each bucket; the last is above every edge.
    pub fn buckets(&self) -> [u64; LOAD_EDGES.len() + 1] {
        std::array::from_fn(|i| self.buckets[i].load(Ordering::Relaxed))
    }

    /// The sum of all observations.
    pub fn sum(&self) -> f64 {
        self.sum_millionths.load(Ordering::Relaxed) as f64 / 1e6
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
        assert_eq!(histogram.buckets(), [2, 1, 0, 0, 1, 1, 1]);
        assert!((histogram.sum() - 10.01).abs() < 1e-5);
    }
}
