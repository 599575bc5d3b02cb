//! The naive incremental engine: plain f32 loops over rolling KV caches, one lane after another.
//!
//! It follows `docs/model.md` line by line and shares no arithmetic with the fast engines but the predictor and the drawing: they
//! are right when they agree with it, and it is right because it agrees with the candle oracle and
//! with golden outputs of an independent implementation.

use std::sync::Arc;

use super::draw::{Recent, draw_by, within_reach};
use super::{Decoder, See, Turn, check_turns, noise};
use crate::compute::Plain;
use crate::model::pattern::{Hasher, Rings};
use crate::model::{Head, Layer, LayerWeights, Model, ModelConfig, Rotary, V};
use crate::mulaw;
use crate::predictor::{self, Predictor};

/// Weights and the state of every lane.
#[derive(Debug)]
pub struct NaiveDecoder {
    model: Arc<Model>,
    rotary: Rotary,
    lanes: Vec<Lane>,
}

#[derive(Clone, Debug)]
struct Lane {
    position: u64,
    /// The code drawn last: the next input.
    last: u8,
    predictor: Option<Predictor>,
    recent: Recent,
    layers: Vec<LayerState>,
    logits: Vec<f32>,
}

#[derive(Clone, Debug)]
struct LayerState {
    /// [G], [slots, K]
    keys: Vec<Vec<f32>>,
    /// [G], [slots, K]
    values: Vec<Vec<f32>>,
    /// `[G]`
    rings: Vec<Rings>,
    /// The normed inputs of the last `W` positions, newest last.
    taps: Vec<Vec<f32>>,
}

impl NaiveDecoder {
    /// An engine with `n_lanes` lanes at the start of their streams.
    pub fn new(model: Arc<Model>, n_lanes: usize) -> Self {
        let rotary = Rotary::new(model.config.rope_period, &model.config.rope_harmonics);
        let lanes = (0..n_lanes).map(|_| Lane::new(&model)).collect();
        Self {
            model,
            rotary,
            lanes,
        }
    }

    /// Takes in the lane's last code and leaves the logits over the next.
    fn step(&mut self, lane: usize) {
        let (config, weights) = (&self.model.config, &self.model.weights);
        let lane = &mut self.lanes[lane];
        let mut x = row(&weights.embed, usize::from(lane.last), config.d_model).to_vec();
        if let Some(predictor) = &mut lane.predictor {
            predictor.hear::<Plain>(lane.last);
            let waves = predictor::naive_waves(predictor.places());
            add(&mut x, &linear(&weights.predictor, &waves));
        }
        for (i, layer) in weights.layers.iter().enumerate() {
            let h = rms_norm(&x, &layer.attn_norm, config.norm_eps);
            let c = lane.layers[i].convolve(h, &layer.conv);
            let place = Place {
                config,
                layer,
                patterns: &config.layers[i],
                rotary: &self.rotary,
            };
            let a = place.attend(&mut lane.layers[i], lane.position, &c);
            add(&mut x, &linear(&layer.o, &a));
            let m = rms_norm(&x, &layer.mlp_norm, config.norm_eps);
            add(&mut x, &mlp(layer, &m));
        }
        let m = rms_norm(&x, &weights.norm, config.norm_eps);
        lane.logits = linear(&weights.head, &m);
        add(&mut lane.logits, &weights.head_bias);
        lane.position += 1;
    }
}

impl NaiveDecoder {
    fn draw(&mut self, turn: &mut Turn<'_>, see: See<'_>) {
        let draws = turn.codes.iter_mut().zip(turn.uniforms).enumerate();
        for (i, (code, uniform)) in draws {
            self.step(turn.lane);
            let lane = &mut self.lanes[turn.lane];
            see(i, &lane.logits);
            let predictor = lane.predictor.as_ref();
            let within = within_reach::<Plain>(predictor, &turn.draw);
            let Lane { logits, recent, .. } = lane;
            *code = draw_by::<Plain>(logits, &within, &turn.draw, recent, *uniform);
            lane.last = *code;
        }
    }
}

impl Decoder for NaiveDecoder {
    fn n_lanes(&self) -> usize {
        self.lanes.len()
    }

