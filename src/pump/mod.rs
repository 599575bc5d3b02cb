//! The generation thread: which stations are due, draw a chunk for all of them, send it on.
//!
//! [`Primed::new`] feeds the prompts on the caller's thread; [`Primed::start`] runs the thread
//! "pump", which should not be given a real-time class: it computes without end and could starve
//! the machine. From then on it neither allocates, locks nor logs; it tells what it does by telemetry, takes
//! commands between chunks, and sleeps when nothing is due. A chunk is a packet: what the engine
//! draws at a time, listeners get at a time.
//!
//! What is drawn is watched: a stream that collapses into noise or silence fades back to a copy that
//! was made while all was well. Nobody else is told to, and nobody has to wait for it.
//!
//! Stations may use different engines, which it drives one after the other on its one thread.
//!
//! The pump knows no device and no socket: cards are rings it fills, listeners a ring it writes.

mod ensemble;
mod fade;
mod guard;
mod line;
mod replay;
mod servo;
mod session;
mod station;
mod stream;
mod voice;
mod watch;
mod wings;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::broadcast::Writer;
use crate::control::{
    self, ChunkShape, Command, ControlError, Controls, Inbox, Order, Retired, Snapshot, Whose,
};
use crate::engine::Decoder;
use crate::machine;
use crate::telemetry::Telemetry;

use ensemble::Drawn;
use station::Station;
use wings::{Cue, ENSEMBLES_MAX, Left, Stage, Wings, wings};

pub use ensemble::Ensemble;
pub use replay::{Replay, ReplayError};
pub use stream::{Start, Stream};
pub use watch::{Collapse, Judgement, Look, Watch};

/// Stations one pump can drive: the turns of a call lie on the stack.
pub const STATIONS_MAX: usize = 64;

/// The longest nap, so that commands and the loss of a card are seen soon.
const NAP_MAX: Duration = Duration::from_millis(10);

/// Why the pump did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    /// Fatal: more stations than a pump drives.
    #[error("{got} stations are more than the {STATIONS_MAX} that can play: configure fewer")]
    TooManyStations {
        /// Stations asked for.
        got: usize,
    },
    /// Fatal: a bug of the caller.
    #[error("no engine {} has a lane {} for a station", .0.engine, .0.lane)]
    NoLane(Place),
    /// Fatal: a chunk of nothing.
    #[error("a packet must hold at least one code at a rate above 0 Hz")]
    NoPacket,
    /// The caller did not want to wait for the prompts.
    #[error("interrupted while listening to a prompt")]
    Interrupted,
    /// Fatal: the system gives no thread.
    #[error("cannot start the generation thread: {0}")]
    Thread(#[from] std::io::Error),
    /// Fatal: a bug in the engine or here.
    #[error("the generation thread panicked")]
    Panicked,
    /// Fatal or retry: see [`ControlError`].
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// A model's engine and what it is asked for at a time.
pub struct Engine {
    /// Draws.
    pub decoder: Box<dyn Decoder>,
    /// The chunks of all its stations and sessions.
    pub chunk: ChunkShape,
    /// Lanes for sessions, which nobody else has: one each, and one more to hear new prompts with.
    pub sessions: Vec<usize>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("isa", &self.decoder.isa())
            .field("chunk", &self.chunk)
            .finish_non_exhaustive()
    }
}

/// Where a station's codes are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which engine, by its place in the pump's list.
    pub engine: usize,
    /// Which of its lanes.
    pub lane: usize,
}

/// A station that shall begin.
#[derive(Debug)]
pub struct Opening {
    /// How its stream begins.
    pub start: Start,
    /// Its lane, which nobody else has.
    pub place: Place,
    /// Two lanes more of its engine, for copies to return to: then it is watched.
    pub spares: Option<[usize; 2]>,
    /// Its listeners' ring, whose slots hold a chunk of the engine. Packet 0 begins where the
    /// prompt ended.
    pub writer: Writer,
}

impl Opening {
    /// All lanes that it needs.
    fn places(&self) -> impl Iterator<Item = Place> {
        let spares = self.spares.into_iter().flatten();
        let spares = spares.map(|lane| Place { lane, ..self.place });
        std::iter::once(self.place).chain(spares)
    }
}

