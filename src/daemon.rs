//! The daemon: what starts in which order, what stops it, and what it says of itself meanwhile.
//!
//! The order: the socket is bound (a port in use is told at once), the models read, the machine
//! measured (more stations than it plays in time are refused), prompts heard, the card opened, the pump started, listeners let in; ready is told when something was played.
//! It ends by SIGINT or SIGTERM: the card fades out while listeners are told, and all is over
//! within [`STOP_MAX`]; a second signal ends it there and then. [`run`] blocks the main thread; the
//! runtime's threads are called "net" and see nothing but sockets and this module's clock.

mod announce;
mod beat;
mod door;
mod keeper;
mod optional_card;
mod pace;
mod recording;
mod reload;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time;

use crate::access::TokensError;
use crate::broadcast::{self, Source, Writer};
use crate::capacity::{Capacity, Overload};
use crate::config::{CardUse, Config, NetworkConfig};
use crate::control::{ChunkShape, Controls};
use crate::model::Model;
use crate::net::{self, Desk, House, Readiness};
use crate::protocol::{Draw, Facts, ModelFacts};
use crate::pump::{Engine, Opening, Primed, Pump, PumpError, PumpSettings, Start};
use crate::record::Recorder;
use crate::setup::{ModelEngine, Setup, SetupError};
use crate::signals::Signals;
use crate::telemetry::Telemetry;
use crate::tls::TlsError;
use beat::Heart;
use door::{Door, Keys, page_address};
use keeper::Keeper;
use optional_card::OptionalCard;
use reload::Reloader;

pub use beat::Beat;
pub use optional_card::CardError;
pub use reload::Reread;

/// From the first signal to the end, whatever hangs.
pub const STOP_MAX: Duration = Duration::from_millis(1_900);

/// Threads for sockets: one would do, and a second keeps a slow one from being heard.
const N_NET_THREADS: usize = 2;

/// Packets a station's ring holds, in time, at least: who is further behind has lost some.
const RING_MS: u32 = 4_000;

/// And at least so many jitter buffers: a newcomer begins one of them behind.
const RING_BUFFERS: u32 = 4;

