//! What sessions there are, and opening one: the request, its prompt, a place in the pump.

use crate::control::{Change, Controls, Receipt};
use crate::mulaw;
use crate::protocol::{Facts, Format, PromptHead, Start};
use crate::state::sha256_of;
use crate::wav::{self, WavFormat};
use serde::Serialize;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Rates of prompts.
const RATES_HZ: RangeInclusive<u32> = 4_000..=48_000;
/// What a session's ring holds, in packets: what the pump may be ahead of the network.
const RING_PACKETS: usize = 50;

/// What sessions may be drawn.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    /// At once.
    pub max: usize,
    /// By the pump's engines, in their order.
    pub models: Vec<SessionModel>,
}

/// A model that sessions may have.
#[derive(Clone, Debug)]
pub struct SessionModel {
    /// What a hello says of a session of it, before anything is asked for.
    pub facts: Facts,
    /// How far back it hears, in codes.
    pub hears: usize,
}

/// All sessions of the house.
#[derive(Debug)]
pub(super) struct Register {
    pub(super) models: Vec<SessionModel>,
    pub(super) max: usize,
    places: Arc<Semaphore>,
    controls: Controls,
    /// What those that play are: for branches.
    present: Mutex<HashMap<u64, (usize, Facts)>>,
}

/// What sessions may be had, for those who have none yet.
#[derive(Debug, Serialize)]
pub(super) struct Offer {
    /// At once.
    max: usize,
    /// That could be had now.
    free: usize,
    /// Whether whoever asks may have one.
    may: bool,
    models: Vec<OfferedModel>,
}

#[derive(Debug, Serialize)]
struct OfferedModel {
    name: String,
    sample_rate_hz: u32,
    hears: usize,
}

/// A session's place, free again when dropped.
#[derive(Debug)]
pub(super) struct Seat(#[allow(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

/// A session that the pump was asked for.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) number: u64,
    pub(super) ring: rtrb::Consumer<u8>,
    pub(super) receipt: Receipt,
    pub(super) facts: Facts,
    pub(super) engine: usize,
}

impl Register {
    pub(super) fn new(sessions: Sessions, controls: Controls) -> Self {
        Self {
            places: Arc::new(Semaphore::new(sessions.max)),
            max: sessions.max,
            models: sessions.models,
            controls,
            present: Mutex::default(),
        }
    }

    pub(super) fn seat(&self) -> Option<Seat> {
        self.places.clone().try_acquire_owned().ok().map(Seat)
    }

    pub(super) fn offer(&self, may: bool) -> Offer {
        let models = self.models.iter().map(|model| OfferedModel {
            name: model.facts.model.name.clone(),
            sample_rate_hz: model.facts.sample_rate_hz,
            hears: model.hears,
        });
        Offer {
            max: self.max,
            free: self.places.available_permits(),
            may,
            models: models.collect(),
        }
    }

    pub(super) fn controls(&self) -> &Controls {
        &self.controls
    }

    /// Which engine a session is for.
    pub(super) fn engine_for(&self, start: &Start) -> Result<usize, String> {
        if let Some(parent) = &start.branch_of {
            return self.parent(parent).map(|(_, engine, _)| engine);
        }
        let Some(name) = &start.model else {
            return Ok(0);
        };
        let known = |model: &SessionModel| model.facts.model.name == *name;
        self.models.iter().position(known).ok_or_else(|| {
            let names = self.models.iter().map(|model| &*model.facts.model.name);
            let names = names.collect::<Vec<_>>().join(", ");
            format!("there is no model {name:?} here; the models are: {names}")
        })
    }

    fn parent(&self, parent: &str) -> Result<(u64, usize, Facts), String> {
        let number = u64::from_str_radix(parent, 16);
        let number = number.map_err(|_| format!("{parent:?} is no session's name"))?;
        let present = self.present();
        let found = present.get(&number);
        let (engine, facts) = found.ok_or("that session plays no more, or not yet")?;
        Ok((number, *engine, facts.clone()))
    }

