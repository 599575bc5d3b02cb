//! What the pump spends on a card beside decoding: bringing a station's chunk to the card's rate.

use std::time::{Duration, Instant};

use super::cases::{Bench, CHUNKS_PER_S};
use super::measure::Times;
use super::record::ChunkResult;
use crate::engine::uniform;
use crate::resample::Resampler;

/// What most cards have.
const CARD_HZ: u32 = 48_000;
/// The ratio moves all the time: so many millionths more and less, in turn.
const STEERED_BY: f64 = 200e-6;

impl Bench<'_> {
    /// The card that sets the pace, and one that follows it by a steered ratio.
    pub(super) fn cards(&mut self) {
        let rate_hz = self.model.config.sample_rate_hz;
        let chunk_len = (rate_hz / CHUNKS_PER_S) as usize;
        for (case, of) in [
            ("card-pacing", Resampler::new as fn(_, _, _) -> _),
            ("card-following", Resampler::steered),
        ] {
            let resampler = of(rate_hz, CARD_HZ, chunk_len);
            let resampler =
                resampler.expect("a card's usual rate and a model's can be brought together");
            let times = time(resampler, chunk_len, self.plan.time_per_case);
            self.see_chunks(ChunkResult::of(case, "rubato", &times));
        }
    }
}

/// One chunk after another, until `time` has passed.
fn time(mut resampler: Resampler, chunk_len: usize, time: Duration) -> Times {
    let noise: Vec<f32> = (0..chunk_len as u64).map(|i| uniform(0, i) - 0.5).collect();
    let until = Instant::now() + time;
    let mut ns = Vec::new();
    for ratio in [1.0 + STEERED_BY, 1.0 - STEERED_BY].into_iter().cycle() {
        let begin = Instant::now();
        resampler.steer(ratio);
        std::hint::black_box(resampler.process(&noise));
        ns.push(begin.elapsed().as_nanos() as u64);
        if Instant::now() >= until {
            break;
        }
    }
    Times::new(ns)
}
