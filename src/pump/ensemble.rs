//! An engine and the streams that it draws: what comes to the pump, and goes from it, as one.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::{ChunkShape, Inbox, Retired, Snapshot};
use crate::engine::{Decoder, DrawParams, Omen, Turn};
use crate::telemetry::PumpTelemetry;

use super::guard::Guard;
use super::session::Sessions;
use super::station::{Station, Tempo};
use super::stream::Stream;
use super::voice::Voice;
use super::watch::Collapse;
use super::{Engine, Opening, PumpError, STATIONS_MAX};

/// Turns of a call: all stations may return from a collapse at once.
const TURNS_MAX: usize = 2 * STATIONS_MAX;

/// Streams that were opened, and wait for the pump.
pub struct Ensemble {
    /// By which sessions name their engine; nobody else's.
    pub(super) number: usize,
    pub(super) decoder: Box<dyn Decoder>,
    /// Of an engine that may fail.
    omen: Option<Arc<Omen>>,
    pub(super) chunk: ChunkShape,
    pub(super) stations: Vec<Station>,
    pub(super) sessions: Sessions,
}

impl std::fmt::Debug for Ensemble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ensemble")
            .field("number", &self.number)
            .field("isa", &self.decoder.isa())
            .finish_non_exhaustive()
    }
}

/// What one call of an engine came to.
#[derive(Default)]
pub(super) struct Drawn {
    pub n_streams: u64,
    pub n_codes: u64,
    /// Of the time that a chunk plays.
    pub load: f64,
    /// What stations without a card were behind the clock.
    pub lost: Duration,
}

impl Ensemble {
    /// Feeds the prompts of the stations, each with its number, with an eye on `on_prompt` as in
    /// [`Stream::open`].
    pub(super) fn open(
        number: usize,
        engine: Engine,
        openings: Vec<(usize, Opening)>,
        lead: Duration,
        on_prompt: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Self, PumpError> {
        let Engine {
            mut decoder,
            chunk,
            sessions,
        } = engine;
        let tempo = Tempo {
            chunk: duration(chunk),
            lead,
        };
        let mut open = |(number, opening): (usize, Opening)| {
            let (start, lane) = (&opening.start, opening.place.lane);
            let stream = Stream::open(&mut *decoder, lane, start, chunk.len, on_prompt);
            let stream = stream.ok_or(PumpError::Interrupted)?;
            let gain = start.kept.as_ref().map_or(1.0, |kept| kept.gain);
            let guard = opening.spares;
            let guard = guard.map(|spares| Guard::new(&stream, spares, chunk, &mut *decoder));
            let voice = Voice::new(stream, chunk);
            let of = (number, tempo);
            Ok(Station::new((voice, guard), opening.writer, of, gain))
        };
        let stations = openings.into_iter().map(&mut open);
        Ok(Self {
            stations: stations.collect::<Result<_, PumpError>>()?,
            sessions: Sessions::new(&sessions, chunk, tempo),
            number,
            omen: decoder.omen(),
            decoder,
            chunk,
        })
    }

    /// Takes in one tile of one prompt.
    pub(super) fn prime(&mut self, inbox: &Inbox) -> bool {
        let decoder = &mut *self.decoder;
        for station in &mut self.stations {
            let (has_primed, done) = station.prime(decoder);
            if let Some(order) = done {
                inbox.retire(Retired::Order(order));
            }
            if has_primed {
                return true;
            }
        }
        self.sessions.prime(decoder, inbox)
    }

    /// Copies one station that wants to be; one at a time, for it takes a good part of a chunk.
    pub(super) fn copy(&mut self) -> bool {
        let decoder = &mut *self.decoder;
        self.stations.iter_mut().any(|s| s.copy(decoder))
    }

    /// What one station is, if somebody has asked; takes as long as a copy.
    pub(super) fn keep(&mut self) -> Option<Box<Snapshot>> {
        let decoder = &mut *self.decoder;
        self.stations.iter_mut().find_map(|s| s.keep(decoder))
    }

    /// Marks the streams that are due and says how long until the first is.
    pub(super) fn find_due(&mut self, now: Instant, inbox: &Inbox) -> Duration {
        let mut soonest = Duration::MAX;
        for station in &mut self.stations {
            while let Some(line) = station.take_lost() {
                inbox.retire(Retired::Line(line));
            }
            let wait = station.wait(now);
            station.is_due = wait.is_zero() || station.is_flexible(wait);
            soonest = soonest.min(wait);
        }
        match self.has_fallen() {
            true => self.sessions.shed(inbox),
            false => self.sessions.sweep(inbox),
        }
        for slot in &mut self.sessions.slots {
            let wait = slot.wait(now);
            slot.is_due = wait.is_zero() || slot.is_flexible(wait);
            soonest = soonest.min(wait);
        }
        soonest
    }

    /// Whether another engine draws than the one that its lanes were counted for.
    fn has_fallen(&self) -> bool {
        self.omen.as_ref().is_some_and(|omen| omen.get().is_some())
    }

    /// Serves all streams that are due.
    pub(super) fn serve(&mut self, now: Instant, told: &PumpTelemetry) -> Drawn {
        let begin = Instant::now();
        let n_due = self.draw();
        if n_due == 0 {
            return Drawn::default();
        }
        let step = begin.elapsed().as_secs_f64() / self.chunk.len as f64;
        told.step_s.observe(step);
        let due = |station: &&mut Station| station.is_due;
        let stations = self.stations.iter_mut().filter(due);
        let lost = stations.map(|station| station.deliver(now)).sum();
        // It may have failed just now, and what it would have drawn for sessions nobody has.
        if !self.has_fallen() {
            self.sessions.deliver(now);
        }
        for station in self.stations.iter_mut().filter(due) {
            match station.look(&mut *self.decoder) {
                Some(Collapse::Noise) => told.noise_collapses.add(1),
                Some(Collapse::Dead) => told.dead_collapses.add(1),
                None => {}
            }
        }
        Drawn {
            n_streams: n_due as u64,
            n_codes: (n_due * self.chunk.len) as u64,
            load: begin.elapsed().as_secs_f64() / duration(self.chunk).as_secs_f64(),
            lost,
        }
    }

    /// One call for all streams that are due; how many there are.
    fn draw(&mut self) -> usize {
        let mut turns: [Turn<'_>; TURNS_MAX] = std::array::from_fn(|_| Turn {
            lane: 0,
            draw: DrawParams::default(),
            uniforms: &[],
            codes: &mut [],
        });
        let (mut n_due, mut n_turns) = (0, 0);
        let stations = self.stations.iter_mut().filter(|station| station.is_due);
        let slots = self.sessions.slots.iter_mut().filter(|slot| slot.is_due);
        let voices = stations.map(|station| &mut station.voice);
        for voice in voices.chain(slots.map(|slot| &mut slot.voice)) {
            n_due += 1;
            for turn in voice.turns() {
                turns[n_turns] = turn;
                n_turns += 1;
            }
        }
        if n_turns > 0 {
            self.decoder.generate(&mut turns[..n_turns]);
        }
        n_due
    }
}

/// How long a chunk plays.
fn duration(chunk: ChunkShape) -> Duration {
    Duration::from_secs_f64(chunk.len as f64 / f64::from(chunk.rate_hz))
}
