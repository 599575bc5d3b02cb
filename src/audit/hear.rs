//! Listening: from a file or a model to seconds and a spectrogram.

use std::ops::ControlFlow;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::AuditError;
use super::alarms::{Alarm, Alarms};
use super::extract::Extractor;
use super::features::Second;
use super::spectrogram::Spectrogram;
use crate::model::{DrawParams, Model};
use crate::mulaw;
use crate::pump::{Start, Stream};
use crate::setup::Setup;
use crate::wav::{self, WavError};

/// Codes drawn between two looks at the caller.
const CHUNK_LEN: usize = 320;

/// What was listened to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A recording.
    File {
        /// Where it lies.
        path: String,
    },
    /// A model that drew as it went.
    Model {
        /// Its name.
        name: String,
        /// The digest of its weights.
        sha256: String,
        /// What the uniforms came from.
        seed: u64,
        /// How codes were drawn.
        draw: DrawParams,
        /// Codes of a prompt before the first second.
        n_prompt: usize,
    },
}

/// Everything heard, not judged yet.
#[derive(Debug)]
pub struct Heard {
    /// Where it came from.
    pub source: Source,
    /// Codes per second.
    pub rate_hz: u32,
    /// Second by second.
    pub seconds: Vec<Second>,
    /// When the watch of a daemon would have stepped in.
    pub alarms: Vec<Alarm>,
    /// Its picture.
    pub spectrogram: Spectrogram,
}

/// Listens to a file that must be at `rate_hz`; memory does not grow with it beyond some bytes for
/// each second.
pub fn file(path: &Path, rate_hz: u32) -> Result<Heard, AuditError> {
    let n_frames = wav::head(path)?.n_frames;
    let extractor = Extractor::new(rate_hz);
    let n_seconds = n_frames / u64::from(rate_hz);
    let mut spectrogram = Spectrogram::new(extractor.spectrum(), n_seconds);
    let mut alarms = Alarms::new(rate_hz);
    let mut watch = |codes: &[u8]| alarms.push(codes);
    let seconds = extract(path, extractor, &mut spectrogram, &mut watch)?;
    if seconds.is_empty() {
        return Err(AuditError::TooShort(path.to_owned()));
    }
    Ok(Heard {
        source: Source::File {
            path: path.display().to_string(),
        },
        rate_hz,
        seconds,
        alarms: alarms.finish(),
        spectrogram,
    })
}

/// The seconds of a file alone.
pub(super) fn seconds_of(path: &Path, rate_hz: u32) -> Result<Vec<Second>, AuditError> {
    let extractor = Extractor::new(rate_hz);
    let mut nobody = Spectrogram::new(extractor.spectrum(), 0);
    extract(path, extractor, &mut nobody, &mut |_| ())
}

/// The seconds of a file; `watch` sees its codes as well.
fn extract(
    path: &Path,
    mut extractor: Extractor,
    spectrogram: &mut Spectrogram,
    watch: &mut dyn FnMut(&[u8]),
) -> Result<Vec<Second>, AuditError> {
    let rate_hz = extractor.rate_hz();
    let mut codes = Vec::new();
    let heard = wav::each_block(path, rate_hz, &mut |block| {
        codes.clear();
        let encoded = block.iter().map(|sample| mulaw::encode(*sample));
        codes.extend(encoded.map(|code| code.expect("`each_block` gives finite samples only")));
        extractor.push(&codes, &mut |frames| spectrogram.push(frames));
        watch(&codes);
    });
    match heard {
        Ok(()) => Ok(extractor.finish(&mut |frames| spectrogram.push(frames))),
        Err(WavError::OtherRate { path, got, .. }) => Err(AuditError::Rate {
            path,
            got,
            expected: rate_hz,
        }),
        Err(error) => Err(error.into()),
    }
}

