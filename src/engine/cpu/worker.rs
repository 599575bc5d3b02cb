//! One thread's part of a step: all of it, or its KV heads and its share of every matrix's rows.
//!
//! Every worker keeps the residual stream and all that follows from it alone (norms, convolution,
//! quantisation) for itself; what the workers compute by shares they [gather](Seat::gather), four
//! times a layer. Sums of rows are never split, so any number of workers computes the same bits.

use std::ops::Range;
use std::sync::Arc;

use super::Visit;
use super::attention::{Angles, Attention, Store, rotate, sort};
use super::embed::{self, Expected};
use super::team::Seat;
use super::weights::{PackedWeights, Sight};
use crate::compute::{Activations, Ops, Stage, lanewise};
use crate::engine::draw::Recent;
use crate::model::{ModelConfig, V};
use crate::mulaw;
use crate::predictor::Predictor;

/// Where a code is wanted.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// Which of the active lanes.
    pub turn: usize,
    /// Which code of the chunk.
    pub at: usize,
    /// `[V]`, if they are wanted.
    pub logits: &'a [f32],
    /// The lane's, which has heard all before.
    pub predictor: Option<&'a Predictor>,
    /// Likewise.
    pub recent: &'a mut Recent,
}

/// Who says which code it is.
pub(super) type Choose<'a> = &'a mut dyn FnMut(Place<'_>) -> u8;

/// What one thread owns.
#[derive(Debug)]
pub(super) struct Worker<O> {
    ops: O,
    weights: Arc<PackedWeights>,
    seat: Seat,
    /// The KV heads that are its own.
    groups: Range<usize>,
    pub lanes: Vec<Lane>,
    /// The lanes of the batch, in the order of their turns.
    pub active: Vec<usize>,
    scratch: Scratch,
}

/// One stream's state, as far as a worker keeps it.
#[derive(Debug)]
pub(super) struct Lane {
    pub position: u64,
    /// The code drawn last: the next input.
    pub last: u8,
    pub predictor: Option<Predictor>,
    /// Of the first worker, who draws.
    pub recent: Recent,
    pub layers: Vec<LaneLayer>,
    angles: Angles,
}

#[derive(Debug)]
pub(super) struct LaneLayer {
    /// [W, D]: the normed inputs of the last `W` positions, position mod `W`.
    pub taps: Vec<f32>,
    /// One for each of the worker's KV heads.
    pub stores: Vec<Store>,
}

/// What a step computes on its way, for every lane of the batch in turn.
#[derive(Debug)]
struct Scratch {
    /// [B, D]: the residual stream.
    x: Vec<f32>,
    expected: Expected,
    /// [B, (H/G + 2)·K], one KV head at a time.
    qkv: Vec<f32>,
    /// [B, D]: what the heads give out.
    attended: Vec<f32>,
    /// [B, F]
    hidden: Vec<f32>,
    /// [B, D]: what a matrix gives back to the residual stream.
    delta: Vec<f32>,
    /// [B, V]
    logits: Vec<f32>,
    /// [B, 2]: the codes drawn, and room for a pair.
    codes: Vec<f32>,
    /// Quantised inputs of the matrices, D wide.
    narrow: Activations,
    /// Quantised inputs of `down`, F wide.
    wide: Activations,
    /// [ROWS, D]
    normed: Vec<f32>,
    /// [B, D]
    convolved: Vec<f32>,
    attention: Attention,
}

/// A step of a worker, with the logits or without.
struct Step<'a, O>(&'a mut Worker<O>, bool);

impl<O: Ops> Stage for Step<'_, O> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self(worker, wants_logits) = self;
        worker.embed();
        for layer in 0..worker.weights.layers.len() {
            worker.attend(layer);
            worker.mlp(layer);
        }
        if wants_logits {
            worker.unembed();
        }
    }
}

impl<O: Ops> Worker<O> {
    pub fn new(ops: O, weights: Arc<PackedWeights>, seat: Seat, n_lanes: usize) -> Self {
        let config = &weights.model.config;
        let groups = seat.share_of(config.n_kv_heads);
        Self {
            ops,
            lanes: (0..n_lanes)
                .map(|_| Lane::new(config, groups.clone()))
                .collect(),
            active: Vec::with_capacity(n_lanes),
            scratch: Scratch::new(&weights, n_lanes),
            seat,
            groups,
            weights,
        }
    }

