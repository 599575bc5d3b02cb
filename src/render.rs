//! Music into a file, as fast as the engine draws it. One thread, the caller's.
//!
//! The codes are those that a station with the same model, seed and prompt plays, and the samples
//! those that a card of the file's rate gets. The file appears when it is whole.

use std::ops::ControlFlow;
use std::path::PathBuf;

use crate::control::{Change, ChunkShape};
use crate::mulaw;
use crate::pump::{Replay, ReplayError};
use crate::resample::{ResampleError, Resampler};
use crate::setup::Setup;
use crate::wav::{WavError, WavFormat, WavWriter};

/// Codes between two looks at the caller.
const CHUNK_LEN: usize = 320;

/// What is to be written.
#[derive(Clone, Debug)]
pub struct Order {
    /// How much, in seconds above 0.
    pub seconds: f64,
    /// Where.
    pub output: PathBuf,
    /// The file's rate; the model's when absent.
    pub rate_hz: Option<u32>,
    /// How the file holds its samples.
    pub format: WavFormat,
    /// What is changed on the way, and where: with prompts, the setup's stream must be a watched one.
    pub changes: Vec<(u64, Change)>,
}

/// How far it has come, in codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Whether the prompt is being listened to; otherwise music is being drawn.
    pub is_prompt: bool,
    /// Fed, or drawn.
    pub n_done: u64,
    /// Of so many.
    pub n_codes: u64,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// *Fatal*: the file cannot be written.
    #[error(transparent)]
    Write(#[from] WavError),
    /// *Fatal*: no way from the model's rate to the file's.
    #[error(transparent)]
    Rate(#[from] ResampleError),
    /// *Fatal*: the changes are not those of one stream.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The caller wanted no more.
    #[error("interrupted, and {} was not written", .0.display())]
    Interrupted(PathBuf),
}

/// Draws and writes the first of the setup's streams. `on_progress` hears time and again how far
/// that is; it may break off, and nothing is left behind.
pub fn render(
    setup: &mut Setup,
    order: &Order,
    mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), RenderError> {
    let place = setup.places[0];
    let engine = &mut setup.engines[place.engine];
    let model_hz = engine.model.config.sample_rate_hz;
    let rate_hz = order.rate_hz.unwrap_or(model_hz);
    let n_codes = ((order.seconds * f64::from(model_hz)).round() as u64).max(1);
    let n_frames = crate::resample::frames_for(n_codes, model_hz, rate_hz);
    let mut resampler = Resampler::new(model_hz, rate_hz, CHUNK_LEN)?;
    // Before the slow part, so that a wrong path is told at once.
    let mut file = WavWriter::create(&order.output, rate_hz, order.format, Some(n_frames))?;

    let decoder = &mut *engine.decoder;
    let start = &setup.starts[0];
    let mut on_prompt = |n_fed| {
        on_progress(Progress {
            is_prompt: true,
            n_done: n_fed as u64,
            n_codes: start.prompt.len() as u64,
        })
    };
    let interrupted = || RenderError::Interrupted(order.output.clone());
    let lanes = [
        place.lane,
        setup.spares[0].map_or(place.lane, |[spare, _]| spare),
    ];
    let chunk = ChunkShape {
        rate_hz: model_hz,
        len: CHUNK_LEN,
    };
    let stream = Replay::open(decoder, lanes, start, chunk, &mut on_prompt);
    let mut stream = stream.ok_or_else(interrupted)?;
    for (position, change) in &order.changes {
        stream.expect(*position, change.clone())?;
    }
    let mut samples = Vec::with_capacity(CHUNK_LEN);
    let mut n_drawn = 0;
    while n_drawn < n_codes {
        let wanted = (n_codes - n_drawn).min(CHUNK_LEN as u64);
        let codes = stream.next(decoder)?;
        let wanted = wanted.min(codes.len() as u64);
        let codes = &codes[..wanted as usize];
        samples.clear();
        samples.extend(codes.iter().map(|&code| mulaw::decode(code)));
        file.write(resampler.process(&samples))?;
        n_drawn += wanted;
        let progress = Progress {
            is_prompt: false,
            n_done: n_drawn,
            n_codes,
        };
        if on_progress(progress).is_break() {
            return Err(interrupted());
        }
    }
    file.write(resampler.flush())?;
    Ok(file.finish()?)
}
