//! What an engine's lanes cost here, measured before anything plays.
//!
//! On lanes so old that their caches are full, since those of a young stream are cheaper. The time
//! is what the thread computed, not what passed: a build that runs while the machine starts shall
//! not decide whether a station may play, and a verdict shall be the same at every start. Threads
//! that share a step spin where they wait for each other, so that counts.

use std::thread;
use std::time::Duration;

use crate::capacity::Costs;
use crate::engine::{Decoder, DrawParams, Turn, uniform};

/// For measuring all engines together; filling their caches comes on top.
pub(super) const TIME: Duration = Duration::from_millis(300);

/// Positions from the start at which every cache has long been full.
const AGE: u64 = 1 << 40;

/// Lanes measured together at most: filling caches takes time, and beyond a few lanes each more
/// costs what the last did.
const LANES_MAX: usize = 8;

/// What is computed between two looks at the clock.
const SLICE: Duration = Duration::from_millis(2);

/// Looks at the clock, at least and at most.
const N_SLICES: std::ops::Range<usize> = 4..64;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    /// Codes per second.
    pub rate_hz: u32,
    /// How codes are drawn.
    pub draw: DrawParams,
    /// Lanes that play, the first ones of the engine.
    pub n_lanes: usize,
    /// Codes that the pump asks for at a time.
    pub chunk_len: usize,
    /// How much of the clock's time to spend.
    pub time: Duration,
    /// Whether to rest as long as was computed, time and again: whoever plays on the same cores, threads
    /// of the same kind and as urgent, gets his turn.
    pub beside: bool,
}

/// The load of one lane, and of several where there are several.
pub(super) fn measure(
    decoder: &mut dyn Decoder,
    case: &Case,
    clock: &dyn Fn() -> Duration,
) -> Costs {
    let n_lanes = case.n_lanes.min(LANES_MAX);
    for lane in 0..n_lanes {
        decoder.age(lane, AGE + lane as u64);
    }
    let mut probe = Probe {
        decoder,
        clock,
        codes: vec![0; n_lanes * case.chunk_len],
        uniforms: (0..case.chunk_len as u64)
            .map(|at| uniform(0, at))
            .collect(),
    };
    let one = probe.load(1, case);
    let all = match n_lanes {
        1 => one,
        n => probe.load(n, case),
    };
    Costs { one, n_lanes, all }
}

struct Probe<'a> {
    decoder: &'a mut dyn Decoder,
    clock: &'a dyn Fn() -> Duration,
    uniforms: Vec<f32>,
    /// [B, chunk]
    codes: Vec<u8>,
}

