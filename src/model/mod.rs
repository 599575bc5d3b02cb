//! What a model is: its configuration, who sees whom in each layer, and the weights, all checked.
//!
//! Read once at start, immutable afterwards and shared by every engine. Nothing here knows how a
//! step is computed. The meaning of every field and tensor is `docs/model.md`.
//!
//! Shape letters, used everywhere and in CUDA too: `B` lanes, `L` layers, `D` model width, `H`
//! query heads, `G` key/value heads, `K` head size, `F` width of the MLP, `W` width of the
//! convolution, `V` = 256 codes, `T` positions.

mod checkpoint;
mod config;
pub mod pattern;
mod rotary;

pub use checkpoint::{LayerWeights, Weights, save};
pub(crate) use config::lcm;
pub use config::{Codec, ModelConfig};
pub use pattern::{Head, Layer, Pattern, Placed, Spacing};
pub use rotary::Rotary;

pub use crate::draw::DrawParams;

use std::path::{Path, PathBuf};

/// How many codes there are.
pub const V: usize = 256;

/// A model, ready to be given to an engine.
#[derive(Debug)]
pub struct Model {
    /// The name of its directory.
    pub name: String,
    /// Shapes and pattern.
    pub config: ModelConfig,
    /// All tensors, in f32.
    pub weights: Weights,
    /// SHA-256 of `model.safetensors`, in hex.
    pub sha256: String,
}

impl Model {
    /// Reads `config.json` and `model.safetensors` from a model directory.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let config = ModelConfig::load(&dir.join("config.json"))?;
        let (weights, sha256) = checkpoint::load(&dir.join("model.safetensors"), &config)?;
        let name = dir
            .canonicalize()
            .ok()
            .and_then(|dir| {
                dir.file_name()
                    .map(|name| name.to_string_lossy().into_owned())
            })
            .unwrap_or_else(|| dir.display().to_string());
        Ok(Self {
            name,
            config,
            weights,
            sha256,
        })
    }
}

/// Why a model was refused. All are final: the files must change.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file of the model could not be read.
    #[error(
        "cannot read {path}: {source}; a model is a directory with config.json and model.safetensors"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the model could not be written.
    #[error("cannot write {path}: {source}; make room or choose another directory")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `config.json` is not what `docs/model.md` describes.
    #[error("{path}: {reason}; see docs/model.md for what a config.json holds")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// `model.safetensors` is damaged, foreign, or does not fit the configuration.
    #[error("{path}: {reason}; fetch the file again, or use the config.json it was trained with")]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}
