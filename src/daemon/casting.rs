//! From what was set up to what plays: the pump's engines and streams, and what listeners are told of
//! them.

use std::sync::Arc;

use crate::broadcast::{self, Source, Writer};
use crate::config::{Config, NetworkConfig};
use crate::control::{ChunkShape, Controls};
use crate::engine::Omen;
use crate::model::Model;
use crate::net::{self, Desk};
use crate::protocol::{Facts, ModelFacts};
use crate::pump::{Engine, Opening, PumpSettings, Start};
use crate::setup::{ModelEngine, Setup};
use crate::state;

/// Packets a station's ring holds, in time, at least: who is further behind has lost some.
const RING_MS: u32 = 4_000;

/// And at least so many jitter buffers: a newcomer begins one of them behind.
const RING_BUFFERS: u32 = 4;

/// A station that has not begun.
pub(super) struct Waiting {
    /// Its place in the list of engines.
    pub engine: usize,
    pub model: Arc<Model>,
    pub facts: Facts,
    pub source: Source,
    /// Of an engine that may fail.
    pub omen: Option<Arc<Omen>>,
    /// At the card.
    gain: f32,
}

impl Waiting {
    /// As listeners see it, with somebody to change it: the pump's station `number`.
    pub fn open(&self, number: usize, controls: &Controls) -> net::Station {
        let desk = Desk::new(controls.clone(), number, self.facts.clone(), self.gain);
        net::Station {
            facts: self.facts.clone(),
            source: self.source.clone(),
            hears: hears(&self.model),
            desk: Arc::new(desk),
        }
    }
}

/// One ring a station: how the pump begins it, and what is known of it.
pub(super) fn stations(config: &Config, setup: &Setup) -> (Vec<Opening>, Vec<Waiting>) {
    let NetworkConfig {
        packet_ms,
        jitter_ms,
        ..
    } = config.network;
    let n_slots = RING_MS.max(RING_BUFFERS * jitter_ms).div_ceil(packet_ms) as usize;
    let named = config.stations.iter().zip(&setup.starts);
    let placed = named.zip(setup.places.iter().zip(&setup.spares));
    placed
        .map(|((station, start), (&place, &spares))| {
            let engine = &setup.engines[place.engine];
            let chunk = chunk_of(engine, &config.network);
            let (writer, source): (Writer, Source) = broadcast::ring(n_slots, chunk.len);
            let waiting = Waiting {
                engine: place.engine,
                model: engine.model.clone(),
                facts: facts(&station.name, start, engine, chunk),
                source,
                omen: engine.decoder.omen(),
                gain: start.kept.as_ref().map_or(1.0, |kept| kept.gain),
            };
            let opening = Opening {
                start: start.clone(),
                place,
                spares,
                writer,
            };
            (opening, waiting)
        })
        .unzip()
}

/// As the pump has them.
pub(super) fn engines(engines: Vec<ModelEngine>, network: &NetworkConfig) -> Vec<Engine> {
    let engines = engines.into_iter().map(|engine| Engine {
        chunk: chunk_of(&engine, network),
        sessions: engine.sessions,
        decoder: engine.decoder,
    });
    engines.collect()
}

/// Codes of the shortest packet of all.
pub(super) fn packet_len(setup: &Setup, network: &NetworkConfig) -> usize {
    let chunks = setup.engines.iter().map(|e| chunk_of(e, network).len);
    chunks.min().unwrap_or(0)
}

/// What an engine draws at a time: a packet.
fn chunk_of(engine: &ModelEngine, network: &NetworkConfig) -> ChunkShape {
    let rate_hz = engine.model.config.sample_rate_hz;
    let len = network.packet_len(rate_hz);
    ChunkShape { rate_hz, len }
}

pub(super) fn pump_settings(config: &Config, setup: &Setup) -> PumpSettings {
    PumpSettings {
        // A pause that listeners' buffers survive must be made up for afterwards.
        lead_ms: config.card_lead_ms().max(config.network.jitter_ms),
        cpu: setup.cpus.first().copied(),
    }
}

/// What clients may have of their own.
pub(super) fn sessions(config: &Config, setup: &Setup, max: usize) -> net::Sessions {
    let models = setup.engines.iter().map(|engine| {
        let start = Start {
            draw: engine.model.config.draw,
            ..Start::default()
        };
        let chunk = chunk_of(engine, &config.network);
        net::SessionModel {
            facts: facts("session", &start, engine, chunk),
            hears: hears(&engine.model),
        }
    });
    let models = models.collect();
    net::Sessions { max, models }
}

fn hears(model: &Model) -> usize {
    model.config.receptive_field() as usize
}

fn facts(name: &str, start: &Start, engine: &ModelEngine, chunk: ChunkShape) -> Facts {
    Facts {
        station: name.to_owned(),
        model: ModelFacts {
            name: engine.model.name.clone(),
            sha256: engine.model.sha256.clone(),
        },
        seed: start.seed,
        draw: start.draw,
        since: start.first_position(),
        isa: engine.decoder.isa().to_owned(),
        sample_rate_hz: chunk.rate_hz,
        packet_len: chunk.len as u32,
        first_position: start.first_position(),
        prompt_sha256: state::prompt_sha256(&start.prompt),
    }
}
