//! Attention of one lane in one layer, in int8.

use std::ops::Range;
use std::sync::Arc;

use crate::compute::{LayerCache, Ops, Queries, SLOTS_PER_BLOCK, blocks_of};
use crate::model::{ModelConfig, Pattern, Rotary};

/// Where in a model and in a stream attention is computed.
pub(super) struct Place<'a> {
    pub config: &'a ModelConfig,
    pub pattern: &'a dyn Pattern,
    pub rotary: &'a Rotary,
    pub position: u64,
}

/// What attention of one lane computes on its way; nothing of it outlives a call.
#[derive(Debug)]
pub(super) struct Attention {
    /// `[K/2]`
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// The queries of one group.
    q: Queries,
    /// `[K]`: a key and a value in int8.
    key: Vec<i8>,
    value: Vec<i8>,
    /// The slots seen, as runs.
    runs: Vec<Range<usize>>,
    /// [H/G, slots], the slots filled up to whole blocks of every run.
    scores: Vec<f32>,
    value_scales: Vec<f32>,
    weights: Vec<i16>,
    /// [H/G]
    units: Vec<f32>,
}

impl Attention {
    pub fn new(config: &ModelConfig) -> Self {
        let heads_per_group = config.n_heads / config.n_kv_heads;
        let (head_size, blocks) = (config.head_size(), max_blocks(config));
        let n_slots = blocks * SLOTS_PER_BLOCK;
        Self {
            cos: vec![0.0; head_size / 2],
            sin: vec![0.0; head_size / 2],
            q: Queries::new(heads_per_group, head_size),
            key: vec![0; head_size],
            value: vec![0; head_size],
            runs: Vec::with_capacity(blocks),
            scores: vec![0.0; heads_per_group * n_slots],
            value_scales: vec![0.0; n_slots],
            weights: vec![0; heads_per_group * n_slots],
            units: vec![0.0; heads_per_group],
        }
    }

    /// Stores the lane's key and value, then reads what the position sees. `qkv` [(H + 2G)·K] is
    /// turned in place, and its queries become what the heads give out.
    pub fn run<O: Ops>(
        &mut self,
        ops: O,
        place: &Place<'_>,
        cache: &mut LayerCache,
        qkv: &mut [f32],
    ) {
        let &Place {
            config,
            pattern,
            rotary,
            position,
        } = place;
        let k = config.head_size();
        let (q, kv) = qkv.split_at_mut(config.d_model);
        let (keys, values) = kv.split_at_mut(config.kv_width());
        rotary.angles(pattern.rotation(position), &mut self.cos, &mut self.sin);
        for head in q.chunks_exact_mut(k).chain(keys.chunks_exact_mut(k)) {
            ops.rotate(head, &self.cos, &self.sin);
        }
        let slot = pattern.slot(position);
        let pairs = keys.chunks_exact(k).zip(values.chunks_exact(k));
        for (group, (key, value)) in pairs.enumerate() {
            let key_scale = ops.quantize(key, &mut self.key);
            let value_scale = ops.quantize(value, &mut self.value);
            cache.write(
                slot,
                group,
                (&self.key, key_scale),
                (&self.value, value_scale),
            );
        }
        self.runs.clear();
        pattern.visible(position, &mut |run| self.runs.push(run));
        let group_width = q.len() / config.n_kv_heads;
        for (group, q) in q.chunks_exact_mut(group_width).enumerate() {
            self.attend_group(ops, cache, group, q);
        }
        pattern.visible(position + 1, &mut |run| {
            if !self.runs.contains(&run) {
                ops.prefetch(cache.lines(&run));
            }
        });
    }

    /// The heads that share one KV head: `q = softmax(q · keys / sqrt(K)) · values`.
    fn attend_group<O: Ops>(&mut self, ops: O, cache: &LayerCache, group: usize, q: &mut [f32]) {
        let k = self.key.len();
        let head_group = cache.head_group(group, &self.runs);
        for (head, q) in q.chunks_exact(k).enumerate() {
            let (bytes, scale) = self.q.head_mut(head);
            *scale = ops.quantize(q, bytes) / (k as f32).sqrt();
        }
        let n_slots = head_group.n_blocks() * SLOTS_PER_BLOCK;
        let n_scores = self.units.len() * n_slots;
        let scores = &mut self.scores[..n_scores];
        ops.scores(&head_group, &self.q, scores);
        head_group.copy_value_scales(&mut self.value_scales[..n_slots]);
        let heads = scores
            .chunks_exact_mut(n_slots)
            .zip(self.weights.chunks_exact_mut(n_slots));
        for ((scores, weights), unit) in heads.zip(&mut self.units) {
            hide_filling(&self.runs, scores);
            *unit = ops.softmax(scores, &self.value_scales[..n_slots], weights);
        }
        ops.mix(&head_group, &self.weights[..n_scores], &self.units, q);
    }
}

/// Runs are read in whole blocks: gives the slots before and after each run no weight.
fn hide_filling(runs: &[Range<usize>], mut scores: &mut [f32]) {
    for run in runs {
        let first = run.start % SLOTS_PER_BLOCK;
        let (own, rest) = scores.split_at_mut(blocks_of(run).len() * SLOTS_PER_BLOCK);
        own[..first].fill(f32::NEG_INFINITY);
        own[first + run.len()..].fill(f32::NEG_INFINITY);
        scores = rest;
    }
}

/// The most blocks that any layer reads at once: a run may begin and end inside a block.
fn max_blocks(config: &ModelConfig) -> usize {
    let of_layer = |p: &Arc<dyn Pattern>| p.max_visible().div_ceil(SLOTS_PER_BLOCK) + p.max_runs();
    config.layers.iter().map(of_layer).max().unwrap_or(0)
}
