//! A second of sound in numbers, and the names of these numbers.

use serde::{Deserialize, Serialize};

/// What is measured of one second. Levels are in dB of full scale: a constant ±1 has 0 dBFS, the
/// loudest sine -3.01.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Root mean square.
    pub level_dbfs: f32,
    /// Level of the upper half of the spectrum, from a quarter of the rate on, of the median
    /// spectrum: what sounds for most of the second.
    pub treble_dbfs: f32,
    /// Geometric over arithmetic mean of the median power spectrum above 50 Hz:
    /// 0 is white.
    pub flatness_db: f32,
    /// Entropy of the steps from one code to the next, by how often each occurs in this second,
    /// in bits. Needs no model: high for noise, 0 for a held code.
    pub step_entropy_bits: f32,
    /// Mean entropy of what the model drew from, its logits over the temperature, in bits; where
    /// the audit drew the codes itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draw_entropy_bits: Option<f32>,
    /// The whole length of the longest run of one code that takes half of this second or lies for
    /// half of its own length in it, in milliseconds; runs below 10 ms do not count.
    pub held_ms: f32,
    /// The loudest click: how far a sample lies from where its neighbours put it, as a multiple of
    /// what is usual around it.
    pub click_ratio: f32,
    /// Where that click is, in milliseconds from the second's start.
    pub click_at_ms: f32,
    /// Likeness to an earlier second, 0.25 to 8 s ago: 1 is equality.
    pub repeat: f32,
    /// How long ago that was, in milliseconds.
    pub repeat_lag_ms: f32,
    /// How much the steadiest strong partial wavered in the last 5 s: the standard deviation of
    /// its level in dB. Absent where there is no such partial, or less than 5 s were heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waver_db: Option<f32>,
    /// The frequency of that partial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waver_hz: Option<f32>,
}

/// A number whose distribution is compared with a corpus's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// [`Second::level_dbfs`].
    LevelDbfs,
    /// [`Second::treble_dbfs`].
    TrebleDbfs,
    /// [`Second::flatness_db`].
    FlatnessDb,
    /// [`Second::step_entropy_bits`].
    StepEntropyBits,
    /// [`Second::draw_entropy_bits`].
    DrawEntropyBits,
    /// [`Second::held_ms`].
    HeldMs,
    /// [`Second::click_ratio`].
    ClickRatio,
    /// [`Second::repeat`].
    Repeat,
    /// [`Second::waver_db`].
    WaverDb,
}

impl Feature {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 9] = [
        Self::LevelDbfs,
        Self::TrebleDbfs,
        Self::FlatnessDb,
        Self::StepEntropyBits,
        Self::DrawEntropyBits,
        Self::HeldMs,
        Self::ClickRatio,
        Self::Repeat,
        Self::WaverDb,
    ];

    /// As a report names it, the unit last.
    pub fn name(self) -> &'static str {
        match self {
            Self::LevelDbfs => "level_dbfs",
            Self::TrebleDbfs => "treble_dbfs",
            Self::FlatnessDb => "flatness_db",
            Self::StepEntropyBits => "step_entropy_bits",
            Self::DrawEntropyBits => "draw_entropy_bits",
            Self::HeldMs => "held_ms",
            Self::ClickRatio => "click_ratio",
            Self::Repeat => "repeat",
            Self::WaverDb => "waver_db",
        }
    }

    /// Its value, if the second has one.
    pub fn of(self, second: &Second) -> Option<f32> {
        match self {
            Self::LevelDbfs => Some(second.level_dbfs),
            Self::TrebleDbfs => Some(second.treble_dbfs),
            Self::FlatnessDb => Some(second.flatness_db),
            Self::StepEntropyBits => Some(second.step_entropy_bits),
            Self::DrawEntropyBits => second.draw_entropy_bits,
            Self::HeldMs => Some(second.held_ms),
            Self::ClickRatio => Some(second.click_ratio),
            Self::Repeat => Some(second.repeat),
            Self::WaverDb => second.waver_db,
        }
    }
}