    /// Asks the pump for a session.
    pub(super) fn open(
        &self,
        engine: usize,
        start: &Start,
        prompt: Option<Box<[u8]>>,
    ) -> Result<Opened, String> {
        let parent = start.branch_of.as_deref().map(|name| self.parent(name));
        let parent = parent.transpose()?;
        if parent.is_some() && prompt.is_some() {
            return Err("a branch has a past already; leave out the prompt".into());
        }
        let number = RandomState::new().hash_one(engine);
        let mut facts = match &parent {
            Some((_, _, facts)) => facts.clone(),
            None => self.models[engine].facts.clone(),
        };
        facts.draw = start.patch.draw.unwrap_or(facts.draw);
        facts.draw.check()?;
        facts.seed = start
            .seed
            .unwrap_or(RandomState::new().hash_one(number) >> 32);
        if parent.is_none() {
            facts.prompt_sha256 = prompt.as_deref().map(sha256_of);
        }
        let begin = Change {
            seed: Some(facts.seed),
            draw: Some(facts.draw),
            gain: None,
            prompt,
        };
        let branch_of = parent.map(|(number, ..)| number);
        let ring_len = RING_PACKETS * facts.packet_len as usize;
        let asked = (begin, branch_of);
        let opened = self.controls.open_session(number, engine, asked, ring_len);
        let (ring, receipt) = opened.map_err(|error| error.to_string())?;
        Ok(Opened {
            number,
            ring,
            receipt,
            facts,
            engine,
        })
    }

    /// Says what a session is now; `None` when it ends.
    pub(super) fn note(&self, number: u64, is: Option<(usize, Facts)>) {
        match is {
            Some(is) => self.present().insert(number, is),
            None => self.present().remove(&number),
        };
    }

    fn present(&self) -> MutexGuard<'_, HashMap<u64, (usize, Facts)>> {
        // What is in it is whole whoever panicked.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes of a prompt a model can make use of, or why of none.
    pub(super) fn check_prompt(&self, engine: usize, head: &PromptHead) -> Result<(), String> {
        let model = &self.models[engine];
        let model_hz = model.facts.sample_rate_hz;
        let rate_hz = head.rate_hz.unwrap_or(model_hz);
        if head.format == Format::Mulaw && rate_hz != model_hz {
            return Err(format!("codes have the model's own rate, {model_hz} Hz"));
        }
        if !RATES_HZ.contains(&rate_hz) && rate_hz != model_hz {
            return Err(format!(
                "a prompt has a rate from 4000 to 48000 Hz, not {rate_hz}"
            ));
        }
        let n_samples = model.hears as u64 * u64::from(rate_hz) / u64::from(model_hz);
        // And a little to settle a resampler with.
        let most = (n_samples + u64::from(rate_hz)) * head.format.sample_len() as u64;
        let sample_len = head.format.sample_len();
        if head.n_bytes == 0
            || head.n_bytes as u64 > most
            || !head.n_bytes.is_multiple_of(sample_len)
        {
            return Err(format!(
                "a prompt in this format has from {sample_len} to {most} bytes, in whole samples: \
                 what the model hears"
            ));
        }
        Ok(())
    }

    /// The codes of a prompt, as far back as the model hears; may take some milliseconds.
    pub(super) fn prompt(
        &self,
        engine: usize,
        head: &PromptHead,
        bytes: Vec<u8>,
    ) -> Result<Box<[u8]>, String> {
        let model = &self.models[engine];
        let model_hz = model.facts.sample_rate_hz;
        let codes = match head.format {
            Format::Mulaw => bytes,
            format => {
                let rate_hz = head.rate_hz.unwrap_or(model_hz);
                let last_s = model.hears as f64 / f64::from(model_hz);
                let wav = as_wav(format, rate_hz, &bytes);
                let samples = wav::parse_mono(wav, "the prompt", model_hz, last_s);
                let samples = samples.map_err(|error| error.to_string())?;
                let code = |sample| mulaw::encode(sample).unwrap_or(mulaw::SILENCE);
                samples.into_iter().map(code).collect()
            }
        };
        Ok(codes[codes.len().saturating_sub(model.hears)..].into())
    }
}

/// Samples with a header before them, so that there is one way to read sound.
fn as_wav(format: Format, rate_hz: u32, samples: &[u8]) -> Vec<u8> {
    let format = match format {
        Format::F32 => WavFormat::F32,
        Format::Mulaw | Format::S16 => WavFormat::S16,
    };
    [&wav::header(format, rate_hz, samples.len() as u32), samples].concat()
}
