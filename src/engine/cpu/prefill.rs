//! A long prompt taken in by tiles of positions instead of step by step.
//!
//! Within a layer all positions of a tile go through the matrices together, so that weights are
//! read once for many of them; only attention walks the positions in order, as their keys enter
//! the cache. Threads share a tile's positions, and in attention its KV heads. Every stage does to
//! a position exactly what a step does: the caches come out the same to the last bit.

use std::ops::Range;
use std::thread;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::attention::{Angles, Attention, Store, rotate, sort};
use super::embed::{self, Expected};
use super::weights::{PackedLayer, PackedWeights, Sight};
use super::worker::{Lane, ROWS, norm_rows, quantize_rows};
use super::{CpuDecoder, See};
use crate::compute::{Activations, Ops, Stage, lanewise};
use crate::engine::STEPPED_MAX;
use crate::model::pattern::Buckets;
use crate::model::{Head, ModelConfig, V};

/// Positions that go through a layer together.
const TILE: usize = 512;
/// Positions that one thread takes at a time.
const PIECE: usize = 32;

/// Whether so many codes are better taken in by tiles.
pub(super) fn is_worth_it(n_codes: usize) -> bool {
    n_codes > STEPPED_MAX
}

/// Threads and memory, made at the first use.
#[derive(Debug, Default)]
pub(super) struct Prefill(Option<(ThreadPool, Tile)>);

/// What a tile computes on its way.
#[derive(Debug)]
struct Tile {
    pieces: Vec<Piece>,
    groups: Vec<Group>,
}

/// What is computed for some of a tile's positions, `PIECE` at most.
#[derive(Debug)]
struct Piece {
    /// [positions, D]: the residual stream.
    x: Vec<f32>,
    expected: Expected,
    /// [W − 1 + positions, D]: normed inputs, those before the piece first.
    normed: Vec<f32>,
    /// [G], [positions, (H/G + 2)·K]
    qkv: Vec<Vec<f32>>,
    /// [G], [positions]: of the heads that have some.
    buckets: Vec<Vec<Buckets>>,
    /// [positions, F]
    hidden: Vec<f32>,
    /// [positions, D]
    delta: Vec<f32>,
    /// [positions, V]
    logits: Vec<f32>,
    narrow: Activations,
    wide: Activations,
    /// [ROWS, D]
    rows: Vec<f32>,
    angles: Angles,
}

/// What one KV head computes for a whole tile.
#[derive(Debug)]
struct Group {
    attention: Attention,
    /// [positions, H/G · K]
    attended: Vec<f32>,
}

/// What the stages of a layer need to know.
struct Layer<'a, O> {
    ops: O,
    weights: &'a PackedWeights,
    index: usize,
    /// The position of the tile's first code, and how many there are.
    start: u64,
    len: usize,
}

impl<O: Ops> CpuDecoder<O> {
    /// Feeds codes to a lane, and shows the logits before each if somebody wants to `see` them.
    pub(super) fn take_in(&mut self, lane: usize, codes: &[u8], mut see: Option<See<'_>>) {
        let weights = &self.weights;
        let (pool, mut tile) = self.prefill.0.take().unwrap_or_else(|| {
            let n_threads = thread::available_parallelism().map_or(1, usize::from);
            let pool = ThreadPoolBuilder::new().num_threads(n_threads);
            let pool = pool.thread_name(|i| format!("prefill-{i}"));
            (
                pool.build().expect("the system gives threads"),
                Tile::new(weights),
            )
        });
        for (i, codes) in codes.chunks(TILE).enumerate() {
            let wants_logits = see.is_some();
            pool.install(|| self.take_in_tile(&mut tile, lane, codes, wants_logits));
            if let Some(see) = &mut see {
                let logits = tile
                    .pieces
                    .iter()
                    .flat_map(|piece| piece.logits.chunks_exact(V));
                for (at, logits) in logits.take(codes.len()).enumerate() {
                    see(i * TILE + at, logits);
                }
            }
        }
        self.prefill.0 = Some((pool, tile));
    }

