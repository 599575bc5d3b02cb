//! How codes are drawn from a model's logits: what a model's `config.json` recommends, and what files,
//! messages and the command line may say instead.
//!
//! Each parameter has its home in the list below. Whoever reads, writes, checks or changes parameters goes
//! through [`PARAMETERS`] and [`Draw::zip`] and names none, but for the sentence of `Display`; what one does to a draw is the engines'
//! (`engine/draw.rs`, `kernels/`, and *Drawing* in `docs/model.md`). Values only; used on any thread.

mod keys;

use std::fmt;
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::limits::Limits;

pub use keys::{given, or_neutral};

/// How a stream chooses its codes.
pub type DrawParams = Draw<f32>;

/// What somebody says of it; the rest stays as it is usual there.
pub type DrawPatch = Draw<Option<f32>>;

/// What a parameter is called, and what it may be.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// In files and messages, and on the command line with `-` for `_`.
    pub key: &'static str,
    /// What it does, in the words of the help.
    pub help: &'static str,
    /// What stands there for a value, as in `--max-entropy <BITS>`.
    pub value_name: &'static str,
    /// Leaves the model's own probabilities untouched.
    pub neutral: f32,
    /// Its values.
    pub limits: Limits,
}

/// Words, name, [value's name](Parameter::value_name), neutral value and limits of each.
macro_rules! parameters {
    ($($(#[doc = $help:literal])+ $key:ident: $value_name:expr, $neutral:expr, $limits:expr;)+) => {
        /// One `T` for each parameter. Read as it is, all must be there and other keys are skipped, as in
        /// messages; see [`or_neutral`] and [`DrawPatch::among`] for files and changes.
        #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
        pub struct Draw<T> {
            $($(#[doc = $help])+ pub $key: T,)+
        }

        /// Every parameter.
        pub const PARAMETERS: Draw<Parameter> = Draw {
            $($key: Parameter {
                key: stringify!($key),
                help: concat!($($help),+).trim_ascii_start(),
                value_name: $value_name,
                neutral: $neutral,
                limits: $limits,
            },)+
        };

        /// What they are called.
        pub const KEYS: &[&str] = &[$(stringify!($key)),+];

        impl DrawParams {
            /// The model's own probabilities, untouched.
            pub const NEUTRAL: Self = Draw { $($key: PARAMETERS.$key.neutral),+ };
        }

        impl<T> Draw<T> {
            /// Each with its parameter.
            pub fn each(self) -> [(Parameter, T); KEYS.len()] {
                [$((PARAMETERS.$key, self.$key)),+]
            }

            /// What is called so.
            pub fn get_mut(&mut self, key: &str) -> Option<&mut T> {
                match key {
                    $(stringify!($key) => Some(&mut self.$key),)+
                    _ => None,
                }
            }

            /// What `join` makes of two of each.
            pub fn zip<U, V>(self, other: Draw<U>, mut join: impl FnMut(T, U) -> V) -> Draw<V> {
                Draw { $($key: join(self.$key, other.$key),)+ }
            }
        }
    };
}

parameters! {
    /// Below 1 the likely becomes likelier, 0 takes the likeliest always
    // Divides the logits. Above every model is white noise; what lies nearer to 0 would let logits overflow.
    temperature: "T", 1.0, Limits::within(0.01..=10.0).or_zero();

    /// Lower the temperature of steps that are less certain, until about so many bits are left; 8 leaves all as
    /// they are
    // Below, the likeliest code alone would be left: that is temperature 0.
    max_entropy: BITS, DrawParams::MAX_ENTROPY_BITS, Limits::within(0.1..=DrawParams::MAX_ENTROPY_BITS);

    /// Do the same to steps that are so many bits less certain than the last milliseconds; 8 leaves all as they
    /// are
    max_rise: BITS, DrawParams::MAX_ENTROPY_BITS, Limits::within(0.0..=DrawParams::MAX_ENTROPY_BITS);

    /// Raise the temperature while draws have held fewer bits on average for about 16,384 of them, so that a tone
    /// that hangs lets go; 0 leaves it
    min_entropy: BITS, 0.0, Limits::within(0.0..=DrawParams::MAX_ENTROPY_BITS);

    /// Raise the temperature by this share for each octave that the stream is quieter than middling, and lower
    /// it for each that it is louder; 0 leaves it
    // A stream is four octaves from middling at most.
    leveling: "SHARE", 0.0, Limits::within(0.0..=0.2);

    /// How far a sample may stand out of its neighbours, in usual distances, before the next must follow it:
    /// what nothing follows is a click. For models whose predictor begins with a filter of 48 taps or more; 100
    /// lets all pass
    max_click: "N", DrawParams::ANY_CLICK, Limits::within(1.0..=DrawParams::ANY_CLICK);

    /// Keep the fewest codes whose probabilities reach P; 1 keeps all
    // At 0 nothing would be left to draw.
    top_p: "P", 1.0, Limits::between(Bound::Excluded(0.0), Bound::Included(1.0));

    /// Keep codes at least P times as likely as the likeliest; 0 keeps all
    // At 1 nothing but the likeliest would be left: that is temperature 0.
    min_p: "P", 0.0, Limits::between(Bound::Included(0.0), Bound::Excluded(1.0));
}

const BITS: &str = "BITS";

impl<T> Draw<T> {
    /// What `change` makes of each.
    pub fn map<V>(self, mut change: impl FnMut(T) -> V) -> Draw<V> {
        PARAMETERS.zip(self, |_, value| change(value))
    }
}

impl Default for DrawParams {
    fn default() -> Self {
        Self::NEUTRAL
    }
}

impl Default for DrawPatch {
    fn default() -> Self {
        PARAMETERS.map(|_| None)
    }
}

impl DrawPatch {
    /// What it says, and what `other` says besides.
    pub fn or(self, other: Self) -> Self {
        self.zip(other, Option::or)
    }

    /// What it says, and else as is `usual`.
    pub fn unwrap_or(self, usual: DrawParams) -> DrawParams {
        self.zip(usual, Option::unwrap_or)
    }
}

/// `temperature 1, at most 4.4 bits and 1 more than lately, top-p 1, min-p 0`
impl fmt::Display for DrawParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            temperature,
            max_entropy,
            max_rise,
            min_entropy,
            leveling,
            max_click,
            top_p,
            min_p,
        } = self;
        write!(f, "temperature {temperature}, at most {max_entropy} bits")?;
        if *max_rise < Self::MAX_ENTROPY_BITS {
            write!(f, " and {max_rise} more than lately")?;
        }
        if *min_entropy > 0.0 {
            write!(f, ", hotter below {min_entropy}")?;
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
    /// See [`Draw::max_click`].
    pub const ANY_CLICK: f32 = 100.0;

    /// Whether a wild code may let the next one be wilder, as the hiss of speech does. A stream whose level is
    /// held keeps to the smaller of two mean errors, or its leaps would become clicks.
    pub fn may_leap(&self) -> bool {
        self.leveling == 0.0
    }

    /// The click that is let pass, unless all are.
    pub fn click_limit(&self) -> Option<f32> {
        (self.max_click < Self::ANY_CLICK).then_some(self.max_click)
    }

    /// Whether it matters how many bits a draw holds.
    pub fn asks_for_bits(&self) -> bool {
        self.max_entropy.min(self.max_rise) < Self::MAX_ENTROPY_BITS || self.min_entropy > 0.0
    }

    /// Refuses what nothing can be drawn with, in words that name the key.
    pub fn check(&self) -> Result<(), String> {
        let mut all = self.each().into_iter();
        all.try_for_each(|(parameter, value)| parameter.check(value))
    }
}

impl Parameter {
    fn check(&self, value: f32) -> Result<(), String> {
        let Self { key, limits, .. } = self;
        let unit = match self.value_name {
            BITS => " bits",
            _ => "",
        };
        let error = |_| format!("draw: {key} is {value}; it must be {limits:#}{unit}");
        limits.check(value.into()).map_err(error)
    }
}

#[cfg(test)]
mod tests;
