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

use super::{ALIGNMENT, Defaults, Head, Kind, Parsed, Pattern, checked, fields, hash};

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
    rounds: usize,
    buckets: usize,
    keys: usize,
    seed: u64,
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

/// Columns of projections that are summed up together.
const COLUMNS: usize = 16;

/// Numbers that are all smaller fall into the first bucket: their inverse would overflow.
const TINY: f32 = 1e-30;
/// Adding it to a number within ±2²² leaves the nearest whole number, ties to even, in the low bits.
const MAGIC: f32 = 12_582_912.0;

/// What tells the buckets of keys of one size.
///
/// A key in steps of its largest number / 32,767, rounded, is projected on directions of ±1, half as
/// many as there are buckets; the bucket is that of the largest of all projections and then all
/// projections negated, the first of equals. Sums are of whole numbers: exact in any order.
#[derive(Clone, Debug)]
pub struct Hasher {
    /// Who sees whom, once the buckets are known.
    pub of: Arc<Hashed>,
    /// [rounds][columns, filled up to sixteens][K][16]
    signs: Vec<[i8; COLUMNS]>,
}

impl Hasher {
    /// For keys of `head_size`.
    pub fn new(of: &Arc<Hashed>, head_size: usize) -> Self {
        let columns = of.columns();
        let mut signs = Vec::new();
        for round in 0..of.rounds {
            for first in (0..columns).step_by(COLUMNS) {
                signs.extend((0..head_size).map(|dim| {
                    std::array::from_fn(|i| match first + i < columns {
                        true => of.sign(round * columns + first + i, dim),
                        false => 0,
                    })
                }));
            }
        }
        Self {
            of: of.clone(),
            signs,
        }
    }

    /// Tells the bucket of each round of a key `[K]`, before its norm and its rotation: its length does
    /// not matter. Takes on the instruction set of its caller.
    #[inline(always)]
    pub fn sort(&self, key: &[f32]) -> Buckets {
        // Without their signs floats are ordered as their bits are.
        let bits = key.iter().map(|x| x.to_bits() & !(1 << 31));
        let largest = f32::from_bits(bits.fold(0, u32::max));
        let inverse = if largest > TINY {
            32_767.0 / largest
        } else {
            0.0
        };
        let columns = self.of.columns();
        let mut signs = self.signs.chunks_exact(key.len());
        let mut buckets = Buckets::default();
        for bucket in &mut buckets[..self.of.rounds] {
            let mut best = i64::MIN;
            for first in (0..columns).step_by(COLUMNS) {
                let mut sums = [0i32; COLUMNS];
                let signs = signs.next().unwrap_or_default();
                for (x, signs) in key.iter().zip(signs) {
                    let x = (x * inverse + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32;
                    for (sum, sign) in sums.iter_mut().zip(signs) {
                        // Only what is no number leaves 32 bits.
                        *sum = sum.wrapping_add(x.wrapping_mul(i32::from(*sign)));
                    }
                }
                for (i, sum) in (first..columns).zip(sums) {
                    best = best.max(rank(sum.into(), i));
                    best = best.max(rank(-i64::from(sum), columns + i));
                }
            }
            *bucket = -best as u16;
        }
        buckets
    }
}

/// Larger for larger sums and, of equals, for lower buckets; negated, its low bits are the bucket.
#[inline(always)]
fn rank(sum: i64, bucket: usize) -> i64 {
    (sum << u16::BITS) - bucket as i64
}

impl Hashed {
    /// Bytes that a [`Hasher`] reads for a key.
    pub fn n_signs(&self, head_size: usize) -> usize {
        self.rounds * self.columns().next_multiple_of(COLUMNS) * head_size
    }

    /// Directions of a round.
    fn columns(&self) -> usize {
        self.buckets / 2
    }

    /// Of a direction, all rounds counted through, in one dimension.
    fn sign(&self, column: usize, dim: usize) -> i8 {
        let word = hash(self.seed, [column as u64, dim as u64 / 64]);
        if word >> (dim % 64) & 1 == 1 { 1 } else { -1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Layer;
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
    fn buckets_are_those_of_the_largest_projection_and_the_first_of_equals() {
        let of = hashed(&entry(8, 2, 70, 2));
        let hasher = Hasher::new(&of, 5);
        let key = [0.3, -1.5, 0.02, 0.7, 1.0];
        // By the rule, in whole numbers.
        let steps: Vec<i64> = key
            .iter()
            .map(|x| (f64::from(*x) * 32_767.0 / 1.5).round() as i64)
            .collect();
        let found = hasher.sort(&key);
        for (round, found) in found[..2].iter().enumerate() {
            let sum = |column| {
                let signs = (0..5).map(|dim| i64::from(of.sign(round * 35 + column, dim)));
                signs.zip(&steps).map(|(sign, x)| sign * x).sum::<i64>()
            };
            let all: Vec<i64> = (0..35).map(sum).chain((0..35).map(|c| -sum(c))).collect();
            let most = all.iter().max().unwrap();
            let first = all.iter().position(|x| x == most).unwrap();
            assert_eq!(usize::from(*found), first);
        }
        // Neither length nor what is no number matters; opposites are opposite.
        assert_eq!(hasher.sort(&key.map(|x| x * 1e-9)), found);
        assert_eq!(hasher.sort(&[0.0; 5]), Buckets::default());
        let wild = hasher.sort(&[f32::NAN, f32::INFINITY, 0.0, -f32::NAN, 1e38]);
        assert!(wild.iter().all(|bucket| usize::from(*bucket) < 70));
        let opposite = hasher.sort(&key.map(|x| -x));
        let apart = found.iter().zip(opposite).take(2);
        // Five dimensions have sixteen directions: equals are the rule, and go to the first.
        assert!(apart.clone().all(|(a, b)| *a != b));
    }

    #[test]
    fn similar_keys_share_buckets_and_all_buckets_are_used() {
        let of = hashed(&entry(8, 4, 32, 2));
        let hasher = Hasher::new(&of, 32);
        let noise = |i: u64| (hash(1, [i, 0]) >> 40) as f32 / (1 << 23) as f32 - 1.0;
        let key = |n: u64| -> Vec<f32> { (0..32).map(|i| noise(32 * n + i)).collect() };
        let (mut used, mut near, mut far) = ([0; 32], 0, 0);
        for n in 0..500 {
            let (a, other) = (key(n), key(n + 1_000));
            let close: Vec<f32> = a.iter().zip(&other).map(|(a, b)| a + 0.1 * b).collect();
            let [a, close, other] = [a, close, other].map(|key| hasher.sort(&key));
            for round in 0..4 {
                used[usize::from(a[round])] += 1;
                near += usize::from(a[round] == close[round]);
                far += usize::from(a[round] == other[round]);
            }
        }
        // Of 2,000; a 32nd is 62.
        assert!(near > 1_600 && far < 120, "{near} {far}");
        assert!(used.iter().all(|n| (20..130).contains(n)), "{used:?}");
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
