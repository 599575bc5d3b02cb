//! The kinds of attention against each other: the same weights, each layer seeing as many keys.

use std::sync::Arc;

use serde_json::{Value, json};

use super::cases::{Bench, Subject};
use super::models;
use super::record::PatternFacts;
use crate::engine::Footprint;
use crate::model::{Layer, Model};

/// Blocks back that a step of `block_sparse` looks, beside its own.
const BACK: [usize; 3] = [1, 16, 256];

impl Bench<'_> {
    /// One stream with every kind, in all layers; then dense ones that reach as far as the model.
    pub(super) fn patterns(&mut self) {
        let base = self.model;
        for (kind, entries) in of_every_kind(base) {
            self.pattern(&kind, models::with_entries(base, &entries));
        }
        let dense = models::dense(base, base.config.context as usize);
        self.pattern("dense", dense);
    }

    fn pattern(&mut self, kind: &str, model: Model) {
        let (config, footprint) = (&model.config, Footprint::of(&model.config));
        let heads = config.n_layers() * config.n_kv_heads;
        let layers = config.layers.iter();
        let visible = layers.flat_map(|layer| layer.heads(config.n_kv_heads));
        let facts = PatternFacts {
            kind: kind.into(),
            keys: visible.map(|head| head.max_visible()).sum::<usize>() / heads,
            read_bytes: footprint.kv_bytes,
            lane_bytes: footprint.lane_bytes,
            reach: config.layers.iter().map(Layer::reach).max().unwrap_or(1),
        };
        let model = Arc::new(model);
        self.steps(Subject {
            pattern: Some(facts),
            ..self.subject(&format!("pattern-{kind}"), &model)
        });
    }
}

/// For each kind its word and an entry for each layer. Every layer sees as many keys as the one of
/// the model that sees most, within bounds; where the kind leaves a choice, it looks back far.
fn of_every_kind(base: &Model) -> Vec<(String, Vec<Value>)> {
    let layers = &base.config.layers;
    let most = layers.iter().map(Layer::max_visible).max().unwrap_or(1);
    // Whole parts for every kind, and no cache that would not fit the machine.
    let k = most.next_multiple_of(32).min(1024);
    let (block, summary) = (k / 4, k / 32);
    let all = |entry: Value| {
        (
            entry["kind"].as_str().unwrap_or_default().to_owned(),
            vec![entry; layers.len()],
        )
    };
    let anchors = k / 16;
    let mut kinds = vec![
        all(json!({"kind": "local", "window": k})),
        all(json!({"kind": "strided", "stride": k, "rows": k})),
        all(
            json!({"kind": "fixed", "block": k / 2, "blocks": 1 + k / 2 / summary, "summary": summary}),
        ),
        all(json!({"kind": "dilated", "window": k, "dilation": 16})),
        all(json!({"kind": "global", "anchors": anchors, "beside":
            {"kind": "local", "window": k - anchors}})),
        all(json!({"kind": "random", "block": block, "blocks": k * k / block, "r": 3, "seed": 0})),
        all(json!({"kind": "block_sparse", "block": block, "layout":
            [std::iter::once(0).chain(BACK).collect::<Vec<_>>()]})),
        all(json!({"kind": "memory", "segment": k / 2})),
        latent(k, layers.len()),
    ];
    kinds.push(all(
        json!({"kind": "hashed", "window": k * k, "rounds": 4, "buckets": 32,
        "keys": k / 4, "seed": 0}),
    ));
    kinds
}

/// Half of all keys to the first layer, the rest to those above.
fn latent(k: usize, n_layers: usize) -> (String, Vec<Value>) {
    let n_above = n_layers - 1;
    let above = (k * n_layers / 2).checked_div(n_above).unwrap_or(k);
    let inputs = k * n_layers - above * n_above;
    let mut entries = vec![json!({"kind": "local", "window": above}); n_layers];
    entries[0] = json!({"kind": "latent", "inputs": inputs, "latents": above});
    ("latent".into(), entries)
}
