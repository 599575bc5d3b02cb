//! Partials that do not decay: whether a tone hangs.
//!
//! A struck string decays, a second partial beats, a repeated note begins anew: in every case the
//! level of a partial changes from frame to frame. One that hangs keeps its level, whatever else
//! sounds in other bins. Each bin's level over the last seconds has a standard deviation; the
//! least among the strong bins is the measure.

use std::collections::VecDeque;

use crate::sound::{Frames, db};

/// Seconds that are looked back on.
pub(super) const SPAN_S: usize = 5;

/// A strong bin is at most this far below the strongest, mean level over the span.
const STRONG_DB: f32 = 20.0;

/// And above this: the codes' rounding makes steady sounds of its own.
const LEVEL_MIN_DBFS: f32 = -60.0;

/// Sums of every bin's level and of its square over a second, in dB.
type Sums = Vec<(f32, f32)>;

/// Levels of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Steady {
    seconds: VecDeque<Sums>,
}

/// What one second adds.
pub(super) fn sums(frames: &Frames) -> Sums {
    let mut sums = Vec::new();
    for frame in frames.iter() {
        sums.resize(frame.len(), (0.0, 0.0));
        for (sum, power) in sums.iter_mut().zip(frame) {
            let level = db(*power);
            sum.0 += level;
            sum.1 += level * level;
        }
    }
    sums
}

impl Steady {
    /// Takes in a second of `n_frames` frames; the least deviation in dB and its bin, if a strong
    /// bin there is.
    pub(super) fn push(&mut self, sums: Sums, n_frames: usize) -> Option<(f32, usize)> {
        self.seconds.push_back(sums);
        if self.seconds.len() > SPAN_S {
            self.seconds.pop_front();
        }
        if self.seconds.len() < SPAN_S {
            return None;
        }
        let n = (SPAN_S * n_frames) as f32;
        let n_bins = self.seconds[0].len();
        let levels: Vec<(f32, f32)> = (0..n_bins)
            .map(|bin| {
                let (sum, squares) = self.seconds.iter().fold((0.0, 0.0), |(sum, squares), s| {
                    (sum + s[bin].0, squares + s[bin].1)
                });
                let mean = sum / n;
                (mean, (squares / n - mean * mean).max(0.0).sqrt())
            })
            .collect();
        let loudest = levels.iter().skip(2).map(|l| l.0).fold(f32::MIN, f32::max);
        let least = (loudest - STRONG_DB).max(LEVEL_MIN_DBFS);
        let strong = levels
            .iter()
            .enumerate()
            .skip(2)
            .filter(|(_, l)| l.0 > least);
        let steadiest = strong.min_by(|a, b| a.1.1.total_cmp(&b.1.1));
        steadiest.map(|(bin, level)| (level.1, bin))
    }
}
