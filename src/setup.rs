//! From a configuration to an engine and the streams it shall play: what `render` and the daemon
//! do first. Blocks for as long as reading a model takes; main thread, before any other starts.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::{Config, ConfigError, StationConfig, find_model};
use crate::engine::{self, Decoder};
use crate::model::{Model, ModelError};
use crate::mulaw;
use crate::pump::Start;
use crate::wav::{self, WavError};

/// Why nothing can play. All are *fatal*: the configuration, the model or the prompt must change.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// See [`ConfigError`].
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// See [`ModelError`].
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A prompt cannot be heard.
    #[error("no prompt: {0}")]
    Prompt(#[from] WavError),
}

/// Everything that is needed to draw, with one lane for each station.
pub struct Setup {
    /// The model.
    pub model: Arc<Model>,
    /// Its engine.
    pub decoder: Box<dyn Decoder>,
    /// How each station begins, in the order of the configuration; its lane is its index.
    pub starts: Vec<Start>,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup")
            .field("model", &self.model.name)
            .field("isa", &self.decoder.isa())
            .field("starts", &self.starts)
            .finish_non_exhaustive()
    }
}

impl Setup {
    /// Reads the model and the prompts, and makes the engine.
    pub fn new(config: &Config) -> Result<Self, SetupError> {
        let settings = engine::Settings {
            isa: config.available_isa()?,
            ..engine::Settings::default()
        };
        let model = Arc::new(Model::load(&find_model(&config.model)?)?);
        let starts = config.stations.iter().enumerate();
        let starts = starts.map(|(index, station)| start(station, index as u64, &model));
        let starts = starts.collect::<Result<Vec<_>, _>>()?;
        let decoder = engine::open(&model, &settings, starts.len());
        Ok(Self {
            model,
            decoder: decoder.expect("the instruction set is available"),
            starts,
        })
    }
}

fn start(station: &StationConfig, index: u64, model: &Model) -> Result<Start, SetupError> {
    let prompt = station.prompt.as_deref();
    Ok(Start {
        // Stations that leave the seed to the clock shall not play the same.
        seed: station.seed.unwrap_or_else(|| seed_from_clock() + index),
        draw: station.draw(),
        prompt: prompt.map_or_else(|| Ok(Vec::new()), |path| prompt_codes(path, model))?,
    })
}

/// The end of the file, as far back as the model can hear.
fn prompt_codes(path: &Path, model: &Model) -> Result<Vec<u8>, WavError> {
    let rate_hz = model.config.sample_rate_hz;
    let heard_s = model.config.receptive_field() as f64 / f64::from(rate_hz);
    let samples = wav::read_mono(path, rate_hz, heard_s)?;
    let codes: Option<Vec<u8>> = samples.into_iter().map(mulaw::encode).collect();
    Ok(codes.expect("`read_mono` gives finite samples only"))
}

/// A seed that differs from start to start, and is short enough to be read out and typed again.
fn seed_from_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = now.map_or(0, |since| since.as_nanos() as u64);
    // Clocks tick coarsely and starts are close: the multiplier spreads them over all digits.
    nanos.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32
}
