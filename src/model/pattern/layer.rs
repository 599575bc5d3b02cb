//! The patterns of one layer: one that all its KV heads share, or one for each.

use std::sync::Arc;

use serde_json::Value;

use super::{Defaults, Hashed, Head, Placed, Spacing};

/// Who sees whom in one layer, KV head by KV head.
#[derive(Clone, Debug)]
pub struct Layer {
    /// One that all KV heads share, or one for each.
    heads: Vec<Head>,
}

impl Layer {
    /// Reads one entry of `pattern`: a word or an object for all heads, or a list with one for each.
    pub fn parse(entry: &Value, defaults: &Defaults, n_kv_heads: usize) -> Result<Self, String> {
        let entries = match entry {
            Value::Array(entries) if entries.len() == n_kv_heads => match entries.as_slice() {
                [first, rest @ ..] if rest.iter().all(|entry| entry == first) => &entries[..1],
                each => each,
            },
            Value::Array(entries) => {
                return Err(format!(
                    "a list has an entry for each KV head: {} given, {n_kv_heads} needed",
                    entries.len()
                ));
            }
            shared => std::slice::from_ref(shared),
        };
        let heads = entries.iter().map(|entry| super::parse(entry, defaults));
        let heads = heads.collect::<Result<Vec<_>, _>>()?;
        let is_hashed = |head: &Head| matches!(head, Head::Hashed(_));
        if heads.iter().any(is_hashed) && !heads.iter().all(is_hashed) {
            return Err(
                "hashed is for all heads of a layer or for none: its keys are its \
                        queries, and the layer has no weights for others"
                    .into(),
            );
        }
        Ok(Self { heads })
    }

    /// Whether a head's key is the mean of the queries that share it: such a layer has no weights for
    /// keys.
    pub fn shares_queries(&self) -> bool {
        self.hashed(1).is_some()
    }

    /// What the KV head `group` sees.
    pub fn head(&self, group: usize) -> &Head {
        match self.heads.as_slice() {
            [shared] => shared,
            each => &each[group],
        }
    }

    /// What each of so many KV heads sees.
    pub fn heads(&self, n_kv_heads: usize) -> impl ExactSizeIterator<Item = &Head> {
        (0..n_kv_heads).map(|group| self.head(group))
    }

    /// The patterns that there are: one, if all heads share it.
    pub fn patterns(&self) -> impl ExactSizeIterator<Item = &Head> {
        self.heads.iter()
    }

    /// What each of so many KV heads sees, where positions say it.
    pub fn placed(&self, n_kv_heads: usize) -> Option<Vec<&dyn Placed>> {
        let heads = self.heads(n_kv_heads).map(|head| match head {
            Head::Placed(pattern) => Some(pattern.as_ref()),
            Head::Hashed(_) => None,
        });
        heads.collect()
    }

    /// What each of so many KV heads sees, where buckets say it.
    pub fn hashed(&self, n_kv_heads: usize) -> Option<Vec<&Arc<Hashed>>> {
        let heads = self.heads(n_kv_heads).map(|head| match head {
            Head::Placed(_) => None,
            Head::Hashed(hashed) => Some(hashed),
        });
        heads.collect()
    }

    /// The pattern that all heads share.
    pub fn shared(&self) -> Option<&Head> {
        match self.heads.as_slice() {
            [shared] => Some(shared),
            _ => None,
        }
    }

    /// The word of the kind that all heads share, or `mixed`.
    pub fn kind(&self) -> &'static str {
        self.shared().map_or("mixed", |head| head.kind())
    }

    /// Where the keys lie evenly, and for all heads alike: how.
    pub fn spacing(&self) -> Option<Spacing> {
        match self.shared()? {
            Head::Placed(pattern) => pattern.spacing(),
            Head::Hashed(_) => None,
        }
    }

    /// How far the head that sees farthest reaches; see [`Pattern::reach`](super::Pattern::reach).
    pub fn reach(&self) -> u64 {
        self.most(|head| head.reach())
    }

    /// How many positions from the start some head keeps for ever.
    pub fn kept(&self) -> u64 {
        self.most(|head| head.kept())
    }

    /// The most rotations that a head needs; see [`Pattern::n_angles`](super::Pattern::n_angles).
    pub fn n_angles(&self) -> usize {
        self.most(|head| head.n_angles())
    }

    /// The most slots visible at once to a head.
    pub fn max_visible(&self) -> usize {
        self.most(|head| head.max_visible())
    }

    /// After how many positions all heads' slots and rotations are back where they were.
    pub fn cycle(&self, rope_period: u64) -> Option<u64> {
        let mut cycles = self.patterns().map(|head| head.cycle(rope_period));
        cycles.try_fold(1, |all, cycle| crate::model::lcm(all, cycle?))
    }

    fn most<T: Ord + Default>(&self, of: impl Fn(&Head) -> T) -> T {
        self.patterns().map(of).max().unwrap_or_default()
    }
}
