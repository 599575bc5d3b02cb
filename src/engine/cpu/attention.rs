//! Attention of one lane in one layer over one KV head, in int8.

use std::ops::Range;

use super::Visit;
use crate::compute::lanewise::{self, Peak};
use crate::compute::{HeadCache, Ops, Queries, SLOTS_PER_BLOCK, blocks_of};
use crate::model::pattern::{Buckets, Hashed, Hasher, Rings};
use crate::model::{Head, Layer, ModelConfig, Placed, Rotary};

/// What one KV head of a lane keeps.
#[derive(Debug)]
pub(super) struct Store {
    pub cache: HeadCache,
    pub rings: Rings,
}

impl Store {
    pub fn new(head: &Head, head_size: usize) -> Self {
        Self {
            cache: HeadCache::new(head.n_slots(), head_size),
            rings: Rings::of(head),
        }
    }

    /// Becomes what `other` is, of the same head.
    pub fn copy(&mut self, other: &Self) {
        self.cache.copy(&other.cache);
        self.rings.copy(&other.rings);
    }

    /// Shows all bytes, and takes what `visit` leaves there.
    pub fn state(&mut self, visit: Visit<'_>) {
        self.cache.state(visit);
        self.rings
            .state(&mut |words| visit(bytemuck::cast_slice_mut(words)));
    }
}

/// What attention computes on its way; nothing of it outlives a call.
#[derive(Debug)]
pub(super) struct Attention {
    q: Queries,
    /// `[K]`: a key and a value in int8, and what a step of each is worth.
    key: (Vec<i8>, f32),
    value: (Vec<i8>, f32),
    /// The slots seen, as runs.
    runs: Vec<Range<usize>>,
    /// [H/G, slots], the slots filled up to whole blocks of every run.
    scores: Vec<f32>,
    value_scales: Vec<f32>,
    weights: Vec<u8>,
    /// [H/G]
    peaks: Vec<Peak>,
    units: Vec<f32>,
}

impl Attention {
    pub fn new(config: &ModelConfig) -> Self {
        let heads_per_group = config.n_heads / config.n_kv_heads;
        let (head_size, blocks) = (config.head_size(), max_blocks(config));
        let n_slots = blocks * SLOTS_PER_BLOCK;
        Self {
            q: Queries::new(heads_per_group, head_size),
            key: (vec![0; head_size], 0.0),
            value: (vec![0; head_size], 0.0),
            runs: Vec::with_capacity(blocks),
            scores: vec![0.0; heads_per_group * n_slots],
            value_scales: vec![0.0; n_slots],
            weights: vec![0; heads_per_group * n_slots],
            peaks: vec![Peak::default(); heads_per_group],
            units: vec![0.0; heads_per_group],
        }
    }

    /// Stores the key and the value of `position`, then reads what it sees:
    /// `out = softmax(q · keys / sqrt(K)) · values`. `qkv` [(H/G + 2)·K] has been turned by
    /// [`rotate`], `out` is [H/G · K].
    #[inline(always)]
    pub fn run<O: Ops>(
        &mut self,
        ops: O,
        (pattern, position): (&dyn Placed, u64),
        cache: &mut HeadCache,
        qkv: &[f32],
        out: &mut [f32],
    ) {
        self.quantize::<O>(qkv, out.len());
        self.store(cache, pattern.slot(position));
        self.runs.clear();
        pattern.visible(position, &mut |run| self.runs.push(run));
        self.read(ops, cache, out);
        pattern.visible(position + 1, &mut |run| {
            // A ring that still fills grows by a slot, which is about to be written anyway.
            let is_seen = |seen: &Range<usize>| seen.start <= run.start && run.end <= seen.end + 1;
            if !self.runs.iter().any(is_seen) {
                for lines in cache.memory_of(&run) {
                    ops.prefetch(lines);
                }
            }
        });
    }

    /// The same of a head whose key fell into these buckets, and has been [sorted](sort) before: what it
    /// sees is read before the key and the value are stored, in the place of the oldest.
    #[inline(always)]
    pub fn run_hashed<O: Ops>(
        &mut self,
        ops: O,
        (of, position, buckets): (&Hashed, u64, &Buckets),
        Store { cache, rings }: &mut Store,
        qkv: &[f32],
        out: &mut [f32],
    ) {
        self.runs.clear();
        of.visible(rings, position, buckets, &mut |run| self.runs.push(run));
        for lines in self.runs.iter().flat_map(|run| cache.memory_of(run)) {
            ops.prefetch(lines);
        }
        self.quantize::<O>(qkv, out.len());
        match self.runs.is_empty() {
            true => self.show_itself(out),
            false => self.read(ops, cache, out),
        }
        of.write(rings, position, buckets, &mut |slot| {
            self.store(cache, slot);
        });
    }

