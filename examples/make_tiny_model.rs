//! Writes `models/tiny`, the model of the tests: random weights, small enough for every cycle of
//! its rings and rotations to be lived through three times in seconds, and of every kind of layer.
//!
//! ```sh
//! cargo run --example make_tiny_model -- models/tiny
//! ```

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{Device, Result, Tensor};
use longwave::engine::uniform;

const CONFIG: &str = r#"{
  "d_model": 32,
  "n_layers": 4,
  "n_heads": 2,
  "n_kv_heads": 1,
  "mlp_ratio": 2,
  "conv_width": 3,
  "stride": 4,
  "context": 32,
  "pattern": [
    "local",
    "strided",
    {"kind": "local", "window": 7},
    {"kind": "strided", "stride": 3, "rows": 8}
  ],
  "rope_period": 32,
  "rope_harmonics": [7, 5, 4, 3, 3, 2, 1, 1],
  "predictor": [{"taps": 32, "rate": 0.1}, {"taps": 16, "rate": 0.05}],
  "sample_rate": 16000,
  "codec": "mulaw8",
  "norm_eps": 1e-05
}
"#;

const CARD: &str = "\
# tiny

Random weights, made by `cargo run --example make_tiny_model`, for tests. It was trained on
nothing, owes nothing to anyone, and plays quiet noise.
";

const D: usize = 32;
const F: usize = 64;
const KV: usize = 16;
const W: usize = 3;
const V: usize = 256;
/// Waves of three places.
const EXPECTED: usize = 96;

fn main() -> Result<()> {
    let dir = PathBuf::from(
        std::env::args()
            .nth(1)
            .unwrap_or_else(|| "models/tiny".into()),
    );
    std::fs::create_dir_all(&dir)?;
    let mut tensors = Tensors {
        seed: 0,
        all: HashMap::new(),
    };
    tensors.add("embed.weight", &[V, D], 1.0)?;
    tensors.add("predictor.weight", &[D, EXPECTED], 0.2)?;
    for layer in 0..4 {
        let name = |part: &str| format!("layers.{layer}.{part}");
        tensors.add_ones(&name("attn_norm.weight"))?;
        tensors.add(&name("conv.weight"), &[D, W], 0.6)?;
        for (part, n_out) in [("q", D), ("k", KV), ("v", KV), ("o", D)] {
            tensors.add(&name(&format!("{part}.weight")), &[n_out, D], 0.3)?;
        }
        tensors.add_ones(&name("mlp_norm.weight"))?;
        tensors.add(&name("up.weight"), &[F, D], 0.2)?;
        tensors.add(&name("up.bias"), &[F], 0.1)?;
        tensors.add(&name("down.weight"), &[D, F], 0.2)?;
        tensors.add(&name("down.bias"), &[D], 0.1)?;
    }
    tensors.add_ones("norm.weight")?;
    tensors.add("head.weight", &[V, D], 0.3)?;
    tensors.add_quiet_bias("head.bias")?;
    candle_core::safetensors::save(&tensors.all, dir.join("model.safetensors"))?;
    std::fs::write(dir.join("config.json"), CONFIG)?;
    std::fs::write(dir.join("README.md"), CARD)?;
    println!("wrote {}", dir.display());
    Ok(())
}

struct Tensors {
    seed: u64,
    all: HashMap<String, Tensor>,
}

impl Tensors {
    /// Numbers spread evenly within `reach` of 0, other ones for every tensor.
    fn add(&mut self, name: &str, shape: &[usize], reach: f32) -> Result<()> {
        self.seed += 1;
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n as u64)
            .map(|i| reach * (2.0 * uniform(self.seed, i) - 1.0))
            .collect();
        self.insert(name, &values, shape)
    }

    fn add_ones(&mut self, name: &str) -> Result<()> {
        self.insert(name, &[1.0; D], &[D])
    }

    /// Codes near the middle are likelier, so that what it plays is not noise at full scale.
    fn add_quiet_bias(&mut self, name: &str) -> Result<()> {
        let values: Vec<f32> = (0..V)
            .map(|code| -((code as f32 - 127.5) / 20.0).powi(2))
            .collect();
        self.insert(name, &values, &[V])
    }

    fn insert(&mut self, name: &str, values: &[f32], shape: &[usize]) -> Result<()> {
        self.all.insert(
            name.into(),
            Tensor::from_slice(values, shape, &Device::Cpu)?,
        );
        Ok(())
    }
}