impl Probe<'_> {
    /// Compute time over audio time of the first `n_lanes` lanes: what nine slices of ten keep to.
    fn load(&mut self, n_lanes: usize, case: &Case) -> f64 {
        // The first step finds everything cold: it only says how long a slice may be.
        let step_s = self.seconds(n_lanes, 1, case.draw).max(1e-9);
        let fits = (SLICE.as_secs_f64() / step_s) as usize;
        let n_codes = fits.clamp(1, case.chunk_len);
        let until = (self.clock)() + case.time / 2;
        let mut slices = Vec::with_capacity(N_SLICES.end);
        while slices.len() < N_SLICES.end
            && (slices.len() < N_SLICES.start || (self.clock)() < until)
        {
            let slice_s = self.seconds(n_lanes, n_codes, case.draw);
            slices.push(slice_s / n_codes as f64);
            if case.beside {
                thread::sleep(Duration::from_secs_f64(slice_s));
            }
        }
        slices.sort_unstable_by(f64::total_cmp);
        slices[(slices.len() - 1) * 9 / 10] * f64::from(case.rate_hz)
    }

    /// How long `n_codes` codes take in each of the first `n_lanes` lanes.
    fn seconds(&mut self, n_lanes: usize, n_codes: usize, draw: DrawParams) -> f64 {
        let chunk_len = self.uniforms.len();
        let codes = self.codes.chunks_exact_mut(chunk_len).take(n_lanes);
        let turns = codes.enumerate().map(|(lane, codes)| Turn {
            lane,
            draw,
            uniforms: &self.uniforms[..n_codes],
            codes: &mut codes[..n_codes],
        });
        let mut turns: Vec<Turn<'_>> = turns.collect();
        let begin = (self.clock)();
        self.decoder.generate(&mut turns);
        ((self.clock)() - begin).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::capacity::{Capacity, EngineLoad};

    /// Moves the clock by what a step of it is said to cost.
    struct Slow {
        n_lanes: usize,
        ns: Arc<AtomicU64>,
        step_ns: u64,
        lane_ns: u64,
    }

    impl Decoder for Slow {
        fn n_lanes(&self) -> usize {
            self.n_lanes
        }
        fn open(&mut self, _lane: usize) {}
        fn copy(&mut self, _from: usize, _to: usize) {}
        fn position(&self, _lane: usize) -> u64 {
            0
        }
        fn prime(&mut self, _lane: usize, _codes: &[u8]) {}
        fn score(&mut self, _: usize, _: &[u8], _: &mut dyn FnMut(usize, &[f32])) {}
        fn generate(&mut self, turns: &mut [Turn<'_>]) {
            let step_ns = self.step_ns + turns.len() as u64 * self.lane_ns;
            let ns = turns[0].codes.len() as u64 * step_ns;
            self.ns.fetch_add(ns, Ordering::Relaxed);
        }
        fn age(&mut self, lane: usize, _position: u64) {
            assert!(lane < LANES_MAX);
        }
        fn isa(&self) -> &'static str {
            "slow"
        }
    }

    fn measured(n_lanes: usize, step_ns: u64, lane_ns: u64) -> (Costs, Duration) {
        let ns = Arc::new(AtomicU64::new(0));
        let mut slow = Slow {
            n_lanes,
            ns: ns.clone(),
            step_ns,
            lane_ns,
        };
        let case = Case {
            draw: DrawParams::default(),
            rate_hz: 16_000,
            n_lanes,
            chunk_len: 320,
            time: TIME,
            beside: false,
        };
        let clock = || Duration::from_nanos(ns.load(Ordering::Relaxed));
        let costs = measure(&mut slow, &case, &clock);
        (costs, clock())
    }

    fn is_near(got: f64, want: f64) -> bool {
        (got - want).abs() < 1e-6 * want
    }

    #[test]
    fn the_load_is_compute_time_over_audio_time() {
        let (costs, time) = measured(3, 12_500, 6_250);
        assert!(is_near(costs.one, 0.3), "{costs:?}");
        assert!(is_near(costs.all, 0.5), "{costs:?}");
        assert!(time <= TIME + Duration::from_millis(10), "{time:?}");
    }

    #[test]
    fn the_slowest_engine_is_measured_in_a_few_steps() {
        let (costs, time) = measured(64, 1_000_000, 50_000_000);
        assert_eq!(costs.n_lanes, LANES_MAX);
        assert!(time < Duration::from_secs(4), "{time:?}");
        let (instant, _) = measured(2, 0, 0);
        assert_eq!((instant.one, instant.all), (0.0, 0.0));
    }

    #[test]
    fn an_engine_too_slow_for_its_stations_is_refused_and_says_how_many_it_has_time_for() {
        // 0.25 of the time for the first lane, 0.2 for each more: four fit into 0.9.
        let judge = |n_lanes| {
            let (costs, _) = measured(n_lanes, 3_125, 12_500);
            let load = EngineLoad::new("slow", n_lanes, costs);
            Capacity::new(vec![load], 64).judge(&vec![0; n_lanes], false)
        };
        assert!(judge(4).unwrap().is_none());
        let why = judge(6).unwrap_err().to_string();
        assert!(why.contains("only the first 4 fit"), "{why}");
        // More than are measured together are reckoned.
        let why = judge(20).unwrap_err().to_string();
        assert!(why.starts_with("20 stations take 4.05"), "{why}");
    }
}