/// Lets every stream of the setup, all of one model, draw `seconds` seconds side by side, and listens
/// to each. `on_progress` hears how many codes of how many each has drawn, and may break off. How
/// certain the draws were is told of a stream alone: engines show no logits of many.
pub fn models(
    setup: &mut Setup,
    seconds: u64,
    mut on_progress: impl FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Vec<Heard>, AuditError> {
    let engine = &mut setup.engines[setup.places[0].engine];
    let (decoder, model) = (&mut *engine.decoder, &engine.model);
    let n_codes = seconds * u64::from(model.config.sample_rate_hz);
    let mut streams = Vec::with_capacity(setup.starts.len());
    let mut listeners = Vec::with_capacity(setup.starts.len());
    for (i, start) in setup.starts.iter().enumerate() {
        let lane = setup.places[i].lane;
        // A prompt is heard once, and no stream has drawn yet.
        let mut others = setup.starts[..i].iter();
        let stream = match others.position(|other| other.prompt == start.prompt) {
            Some(other) => {
                decoder.copy(setup.places[other].lane, lane);
                Some(Stream::at(lane, start, CHUNK_LEN))
            }
            None => {
                let mut on_prompt = |_| on_progress(0, n_codes);
                Stream::open(decoder, lane, start, CHUNK_LEN, &mut on_prompt)
            }
        };
        streams.push(stream.ok_or(AuditError::Interrupted)?);
        listeners.push(Listener::new(model, start, seconds));
    }
    let mut n_drawn = 0;
    while n_drawn < n_codes {
        match (&mut *streams, &mut *listeners) {
            ([stream], [listener]) => {
                let see = &mut |_, logits: &[f32]| listener.entropies.see(logits);
                stream.next_seen(decoder, see);
            }
            (streams, _) => Stream::next_of_all(streams, decoder),
        }
        let len = (n_codes - n_drawn).min(CHUNK_LEN as u64);
        let all = listeners.par_iter_mut().zip(&streams);
        all.for_each(|(listener, stream)| listener.hear(&stream.codes()[..len as usize]));
        n_drawn += len;
        if on_progress(n_drawn, n_codes).is_break() {
            return Err(AuditError::Interrupted);
        }
    }
    Ok(listeners.into_par_iter().map(Listener::finish).collect())
}

/// Who listens to a stream that a model draws.
#[derive(Debug)]
struct Listener {
    source: Source,
    extractor: Extractor,
    spectrogram: Spectrogram,
    alarms: Alarms,
    entropies: Entropies,
}

impl Listener {
    fn new(model: &Model, start: &Start, seconds: u64) -> Self {
        let rate_hz = model.config.sample_rate_hz;
        let extractor = Extractor::new(rate_hz);
        Self {
            source: Source::Model {
                name: model.name.clone(),
                sha256: model.sha256.clone(),
                seed: start.seed,
                draw: start.draw,
                n_prompt: start.prompt.len(),
            },
            spectrogram: Spectrogram::new(extractor.spectrum(), seconds),
            extractor,
            alarms: Alarms::new(rate_hz),
            entropies: Entropies::new(rate_hz, start.draw.temperature),
        }
    }

    fn hear(&mut self, codes: &[u8]) {
        let spectrogram = &mut self.spectrogram;
        let on_frames = &mut |frames: &_| spectrogram.push(frames);
        self.extractor.push(codes, on_frames);
        self.alarms.push(codes);
    }

    fn finish(mut self) -> Heard {
        let rate_hz = self.extractor.rate_hz();
        let spectrogram = &mut self.spectrogram;
        let mut seconds = self
            .extractor
            .finish(&mut |frames| spectrogram.push(frames));
        for (second, bits) in seconds.iter_mut().zip(&self.entropies.seconds) {
            second.draw_entropy_bits = Some(*bits);
        }
        Heard {
            source: self.source,
            rate_hz,
            seconds,
            alarms: self.alarms.finish(),
            spectrogram: self.spectrogram,
        }
    }
}

/// The mean entropy of the draws of every whole second.
#[derive(Debug)]
struct Entropies {
    rate_hz: u32,
    temperature: f32,
    n: u32,
    sum: f64,
    seconds: Vec<f32>,
}

impl Entropies {
    fn new(rate_hz: u32, temperature: f32) -> Self {
        Self {
            rate_hz,
            temperature,
            n: 0,
            sum: 0.0,
            seconds: Vec::new(),
        }
    }

    fn see(&mut self, logits: &[f32]) {
        self.sum += f64::from(entropy_bits(logits, self.temperature));
        self.n += 1;
        if self.n == self.rate_hz {
            self.seconds.push((self.sum / f64::from(self.n)) as f32);
            (self.n, self.sum) = (0, 0.0);
        }
    }
}

/// Shannon's entropy of softmax(logits / temperature); what is then cut or narrowed is not looked at.
pub(super) fn entropy_bits(logits: &[f32], temperature: f32) -> f32 {
    if temperature == 0.0 {
        return 0.0;
    }
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut sum, mut weighted) = (0.0, 0.0);
    for logit in logits {
        let x = (logit - top) / temperature;
        let share = x.exp();
        sum += share;
        weighted += share * x;
    }
    // log(sum) - mean of x: the shares sum to `sum`, the likeliest counts 1.
    ((sum.ln() - weighted / sum) * std::f32::consts::LOG2_E).max(0.0)
}
