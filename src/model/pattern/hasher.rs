//! Into which buckets a key falls: what tells similar sounds, by whole numbers alone.

use std::sync::Arc;

use super::hash;
use super::hashed::{Buckets, Hashed};

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
    use crate::model::pattern::{Defaults, Head, parse};
    use serde_json::json;

    fn hashed(rounds: usize, buckets: usize) -> Arc<Hashed> {
        let reach = Defaults {
            stride: 4,
            context: 32,
        };
        let entry = json!({"kind": "hashed", "window": 8, "rounds": rounds, "buckets": buckets,
            "keys": 2, "seed": 5});
        match parse(&entry, &reach) {
            Ok(Head::Hashed(hashed)) => hashed,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn buckets_are_those_of_the_largest_projection_and_the_first_of_equals() {
        let of = hashed(2, 70);
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
        let of = hashed(4, 32);
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
}
