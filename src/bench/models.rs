//! Models that only a benchmark wants: other patterns for the same weights, and weights that mean
//! nothing. Time does not depend on what the numbers are.

use serde_json::{Value, json};

use crate::engine::uniform;
use crate::model::{Layer, LayerWeights, Model, ModelConfig, Spacing, V, Weights, pattern};

/// The same weights with every layer seeing the last `window` positions.
pub fn dense(model: &Model, window: usize) -> Model {
    let entry = json!({ "kind": "local", "window": window });
    with_layers(model, |_, _| Some(entry.clone()))
}

/// The same weights with every strided layer keeping `times` as many rows.
pub fn reaching(model: &Model, times: usize) -> Model {
    with_layers(model, |_, layer| {
        let Spacing { stride, rows } = layer.spacing()?;
        let longer = json!({ "kind": "strided", "stride": stride, "rows": times * rows });
        (layer.kind() == "strided").then_some(longer)
    })
}

/// The same weights with another pattern.
pub fn with_entries(model: &Model, entries: &[Value]) -> Model {
    with_layers(model, |i, _| entries.get(i).cloned())
}

/// Changes the layers that `entry` has one for. Angles stay as they were, and repeat later if the
/// new pattern reaches over more of them.
fn with_layers(model: &Model, entry: impl Fn(usize, &Layer) -> Option<Value>) -> Model {
    let mut config = model.config.clone();
    let reach = pattern::Defaults {
        stride: 1,
        context: 1,
    };
    for (i, layer) in config.layers.iter_mut().enumerate() {
        if let Some(entry) = entry(i, layer) {
            let layer_of = Layer::parse(&entry, &reach, config.n_kv_heads);
            *layer = layer_of.expect("a reach of this size is accepted");
        }
    }
    let n_angles = config.layers.iter().map(|layer| layer.n_angles()).max();
    let times = n_angles.unwrap_or(1).div_ceil(config.rope_period);
    config.rope_period *= times;
    for harmonic in &mut config.rope_harmonics {
        *harmonic *= times as u32;
    }
    config.context = config
        .layers
        .iter()
        .map(|layer| layer.reach())
        .max()
        .unwrap_or(1);
    Model {
        name: model.name.clone(),
        config,
        weights: model.weights.clone(),
        sha256: model.sha256.clone(),
    }
}

/// 3.2 million parameters: more than one core keeps near.
pub fn large() -> Model {
    of_fours("random-3.2M", 192, 2, 2)
}

/// 8.2 million parameters, D = 256 and 12 layers: for a GPU.
pub fn wide() -> Model {
    of_fours("random-8.2M", 256, 3, 1)
}

/// A model of heads of 32 and so many times four layers, one of them strided.
fn of_fours(name: &str, d_model: usize, n_fours: usize, n_kv_heads: usize) -> Model {
    let pattern = ["local", "local", "local", "strided"].repeat(n_fours);
    let config = json!({
        "d_model": d_model, "n_layers": pattern.len(), "n_heads": d_model / 32,
        "n_kv_heads": n_kv_heads, "mlp_ratio": 4, "conv_width": 4, "stride": 256, "context": 65_536,
        "pattern": pattern, "rope_period": 4096,
        "rope_harmonics": [652, 486, 363, 270, 202, 150, 112, 84, 62, 47, 35, 26, 19, 14, 11, 8],
        "sample_rate": 16_000, "codec": "mulaw8", "norm_eps": 1e-5,
    });
    let config = ModelConfig::parse(&config.to_string()).expect("the sizes fit together");
    random(name, config)
}

/// As the model, but with one KV head, and weights that mean nothing.
pub fn one_kv_head(model: &Model) -> Model {
    let mut config = model.config.clone();
    config.n_kv_heads = 1;
    random("random-1-kv-head", config)
}