/// Why the daemon did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Fatal: see [`SetupError`].
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// Fatal: see [`Overload`].
    #[error(transparent)]
    Overload(#[from] Overload),
    /// Fatal: see [`TokensError`].
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// Fatal: see [`TlsError`].
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Retry or fatal: the address cannot be had.
    #[error("cannot listen on {address}: {source}; name another with --listen")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// Fatal: nobody has said who may listen.
    #[error(
        "everybody who can reach {0} could listen: name a file with a token to listen with --tokens, or say \
         --open if that is meant"
    )]
    Wide(SocketAddr),
    /// Retry or fatal: there must be a card, and there is none.
    #[error(transparent)]
    Card(#[from] CardError),
    /// Fatal: see [`PumpError`].
    #[error(transparent)]
    Pump(#[from] PumpError),
    /// Fatal: a bug.
    #[error("the generation thread has ended; the log may tell why")]
    PumpEnded,
    /// Retry: the listening socket broke.
    #[error("the network broke down: {0}")]
    Network(io::Error),
    /// Fatal: the system gives no thread, signal or clock.
    #[error("cannot start: {0}")]
    System(io::Error),
    /// Somebody did not want to wait.
    #[error("a second signal: left without a farewell")]
    Forced,
}

/// Plays what `config` says until a signal comes. `on_beat` hears ten times a second how it goes. SIGHUP
/// has the configuration read again by `reread`; where there is none, it ends it as SIGTERM does.
pub fn run(
    config: &Config,
    reread: Option<Reread<'_>>,
    on_beat: &mut dyn FnMut(&Beat<'_>),
) -> Result<(), DaemonError> {
    let door = config.network.enabled.then(|| Door::open(&config.network));
    let door = door.transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(N_NET_THREADS)
        .thread_name("net")
        .enable_all()
        .build()
        .map_err(DaemonError::System)?;
    let setup = Setup::new(config)?;
    let result = match Running::start(config, setup, door, &runtime) {
        Ok(running) => runtime.block_on(running.live(reread, on_beat)),
        Err(DaemonError::Pump(PumpError::Interrupted)) => Ok(()),
        Err(error) => Err(error),
    };
    // A thread that still hangs, in a farewell or at a card, ends with the process.
    runtime.shutdown_background();
    result
}

/// Everything that runs.
struct Running {
    signals: Signals,
    heart: Heart,
    pump: Pump,
    controls: Controls,
    keeper: Option<Keeper>,
    recorders: Vec<Recorder>,
    reloader: Reloader,
    card: Option<OptionalCard>,
    network: Option<Network>,
}

/// The server's task and the word that ends it.
struct Network {
    page: String,
    task: JoinHandle<io::Result<()>>,
    stop: oneshot::Sender<()>,
}

impl Running {
    fn start(
        config: &Config,
        mut setup: Setup,
        door: Option<Door>,
        runtime: &Runtime,
    ) -> Result<Self, DaemonError> {
        let _inside = runtime.enter();
        let telemetry = Arc::new(Telemetry::default());
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        telemetry
            .start_time_s
            .set(now.unwrap_or_default().as_secs());
        let readiness = Arc::<Readiness>::default();
        let keeper = Keeper::open(config, &mut setup, telemetry.clone());
        announce::setup(config, &setup);
        let n_sessions = admit(config, &mut setup, &telemetry)?;
        let subject = subject(config, &setup);
        let chunks = setup
            .engines
            .iter()
            .map(|engine| chunk_of(engine, &config.network));
        let packet_len = chunks.map(|chunk| chunk.len as u64).min().unwrap_or(0);
        let (openings, waiting) = stations(config, &setup);
        let places = setup.places.iter();
        let models = places.map(|place| setup.engines[place.engine].model.clone());
        let models: Vec<Arc<Model>> = models.collect();
        let sessions = sessions(config, &setup, n_sessions);
        // From here on nothing is cut: neither a prompt nor, later, what sounds.
        let mut signals = Signals::new().map_err(DaemonError::System)?;
        let told = telemetry.clone();
        let primed = prime(config, setup, openings, told, &mut signals)?;
        // A card that is there before the first code plays it.
        let opening = open_card(config, primed.controls(), &telemetry, &mut signals);
        let card = runtime.block_on(opening)?;
        let controls = primed.controls();
        // Before the first packet, or it would not be in the first file.
        let heard = waiting.iter().map(|w| (&w.facts, &w.source));
        let recorders = recording::start(config, heard, &telemetry).map_err(DaemonError::System)?;
        let pump = primed.start()?;
        let waiting = waiting.into_iter().enumerate();
        let stations = waiting.map(|(index, station)| station.open(index, &controls));
        let stations: Vec<net::Station> = stations.collect();
        let desks = stations.iter().map(|station| station.desk.clone());
        let (listener, keys) = door.map(|door| (door.listener, door.keys)).unzip();
        let desks = models.into_iter().zip(desks).collect();
        let reloader = Reloader::new(config.clone(), desks, keys.clone());
        let house = House {
            stations,
            controls: controls.clone(),
            sessions,
            settings: net_settings(&config.network, keys),
            telemetry: telemetry.clone(),
            readiness: readiness.clone(),
        };
        let network = listener.map(|listener| Network::start(listener, house));
        Ok(Self {
            signals,
            heart: Heart::new(
                telemetry,
                subject,
                packet_len,
                config.card.enabled == CardUse::Required,
                readiness,
            ),
            pump,
            controls,
            keeper,
            recorders,
            reloader,
            card,
            network: network.transpose()?,
        })
    }

    async fn live(
        mut self,
        reread: Option<Reread<'_>>,
        on_beat: &mut dyn FnMut(&Beat<'_>),
    ) -> Result<(), DaemonError> {
        let mut ticks = time::interval(beat::TICK);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let result = loop {
            tokio::select! {
                signal = self.signals.any() => match (signal, reread) {
                    (Ok(()), Some(reread)) => self.reload(reread),
                    (signal, _) => {
                        tracing::info!("{}: fading out", signal.err().unwrap_or("SIGHUP"));
                        break Ok(());
                    }
                },
                error = network_end(&mut self.network) => break Err(DaemonError::Network(error)),
                _ = ticks.tick() => {}
            }
            if !self.pump.is_running() {
                break Err(DaemonError::PumpEnded);
            }
            let page = self.network.as_ref().map(|network| &*network.page);
            self.heart.beat(self.card.as_ref(), page, on_beat);
            if let Some(keeper) = &mut self.keeper {
                keeper.beat(&self.controls);
            }
        };
        self.heart.stop();
        result.and(self.stop().await)
    }

    fn reload(&mut self, reread: Reread<'_>) {
        for (station, asked) in self.reloader.reload(reread) {
            if let Some(keeper) = &mut self.keeper {
                keeper.adopt(station, asked);
            }
        }
    }

    /// The card fades while the pump still feeds it and listeners are told; the pump ends last, and what
    /// its streams were then is recorded to the end and kept.
    async fn stop(self) -> Result<(), DaemonError> {
        let Self {
            mut signals,
            pump,
            keeper,
            recorders,
            card,
            network,
            ..
        } = self;
        let fade = tokio::task::spawn_blocking(|| card.map(OptionalCard::stop));
        let farewell = async move {
            if let Some(network) = network {
                // If nobody hears it, the task has ended already.
                let _ = network.stop.send(());
                let _ = network.task.await;
            }
        };
        let stopping = async move {
            let _ = tokio::join!(fade, farewell);
            tokio::task::spawn_blocking(|| -> Result<(), PumpError> {
                let stopped = pump.stop();
                Recorder::finish(recorders);
                let stopped = stopped?;
                if let Some(keeper) = keeper {
                    keeper.finish(stopped);
                }
                Ok(())
            })
            .await
        };
        tokio::select! {
            stopped = stopping => match stopped {
                Ok(result) => Ok(result?),
                Err(_) => Err(PumpError::Panicked.into()),
            },
            _ = signals.next() => Err(DaemonError::Forced),
            () = time::sleep(STOP_MAX) => {
                tracing::warn!("something did not end in time and was left behind");
                Ok(())
            }
        }
    }
}

impl Network {
    fn start(listener: TcpListener, house: House) -> Result<Self, DaemonError> {
        let address = listener.local_addr().map_err(DaemonError::System)?;
        let page = page_address(address, house.settings.identity.is_some());
        let listener = tokio::net::TcpListener::from_std(listener).map_err(DaemonError::System)?;
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            // Dropped or sent, it means the same.
            let _ = stopped.await;
        };
        let task = tokio::spawn(net::serve(listener, house, shutdown));
        Ok(Self { page, task, stop })
    }
}

/// How the server ended, which it does not by itself; never, where there is none.
async fn network_end(network: &mut Option<Network>) -> io::Error {
    let Some(Network { task, .. }) = network else {
        return std::future::pending().await;
    };
    let end = task.await;
    // Asked once more for its end, the task would panic.
    *network = None;
    match end {
        Ok(Err(error)) => error,
        Ok(Ok(())) => io::Error::other("the server ended"),
        Err(error) => io::Error::other(error),
    }
}

/// Measures what the stations cost here, says so, and refuses more than there is time for.
/// Says how many sessions there is time for besides.
fn admit(config: &Config, setup: &mut Setup, telemetry: &Telemetry) -> Result<usize, Overload> {
    let capacity: Capacity = setup.warm_up(&config.network);
    let engines: Vec<usize> = setup.places.iter().map(|place| place.engine).collect();
    let warning = capacity.judge(&engines, config.overload)?;
    announce::capacity(&capacity, warning);
    let n_more = capacity.room_for(engines[0]);
    let n_lanes = capacity.n_lanes();
    telemetry.lanes.open.set(n_lanes as u64);
    telemetry.lanes.capacity.set((n_lanes + n_more) as u64);
    // Nobody knows which models clients will want.
    let all = 0..setup.engines.len();
    let n_fit = all
        .map(|engine| capacity.room_for(engine))
        .min()
        .unwrap_or(0);
    let max = config.sessions.max;
    let n_sessions = if config.overload { max } else { max.min(n_fit) };
    announce::sessions(n_sessions, max);
    Ok(n_sessions)
}

/// What plays, in a few words: what a status begins with.
fn subject(config: &Config, setup: &Setup) -> String {
    let names = config.stations.iter().map(|station| station.name.as_str());
    let isa = setup.engines.first().map_or("", |e| e.decoder.isa());
    format!("{} on {isa}", names.collect::<Vec<_>>().join(", "))
}

/// What an engine draws at a time: a packet.
fn chunk_of(engine: &ModelEngine, network: &NetworkConfig) -> ChunkShape {
    let rate_hz = engine.model.config.sample_rate_hz;
    let len = network.packet_len(rate_hz);
    ChunkShape { rate_hz, len }
}

fn pump_settings(config: &Config, setup: &Setup) -> PumpSettings {
    PumpSettings {
        // A pause that listeners' buffers survive must be made up for afterwards.
        lead_ms: config.card.lead_ms.max(config.network.jitter_ms),
        cpu: setup.cpus.first().copied(),
    }
}

fn net_settings(network: &NetworkConfig, keys: Option<Keys>) -> net::Settings {
    let (tokens, identity) = keys.map(|keys| (keys.tokens, keys.identity)).unzip();
    net::Settings {
        max_listeners: network.max_listeners,
        max_per_address: network.max_per_address,
        tokens: tokens.unwrap_or_default(),
        identity: identity.flatten(),
        allowed_origins: network.allowed_origins.clone(),
        // Full on arrival: a newcomer hears something at once.
        burst_ms: network.jitter_ms,
        jitter_buffer_ms: network.jitter_ms,
        ..net::Settings::default()
    }
}

/// One ring a station: how the pump begins it, and what listeners get to see.
fn stations(config: &Config, setup: &Setup) -> (Vec<Opening>, Vec<Waiting>) {
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
            let facts = facts(&station.name, start, engine, chunk);
            let opening = Opening {
                start: start.clone(),
                place,
                spares,
                writer,
            };
            let hears = engine.model.config.receptive_field() as usize;
            let station = Waiting {
                facts,
                source,
                hears,
                gain: start.kept.as_ref().map_or(1.0, |kept| kept.gain),
            };
            (opening, station)
        })
        .unzip()
}

