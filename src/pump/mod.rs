//! The generation thread: which stations are due, draw a chunk for all of them, send it on.
//!
//! [`Primed::new`] feeds the prompts on the caller's thread; [`Primed::start`] runs the thread
//! "pump", which should not be given a real-time class: it computes without end and could starve
//! the machine. From then on it neither allocates, locks nor logs; it tells what it does by telemetry, takes
//! commands between chunks, and sleeps when nothing is due. A chunk is a packet: what the engine
//! draws at a time, listeners get at a time.
//!
//! The pump knows no device and no socket: cards are rings it fills, listeners a ring it writes.

mod station;
mod stream;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::broadcast::Writer;
use crate::control::{self, Command, ControlError, Controls, Inbox};
use crate::engine::{Decoder, DrawParams, Turn};
use crate::telemetry::Telemetry;

use station::{Station, Tempo};

pub use stream::{Start, Stream};

/// Stations one pump can drive: the turns of a call lie on the stack.
pub const STATIONS_MAX: usize = 64;

/// The longest nap, so that commands and the loss of a card are seen soon.
const NAP_MAX: Duration = Duration::from_millis(10);

/// Why the pump did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    /// Fatal: more stations than the engine has lanes for.
    #[error("{got} stations do not fit into {max} lanes: configure fewer")]
    TooManyStations {
        /// Stations asked for.
        got: usize,
        /// Lanes there are.
        max: usize,
    },
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

/// What all stations of a pump share.
#[derive(Clone, Copy, Debug)]
pub struct PumpSettings {
    /// Codes per second of the model.
    pub rate_hz: u32,
    /// Codes per chunk and per packet.
    pub packet_len: usize,
    /// How far ahead of the wall clock a station without a card is kept.
    pub lead_ms: u32,
}

/// A pump whose stations are primed and whose clocks do not run yet: the moment to attach a card,
/// so that it plays from the very first code.
pub struct Primed {
    body: Body,
    controls: Controls,
}

impl std::fmt::Debug for Primed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Primed").finish_non_exhaustive()
    }
}