/// A model of these sizes whose weights are noise.
pub fn random(name: &str, config: ModelConfig) -> Model {
    let (d, f, w) = (config.d_model, config.mlp_width(), config.conv_width);
    let kv = config.kv_width();
    let mut noise = Noise(0);
    let layers = (0..config.n_layers()).map(|_| LayerWeights {
        attn_norm: vec![1.0; d],
        conv: noise.matrix(d, w),
        q: noise.matrix(d, d),
        k: noise.matrix(kv, d),
        v: noise.matrix(kv, d),
        o: noise.matrix(d, d),
        mlp_norm: vec![1.0; d],
        up: noise.matrix(f, d),
        up_bias: noise.matrix(f, 1),
        down: noise.matrix(d, f),
        down_bias: noise.matrix(d, 1),
    });
    let layers = layers.collect();
    let weights = Weights {
        embed: noise.matrix(V, d),
        predictor: noise.matrix(d, config.predictor_width()),
        layers,
        norm: vec![1.0; d],
        head: noise.matrix(V, d),
        head_bias: noise.matrix(V, 1),
    };
    Model {
        name: name.into(),
        config,
        weights,
        sha256: String::new(),
    }
}

/// Numbers that are the same every time; counts those given.
struct Noise(u64);

impl Noise {
    /// [rows, columns], each row about as long as 1.
    fn matrix(&mut self, rows: usize, columns: usize) -> Vec<f32> {
        let from = self.0;
        self.0 += (rows * columns) as u64;
        let size = (3.0 / columns as f32).sqrt();
        let number = |i| (2.0 * uniform(1, i) - 1.0) * size;
        (from..self.0).map(number).collect()
    }
}

/// A prompt: codes that wander as a loud sound does.
pub fn prompt(n_codes: usize) -> Vec<u8> {
    let mut code = 128i32;
    let next = |t| {
        let step = (uniform(2, t) * 17.0) as i32 - 8;
        code = (code + step).clamp(0, 255);
        code as u8
    };
    (0..n_codes as u64).map(next).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::engine::{self, Footprint, Settings};

    fn piano() -> Model {
        Model::load(Path::new("models/piano-16k")).unwrap()
    }

    fn plays(model: Model) {
        let mut engine = engine::open(&Arc::new(model), &Settings::default(), 1).unwrap();
        let past: Vec<u8> = prompt(40);
        engine.score(0, &past, &mut |_, logits| {
            let low = logits.iter().copied().fold(f32::INFINITY, f32::min);
            let high = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert!(low.is_finite() && high.is_finite() && low < high);
        });
    }

    #[test]
    fn the_large_model_is_as_large_as_it_says_and_plays() {
        let model = large();
        let macs = Footprint::of(&model.config).weight_macs;
        assert!((3_100_000..3_500_000).contains(&macs), "{macs}");
        plays(model);
    }

    #[test]
    fn one_kv_head_halves_what_a_lane_reads() {
        let model = Model::load(Path::new("tests/golden/reference")).unwrap();
        let bytes = |model: &Model| Footprint::of(&model.config).kv_bytes;
        let narrow = one_kv_head(&model);
        assert_eq!(2 * bytes(&narrow), bytes(&model));
        plays(narrow);
    }

    #[test]
    fn a_longer_reach_changes_the_strided_layers_alone() {
        let model = piano();
        let longer = reaching(&model, 32);
        assert_eq!(longer.config.context, 256 * (32 * 256 - 1) + 1);
        for (old, new) in model.config.layers.iter().zip(&longer.config.layers) {
            let times = if old.kind() == "strided" { 32 } else { 1 };
            assert_eq!(new.head(0).n_slots(), times * old.head(0).n_slots());
            assert!(new.n_angles() <= longer.config.rope_period);
        }
        let (old, new) = (&model.config, &longer.config);
        let turns = |c: &ModelConfig| f64::from(c.rope_harmonics[0]) / c.rope_period as f64;
        assert_eq!(turns(old), turns(new));
        plays(reaching(&model, 1));
    }

    #[test]
    fn a_dense_layer_sees_everything() {
        let dense = dense(&piano(), 8192);
        assert!(dense.config.layers.iter().all(|l| l.max_visible() == 8192));
        assert_eq!(dense.config.rope_period, 8192);
        plays(dense);
    }
}
