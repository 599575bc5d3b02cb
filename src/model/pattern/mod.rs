//! Who sees whom in one layer, and which slots of the KV store hold the keys.
//!
//! Written once and asked by all: the mask of training and of the oracle, the KV stores of every
//! engine, the picture that `inspect` draws. A kind of pattern is one file beside this one with a
//! line in `KINDS`; the tests then hold its views against each other.

mod block_sparse;
mod dilated;
mod fixed;
mod global;
mod hashed;
mod hasher;
mod held;
mod latent;
mod layer;
mod local;
mod memory;
mod pages;
mod random;
mod strided;
#[cfg(test)]
mod tests;

pub use hashed::{Buckets, Hashed, Rings};
pub use hasher::Hasher;
pub use held::Held;
pub use layer::Layer;

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

/// What one KV head of a layer sees, as far as can be said whatever it hears: how far back it reaches,
/// what it keeps for that, and how it is rotated. Positions count from the start of the stream and never
/// wrap.
pub trait Pattern: fmt::Debug + Send + Sync {
    /// Its word in `config.json`.
    fn kind(&self) -> &'static str;

    /// How many positions back the farthest visible key lies, the present one counted as 1; the
    /// first ones that are [kept](Self::kept) for ever do not count.
    fn reach(&self) -> u64;

    /// How many positions from the start of the stream stay visible for ever.
    fn kept(&self) -> u64 {
        0
    }

    /// The most positions that the layers above may reach, where the kind has a say.
    fn above(&self) -> Option<u64> {
        None
    }

    /// How many KV slots the head needs.
    fn n_slots(&self) -> usize;

    /// The most slots ever visible at once.
    fn max_visible(&self) -> usize;

    /// The most runs they come in.
    fn max_runs(&self) -> usize {
        1
    }

    /// How many positions share a rotation, one after the other.
    fn turn(&self) -> u64 {
        1
    }

    /// Which rotation the query and the key of `position` get.
    fn rotation(&self, position: u64) -> u64 {
        position / self.turn()
    }

    /// How many rotations lie from the farthest visible key to the present one: `rope_period` must
    /// be no less.
    fn n_angles(&self) -> usize {
        self.reach().div_ceil(self.turn()) as usize
    }

    /// After how many positions slots and rotations are back where they were; `None` if they never
    /// are.
    fn cycle(&self, rope_period: u64) -> Option<u64>;
}

/// A pattern in which positions alone say who sees whom, and which slot holds what.
pub trait Placed: Pattern {
    /// Does the query at `query` see the key at `key`? False for every key after the query.
    fn sees(&self, query: u64, key: u64) -> bool;

    /// Does the gradient of what the query makes of the key reach the key?
    fn carries_gradient(&self, query: u64, key: u64) -> bool {
        self.sees(query, key)
    }

    /// How the keys that a position sees lie, where they lie evenly.
    fn spacing(&self) -> Option<Spacing> {
        None
    }

    /// The slot that `position` is written to, at the latest when it is first seen.
    fn slot(&self, position: u64) -> usize;

    /// Gives the slots visible at `position`, its own included and already written, as runs.
    fn visible(&self, position: u64, run: &mut dyn FnMut(Range<usize>));
}

/// The pattern of one KV head, by what says who sees whom.
#[derive(Clone, Debug)]
pub enum Head {
    /// Positions alone.
    Placed(Arc<dyn Placed>),
    /// What is heard there, too: positions fall into buckets.
    Hashed(Arc<Hashed>),
}

impl Head {
    fn placed(pattern: impl Placed + 'static) -> Self {
        Self::Placed(Arc::new(pattern))
    }
}

impl Deref for Head {
    type Target = dyn Pattern;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Placed(pattern) => pattern.as_ref(),
            Self::Hashed(hashed) => hashed.as_ref(),
        }
    }
}

/// Keys `stride` positions apart, the present one first, `rows` of them: what training's attention
/// takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spacing {
    /// From one key to the next.
    pub stride: usize,
    /// How many there are.
    pub rows: usize,
}

/// The model's own reach, for entries that are only a word.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// Window of `local`, stride of `strided`.
    pub stride: usize,
    /// Positions that a `strided` layer spans.
    pub context: usize,
}

/// A head's pattern, or a sentence that says what is wrong with its entry.
pub type Parsed = Result<Head, String>;

/// A kind of pattern: its word and how to read an entry of that kind.
struct Kind {
    name: &'static str,
    parse: fn(&Value, &Defaults) -> Parsed,
}

const KINDS: &[Kind] = &[
    local::KIND,
    strided::KIND,
    fixed::KIND,
    dilated::KIND,
    global::KIND,
    random::KIND,
    block_sparse::KIND,
    memory::KIND,
    latent::KIND,
    hashed::KIND,
];

/// The words of all kinds.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.name)
}

/// Slots that engines read together: where a cache has several parts, each begins on a boundary.
const ALIGNMENT: usize = 16;

/// The largest size of any kind, and the farthest reach, that is accepted.
const MAX_REACH: usize = 1 << 26;

/// Reads one head's entry: a word, or an object with its own reach.
fn parse(entry: &Value, defaults: &Defaults) -> Parsed {
    let name = entry
        .as_str()
        .or_else(|| entry.get("kind").and_then(Value::as_str))
        .ok_or_else(|| String::from("neither a word nor an object with a \"kind\""))?;
    let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
        let known: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
        return Err(format!(
            "kind \"{name}\" is unknown; this version knows {}",
            known.join(", ")
        ));
    };
    (kind.parse)(entry, defaults)
}

/// Reads the object form of an entry into the fields of its kind.
fn fields<'a, T: Deserialize<'a>>(entry: &'a Value) -> Result<T, String> {
    T::deserialize(entry).map_err(|error| error.to_string())
}

/// Refuses a size that is zero or beyond every use.
fn checked(name: &str, size: usize) -> Result<usize, String> {
    match size {
        0 => Err(format!("{name} is 0")),
        n if n > MAX_REACH => Err(format!("{name} is {n}, more than the {MAX_REACH} accepted")),
        n => Ok(n),
    }
}

/// SplitMix64's finaliser (Steele, Lea and Flood, 2014) over what is to be mixed into the seed, in turn.
fn hash(seed: u64, words: [u64; 2]) -> u64 {
    words.into_iter().fold(seed, |state, word| {
        let z = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    })
}