impl Primed {
    /// Feeds every station's prompt, in lanes 0, 1, ... as they come, with an eye on `on_prompt`
    /// as in [`Stream::open`]. Each writer's slots hold `packet_len` codes; its packet 0 begins
    /// where the station's prompt ended.
    pub fn new(
        mut decoder: Box<dyn Decoder>,
        stations: Vec<(Start, Writer)>,
        settings: PumpSettings,
        telemetry: Arc<Telemetry>,
        on_prompt: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Self, PumpError> {
        let (controls, inbox) = control::channel(settings.rate_hz, settings.packet_len);
        let stations = open_stations(&mut *decoder, stations, settings, on_prompt)?;
        let body = Body::new(decoder, stations, settings, telemetry, inbox);
        Ok(Self { body, controls })
    }

    /// A way to command the pump, now or later.
    pub fn controls(&self) -> Controls {
        self.controls.clone()
    }

    /// Starts the thread "pump".
    pub fn start(self) -> Result<Pump, PumpError> {
        let thread = thread::Builder::new()
            .name("pump".to_owned())
            .spawn(move || self.body.run())?;
        Ok(Pump {
            controls: self.controls,
            thread,
        })
    }
}

/// A pump that runs.
#[derive(Debug)]
pub struct Pump {
    controls: Controls,
    thread: JoinHandle<()>,
}

impl Pump {
    /// Whether the thread is there; it ends by `stop`, or by a bug.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Ends the thread and waits for it, one chunk at most.
    pub fn stop(self) -> Result<(), PumpError> {
        match self.controls.stop() {
            // Gone already: why, the thread knows.
            Ok(()) | Err(ControlError::Gone) => {}
            Err(error) => return Err(error.into()),
        }
        self.thread.join().map_err(|_| PumpError::Panicked)
    }
}

/// A station for each lane, its prompt fed.
fn open_stations(
    decoder: &mut dyn Decoder,
    stations: Vec<(Start, Writer)>,
    settings: PumpSettings,
    on_prompt: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<Station>, PumpError> {
    let (got, max) = (stations.len(), decoder.n_lanes().min(STATIONS_MAX));
    if got > max {
        return Err(PumpError::TooManyStations { got, max });
    }
    if settings.packet_len == 0 || settings.rate_hz == 0 {
        return Err(PumpError::NoPacket);
    }
    let open = |(lane, (start, writer)): (usize, (Start, Writer))| {
        let stream = Stream::open(decoder, lane, &start, settings.packet_len, on_prompt);
        let stream = stream.ok_or(PumpError::Interrupted)?;
        Ok(Station::new(stream, writer))
    };
    stations.into_iter().enumerate().map(open).collect()
}

/// All that the thread owns.
struct Body {
    decoder: Box<dyn Decoder>,
    stations: Vec<Station>,
    tempo: Tempo,
    telemetry: Arc<Telemetry>,
    inbox: Inbox,
}

impl Body {
    fn new(
        decoder: Box<dyn Decoder>,
        stations: Vec<Station>,
        settings: PumpSettings,
        telemetry: Arc<Telemetry>,
        inbox: Inbox,
    ) -> Self {
        let chunk_s = settings.packet_len as f64 / f64::from(settings.rate_hz);
        Self {
            decoder,
            stations,
            tempo: Tempo {
                rate_hz: settings.rate_hz,
                chunk: Duration::from_secs_f64(chunk_s),
                lead: Duration::from_millis(settings.lead_ms.into()),
            },
            telemetry,
            inbox,
        }
    }

    fn run(mut self) {
        ask_for_precedence();
        while self.obey() {
            let nap = self.step(Instant::now());
            if !nap.is_zero() {
                thread::sleep(nap.min(NAP_MAX));
            }
        }
    }

    /// Takes the commands that came; `false` to end.
    fn obey(&mut self) -> bool {
        while let Some(command) = self.inbox.take() {
            let (station, line) = match command {
                Command::Stop => return false,
                Command::AttachCard { station, line } => (station, Some(line)),
                Command::DetachCard { station } => (station, None),
            };
            // A station that does not exist plays nothing: its card goes back.
            let retired = match (self.stations.get_mut(station), line) {
                (Some(station), Some(line)) => station.attach(line),
                (Some(station), None) => station.detach(),
                (None, line) => line,
            };
            if let Some(line) = retired {
                self.inbox.retire(line);
            }
        }
        true
    }

    /// Draws a chunk for every station that is due; if none is, says how long until one will be.
    fn step(&mut self, now: Instant) -> Duration {
        let soonest = self.find_due(now);
        if soonest.is_zero() {
            self.generate();
            for station in self.stations.iter_mut().filter(|station| station.is_due) {
                station.deliver(now, &self.tempo);
            }
        }
        self.tell_lead(now);
        soonest
    }

    /// Marks the stations that are due and says how long until the first is. Timers half a chunk
    /// apart or less are served together: one call of the engine costs less than two.
    fn find_due(&mut self, now: Instant) -> Duration {
        let is_card_live = self.telemetry.card.is_live.get() == 1;
        let mut soonest = Duration::MAX;
        for station in &mut self.stations {
            let is_lost = !is_card_live || station.is_cut_off();
            if is_lost && let Some(line) = station.detach() {
                self.inbox.retire(line);
            }
            let wait = station.wait(now, &self.tempo);
            let is_soon = station.is_flexible() && wait <= self.tempo.chunk / 2;
            station.is_due = wait.is_zero() || is_soon;
            soonest = soonest.min(wait);
        }
        soonest
    }

    /// One call of the engine for all stations that are due.
    fn generate(&mut self) {
        let mut turns: [Turn<'_>; STATIONS_MAX] = std::array::from_fn(|_| Turn {
            lane: 0,
            draw: DrawParams::default(),
            uniforms: &[],
            codes: &mut [],
        });
        let mut n_due = 0;
        for station in self.stations.iter_mut().filter(|station| station.is_due) {
            turns[n_due] = station.stream.turn();
            n_due += 1;
        }
        let n_codes = turns[..n_due]
            .iter()
            .map(|turn| turn.codes.len())
            .sum::<usize>();
        let begin = Instant::now();
        self.decoder.generate(&mut turns[..n_due]);
        let load = begin.elapsed().as_secs_f64() / self.tempo.chunk.as_secs_f64();

        let told = &self.telemetry.pump;
        told.chunk_load.observe(load);
        told.chunks.add(n_due as u64);
        told.late_chunks
            .add(if load > 1.0 { n_due as u64 } else { 0 });
        told.codes.add(n_codes as u64);
    }

    /// The station nearest to running dry speaks for all.
    fn tell_lead(&self, now: Instant) {
        let leads = self.stations.iter().map(|s| s.lead_codes(now, &self.tempo));
        self.telemetry.pump.lead_codes.set(leads.min().unwrap_or(0));
    }
}

/// Lets this thread go before others that are no more urgent than a build. Only the privileged may;
/// for anybody else the generator competes as it is, which costs nothing but margin.
fn ask_for_precedence() {
    const NICENESS: i32 = -10;
    // Of this thread alone: to Linux a thread is what POSIX calls a process here.
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

#[cfg(test)]
mod tests;
