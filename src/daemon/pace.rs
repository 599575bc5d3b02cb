//! Whether the generation thread holds real time, looked at once a second.

use crate::telemetry::PumpTelemetry;

/// Seconds in a row that decide.
const SECONDS: u32 = 3;

#[derive(Debug)]
pub(super) struct Pace {
    n_chunks: u64,
    n_late: u64,
    n_steps: u64,
    load_sum: f64,
    /// Bad seconds less good ones, within `SECONDS`.
    n_bad: u32,
    holds: bool,
    /// Sound drawn in a second of work, lately.
    factor: f64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            n_chunks: 0,
            n_late: 0,
            n_steps: 0,
            load_sum: 0.0,
            n_bad: 0,
            // Until it is shown otherwise.
            holds: true,
            factor: 0.0,
        }
    }
}

impl Pace {
    /// Takes in another second. It is bad if nothing was drawn, or more too late than in time.
    pub fn look(&mut self, pump: &PumpTelemetry) {
        let (n_chunks, n_late) = (pump.chunks.get(), pump.late_chunks.get());
        let (new, late) = (n_chunks - self.n_chunks, n_late - self.n_late);
        (self.n_chunks, self.n_late) = (n_chunks, n_late);
        self.n_bad = match new == 0 || 2 * late > new {
            true => (self.n_bad + 1).min(SECONDS),
            false => self.n_bad.saturating_sub(1),
        };
        self.holds = match self.n_bad {
            0 => true,
            SECONDS => false,
            _ => self.holds,
        };
        let n_steps = pump.chunk_load.buckets().iter().sum();
        let load_sum = pump.chunk_load.sum();
        if load_sum > self.load_sum {
            self.factor = (n_steps - self.n_steps) as f64 / (load_sum - self.load_sum);
        }
        (self.n_steps, self.load_sum) = (n_steps, load_sum);
    }

    /// Whether what is due is drawn in time.
    pub fn holds(&self) -> bool {
        self.holds
    }

    /// Sound drawn in a second of work: 1 is real time.
    pub fn factor(&self) -> f64 {
        self.factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_bad_seconds_decide_and_three_good_ones_after_them() {
        let pump = PumpTelemetry::default();
        let mut pace = Pace::default();
        let mut second = |n_chunks, n_late| {
            pump.chunks.add(n_chunks);
            pump.late_chunks.add(n_late);
            pump.chunk_load.observe(0.25);
            pump.chunk_load.observe(0.75);
            pace.look(&pump);
            (pace.holds(), pace.factor())
        };
        assert_eq!(second(50, 25), (true, 2.0));
        assert!(second(50, 26).0 && second(0, 0).0);
        assert!(!second(50, 50).0 && !second(50, 0).0 && !second(50, 1).0);
        assert!(second(50, 0).0);
    }
}