    fn take_in_tile(&mut self, tile: &mut Tile, lane: usize, codes: &[u8], wants_logits: bool) {
        let weights = self.weights.clone();
        let ops = self.ops;
        let mut parts: Vec<&mut Lane> = self.parts(lane).collect();
        tile.embed(ops, &weights, parts[0], codes);
        for index in 0..weights.layers.len() {
            let layer = Layer {
                ops,
                weights: &weights,
                index,
                start: parts[0].position,
                len: codes.len(),
            };
            let taps = &parts[0].layers[index].taps;
            layer.norm(tile, taps);
            let after = layer.taps_after(tile, taps);
            layer.project(tile);
            let stores = parts.iter_mut().flat_map(|part| {
                let own = &mut part.layers[index];
                own.taps.copy_from_slice(&after);
                &mut own.stores
            });
            layer.attend(tile, stores.collect());
            layer.finish(tile);
        }
        if wants_logits {
            tile.unembed(ops, &weights, codes.len());
        }
        for part in &mut parts {
            part.position += codes.len() as u64;
        }
        if let [first, others @ ..] = parts.as_mut_slice() {
            for other in others {
                other.last = first.last;
                other.predictor.clone_from(&first.predictor);
            }
        }
    }
}

impl<O: Ops> Layer<'_, O> {
    /// Does a stage to all pieces that are in use, each with its positions within the tile.
    fn on_pieces<'t, S: Stage<Out = ()>>(
        &'t self,
        pieces: &'t mut [Piece],
        stage: fn(&'t Self, Range<usize>, &'t mut Piece) -> S,
    ) {
        let used = &mut pieces[..self.len.div_ceil(PIECE)];
        used.par_iter_mut().enumerate().for_each(|(i, piece)| {
            let range = i * PIECE..self.len.min((i + 1) * PIECE);
            self.ops.run(stage(self, range, piece));
        });
    }

    fn packed(&self) -> &PackedLayer {
        &self.weights.layers[self.index]
    }

    fn config(&self) -> &ModelConfig {
        &self.weights.model.config
    }

    fn head(&self, group: usize) -> &Head {
        self.config().layers[self.index].head(group)
    }

    /// The norms of every piece's positions; then of the `W − 1` before it, which another piece
    /// or, before the tile, the lane's `taps` hold.
    fn norm(&self, tile: &mut Tile, taps: &[f32]) {
        let (d, n_before) = (self.config().d_model, self.config().conv_width - 1);
        self.on_pieces(&mut tile.pieces, Norm);
        for i in 0..self.len.div_ceil(PIECE) {
            let (done, rest) = tile.pieces.split_at_mut(i);
            for (row, to) in rest[0]
                .normed
                .chunks_exact_mut(d)
                .take(n_before)
                .enumerate()
            {
                // The piece's own positions come after `n_before` rows.
                let from = match (i * PIECE + row).checked_sub(n_before) {
                    Some(at) => done[at / PIECE]
                        .normed
                        .chunks_exact(d)
                        .nth(n_before + at % PIECE),
                    None => taps
                        .chunks_exact(d)
                        .nth(self.slot_of_tap(n_before - row - i * PIECE)),
                };
                to.copy_from_slice(from.expect("rows and slots are as many as they are counted"));
            }
        }
    }

    /// Where a lane keeps the normed input of `back` positions before the tile. Before the start
    /// of a stream it holds zeros there.
    fn slot_of_tap(&self, back: usize) -> usize {
        let w = self.config().conv_width as u64;
        ((self.start + w - back as u64) % w) as usize
    }

    /// What a lane holds of normed inputs after the tile.
    fn taps_after(&self, tile: &Tile, taps: &[f32]) -> Vec<f32> {
        let (d, w) = (self.config().d_model, self.config().conv_width);
        let mut after = taps.to_vec();
        for at in self.len.saturating_sub(w)..self.len {
            let slot = ((self.start + at as u64) % w as u64) as usize;
            let row = w - 1 + at % PIECE;
            let normed = &tile.pieces[at / PIECE].normed[row * d..(row + 1) * d];
            after[slot * d..(slot + 1) * d].copy_from_slice(normed);
        }
        after
    }

    /// Convolution, queries, keys and values, turned.
    fn project(&self, tile: &mut Tile) {
        self.on_pieces(&mut tile.pieces, Project);
    }

    /// Attention, position after position, each KV head by itself.
    fn attend(&self, tile: &mut Tile, stores: Vec<&mut Store>) {
        let Tile { pieces, groups } = tile;
        let heads = groups.par_iter_mut().zip(stores).enumerate();
        heads.for_each(|(index, (group, store))| {
            self.ops.run(Attend(self, &*pieces, index, group, store));
        });
    }

    /// The rest of the layer: from what the heads gave out to the residual stream after the MLP.
    fn finish(&self, tile: &mut Tile) {
        let Tile { pieces, groups } = tile;
        let used = self.len.div_ceil(PIECE);
        for (i, piece) in pieces.iter_mut().enumerate().take(used) {
            gather_heads(groups, i, &mut piece.delta);
        }
        self.on_pieces(pieces, Finish);
    }
}