/// A station that has not begun.
struct Waiting {
    facts: Facts,
    source: Source,
    hears: usize,
    gain: f32,
}

impl Waiting {
    /// With somebody to change it.
    fn open(self, index: usize, controls: &Controls) -> net::Station {
        let desk = Desk::new(controls.clone(), index, self.facts.clone(), self.gain);
        net::Station {
            facts: self.facts,
            source: self.source,
            hears: self.hears,
            desk: Arc::new(desk),
        }
    }
}

/// What clients may have of their own.
fn sessions(config: &Config, setup: &Setup, max: usize) -> net::Sessions {
    let models = setup.engines.iter().map(|engine| {
        let start = Start {
            draw: engine.model.config.draw,
            ..Start::default()
        };
        let chunk = chunk_of(engine, &config.network);
        net::SessionModel {
            facts: facts("session", &start, engine, chunk),
            hears: engine.model.config.receptive_field() as usize,
        }
    });
    let models = models.collect();
    net::Sessions { max, models }
}

fn facts(name: &str, start: &Start, engine: &ModelEngine, chunk: ChunkShape) -> Facts {
    Facts {
        station: name.to_owned(),
        model: ModelFacts {
            name: engine.model.name.clone(),
            sha256: engine.model.sha256.clone(),
        },
        seed: start.seed,
        draw: Draw {
            temperature: start.draw.temperature,
            max_entropy: start.draw.max_entropy,
            max_rise: start.draw.max_rise,
            leveling: start.draw.leveling,
            top_p: start.draw.top_p,
            min_p: start.draw.min_p,
        },
        since: start.first_position(),
        isa: engine.decoder.isa().to_owned(),
        sample_rate_hz: chunk.rate_hz,
        packet_len: chunk.len as u32,
        first_position: start.first_position(),
        prompt_sha256: net::prompt_sha256(&start.prompt),
    }
}

