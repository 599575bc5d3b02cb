//! `hashed`: in each of several rounds the latest `keys` positions whose keys fell into the same
//! bucket (Reformer, arXiv 2001.04451, causal and endless).
//!
//! What a position is looked for by is what it is found by: a head's key is the mean of the queries that
//! share it, brought to one length, so a layer of this kind has no weights for keys. What decides about
//! buckets is the key before it is rotated: the same sound falls into the same bucket wherever in the
//! stream it stands. Rotated it is all the same, as in every kind, for the score.
//!
//! The rule, exactly. In every round a position sees the latest `keys` positions *before* it that lie
//! less than `window` back and fell into its own bucket of that round. One that several rounds show has
//! as many shares of the softmax. Where no round shows any, and only there, it sees itself.
//!
//! Reformer sorts a sequence by bucket and cuts it into chunks, each of which sees itself and the one
//! before: between one and two chunks of the latest of a bucket, fewer where a bucket begins. What is
//! sorted must be over; the latest of a bucket there always are. And it counts once what several rounds
//! show.

use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{ALIGNMENT, Defaults, Head, Kind, Parsed, Pattern, checked, fields};

pub(super) const KIND: Kind = Kind {
    name: "hashed",
    parse,
};

/// The most rounds: more find little that the others have not found.
pub const MAX_ROUNDS: usize = 16;
/// Buckets of a round.
const MAX_BUCKETS: usize = 1024;

/// The bucket of a position in each round; those behind the last round mean nothing.
pub type Buckets = [u16; MAX_ROUNDS];

/// Who sees whom, given the buckets.
#[derive(Debug)]
pub struct Hashed {
    window: usize,
    pub(super) rounds: usize,
    pub(super) buckets: usize,
    keys: usize,
    pub(super) seed: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(rename = "kind")]
    _kind: String,
    window: usize,
    rounds: usize,
    buckets: usize,
    keys: usize,
    seed: u64,
}

/// The word alone: the model's context by four rounds of 32 buckets, a quarter of a stride from each, by
/// seed 0.
fn parse(entry: &Value, defaults: &Defaults) -> Parsed {
    let own = match entry {
        Value::String(_) => Fields {
            _kind: String::new(),
            window: defaults.context.max(2),
            rounds: 4,
            buckets: 32,
            keys: (defaults.stride / 4).clamp(1, defaults.context.max(2) - 1),
            seed: 0,
        },
        object => fields(object)?,
    };
    let (window, keys) = (checked("window", own.window)?, checked("keys", own.keys)?);
    if own.rounds == 0 || own.rounds > MAX_ROUNDS {
        return Err(format!(
            "rounds is {}; 1 to {MAX_ROUNDS} are possible",
            own.rounds
        ));
    }
    if !(2..=MAX_BUCKETS).contains(&own.buckets) || !own.buckets.is_multiple_of(2) {
        return Err(format!(
            "buckets is {}; it must be even, for each projection has two, and from 2 to \
             {MAX_BUCKETS}",
            own.buckets
        ));
    }
    if keys >= window {
        return Err(format!(
            "keys is {keys}; a window of {window} has only {} positions before the present one",
            window - 1
        ));
    }
    let rings = own.rounds * own.buckets;
    checked(
        "rounds times buckets times keys",
        rings.saturating_mul(keys),
    )?;
    Ok(Head::Hashed(Arc::new(Hashed {
        window,
        rounds: own.rounds,
        buckets: own.buckets,
        keys,
        seed: own.seed,
    })))
}

impl Pattern for Hashed {
    fn kind(&self) -> &'static str {
        KIND.name
    }

    fn reach(&self) -> u64 {
        self.window as u64
    }

    fn n_slots(&self) -> usize {
        self.rounds * self.buckets * self.pitch()
    }

    fn max_visible(&self) -> usize {
        self.rounds * self.keys
    }

    /// A ring that has keys beyond the window shows its end and its beginning.
    fn max_runs(&self) -> usize {
        2 * self.rounds
    }

    /// Buckets depend on what is heard.
    fn cycle(&self, _: u64) -> Option<u64> {
        None
    }
}