    /// Brings queries, key and value of one position to int8.
    #[inline(always)]
    fn quantize<O: Ops>(&mut self, qkv: &[f32], n_queries: usize) {
        let (q, kv) = qkv.split_at(n_queries);
        let (k, v) = kv.split_at(kv.len() / 2);
        self.key.1 = lanewise::quantize::<O::F>(k, &mut self.key.0);
        self.value.1 = lanewise::quantize::<O::F>(v, &mut self.value.0);
        // Scores are powers of two: their unit takes in what turns e into 2.
        let unit = std::f32::consts::LOG2_E / (k.len() as f32).sqrt();
        for (head, q) in q.chunks_exact(k.len()).enumerate() {
            let (bytes, scale) = self.q.head_mut(head);
            *scale = lanewise::quantize::<O::F>(q, bytes) * unit;
        }
    }

    #[inline(always)]
    fn store(&self, cache: &mut HeadCache, slot: usize) {
        let (key, value) = (&self.key, &self.value);
        cache.write(slot, (&key.0, key.1), (&value.0, value.1));
    }

    /// What a softmax over one position comes to.
    #[inline(always)]
    fn show_itself(&self, out: &mut [f32]) {
        let (value, scale) = &self.value;
        for out in out.chunks_exact_mut(value.len()) {
            for (out, value) in out.iter_mut().zip(value) {
                *out = f32::from(*value) * scale;
            }
        }
    }

    #[inline(always)]
    fn read<O: Ops>(&mut self, ops: O, cache: &HeadCache, out: &mut [f32]) {
        let slots = cache.slots(&self.runs);
        let n_slots = slots.n_blocks() * SLOTS_PER_BLOCK;
        let n_scores = self.units.len() * n_slots;
        let scores = &mut self.scores[..n_scores];
        ops.scores(&slots, &self.q, scores);
        let value_scales = &mut self.value_scales[..n_slots];
        slots.copy_value_scales(value_scales);
        for scores in scores.chunks_exact_mut(n_slots) {
            hide_filling(&self.runs, scores);
        }
        let (weights, peaks) = (&mut self.weights[..n_scores], &mut self.peaks);
        lanewise::softmax::<O::F>(scores, value_scales, weights, peaks, &mut self.units);
        ops.mix(&slots, &self.weights[..n_scores], &self.units, out);
    }
}

/// Tells the buckets of the key in one KV head's `qkv`, not yet rotated, and brings it to one length.
#[inline(always)]
pub(super) fn sort<O: Ops>(
    hasher: &Hasher,
    qkv: &mut [f32],
    head_size: usize,
    eps: f32,
) -> Buckets {
    let at = qkv.len() - 2 * head_size;
    let key = &mut qkv[at..at + head_size];
    let buckets = hasher.sort(key);
    lanewise::norm_in_place::<O::F>(key, eps);
    buckets
}

/// Turns the queries and the key of one KV head's `qkv` by the angles of their position.
#[inline(always)]
pub(super) fn rotate<O: Ops>(qkv: &mut [f32], (cos, sin): (&[f32], &[f32])) {
    let k = 2 * cos.len();
    let n_turned = qkv.len() - k;
    for head in qkv[..n_turned].chunks_exact_mut(k) {
        lanewise::rotate::<O::F>(head, cos, sin);
    }
}

/// Runs are read in whole blocks: gives the slots before and after each run no weight.
#[inline(always)]
fn hide_filling(runs: &[Range<usize>], mut scores: &mut [f32]) {
    for run in runs {
        let first = run.start % SLOTS_PER_BLOCK;
        let (own, rest) = scores.split_at_mut(blocks_of(run).len() * SLOTS_PER_BLOCK);
        own[..first].fill(f32::NEG_INFINITY);
        own[first + run.len()..].fill(f32::NEG_INFINITY);
        scores = rest;
    }
}

/// The most blocks that any head reads at once: every run may begin and end inside a block.
fn max_blocks(config: &ModelConfig) -> usize {
    let of = |p: &Head| p.max_visible() / SLOTS_PER_BLOCK + 2 * p.max_runs();
    let heads = config.layers.iter().flat_map(Layer::patterns);
    heads.map(of).max().unwrap_or(0)
}

/// The angles of the rotations that the heads of one step use: most share one.
#[derive(Debug)]
pub(super) struct Angles {
    held: Vec<Held>,
    /// The one to be replaced next.
    oldest: usize,
}

#[derive(Clone, Debug)]
struct Held {
    rotation: Option<u64>,
    /// `[K/2]`
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    pub fn new(config: &ModelConfig) -> Self {
        let none = Held {
            rotation: None,
            cos: vec![0.0; config.head_size() / 2],
            sin: vec![0.0; config.head_size() / 2],
        };
        Self {
            held: vec![none; config.n_layers() * config.n_kv_heads],
            oldest: 0,
        }
    }

    /// cos and sin of `rotation`, `[K/2]` each.
    pub fn of(&mut self, rotary: &Rotary, rotation: u64) -> (&[f32], &[f32]) {
        let known = |held: &Held| held.rotation == Some(rotation);
        let at = self.held.iter().position(known).unwrap_or_else(|| {
            let at = self.oldest;
            self.oldest = (at + 1) % self.held.len();
            let held = &mut self.held[at];
            held.rotation = Some(rotation);
            rotary.angles(rotation, &mut held.cos, &mut held.sin);
            at
        });
        (&self.held[at].cos, &self.held[at].sin)
    }
}