/// What all stations of a pump share.
#[derive(Clone, Copy, Debug, Default)]
pub struct PumpSettings {
    /// How far ahead of the wall clock a station without a card is kept.
    pub lead_ms: u32,
    /// The CPU that the thread is kept on; the scheduler's choice when absent.
    pub cpu: Option<usize>,
}

impl PumpSettings {
    fn lead(&self) -> Duration {
        Duration::from_millis(self.lead_ms.into())
    }
}

/// A pump whose stations are primed and whose clocks do not run yet: the moment to attach a card,
/// so that it plays from the very first code.
pub struct Primed {
    body: Body,
    controls: Controls,
    wings: Wings,
}

impl std::fmt::Debug for Primed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Primed").finish_non_exhaustive()
    }
}

impl Primed {
    /// Feeds every station's prompt, with an eye on `on_prompt` as in [`Stream::open`].
    pub fn new(
        engines: Vec<Engine>,
        stations: Vec<Opening>,
        settings: PumpSettings,
        telemetry: Arc<Telemetry>,
        on_prompt: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Self, PumpError> {
        let chunks = stations.iter().map(|s| engines.get(s.place.engine));
        let chunks = chunks.map(|engine| engine.map(|engine| engine.chunk));
        let chunks: Vec<ChunkShape> = chunks.map(Option::unwrap_or_default).collect();
        let mut ensembles = Vec::with_capacity(ENSEMBLES_MAX);
        let none = Numbers::default();
        ensembles.extend(open(engines, stations, (settings, none), on_prompt)?);
        let (controls, inbox) = control::channel(chunks);
        let (wings, stage) = wings();
        let body = Body {
            ensembles,
            cpu: settings.cpu,
            telemetry,
            inbox,
            stage,
        };
        Ok(Self {
            body,
            controls,
            wings,
        })
    }

    /// A way to command the pump, now or later.
    pub fn controls(&self) -> Controls {
        self.controls.clone()
    }

    /// Starts the thread "pump".
    pub fn start(self) -> Result<Pump, PumpError> {
        let thread = thread::Builder::new()
            .name("pump".to_owned())
            .spawn(move || Stopped(self.body.run()))?;
        Ok(Pump {
            controls: self.controls,
            wings: self.wings,
            thread,
        })
    }
}

/// A pump that runs.
#[derive(Debug)]
pub struct Pump {
    controls: Controls,
    wings: Wings,
    thread: JoinHandle<Stopped>,
}

impl Pump {
    /// Has these play from now on. Waits for nothing.
    pub fn join(&mut self, ensembles: Vec<Ensemble>) -> Result<(), PumpError> {
        for ensemble in ensembles {
            for station in &ensemble.stations {
                self.controls.note(station.number, ensemble.chunk);
            }
            self.cue(Cue::Join(ensemble))?;
        }
        Ok(())
    }

    /// Has a station fade out and go, and its engine with the last of its stations. With `room` for the
    /// state of a lane it [leaves](Self::left) all that it goes on from. Waits for nothing.
    pub fn leave(&mut self, station: usize, room: Vec<u8>) -> Result<(), PumpError> {
        self.cue(Cue::Leave(Box::new(Snapshot {
            station,
            bytes: room,
            ..Snapshot::default()
        })))
    }

    /// A station that has left, if one has, with as much of what it was as there was room for; what it
    /// took of memory is free then.
    pub fn left(&mut self) -> Option<Snapshot> {
        let Left { snapshot, .. } = self.wings.left.pop().ok()?;
        self.controls.forget(snapshot.station);
        Some(*snapshot)
    }

    fn cue(&mut self, cue: Cue) -> Result<(), PumpError> {
        let pushed = self.wings.cues.push(cue);
        // A pump that follows no cues has been told as much as there can be to tell.
        pushed.map_err(|_| ControlError::Stuck.into())
    }

    /// Whether the thread is there; it ends by `stop`, or by a bug.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Ends the thread and waits for it, one chunk at most.
    pub fn stop(self) -> Result<Stopped, PumpError> {
        match self.controls.stop() {
            // Gone already: why, the thread knows.
            Ok(()) | Err(ControlError::Gone) => {}
            Err(error) => return Err(error.into()),
        }
        self.thread.join().map_err(|_| PumpError::Panicked)
    }
}

/// A pump that has ended, with every stream as it was then.
pub struct Stopped(Body);

impl std::fmt::Debug for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stopped").finish_non_exhaustive()
    }
}