    /// Advances every active lane by `n` codes as the first of the workers.
    pub fn lead(&mut self, n: usize, wants_logits: bool, choose: Choose<'_>) {
        for at in 0..n {
            self.step(wants_logits);
            let logits = self.scratch.logits.chunks_exact(V);
            for (b, logits) in logits.take(self.active.len()).enumerate() {
                let lane = &mut self.lanes[self.active[b]];
                let code = choose(Place {
                    turn: b,
                    at,
                    logits,
                    predictor: lane.predictor.as_ref(),
                    recent: &mut lane.recent,
                });
                self.scratch.codes[2 * b] = f32::from(code);
            }
            self.take_codes(0..2);
        }
    }

    /// The same as another than the first, which learns what was chosen.
    pub fn follow(&mut self, n: usize, wants_logits: bool) {
        for _ in 0..n {
            self.step(wants_logits);
            self.take_codes(0..0);
        }
    }

    fn take_codes(&mut self, own: Range<usize>) {
        let codes = &mut self.scratch.codes[..2 * self.active.len()];
        self.seat.gather(codes, 2, own);
        for (lane, code) in self.active.iter().zip(codes.chunks_exact(2)) {
            self.lanes[*lane].last = code[0] as u8;
        }
    }

    /// Takes in the last code of every active lane, each at its own position. If they are wanted,
    /// leaves the logits over the next code in the scratch, in the order of `active`.
    fn step(&mut self, wants_logits: bool) {
        let ops = self.ops;
        ops.run(Step(self, wants_logits));
        for lane in &self.active {
            self.lanes[*lane].position += 1;
        }
    }

    #[inline(always)]
    fn embed(&mut self) {
        let Self { ops, weights, .. } = self;
        let Scratch { x, expected, .. } = &mut self.scratch;
        let d = weights.model.config.d_model;
        let x = &mut x[..self.active.len() * d];
        for (b, (x, lane)) in x.chunks_exact_mut(d).zip(&self.active).enumerate() {
            let lane = &mut self.lanes[*lane];
            x.copy_from_slice(embed::row(weights, lane.last));
            if let Some(predictor) = &mut lane.predictor {
                expected.hear::<O>(b, predictor, lane.last);
            }
        }
        expected.add_to(*ops, weights, x);
    }

    /// `x += o · attention(norm(x))` for every lane.
    #[inline(always)]
    fn attend(&mut self, layer: usize) {
        let Self {
            ops,
            weights,
            scratch,
            seat,
            ..
        } = self;
        let (config, packed) = (&weights.model.config, &weights.layers[layer]);
        let (d, n) = (config.d_model, self.active.len());
        let gain = &weights.model.weights.layers[layer].attn_norm;
        ops.prefetch(packed.qkv[self.groups.start].panels().start());
        let convolved = &mut scratch.convolved[..n * d];
        for (b, lane) in self.active.iter().enumerate() {
            let x = &scratch.x[b * d..(b + 1) * d];
            let lane = &mut self.lanes[*lane];
            let kept = &mut lane.layers[layer].taps;
            let w = config.conv_width;
            let now = (lane.position % w as u64) as usize;
            let normed = &mut kept[now * d..(now + 1) * d];
            lanewise::rms_norm::<O::F>(x, gain, config.norm_eps, normed);
            let convolved = &mut convolved[b * d..(b + 1) * d];
            lanewise::convolve::<O::F>(&packed.taps, convolved, |j| {
                let then = if j <= now { now - j } else { now + w - j };
                &kept[then * d..(then + 1) * d]
            });
        }
        quantize_rows::<O>(convolved, d, &mut scratch.narrow);
        let group_width = d / config.n_kv_heads;
        for (own, group) in self.groups.clone().enumerate() {
            let matrix = &packed.qkv[group];
            let head = config.layers[layer].head(group);
            let k = config.head_size();
            let qkv = &mut scratch.qkv[..n * matrix.n_out()];
            ops.matmul(&matrix.panels(), &scratch.narrow, qkv);
            let columns = group * group_width..(group + 1) * group_width;
            for (b, qkv) in qkv.chunks_exact_mut(matrix.n_out()).enumerate() {
                let lane = &mut self.lanes[self.active[b]];
                let (at, store) = (lane.position, &mut lane.layers[layer].stores[own]);
                let angles = lane.angles.of(&weights.rotary, head.rotation(at));
                let out = &mut scratch.attended[b * d..(b + 1) * d][columns.clone()];
                let attention = &mut scratch.attention;
                match &packed.sights[group] {
                    Sight::Placed(pattern) => {
                        rotate::<O>(qkv, angles);
                        attention.run(*ops, (pattern.as_ref(), at), &mut store.cache, qkv, out);
                    }
                    Sight::Hashed(hasher) => {
                        let buckets = sort::<O>(hasher, qkv, k, config.norm_eps);
                        rotate::<O>(qkv, angles);
                        let place = (hasher.of.as_ref(), at, &buckets);
                        attention.run_hashed(*ops, place, store, qkv, out);
                    }
                }
            }
        }
        let o = seat.panels(&packed.o);
        ops.prefetch(o.start());
        let own = self.groups.start * group_width..self.groups.end * group_width;
        seat.gather(&mut scratch.attended[..n * d], d, own);
        quantize_rows::<O>(&scratch.attended[..n * d], d, &mut scratch.narrow);
        let delta = &mut scratch.delta[..n * d];
        ops.matmul(&o, &scratch.narrow, delta);
        seat.gather(delta, d, o.rows());
        lanewise::add::<O::F>(delta, &mut scratch.x[..n * d]);
    }

