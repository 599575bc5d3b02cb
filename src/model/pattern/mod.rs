//! Who sees whom in one layer, and which slots of the KV store hold the keys.
//!
//! Written once and asked by all: the mask of training and of the oracle, the KV stores of every
//! engine, the picture that `inspect` draws. A kind of pattern is one file beside this one with a
//! line in `KINDS`; the test below then holds its three views against each other.

mod local;
mod strided;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

/// One layer's pattern. Positions count from the start of the stream and never wrap.
pub trait Pattern: fmt::Debug + Send + Sync {
    /// Its word in `config.json`.
    fn kind(&self) -> &'static str;

    /// Does the query at `query` see the key at `key`? False for every key after the query.
    fn sees(&self, query: u64, key: u64) -> bool;

    /// How the keys that a position sees lie, where they lie evenly.
    fn spacing(&self) -> Option<Spacing>;

    /// How many positions back the farthest visible key lies, the present one counted as 1.
    fn reach(&self) -> u64;

    /// How many KV slots the layer needs.
    fn n_slots(&self) -> usize;

    /// The slot that `position` is written to, at the latest when it is first seen.
    fn slot(&self, position: u64) -> usize;

    /// Gives the slots visible at `position`, its own included and already written, as runs.
    fn visible(&self, position: u64, run: &mut dyn FnMut(Range<usize>));

    /// The most slots ever visible at once.
    fn max_visible(&self) -> usize;

    /// The most runs they come in.
    fn max_runs(&self) -> usize {
        1
    }

    /// Which rotation the query and the key of `position` get.
    fn rotation(&self, position: u64) -> u64;

    /// How many different rotations are visible at once: `rope_period` must be no less.
    fn n_angles(&self) -> usize;

    /// After how many positions slots and rotations are back where they were.
    fn cycle(&self, rope_period: u64) -> Option<u64>;
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

/// A layer's pattern, or a sentence that says what is wrong with its entry.
pub type Parsed = Result<Arc<dyn Pattern>, String>;

/// A kind of pattern: its word and how to read an entry of that kind.
struct Kind {
    name: &'static str,
    parse: fn(&Value, &Defaults) -> Parsed,
}

const KINDS: &[Kind] = &[local::KIND, strided::KIND];

/// Longest window, stride or number of rows that is accepted.
const MAX_REACH: usize = 1 << 26;

/// Reads one entry of `pattern`: a word, or an object with its own reach.
pub fn parse(entry: &Value, defaults: &Defaults) -> Parsed {
    let name = entry
        .as_str()
        .or_else(|| entry.get("kind").and_then(Value::as_str))
        .ok_or_else(|| format!("{entry} is neither a word nor an object with a \"kind\""))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// One small layer of every kind, several where a kind has cases.
    fn samples() -> Vec<Arc<dyn Pattern>> {
        let defaults = Defaults {
            stride: 4,
            context: 32,
        };
        let mut all: Vec<_> = [
            json!("local"),
            json!("strided"),
            json!({"kind": "local", "window": 1}),
            json!({"kind": "local", "window": 7}),
            json!({"kind": "strided", "stride": 3, "rows": 5}),
            json!({"kind": "strided", "stride": 1, "rows": 6}),
        ]
        .iter()
        .map(|entry| parse(entry, &defaults).unwrap())
        .collect();
        // A kind that someone adds is tested by its plain word without a line here.
        all.extend(
            KINDS
                .iter()
                .map(|kind| parse(&json!(kind.name), &defaults).unwrap()),
        );
        all
    }

    #[test]
    fn the_slots_hold_exactly_what_the_mask_shows_through_three_cycles() {
        for pattern in samples() {
            let cycle = pattern.cycle(1).unwrap();
            let mut held = vec![None; pattern.n_slots()];
            for t in 0..3 * cycle + 5 {
                held[pattern.slot(t)] = Some(t);
                let (mut by_slots, mut n_runs) = (Vec::new(), 0);
                pattern.visible(t, &mut |run| {
                    by_slots.extend(held[run].iter().map(|k| k.unwrap()));
                    n_runs += 1;
                });
                assert!(n_runs <= pattern.max_runs(), "{pattern:?} at {t}");
                by_slots.sort_unstable();
                let by_mask: Vec<u64> = (0..=t).filter(|&k| pattern.sees(t, k)).collect();
                assert_eq!(by_slots, by_mask, "{pattern:?} at {t}");
                assert!(by_mask.len() <= pattern.max_visible());
                assert!(by_mask.contains(&t) && t - by_mask[0] < pattern.reach());
            }
        }
    }

    #[test]
    fn the_visible_rotations_are_distinct_and_no_more_than_promised() {
        for pattern in samples() {
            for t in 0..2 * pattern.cycle(1).unwrap() {
                let mut seen: Vec<u64> = (0..=t)
                    .filter(|&k| pattern.sees(t, k))
                    .map(|k| pattern.rotation(k))
                    .collect();
                let n = seen.len();
                seen.dedup();
                assert!(
                    seen.len() == n && n <= pattern.n_angles(),
                    "{pattern:?} at {t}"
                );
            }
        }
    }

    #[test]
    fn evenly_spaced_keys_are_those_of_the_mask() {
        for pattern in samples() {
            let Some(Spacing { stride, rows }) = pattern.spacing() else {
                continue;
            };
            for t in 0..2 * pattern.cycle(1).unwrap() {
                let by_spacing: Vec<u64> = (0..rows as u64)
                    .rev()
                    .filter_map(|j| t.checked_sub(j * stride as u64))
                    .collect();
                let by_mask: Vec<u64> = (0..=t).filter(|&k| pattern.sees(t, k)).collect();
                assert_eq!(by_spacing, by_mask, "{pattern:?} at {t}");
            }
        }
    }

    #[test]
    fn nothing_sees_the_future() {
        for pattern in samples() {
            assert!(
                (0..40).all(|t| (t + 1..60).all(|k| !pattern.sees(t, k))),
                "{pattern:?}"
            );
        }
    }

    #[test]
    fn zero_and_absurd_sizes_are_refused() {
        let defaults = Defaults {
            stride: 4,
            context: 32,
        };
        for entry in [
            json!({"kind": "local", "window": 0}),
            json!({"kind": "local", "window": 1u64 << 40}),
            json!({"kind": "strided", "stride": 0, "rows": 1}),
            json!({"kind": "strided", "stride": 1 << 20, "rows": 1 << 20}),
            json!(7),
        ] {
            assert!(parse(&entry, &defaults).is_err(), "{entry}");
        }
    }
}
