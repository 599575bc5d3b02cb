//! Taking the time of one call of an engine after another, and what the times come to.

use std::time::{Duration, Instant};

use crate::engine::{Decoder, DrawParams, Turn, uniform};

/// A stream of this age has wrapped every ring, and its caches are full.
pub(super) const AGE: u64 = 100 * 3600 * 16_000;
/// No more calls are kept: at 20 µs a step, the steps of 20 seconds.
const MAX_CALLS: usize = 1 << 20;

/// How long each call took, shortest first.
#[derive(Clone, Debug, Default)]
pub struct Times {
    sorted_ns: Vec<u64>,
    total: Duration,
}

impl Times {
    /// Of calls in any order; there is at least one.
    pub fn new(mut ns: Vec<u64>) -> Self {
        assert!(!ns.is_empty(), "nothing was measured");
        ns.sort_unstable();
        let total = Duration::from_nanos(ns.iter().sum());
        Self {
            sorted_ns: ns,
            total,
        }
    }

    /// Each call's time shared out to its `n` codes.
    pub fn of_codes(mut self, n: usize) -> Self {
        self.sorted_ns.iter_mut().for_each(|ns| *ns /= n as u64);
        self.total /= n as u32;
        self
    }

    /// How many calls there were.
    pub fn n_calls(&self) -> usize {
        self.sorted_ns.len()
    }

    /// Nanoseconds that a share `q` of the calls kept to.
    pub fn quantile(&self, q: f64) -> u64 {
        self.sorted_ns[((self.sorted_ns.len() - 1) as f64 * q) as usize]
    }

    /// Calls in a second that does nothing else.
    pub fn calls_per_s(&self) -> f64 {
        self.n_calls() as f64 / self.total.as_secs_f64().max(1e-9)
    }

    /// The share of calls that took longer than a time, falling from 1 to that of a single call:
    /// (ns, share) at even distances of the share's logarithm.
    pub fn tail(&self) -> Vec<(u64, f64)> {
        const POINTS_PER_DECADE: usize = 40;
        let n = self.n_calls();
        let n_points = ((n as f64).log10() * POINTS_PER_DECADE as f64) as usize;
        let share = |i: usize| 10f64.powf(-(i as f64) / POINTS_PER_DECADE as f64);
        let mut points = vec![(self.sorted_ns[0], 1.0)];
        points.extend((1..=n_points).map(|i| (self.quantile(1.0 - share(i)), share(i))));
        points
    }
}

/// As `piano-16k` is drawn from: holding the entropy is the dearest part of it.
const DRAW: DrawParams = DrawParams {
    temperature: 1.05,
    max_entropy: 4.0,
    max_rise: 0.8,
    min_entropy: 1.0,
    leveling: 0.02,
    max_click: 3.5,
    ..DrawParams::NEUTRAL
};

/// Puts every lane into its hundredth hour.
pub fn age(engine: &mut dyn Decoder) {
    for lane in 0..engine.n_lanes() {
        engine.age(lane, AGE + lane as u64);
    }
}

/// Times calls for `n_codes` codes in every lane, until `time` has passed.
pub fn time_calls(engine: &mut dyn Decoder, n_codes: usize, time: Duration) -> Times {
    let mut caller = Caller::new(engine.n_lanes(), n_codes);
    let warm_until = Instant::now() + time / 10;
    while Instant::now() < warm_until {
        caller.call(engine);
    }
    let mut ns = Vec::with_capacity(MAX_CALLS);
    let until = Instant::now() + time;
    loop {
        ns.push(caller.call(engine).as_nanos() as u64);
        if Instant::now() >= until || ns.len() == MAX_CALLS {
            return Times::new(ns);
        }
    }
}

/// Draws the same number of codes in every lane, again and again.
struct Caller {
    position: u64,
    n_codes: usize,
    uniforms: Vec<f32>,
    codes: Vec<u8>,
}

impl Caller {
    fn new(n_lanes: usize, n_codes: usize) -> Self {
        Self {
            position: 0,
            n_codes,
            uniforms: vec![0.0; n_lanes * n_codes],
            codes: vec![0; n_lanes * n_codes],
        }
    }

    /// One call, and how long the engine took for it.
    fn call(&mut self, engine: &mut dyn Decoder) -> Duration {
        let n = self.n_codes;
        for (i, number) in self.uniforms.iter_mut().enumerate() {
            *number = uniform((i / n) as u64, self.position + (i % n) as u64);
        }
        self.position += n as u64;
        let parts = self.uniforms.chunks(n).zip(self.codes.chunks_mut(n));
        let turn = |(lane, (uniforms, codes))| Turn {
            lane,
            draw: DRAW,
            uniforms,
            codes,
        };
        let mut turns: Vec<Turn<'_>> = parts.enumerate().map(turn).collect();
        let before = Instant::now();
        engine.generate(&mut turns);
        before.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_calls() {
        let times = Times::new((1..=1001).rev().collect());
        assert_eq!(times.n_calls(), 1001);
        let quantiles = [0.0, 0.5, 0.99, 0.999, 1.0].map(|q| times.quantile(q));
        assert_eq!(quantiles, [1, 501, 991, 1000, 1001]);
        let one = Times::new(vec![7]);
        assert_eq!([one.quantile(0.5), one.quantile(0.999)], [7, 7]);
        assert!((Times::new(vec![1000; 10]).calls_per_s() - 1e6).abs() < 1.0);
    }

    #[test]
    fn the_tail_falls_from_all_to_one_call() {
        let times = Times::new((1..=10_000).collect());
        let tail = times.tail();
        assert_eq!(tail[0], (1, 1.0));
        let (last, share) = tail[tail.len() - 1];
        assert!(last >= 9_990 && share < 1.1e-4, "{last} {share}");
        assert!(tail.is_sorted_by(|a, b| a.0 <= b.0 && a.1 > b.1));
        let half = tail.iter().find(|point| point.1 < 0.5).unwrap();
        assert!((5_000..5_600).contains(&half.0));
        assert_eq!(Times::new(vec![5]).tail(), [(5, 1.0)]);
    }
}