impl Hashed {
    /// Tells the keys that the last of some positions sees, each as often as it is seen: the rule itself.
    /// The positions are those from the start of the stream on.
    pub fn seen(&self, buckets: &[Buckets], key: &mut dyn FnMut(usize)) {
        let Some((own, before)) = buckets.split_last() else {
            return;
        };
        let oldest = buckets.len().saturating_sub(self.window);
        let mut sees_none = true;
        for round in 0..self.rounds {
            let is_alike = |at: &usize| before[*at][round] == own[round];
            let alike = (oldest..before.len()).rev().filter(is_alike);
            for at in alike.take(self.keys) {
                sees_none = false;
                key(at);
            }
        }
        if sees_none {
            key(before.len());
        }
    }

    /// The rings of a stream that has not begun.
    pub fn rings(&self) -> Rings {
        Rings {
            taken: vec![0; self.rounds * self.buckets],
            positions: vec![0; self.n_slots()],
        }
    }

    /// Gives the slots that `position`, not yet [written](Self::write), sees, as runs; none where it
    /// sees itself.
    pub fn visible(
        &self,
        rings: &Rings,
        position: u64,
        buckets: &Buckets,
        run: &mut dyn FnMut(Range<usize>),
    ) {
        for (ring, base) in self.rings_of(buckets) {
            let taken = rings.taken[ring];
            // Behind the newest.
            let end = (taken % self.keys as u64) as usize;
            let held = taken.min(self.keys as u64) as usize;
            let is_near = |back: usize| {
                let at = base + (end + self.keys - 1 - back) % self.keys;
                position.saturating_sub(rings.positions[at]) < self.window as u64
            };
            let n = match held > 0 && is_near(held - 1) {
                true => held,
                false => first_not(0..held, is_near),
            };
            if n == self.keys {
                run(base..base + n);
                continue;
            }
            let (before, behind) = (n.min(end), n.saturating_sub(end));
            if before > 0 {
                run(base + end - before..base + end);
            }
            if behind > 0 {
                run(base + self.keys - behind..base + self.keys);
            }
        }
    }

    /// Puts `position` into its buckets, in the place of the oldest there: tells the slot of each round.
    pub fn write(
        &self,
        rings: &mut Rings,
        position: u64,
        buckets: &Buckets,
        slot: &mut dyn FnMut(usize),
    ) {
        for (ring, base) in self.rings_of(buckets) {
            let taken = &mut rings.taken[ring];
            let at = base + (*taken % self.keys as u64) as usize;
            // Whoever wrote the state that it was restored from.
            *taken = taken.wrapping_add(1);
            rings.positions[at] = position;
            slot(at);
        }
    }

    /// Tells the keys that `position` sees by the rings, each as often as it is seen, and puts it into its
    /// buckets: what decoding does, without keys and values.
    pub fn advance(
        &self,
        rings: &mut Rings,
        position: u64,
        buckets: &Buckets,
        key: &mut dyn FnMut(u64),
    ) {
        let mut sees_none = true;
        self.visible(rings, position, buckets, &mut |run| {
            sees_none = false;
            rings.positions[run].iter().copied().for_each(&mut *key);
        });
        if sees_none {
            key(position);
        }
        self.write(rings, position, buckets, &mut |_| ());
    }

    /// Each round's ring and its first slot.
    fn rings_of(&self, buckets: &Buckets) -> impl Iterator<Item = (usize, usize)> {
        let rounds = buckets[..self.rounds].iter().enumerate();
        rounds.map(|(round, own)| {
            let ring = round * self.buckets + usize::from(*own);
            (ring, ring * self.pitch())
        })
    }