    /// `x += down · gelu(up · norm(x))` for every lane.
    #[inline(always)]
    fn mlp(&mut self, layer: usize) {
        let Self {
            ops,
            weights,
            scratch,
            seat,
            ..
        } = self;
        let (config, packed) = (&weights.model.config, &weights.layers[layer]);
        let (d, f, n) = (config.d_model, config.mlp_width(), self.active.len());
        let gain = &weights.model.weights.layers[layer].mlp_norm;
        let (up, down) = (seat.panels(&packed.up), seat.panels(&packed.down));
        ops.prefetch(up.start());
        norm_rows::<O>(
            &scratch.x[..n * d],
            gain,
            config,
            &mut scratch.normed,
            &mut scratch.narrow,
        );
        let hidden = &mut scratch.hidden[..n * f];
        ops.matmul(&up, &scratch.narrow, hidden);
        ops.prefetch(down.start());
        for hidden in hidden.chunks_exact_mut(f) {
            lanewise::gelu::<O::F>(&mut hidden[up.rows()]);
        }
        seat.gather(hidden, f, up.rows());
        quantize_rows::<O>(hidden, f, &mut scratch.wide);
        let delta = &mut scratch.delta[..n * d];
        ops.matmul(&down, &scratch.wide, delta);
        seat.gather(delta, d, down.rows());
        lanewise::add::<O::F>(delta, &mut scratch.x[..n * d]);
    }

    /// The logits of every lane; whole in the first worker's scratch.
    #[inline(always)]
    fn unembed(&mut self) {
        let Self {
            ops,
            weights,
            scratch,
            seat,
            ..
        } = self;
        let (config, gain) = (&weights.model.config, &weights.model.weights.norm);
        let n = self.active.len();
        let x = &scratch.x[..n * config.d_model];
        norm_rows::<O>(x, gain, config, &mut scratch.normed, &mut scratch.narrow);
        let (head, logits) = (seat.panels(&weights.head), &mut scratch.logits[..n * V]);
        ops.matmul(&head, &scratch.narrow, logits);
        seat.gather(logits, V, head.rows());
    }
}

/// Rows that go through one stage before any goes through the next, as each waits for what the last has
/// found in the whole of its row.
pub(super) const ROWS: usize = 8;

/// `narrow = quantised(norm(x))`, row by row. `normed` has room for [`ROWS`] rows.
#[inline(always)]
pub(super) fn norm_rows<O: Ops>(
    x: &[f32],
    gain: &[f32],
    config: &ModelConfig,
    normed: &mut [f32],
    narrow: &mut Activations,
) {
    let d = config.d_model;
    for (group, x) in x.chunks(ROWS * d).enumerate() {
        let normed = &mut normed[..x.len()];
        let mut scales = [0.0; ROWS];
        for (scale, x) in scales.iter_mut().zip(x.chunks_exact(d)) {
            *scale = lanewise::rms_scale::<O::F>(x, config.norm_eps);
        }
        let rows = x.chunks_exact(d).zip(normed.chunks_exact_mut(d));
        for (scale, (x, normed)) in scales.iter().zip(rows) {
            lanewise::normed_by::<O::F>(x, gain, *scale, normed);
        }
        quantize_group::<O>(normed, d, group * ROWS, narrow);
    }
}