    fn open(&mut self, lane: usize) {
        self.lanes[lane] = Lane::new(&self.model);
    }

    fn copy(&mut self, from: usize, to: usize) {
        assert_ne!(from, to, "a lane named twice");
        self.lanes[to] = self.lanes[from].clone();
    }

    fn position(&self, lane: usize) -> u64 {
        self.lanes[lane].position
    }

    fn prime(&mut self, lane: usize, codes: &[u8]) {
        self.score(lane, codes, &mut |_, _| ());
    }

    fn score(&mut self, lane: usize, codes: &[u8], see: See<'_>) {
        for (i, code) in codes.iter().enumerate() {
            self.step(lane);
            see(i, &self.lanes[lane].logits);
            self.lanes[lane].last = *code;
        }
    }

    fn generate(&mut self, turns: &mut [Turn<'_>]) {
        check_turns(turns);
        for turn in turns {
            self.draw(turn, &mut |_, _| ());
        }
    }

    fn generate_seen(&mut self, mut turn: Turn<'_>, see: See<'_>) {
        check_turns(std::slice::from_ref(&turn));
        self.draw(&mut turn, see);
    }

    fn age(&mut self, lane: usize, position: u64) {
        let lane = &mut self.lanes[lane];
        lane.position = position;
        for layer in &mut lane.layers {
            let slots = layer.keys.iter_mut().chain(&mut layer.values).flatten();
            slots.zip(noise()).for_each(|(slot, noise)| *slot = noise);
        }
        let n_groups = self.model.config.n_kv_heads;
        for (layer, patterns) in lane.layers.iter_mut().zip(&self.model.config.layers) {
            for (rings, head) in layer.rings.iter_mut().zip(patterns.heads(n_groups)) {
                rings.fill(head, position);
            }
        }
    }

    fn isa(&self) -> &'static str {
        "naive"
    }
}

impl Lane {
    fn new(model: &Model) -> Self {
        let config = &model.config;
        let room = |head: &Head| vec![0.0; head.n_slots() * config.head_size()];
        let layers = config.layers.iter().map(|patterns| LayerState {
            keys: patterns.heads(config.n_kv_heads).map(room).collect(),
            values: patterns.heads(config.n_kv_heads).map(room).collect(),
            rings: patterns.heads(config.n_kv_heads).map(Rings::of).collect(),
            taps: vec![vec![0.0; config.d_model]; config.conv_width],
        });
        Self {
            position: 0,
            last: mulaw::SILENCE,
            recent: Recent::default(),
            predictor: Predictor::of(&config.predictor),
            layers: layers.collect(),
            logits: vec![0.0; V],
        }
    }
}

impl LayerState {
    /// Writes a key and a value of a KV head.
    fn store(&mut self, group: usize, slot: usize, key: &[f32], value: &[f32]) {
        let at = slot * key.len()..(slot + 1) * key.len();
        self.keys[group][at.clone()].copy_from_slice(key);
        self.values[group][at].copy_from_slice(value);
    }

    /// The causal depthwise convolution; `weight` is [D, W], the present tap last.
    fn convolve(&mut self, h: Vec<f32>, weight: &[f32]) -> Vec<f32> {
        self.taps.remove(0);
        self.taps.push(h);
        let n_taps = self.taps.len();
        let channel = |d: usize| -> f32 {
            self.taps
                .iter()
                .enumerate()
                .map(|(j, tap)| weight[d * n_taps + j] * tap[d])
                .sum()
        };
        (0..self.taps[0].len()).map(channel).collect()
    }
}

/// One layer of a model.
struct Place<'a> {
    config: &'a ModelConfig,
    layer: &'a LayerWeights,
    patterns: &'a Layer,
    rotary: &'a Rotary,
}