impl Stopped {
    /// What a station goes on from; `None` if there is no such station.
    pub fn snapshot(&mut self, station: usize) -> Option<Snapshot> {
        let mut ensembles = self.0.ensembles.iter_mut();
        let (of, decoder) = ensembles.find_map(|ensemble| {
            let of = ensemble.stations.iter_mut().find(|s| s.number == station)?;
            Some((of, &mut *ensemble.decoder))
        })?;
        let mut snapshot = Snapshot {
            station,
            bytes: vec![0; decoder.state_len()],
            ..Snapshot::default()
        };
        of.fill(&mut snapshot, decoder);
        Some(snapshot)
    }
}

/// Numbers that were given out: those of the next begin here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers {
    /// To engines, in the order of their list.
    pub engines: usize,
    /// To stations, in the order of theirs.
    pub stations: usize,
}

/// Engines whose stations are primed, for a pump that [runs](Pump::join) or is made; feeds every
/// station's prompt, with an eye on `on_prompt` as in [`Stream::open`]. A station's place names an engine
/// of the list.
pub fn open(
    engines: Vec<Engine>,
    stations: Vec<Opening>,
    (settings, given): (PumpSettings, Numbers),
    on_prompt: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<Ensemble>, PumpError> {
    check(&engines, &stations)?;
    let mut openings: Vec<_> = (given.stations..).zip(stations).collect();
    let engines = engines.into_iter().enumerate();
    let ensembles = engines.map(|(index, engine)| {
        let is_its = |(_, opening): &mut (usize, Opening)| opening.place.engine == index;
        let its = openings.extract_if(.., is_its).collect();
        let number = given.engines + index;
        Ensemble::open(number, engine, its, settings.lead(), on_prompt)
    });
    ensembles.collect()
}

/// Refuses what [`Body`] could not drive.
fn check(engines: &[Engine], stations: &[Opening]) -> Result<(), PumpError> {
    let of_sessions = engines.iter().map(|engine| engine.sessions.len());
    let got = stations.len() + of_sessions.sum::<usize>();
    if got > STATIONS_MAX {
        return Err(PumpError::TooManyStations { got });
    }
    let is_empty = |chunk: ChunkShape| chunk.len == 0 || chunk.rate_hz == 0;
    if engines.iter().any(|engine| is_empty(engine.chunk)) {
        return Err(PumpError::NoPacket);
    }
    let mut taken: Vec<Place> = Vec::new();
    let of_sessions = engines.iter().enumerate().flat_map(|(engine, e)| {
        let lanes = e.sessions.iter();
        lanes.map(move |&lane| Place { engine, lane })
    });
    for place in stations.iter().flat_map(Opening::places).chain(of_sessions) {
        let engine = engines.get(place.engine);
        let is_there = engine.is_some_and(|engine| place.lane < engine.decoder.n_lanes());
        if !is_there || taken.contains(&place) {
            return Err(PumpError::NoLane(place));
        }
        taken.push(place);
    }
    Ok(())
}

/// All that the thread owns.
struct Body {
    /// With room for all there can be: who joins does not make it grow.
    ensembles: Vec<Ensemble>,
    cpu: Option<usize>,
    telemetry: Arc<Telemetry>,
    inbox: Inbox,
    stage: Stage,
}

impl Body {
    fn run(mut self) -> Self {
        machine::ask_for_precedence();
        if let Some(cpu) = self.cpu {
            machine::pin_to(cpu);
        }
        while self.obey() {
            let nap = self.step(Instant::now());
            if !nap.is_zero() {
                thread::sleep(nap.min(NAP_MAX));
            }
        }
        self
    }

    fn station(&mut self, number: usize) -> Option<&mut Station> {
        let ensembles = self.ensembles.iter_mut();
        let mut stations = ensembles.flat_map(|ensemble| &mut ensemble.stations);
        stations.find(|station| station.number == number)
    }

    /// Takes the commands that came; `false` to end.
    fn obey(&mut self) -> bool {
        while let Some(command) = self.inbox.take() {
            // Whoever commands a station has let it join before.
            self.stage.follow(&mut self.ensembles);
            // A station that does not exist plays nothing: what is meant for it goes back.
            let retired = match command {
                Command::Stop => return false,
                Command::AttachCard { station, line } => match self.station(station) {
                    Some(station) => station.attach(line).map(Retired::Line),
                    None => Some(Retired::Line(line)),
                },
                Command::DetachCard { station } => {
                    let station = self.station(station);
                    station.and_then(Station::detach).map(Retired::Line)
                }
                Command::Change(order) => self.change(order).map(Retired::Order),
                Command::Open(session) => {
                    let mut ensembles = self.ensembles.iter_mut();
                    match ensembles.find(|ensemble| ensemble.number == session.engine) {
                        Some(ensemble) => {
                            let decoder = &mut *ensemble.decoder;
                            ensemble.sessions.open(session, decoder, &self.inbox);
                            None
                        }
                        None => Some(Retired::Session(session)),
                    }
                }
                Command::Keep(snapshot) => {
                    let earlier = match self.station(snapshot.station) {
                        Some(station) => station.ask(snapshot),
                        None => Some(snapshot),
                    };
                    earlier.map(Retired::Snapshot)
                }
            };
            if let Some(retired) = retired {
                self.inbox.retire(retired);
            }
        }
        self.stage.follow(&mut self.ensembles);
        true
    }

    fn change(&mut self, order: Box<Order>) -> Option<Box<Order>> {
        match order.whose {
            Whose::Station(station) => match self.station(station) {
                Some(station) => station.obey(order),
                None => Some(order),
            },
            Whose::Session(number) => {
                let mut sessions = self.ensembles.iter_mut().map(|e| &mut e.sessions);
                match sessions.find(|sessions| sessions.has(number)) {
                    Some(sessions) => sessions.obey(number, order),
                    None => Some(order),
                }
            }
        }
    }

    /// Draws a chunk for every station that is due. If none is, takes in a tile of a prompt, copies a
    /// station that wants to be or keeps one; if there is nothing of that, says how long until one will
    /// be due.
    fn step(&mut self, now: Instant) -> Duration {
        // A goodbye waits for no quiet moment: there may be none until a station has gone.
        let has_left = self.stage.dismiss(&mut self.ensembles);
        let soonest = self.find_due(now);
        let has_worked = has_left || !soonest.is_zero() && self.work_ahead();
        if soonest.is_zero() {
            self.generate(now);
        }
        self.tell_lead(now);
        // Such work takes time: what was due later may be due now.
        if has_worked { Duration::ZERO } else { soonest }
    }

    /// What has time until nothing is due, one piece of it; whether there was any.
    fn work_ahead(&mut self) -> bool {
        let ensembles = &mut self.ensembles;
        if ensembles.iter_mut().any(|e| e.prime(&self.inbox))
            || ensembles.iter_mut().any(Ensemble::copy)
        {
            return true;
        }
        let kept = ensembles.iter_mut().find_map(Ensemble::keep);
        kept.map(|snapshot| self.inbox.give(snapshot)).is_some()
    }

    /// Marks the streams that are due and says how long until the first is. Timers half a chunk
    /// apart or less are served together: one call of an engine costs less than two.
    fn find_due(&mut self, now: Instant) -> Duration {
        let ensembles = self.ensembles.iter_mut();
        let waits = ensembles.map(|e| e.find_due(now, &self.inbox));
        waits.min().unwrap_or(Duration::MAX)
    }

    /// Serves all streams that are due, engine after engine: what the first has drawn does not
    /// wait for the last. The load is that of all of them together.
    fn generate(&mut self, now: Instant) {
        let told = &self.telemetry.pump;
        let mut all = Drawn::default();
        for ensemble in &mut self.ensembles {
            let drawn = ensemble.serve(now, told);
            all.n_streams += drawn.n_streams;
            all.n_codes += drawn.n_codes;
            all.load += drawn.load;
            all.lost += drawn.lost;
        }
        told.chunk_load.observe(all.load);
        told.chunks.add(all.n_streams);
        let n_late = if all.load > 1.0 { all.n_streams } else { 0 };
        told.late_chunks.add(n_late);
        told.codes.add(all.n_codes);
        told.lost_us.add(all.lost.as_micros() as u64);
    }

    /// The station nearest to running dry speaks for all.
    fn tell_lead(&self, now: Instant) {
        let stations = self.ensembles.iter().flat_map(|e| &e.stations);
        let leads = stations.map(|station| station.lead_s(now));
        let least = leads.min_by(f64::total_cmp).unwrap_or(0.0);
        self.telemetry.pump.lead_us.set((least * 1e6) as u64);
    }
}

#[cfg(test)]
mod tests;