    /// From ring to ring.
    fn pitch(&self) -> usize {
        self.keys.next_multiple_of(ALIGNMENT)
    }
}

/// The first of a range of which it is not so, where it is so up to there.
fn first_not(mut range: Range<usize>, is_so: impl Fn(usize) -> bool) -> usize {
    while !range.is_empty() {
        let middle = range.start + range.len() / 2;
        match is_so(middle) {
            true => range.start = middle + 1,
            false => range.end = middle,
        }
    }
    range.start
}

/// Which position every slot of a head holds, by its buckets; nothing of a head of another kind.
#[derive(Clone, Debug, Default)]
pub struct Rings {
    /// [rounds · buckets]: positions that each bucket has ever taken.
    taken: Vec<u64>,
    /// `[slots]`
    positions: Vec<u64>,
}

impl Rings {
    /// Of the head.
    pub fn of(head: &Head) -> Self {
        match head {
            Head::Placed(_) => Self::default(),
            Head::Hashed(hashed) => hashed.rings(),
        }
    }

    /// Bytes that those of the head take.
    pub fn bytes_for(head: &Head) -> usize {
        match head {
            Head::Placed(_) => 0,
            Head::Hashed(of) => (of.rounds * of.buckets + of.n_slots()) * size_of::<u64>(),
        }
    }

    /// Back to the start of a stream.
    pub fn open(&mut self) {
        self.taken.fill(0);
    }

    /// Full of the positions before `position`: a stream of any age, for measuring.
    pub fn fill(&mut self, head: &Head, position: u64) {
        let Head::Hashed(of) = head else {
            return;
        };
        self.taken.fill(of.keys as u64);
        for positions in self.positions.chunks_exact_mut(of.pitch()) {
            for (back, at) in (1..).zip(positions[..of.keys].iter_mut().rev()) {
                *at = position.saturating_sub(back);
            }
        }
    }

    /// Becomes what `other` is, of the same head.
    pub fn copy(&mut self, other: &Self) {
        self.taken.copy_from_slice(&other.taken);
        self.positions.copy_from_slice(&other.positions);
    }