impl Place<'_> {
    /// Attention of all heads [H·K] at one position, whose key and value are stored on the way.
    fn attend(&self, state: &mut LayerState, position: u64, c: &[f32]) -> Vec<f32> {
        let config = self.config;
        let q = linear(&self.layer.q, c);
        let (k, v) = (
            linear(&self.layer.keys(config), c),
            linear(&self.layer.v, c),
        );
        let of_group = q.chunks(q.len() / config.n_kv_heads);
        let kv = k
            .chunks(config.head_size())
            .zip(v.chunks(config.head_size()));
        let mut out = Vec::new();
        for (group, (q, (k, v))) in of_group.zip(kv).enumerate() {
            let head = self.patterns.head(group);
            let q = self.turned(q, head, position);
            let (mut slots, mut left) = (Vec::new(), Vec::new());
            let k = match head {
                Head::Placed(pattern) => {
                    let k = self.turned(k, head, position);
                    state.store(group, pattern.slot(position), &k, v);
                    pattern.visible(position, &mut |run| slots.extend(run));
                    k
                }
                Head::Hashed(of) => {
                    let buckets = Hasher::new(of, k.len()).sort(k);
                    let rings = &mut state.rings[group];
                    of.visible(rings, position, &buckets, &mut |run| slots.extend(run));
                    // These it takes from the oldest that it sees.
                    of.write(rings, position, &buckets, &mut |slot| left.push(slot));
                    let k = rms_norm(k, &vec![1.0; k.len()], config.norm_eps);
                    self.turned(&k, head, position)
                }
            };
            for q in q.chunks(config.head_size()) {
                match slots.as_slice() {
                    [] => out.extend(v),
                    slots => out.extend(mix(q, &state.keys[group], &state.values[group], slots)),
                }
            }
            for slot in left {
                state.store(group, slot, &k, v);
            }
        }
        out
    }

    /// Heads turned by the angles of their position.
    fn turned(&self, heads: &[f32], pattern: &Head, position: u64) -> Vec<f32> {
        let head_size = self.config.head_size();
        let (mut cos, mut sin) = (vec![0.0; head_size / 2], vec![0.0; head_size / 2]);
        let rotation = pattern.rotation(position);
        self.rotary.angles(rotation, &mut cos, &mut sin);
        let mut turned = heads.to_vec();
        for head in turned.chunks_mut(head_size) {
            rotate(head, &cos, &sin);
        }
        turned
    }
}

/// softmax(q · keys / sqrt(K)) · values, over the slots seen.
fn mix(q: &[f32], keys: &[f32], values: &[f32], slots: &[usize]) -> Vec<f32> {
    let k = q.len();
    let score = |slot: &usize| dot(q, row(keys, *slot, k)) / (k as f32).sqrt();
    let weights = softmax(slots.iter().map(score).collect());
    let mut mixed = vec![0.0; k];
    for (slot, weight) in slots.iter().zip(weights) {
        for (mixed, value) in mixed.iter_mut().zip(row(values, *slot, k)) {
            *mixed += weight * value;
        }
    }
    mixed
}

/// Turns pairs (i, i + K/2) of one head.
fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    for i in 0..half {
        let (a, b) = (head[i], head[i + half]);
        head[i] = a * cos[i] - b * sin[i];
        head[i + half] = a * sin[i] + b * cos[i];
    }
}

fn mlp(layer: &LayerWeights, m: &[f32]) -> Vec<f32> {
    let mut up = linear(&layer.up, m);
    add(&mut up, &layer.up_bias);
    for z in &mut up {
        *z = 0.5 * *z * (1.0 + (0.797_884_6 * (*z + 0.044_715 * *z * *z * *z)).tanh());
    }
    let mut down = linear(&layer.down, &up);
    add(&mut down, &layer.down_bias);
    down
}

fn rms_norm(x: &[f32], gain: &[f32], eps: f32) -> Vec<f32> {
    let mean = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
    x.iter()
        .zip(gain)
        .map(|(x, gain)| gain * x / (mean + eps).sqrt())
        .collect()
}

fn linear(weight: &[f32], x: &[f32]) -> Vec<f32> {
    weight.chunks(x.len()).map(|row| dot(row, x)).collect()
}

fn softmax(mut scores: Vec<f32>) -> Vec<f32> {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores
        .iter_mut()
        .for_each(|score| *score = (*score - top).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
    scores
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn row(matrix: &[f32], row: usize, width: usize) -> &[f32] {
    &matrix[row * width..(row + 1) * width]
}