/// Feeds the prompts, unless a signal comes.
fn prime(
    config: &Config,
    setup: Setup,
    openings: Vec<Opening>,
    telemetry: Arc<Telemetry>,
    signals: &mut Signals,
) -> Result<Primed, PumpError> {
    let n_codes: usize = setup.starts.iter().map(|start| start.prompt.len()).sum();
    if n_codes > 0 {
        tracing::info!("listening to {n_codes} codes of prompt");
    }
    let settings = pump_settings(config, &setup);
    let engines = setup.engines.into_iter().map(|engine| Engine {
        chunk: chunk_of(&engine, &config.network),
        sessions: engine.sessions,
        decoder: engine.decoder,
    });
    Primed::new(
        engines.collect(),
        openings,
        settings,
        telemetry,
        &mut |_| {
            let Some(signal) = signals.take() else {
                return ControlFlow::Continue(());
            };
            tracing::info!("{signal}: stopping before anything sounds");
            ControlFlow::Break(())
        },
    )
}

/// `None`: without a card by wish, or because there is none and none is required. The system may
/// take seconds: signals are heard meanwhile.
async fn open_card(
    config: &Config,
    controls: Controls,
    telemetry: &Arc<Telemetry>,
    signals: &mut Signals,
) -> Result<Option<OptionalCard>, DaemonError> {
    if config.card.enabled == CardUse::Off {
        return Ok(None);
    }
    let (settings, station) = (config.card.clone(), config.card_station());
    let telemetry = telemetry.clone();
    let open = move || OptionalCard::open(&settings, station, controls, telemetry);
    let opened = tokio::select! {
        opened = tokio::task::spawn_blocking(open) => opened,
        signal = signals.next() => {
            tracing::info!("{signal}: stopping before anything sounds");
            return Err(PumpError::Interrupted.into());
        }
    };
    match opened.map_err(|error| DaemonError::System(io::Error::other(error)))? {
        Ok(card) => {
            tracing::info!("playing on {card}");
            Ok(Some(card))
        }
        Err(error) if config.card.enabled == CardUse::Auto => {
            tracing::warn!("{error}; going on without");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits;
    use crate::pump::STATIONS_MAX;

    #[test]
    fn a_configuration_may_have_as_many_stations_as_the_pump_drives() {
        assert!(limits::STATIONS.check(STATIONS_MAX as f64).is_ok());
        assert!(limits::STATIONS.check((STATIONS_MAX + 1) as f64).is_err());
    }

    #[tokio::test]
    async fn a_network_that_has_ended_is_not_asked_again() {
        let (stop, _stopped) = oneshot::channel();
        let task = tokio::spawn(async { Err(io::Error::other("out of order")) });
        let page = String::new();
        let mut network = Some(Network { page, task, stop });
        let error = network_end(&mut network).await;
        assert_eq!(error.to_string(), "out of order");
        assert!(network.is_none());
    }
}
