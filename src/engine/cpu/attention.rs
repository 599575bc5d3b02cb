//! Attention of one lane in one layer over one KV head, in int8.

use std::ops::Range;

use crate::compute::lanewise::{self, Peak};
use crate::compute::{HeadCache, Ops, Queries, SLOTS_PER_BLOCK, blocks_of};
use crate::model::{Head, Layer, ModelConfig, Placed, Rotary};

/// What attention computes on its way; nothing of it outlives a call.
#[derive(Debug)]
pub(super) struct Attention {
    q: Queries,
    /// `[K]`: a key and a value in int8.
    key: Vec<i8>,
    value: Vec<i8>,
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
            key: vec![0; head_size],
            value: vec![0; head_size],
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
        let k = self.key.len();
        let (q, kv) = qkv.split_at(out.len());
        let key_scale = lanewise::quantize::<O::F>(&kv[..k], &mut self.key);
        let value_scale = lanewise::quantize::<O::F>(&kv[k..], &mut self.value);
        cache.write(
            pattern.slot(position),
            (&self.key, key_scale),
            (&self.value, value_scale),
        );
        // Scores are powers of two: their unit takes in what turns e into 2.
        let unit = std::f32::consts::LOG2_E / (k as f32).sqrt();
        for (head, q) in q.chunks_exact(k).enumerate() {
            let (bytes, scale) = self.q.head_mut(head);
            *scale = lanewise::quantize::<O::F>(q, bytes) * unit;
        }
        self.runs.clear();
        pattern.visible(position, &mut |run| self.runs.push(run));
        self.read(ops, cache, out);
        pattern.visible(position + 1, &mut |run| {
            // A ring that still fills grows by a slot, which is about to be written anyway.
            let is_seen = |seen: &Range<usize>| seen.start <= run.start && run.end <= seen.end + 1;
            if !self.runs.iter().any(is_seen) {
                ops.prefetch(cache.lines(&run));
            }
        });
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