/// The embeddings of what stands before each of a piece's codes.
struct Embed<'a, O>(O, &'a PackedWeights, &'a mut Lane, &'a mut Piece, &'a [u8]);

impl<O: Ops> Stage for Embed<'_, O> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self(ops, weights, lane, piece, codes) = self;
        let d = weights.model.config.d_model;
        let x = &mut piece.x[..codes.len() * d];
        for (row, (x, code)) in x.chunks_exact_mut(d).zip(codes).enumerate() {
            x.copy_from_slice(embed::row(weights, lane.last));
            if let Some(predictor) = &mut lane.predictor {
                piece.expected.hear::<O>(row, predictor, lane.last);
            }
            lane.last = *code;
        }
        piece.expected.add_to(ops, weights, x);
    }
}

/// The norms of a piece's own positions.
struct Norm<'a, O>(&'a Layer<'a, O>, Range<usize>, &'a mut Piece);

impl<O: Ops> Stage for Norm<'_, O> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self(layer, range, piece) = self;
        let (config, d) = (layer.config(), layer.config().d_model);
        let gain = &layer.weights.model.weights.layers[layer.index].attn_norm;
        let normed = piece.normed.chunks_exact_mut(d).skip(config.conv_width - 1);
        let rows = piece.x.chunks_exact(d).take(range.len());
        for (x, normed) in rows.zip(normed) {
            lanewise::rms_norm::<O::F>(x, gain, config.norm_eps, normed);
        }
    }
}

/// Convolution, queries, keys and values, turned.
struct Project<'a, O>(&'a Layer<'a, O>, Range<usize>, &'a mut Piece);

impl<O: Ops> Stage for Project<'_, O> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self(layer, range, piece) = self;
        let (d, n_before) = (layer.config().d_model, layer.config().conv_width - 1);
        for row in 0..range.len() {
            lanewise::convolve::<O::F>(&layer.packed().taps, &mut piece.rows[..d], |j| {
                let then = n_before + row - j;
                &piece.normed[then * d..(then + 1) * d]
            });
            let (bytes, scale) = piece.narrow.row_mut(row);
            *scale = lanewise::quantize_range::<O::F>(&piece.rows[..d], bytes);
        }
        let (k, eps) = (layer.config().head_size(), layer.config().norm_eps);
        let heads = piece.qkv.iter_mut().zip(&mut piece.buckets);
        for (group, (qkv, buckets)) in heads.enumerate() {
            let matrix = &layer.packed().qkv[group];
            let qkv = &mut qkv[..range.len() * matrix.n_out()];
            layer.ops.matmul(&matrix.panels(), &piece.narrow, qkv);
            let rows = qkv.chunks_exact_mut(matrix.n_out()).zip(buckets);
            for (at, (qkv, buckets)) in range.clone().zip(rows) {
                if let Sight::Hashed(hasher) = &layer.packed().sights[group] {
                    *buckets = sort::<O>(hasher, qkv, k, eps);
                }
                let rotation = layer.head(group).rotation(layer.start + at as u64);
                rotate::<O>(qkv, piece.angles.of(&layer.weights.rotary, rotation));
            }
        }
    }
}

/// Attention of one KV head over the whole tile.
struct Attend<'a, O>(
    &'a Layer<'a, O>,
    &'a [Piece],
    usize,
    &'a mut Group,
    &'a mut Store,
);

impl<O: Ops> Stage for Attend<'_, O> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self(layer, pieces, index, group, store) = self;
        let qkv_width = layer.packed().qkv[index].n_out();
        let out_width = layer.config().d_model / layer.config().n_kv_heads;
        let outs = group.attended.chunks_exact_mut(out_width);
        for (at, out) in outs.take(layer.len).enumerate() {
            let qkv = &pieces[at / PIECE].qkv[index][at % PIECE * qkv_width..][..qkv_width];
            let (position, attention) = (layer.start + at as u64, &mut group.attention);
            match &layer.packed().sights[index] {
                Sight::Placed(pattern) => {
                    let place = (pattern.as_ref(), position);
                    attention.run(layer.ops, place, &mut store.cache, qkv, out);
                }
                Sight::Hashed(hasher) => {
                    let buckets = &pieces[at / PIECE].buckets[index][at % PIECE];
                    let place = (hasher.of.as_ref(), position, buckets);
                    attention.run_hashed(layer.ops, place, store, qkv, out);
                }
            }
        }
    }
}