    /// Shows all words, and takes what `visit` leaves there: any will do.
    pub fn state(&mut self, visit: &mut dyn FnMut(&mut [u64])) {
        visit(&mut self.taken);
        visit(&mut self.positions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Layer;
    use crate::model::pattern::hash;
    use serde_json::json;

    const REACH: Defaults = Defaults {
        stride: 4,
        context: 32,
    };

    fn entry(window: usize, rounds: usize, buckets: usize, keys: usize) -> Value {
        json!({"kind": "hashed", "window": window, "rounds": rounds, "buckets": buckets,
            "keys": keys, "seed": 5})
    }

    fn hashed(entry: &Value) -> Arc<Hashed> {
        match parse(entry, &REACH) {
            Ok(Head::Hashed(hashed)) => hashed,
            other => panic!("{other:?}"),
        }
    }

    /// Buckets as sound has them: one for a while, then another, a few of them seldom.
    fn buckets(of: &Hashed, n: usize) -> Vec<Buckets> {
        let each = (0..n as u64).map(|t| {
            std::array::from_fn(|round| {
                let lasts = 1 + round as u64 * 3;
                let draw = hash(t / lasts, [round as u64, 7]);
                let bucket = match draw % 50 {
                    0 => of.buckets - 1,
                    _ => (draw >> 32) as usize % of.buckets.div_ceil(2),
                };
                bucket as u16
            })
        });
        each.collect()
    }

    #[test]
    fn the_rings_hold_exactly_what_the_rule_shows() {
        for (window, rounds, of, keys) in [
            (32, 1, 2, 1),
            (9, 3, 4, 8),
            (200, 2, 6, 20),
            (1000, 2, 64, 16),
            (2, 1, 2, 1),
        ] {
            let of = hashed(&entry(window, rounds, of, keys));
            let buckets = buckets(&of, 2_500);
            let (mut rings, mut farthest) = (of.rings(), 0);
            for (t, own) in buckets.iter().enumerate() {
                let mut by_rule = Vec::new();
                of.seen(&buckets[..=t], &mut |key| by_rule.push(key as u64));
                let (mut n_runs, mut n_slots) = (0, 0);
                of.visible(&rings, t as u64, own, &mut |run| {
                    assert!(!run.is_empty() && run.end <= of.n_slots());
                    (n_runs, n_slots) = (n_runs + 1, n_slots + run.len());
                });
                assert!(n_runs <= of.max_runs() && n_slots <= of.max_visible());
                let mut by_rings = Vec::new();
                of.advance(&mut rings, t as u64, own, &mut |key| by_rings.push(key));
                let nearest = by_rule.iter().min().map_or(0, |key| t as u64 + 1 - key);
                farthest = nearest.max(farthest);
                by_rule.sort_unstable();
                by_rings.sort_unstable();
                assert_eq!(by_rings, by_rule, "{of:?} at {t}");
                assert!(by_rule.iter().all(|key| *key < t as u64) || by_rule == [t as u64]);
            }
            assert!(
                farthest <= of.reach() && 2 * farthest > of.reach(),
                "{of:?}: {farthest}"
            );
        }
    }

    #[test]
    fn a_key_has_as_many_shares_as_rounds_show_it() {
        let of = hashed(&entry(8, 3, 2, 2));
        let mut buckets = [Buckets::default(); 3];
        buckets[1][2] = 1;
        let mut seen = Vec::new();
        of.seen(&buckets, &mut |key| seen.push(key));
        // Rounds 0 and 1 show both, round 2 the first alone.
        assert_eq!(seen, [1, 0, 1, 0, 0]);
        seen.clear();
        of.seen(&buckets[..1], &mut |key| seen.push(key));
        assert_eq!(seen, [0]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_rule() {
        let refusal = |entry: Value| parse(&entry, &REACH).unwrap_err();
        assert!(refusal(entry(32, 0, 4, 1)).contains("rounds is 0; 1 to 16"));
        assert!(refusal(entry(32, 17, 4, 1)).contains("rounds is 17"));
        assert!(refusal(entry(32, 1, 5, 1)).contains("buckets is 5; it must be even"));
        assert!(refusal(entry(32, 1, 2000, 1)).contains("from 2 to 1024"));
        assert!(refusal(entry(32, 1, 4, 32)).contains("has only 31 positions before"));
        assert!(refusal(entry(1, 1, 4, 1)).contains("has only 0 positions before"));
        assert!(refusal(entry(0, 1, 4, 1)).contains("window is 0"));
        assert!(refusal(entry(1 << 26, 16, 1024, 1 << 13)).contains("rounds times buckets"));
        let list = json!(["local", "hashed"]);
        let why = Layer::parse(&list, &REACH, 2).unwrap_err();
        assert!(
            why.contains("for all heads of a layer or for none"),
            "{why}"
        );
        let alike = Layer::parse(&json!([entry(32, 1, 4, 3), "hashed"]), &REACH, 2).unwrap();
        assert!(alike.shares_queries() && alike.placed(2).is_none());
    }

    #[test]
    fn rings_of_any_bytes_show_slots_that_there_are() {
        let of = hashed(&entry(100, 2, 4, 20));
        let mut rings = of.rings();
        let mut word = 0;
        rings.state(&mut |words| {
            for any in words {
                word += 1;
                *any = match word % 3 {
                    0 => u64::MAX - word,
                    _ => hash(3, [word, 0]),
                };
            }
        });
        for (t, own) in buckets(&of, 300).iter().enumerate() {
            of.visible(&rings, t as u64, own, &mut |run| {
                assert!(run.start < run.end && run.end <= of.n_slots());
            });
            of.write(&mut rings, t as u64, own, &mut |slot| {
                assert!(slot < of.n_slots())
            });
        }
    }
}