/// `out = quantised(x)`, row by row.
#[inline(always)]
pub(super) fn quantize_rows<O: Ops>(x: &[f32], width: usize, out: &mut Activations) {
    for (group, x) in x.chunks(ROWS * width).enumerate() {
        quantize_group::<O>(x, width, group * ROWS, out);
    }
}

/// The same of at most [`ROWS`] rows, the first of which goes to row `first`.
#[inline(always)]
fn quantize_group<O: Ops>(x: &[f32], width: usize, first: usize, out: &mut Activations) {
    let mut ranges = [(0.0, 0.0); ROWS];
    for (range, x) in ranges.iter_mut().zip(x.chunks_exact(width)) {
        *range = lanewise::range_of::<O::F>(x);
    }
    for (i, (range, x)) in ranges.iter().zip(x.chunks_exact(width)).enumerate() {
        let (bytes, scale) = out.row_mut(first + i);
        *scale = lanewise::quantize_within::<O::F>(x, *range, bytes);
    }
}

impl Lane {
    fn new(config: &ModelConfig, groups: Range<usize>) -> Self {
        let layers = config.layers.iter().map(|layer| LaneLayer {
            taps: vec![0.0; config.conv_width * config.d_model],
            stores: groups
                .clone()
                .map(|group| Store::new(layer.head(group), config.head_size()))
                .collect(),
        });
        Self {
            position: 0,
            last: mulaw::SILENCE,
            predictor: Predictor::of(&config.predictor),
            recent: Recent::default(),
            layers: layers.collect(),
            angles: Angles::new(config),
        }
    }

    /// Back to the start of a stream.
    pub fn open(&mut self) {
        (self.position, self.last) = (0, mulaw::SILENCE);
        self.recent = Recent::default();
        if let Some(predictor) = &mut self.predictor {
            predictor.reset();
        }
        // Old keys and values stay: no run shows a slot before it is written again.
        for layer in &mut self.layers {
            layer.taps.fill(0.0);
            layer.stores.iter_mut().for_each(|store| store.rings.open());
        }
    }

    /// Becomes what `other` is, a lane of the same model and of as many heads.
    pub fn copy(&mut self, other: &Self) {
        self.copy_common(other);
        for (layer, other) in self.layers.iter_mut().zip(&other.layers) {
            for (store, other) in layer.stores.iter_mut().zip(&other.stores) {
                store.copy(other);
            }
        }
    }

    /// The same but for the caches, which each worker has of its own heads.
    pub fn copy_common(&mut self, other: &Self) {
        (self.position, self.last) = (other.position, other.last);
        self.recent = other.recent;
        if let (Some(predictor), Some(other)) = (&mut self.predictor, &other.predictor) {
            predictor.copy(other);
        }
        // The angles are those of any lane.
        for (layer, other) in self.layers.iter_mut().zip(&other.layers) {
            layer.taps.copy_from_slice(&other.taps);
        }
    }

    /// Shows all but the caches; see [`Decoder::state`](crate::engine::Decoder::state).
    pub fn state(&mut self, visit: Visit<'_>) {
        visit(bytemuck::bytes_of_mut(&mut self.position));
        // Whoever wrote those bytes: it can go on from there.
        self.position = self.position.min(u64::MAX / 2);
        visit(bytemuck::bytes_of_mut(&mut self.last));
        visit(bytemuck::bytes_of_mut(&mut self.recent));
        self.recent.hold();
        if let Some(predictor) = &mut self.predictor {
            predictor.state(visit);
        }
        for layer in &mut self.layers {
            visit(bytemuck::cast_slice_mut(&mut layer.taps));
        }
    }
}

impl Scratch {
    fn new(weights: &PackedWeights, n_lanes: usize) -> Self {
        let config = &weights.model.config;
        let d = config.d_model;
        let heads_per_group = config.n_heads / config.n_kv_heads;
        Self {
            x: vec![0.0; n_lanes * d],
            expected: Expected::new(weights, n_lanes),
            qkv: vec![0.0; n_lanes * (heads_per_group + 2) * config.head_size()],
            attended: vec![0.0; n_lanes * d],
            hidden: vec![0.0; n_lanes * config.mlp_width()],
            delta: vec![0.0; n_lanes * d],
            logits: vec![0.0; n_lanes * V],
            codes: vec![0.0; n_lanes * 2],
            narrow: Activations::new(n_lanes, d),
            wide: Activations::new(n_lanes, config.mlp_width()),
            normed: vec![0.0; ROWS * d],
            convolved: vec![0.0; n_lanes * d],
            attention: Attention::new(config),
        }
    }
}