/// From what the heads gave out, in `delta`, to the residual stream after the MLP.
struct Finish<'a, O>(&'a Layer<'a, O>, Range<usize>, &'a mut Piece);

impl<O: Ops> Stage for Finish<'_, O> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self(layer, range, piece) = self;
        let (ops, packed, config) = (layer.ops, layer.packed(), layer.config());
        let (n, d, f) = (range.len(), config.d_model, config.mlp_width());
        let gain = &layer.weights.model.weights.layers[layer.index].mlp_norm;
        let (x, delta) = (&mut piece.x[..n * d], &mut piece.delta[..n * d]);
        quantize_rows::<O>(delta, d, &mut piece.narrow);
        ops.matmul(&packed.o.panels(), &piece.narrow, delta);
        lanewise::add::<O::F>(delta, x);
        norm_rows::<O>(x, gain, config, &mut piece.rows, &mut piece.narrow);
        let hidden = &mut piece.hidden[..n * f];
        ops.matmul(&packed.up.panels(), &piece.narrow, hidden);
        lanewise::gelu::<O::F>(hidden);
        quantize_rows::<O>(hidden, f, &mut piece.wide);
        ops.matmul(&packed.down.panels(), &piece.wide, delta);
        lanewise::add::<O::F>(delta, x);
    }
}

/// What the heads gave out for the positions of piece `index`, head beside head: [positions, D].
fn gather_heads(groups: &[Group], index: usize, out: &mut [f32]) {
    let width = out.len() / PIECE / groups.len();
    for (row, out) in out.chunks_exact_mut(width * groups.len()).enumerate() {
        let at = index * PIECE + row;
        for (group, out) in groups.iter().zip(out.chunks_exact_mut(width)) {
            out.copy_from_slice(&group.attended[at * width..(at + 1) * width]);
        }
    }
}

impl Tile {
    fn new(weights: &PackedWeights) -> Self {
        let config = &weights.model.config;
        let group = || Group {
            attention: Attention::new(config),
            attended: vec![0.0; TILE * config.d_model / config.n_kv_heads],
        };
        Self {
            pieces: (0..TILE / PIECE).map(|_| Piece::new(weights)).collect(),
            groups: (0..config.n_kv_heads).map(|_| group()).collect(),
        }
    }

    /// The embeddings of what stands before each code.
    fn embed<O: Ops>(&mut self, ops: O, weights: &PackedWeights, lane: &mut Lane, codes: &[u8]) {
        for (piece, codes) in self.pieces.iter_mut().zip(codes.chunks(PIECE)) {
            ops.run(Embed(ops, weights, lane, piece, codes));
        }
    }

    /// The logits of the first `len` positions.
    fn unembed<O: Ops>(&mut self, ops: O, weights: &PackedWeights, len: usize) {
        let used = &mut self.pieces[..len.div_ceil(PIECE)];
        used.par_iter_mut().for_each(|piece| {
            ops.run(Unembed(ops, weights, piece));
        });
    }
}

impl Piece {
    fn new(weights: &PackedWeights) -> Self {
        let config = &weights.model.config;
        let (d, f) = (config.d_model, config.mlp_width());
        let qkv_width = (config.n_heads / config.n_kv_heads + 2) * config.head_size();
        Self {
            x: vec![0.0; PIECE * d],
            expected: Expected::new(weights, PIECE),
            normed: vec![0.0; (config.conv_width - 1 + PIECE) * d],
            qkv: vec![vec![0.0; PIECE * qkv_width]; config.n_kv_heads],
            buckets: vec![vec![Buckets::default(); PIECE]; config.n_kv_heads],
            hidden: vec![0.0; PIECE * f],
            delta: vec![0.0; PIECE * d],
            logits: vec![0.0; PIECE * V],
            narrow: Activations::new(PIECE, d),
            wide: Activations::new(PIECE, f),
            rows: vec![0.0; ROWS * d],
            angles: Angles::new(config),
        }
    }
}

/// The logits of all of a piece's positions.
struct Unembed<'a, O>(O, &'a PackedWeights, &'a mut Piece);

impl<O: Ops> Stage for Unembed<'_, O> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self(ops, weights, piece) = self;
        let (config, gain) = (&weights.model.config, &weights.model.weights.norm);
        norm_rows::<O>(&piece.x, gain, config, &mut piece.rows, &mut piece.narrow);
        ops.matmul(&weights.head.panels(), &piece.narrow, &mut piece.logits);
    }
}
