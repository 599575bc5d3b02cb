//! What is wrong with a second, if anything is.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::features::Second;
use super::steady;

/// A fault that has a name. A second may have several, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Runaway noise: a spectrum whiter, or a treble louder, than music's.
    Noise,
    /// Dead silence: one code held for longer than a rest, or sound fainter than any of the corpus.
    Dead,
    /// A partial that does not decay, or a loop.
    Stuck,
    /// A sample that does not belong to its neighbours.
    Clicks,
}

impl Verdict {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Noise, Self::Dead, Self::Stuck, Self::Clicks];

    /// As reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Noise => "noise",
            Self::Dead => "dead",
            Self::Stuck => "stuck",
            Self::Clicks => "clicks",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Beyond which a second is named; see [`Second`] for what each number is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// A second whiter than this is noise, unless its treble is below -70 dBFS.
    pub flatness_db: f32,
    /// A second with more treble than this is noise.
    pub treble_dbfs: f32,
    /// A code held for longer is dead silence.
    pub held_ms: f32,
    /// A second fainter than this is dead though no code is held in it. A reference that was
    /// measured before there was this threshold names none.
    #[serde(default = "fainter_than_all")]
    pub level_dbfs: f32,
    /// Five seconds with a partial that wavers less are stuck.
    pub waver_db: f32,
    /// Four seconds in a row, each more like an earlier one, are stuck.
    pub repeat: f32,
    /// A sample further out is a click.
    pub click_ratio: f32,
}

/// Is it silence to the last bit, which is judged by how long it lasts and not by its level?
pub(super) fn is_held(second: &Second) -> bool {
    second.held_ms > Thresholds::STRICTEST.held_ms
}

/// No level is below this.
fn fainter_than_all() -> f32 {
    -140.0
}

/// Seconds in a row that must repeat: a phrase played twice is music.
pub(super) const REPEATS: usize = 4;

/// Quieter treble than this is the codes' own rounding, which is white.
pub(super) const TREBLE_MIN_DBFS: f32 = -70.0;

impl Thresholds {
    /// As far as a corpus can tighten them; one without a single rest knows nothing of rests.
    pub const STRICTEST: Self = Self {
        flatness_db: -15.0,
        treble_dbfs: -60.0,
        held_ms: 500.0,
        level_dbfs: -60.0,
        waver_db: 1.25,
        repeat: 0.8,
        click_ratio: 6.0,
    };

    fn is_noise(&self, second: &Second) -> bool {
        let is_white = second.flatness_db > self.flatness_db;
        second.treble_dbfs > self.treble_dbfs || (is_white && second.treble_dbfs > TREBLE_MIN_DBFS)
    }

    fn is_dead(&self, second: &Second) -> bool {
        let is_faint = second.level_dbfs < self.level_dbfs;
        second.held_ms > self.held_ms || (is_faint && !is_held(second))
    }

    /// The verdicts on every second.
    pub fn judge(&self, seconds: &[Second]) -> Vec<Vec<Verdict>> {
        let mut verdicts = vec![Vec::new(); seconds.len()];
        for (verdicts, second) in verdicts.iter_mut().zip(seconds) {
            let is_noise = self.is_noise(second);
            if is_noise {
                verdicts.push(Verdict::Noise);
            }
            if self.is_dead(second) {
                verdicts.push(Verdict::Dead);
            }
            // Noise is full of samples that nothing leads up to.
            if second.click_ratio > self.click_ratio && !is_noise {
                verdicts.push(Verdict::Clicks);
            }
        }
        for (i, is_stuck) in self.stuck(seconds).into_iter().enumerate() {
            if is_stuck {
                verdicts[i].push(Verdict::Stuck);
                verdicts[i].sort_unstable();
            }
        }
        verdicts
    }

    /// A stretch that hangs is known at its end, and all of it is meant.
    fn stuck(&self, seconds: &[Second]) -> Vec<bool> {
        let mut is_stuck = vec![false; seconds.len()];
        for (i, second) in seconds.iter().enumerate() {
            let hangs = second.waver_db.is_some_and(|db| db < self.waver_db);
            let n_hanging = if hangs { steady::SPAN_S } else { 0 };
            let loops = repeats_of(seconds, i) > self.repeat;
            let n = n_hanging.max(if loops { REPEATS } else { 0 });
            is_stuck[(i + 1).saturating_sub(n)..i + 1].fill(true);
        }
        is_stuck
    }
}

/// The least likeness of the last [`REPEATS`] seconds up to `i`; 0 where there are fewer.
pub(super) fn repeats_of(seconds: &[Second], i: usize) -> f32 {
    let Some(begin) = (i + 1).checked_sub(REPEATS) else {
        return 0.0;
    };
    let likeness = seconds[begin..=i].iter().map(|second| second.repeat);
    likeness.fold(f32::INFINITY, f32::min)
}

/// Seconds in a row with the same verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// What is wrong.
    pub verdict: Verdict,
    /// The first second, counted from 0.
    pub from_s: usize,
    /// The end, exclusive.
    pub to_s: usize,
}

/// Joins the seconds of each verdict; in the order of their beginnings.
pub fn stretches(verdicts: &[Vec<Verdict>]) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    for verdict in Verdict::ALL {
        let flagged = verdicts.iter().enumerate();
        for (i, _) in flagged.filter(|(_, all)| all.contains(&verdict)) {
            match stretches.last_mut() {
                Some(last) if last.verdict == verdict && last.to_s == i => last.to_s += 1,
                _ => stretches.push(Stretch {
                    verdict,
                    from_s: i,
                    to_s: i + 1,
                }),
            }
        }
    }
    stretches.sort_by_key(|stretch| stretch.from_s);
    stretches
}
