//! How codes are drawn from a model's logits: what its `config.json` recommends, and what a station
//! may say instead.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// How a stream chooses its codes. Written and read as the object `draw` of a `config.json`, in which
/// a key that is absent has its neutral value: the model's own probabilities, untouched.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrawParams {
    /// Divides the logits; below 1 the likely becomes likelier, 0 always takes the likeliest.
    pub temperature: f32,
    /// Bits per draw: the temperature of a step that is less certain falls until about so much is
    /// left; 8 leaves every step as it is.
    pub max_entropy: f32,
    /// Bits by which a step may be less certain than the last milliseconds have been, before its
    /// temperature falls likewise; 8 leaves it as it is.
    pub max_rise: f32,
    /// The share by which the temperature rises for each octave that the stream has been quieter than
    /// middling in the last eighth of a second, and falls for each that it has been louder; a stream
    /// that is held so may not leap, either. 0 leaves both.
    pub leveling: f32,
    /// How far a sample may stand out of its neighbours, in usual distances, before the next must follow
    /// it: what nothing follows is a click. It holds for models whose predictor begins with a filter of 48
    /// taps or more; 100 lets all pass.
    pub max_click: f32,
    /// Keep the fewest codes whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keep codes at least this likely, as a share of the likeliest; 0 keeps all.
    pub min_p: f32,
}

impl Default for DrawParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            max_entropy: Self::MAX_ENTROPY_BITS,
            max_rise: Self::MAX_ENTROPY_BITS,
            leveling: 0.0,
            max_click: Self::ANY_CLICK,
            top_p: 1.0,
            min_p: 0.0,
        }
    }
}

/// `temperature 1, at most 4.4 bits and 1 more than lately, top-p 1, min-p 0`
impl fmt::Display for DrawParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            temperature,
            max_entropy,
            max_rise,
            leveling,
            max_click,
            top_p,
            min_p,
        } = self;
        write!(f, "temperature {temperature}, at most {max_entropy} bits")?;
        if *max_rise < Self::MAX_ENTROPY_BITS {
            write!(f, " and {max_rise} more than lately")?;
        }
        if *leveling > 0.0 {
            write!(f, ", leveled by {leveling} an octave")?;
        }
        if *max_click < Self::ANY_CLICK {
            write!(f, ", clicks up to {max_click}")?;
        }
        write!(f, ", top-p {top_p}, min-p {min_p}")
    }
}

impl DrawParams {
    /// What 256 codes can hold.
    pub const MAX_ENTROPY_BITS: f32 = 8.0;
    /// Temperatures besides 0, "the likeliest always". Above every model is white noise; what lies
    /// nearer to 0 would let logits overflow.
    pub const TEMPERATURES: RangeInclusive<f32> = 0.01..=10.0;
    /// Entropies. Below, the likeliest code alone would be left: that is temperature 0.
    pub const MAX_ENTROPIES: RangeInclusive<f32> = 0.1..=Self::MAX_ENTROPY_BITS;

    /// Shares of the temperature: a stream is four octaves from middling at most.
    pub const LEVELINGS: RangeInclusive<f32> = 0.0..=0.2;
    /// How far samples may stand out, up to where all may.
    pub const MAX_CLICKS: RangeInclusive<f32> = 1.0..=Self::ANY_CLICK;
    /// See [`DrawParams::max_click`].
    pub const ANY_CLICK: f32 = 100.0;
    /// Rises.
    pub const MAX_RISES: RangeInclusive<f32> = 0.0..=Self::MAX_ENTROPY_BITS;

    /// Whether a wild code may let the next one be wilder, as the hiss of speech does.
    pub fn may_leap(&self) -> bool {
        self.leveling == 0.0
    }

    /// The click that is let pass, unless all are.
    pub fn click_limit(&self) -> Option<f32> {
        (self.max_click < Self::ANY_CLICK).then_some(self.max_click)
    }

    /// Refuses what nothing can be drawn with, in words that name the key.
    pub fn check(&self) -> Result<(), String> {
        let refuse = |key: &str, value: f32, must: &str| {
            Err(format!("draw: {key} is {value}; it must be {must}"))
        };
        if self.temperature != 0.0 && !Self::TEMPERATURES.contains(&self.temperature) {
            return refuse("temperature", self.temperature, "0 or from 0.01 to 10");
        }
        if !Self::MAX_ENTROPIES.contains(&self.max_entropy) {
            return refuse("max_entropy", self.max_entropy, "from 0.1 to 8 bits");
        }
        if !Self::MAX_RISES.contains(&self.max_rise) {
            return refuse("max_rise", self.max_rise, "from 0 to 8 bits");
        }
        if !Self::LEVELINGS.contains(&self.leveling) {
            return refuse("leveling", self.leveling, "from 0 to 0.2");
        }
        if !Self::MAX_CLICKS.contains(&self.max_click) {
            return refuse("max_click", self.max_click, "from 1 to 100");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", self.top_p, "above 0 and at most 1");
        }
        if !(0.0..1.0).contains(&self.min_p) {
            return refuse("min_p", self.min_p, "at least 0 and below 1");
        }
        Ok(())
    }
}
