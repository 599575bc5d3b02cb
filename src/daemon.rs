//! The daemon: what starts in which order, what stops it, and what it says of itself meanwhile.
//!
//! The order: the socket is bound (a port in use is told at once), the models read, the machine
//! measured (more stations than it plays in time are refused), prompts heard, the card opened, the pump started, listeners let in; ready is told when something was played.
//! It ends by SIGINT or SIGTERM: the card fades out while listeners are told, and all is over
//! within [`STOP_MAX`]; a second signal ends it there and then. [`run`] blocks the main thread; the
//! runtime's threads are called "net" and see nothing but sockets and this module's clock.

mod air;
mod announce;
mod beat;
mod cards;
mod casting;
mod door;
mod keeper;
mod kept;
mod network;
mod optional_card;
mod pace;
mod plan;
mod recording;
mod reload;

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time;

use crate::access::TokensError;
use crate::capacity::Overload;
use crate::config::{CardConfig, CardUse, Config};
use crate::control::Controls;
use crate::net::{House, Readiness, STATES_MAX};
use crate::pump::{Numbers, Opening, Primed, Pump, PumpError, PumpSettings};
use crate::record::Recorder;
use crate::setup::{Setup, SetupError};
use crate::signals::Signals;
use crate::telemetry::Telemetry;
use crate::tls::TlsError;
use air::{Air, Load, OnAir};
use beat::Heart;
use cards::Cards;
use casting::Waiting;
use door::Door;
use keeper::Keeper;
use network::Network;
use reload::{Hands, Reloader};

pub use beat::Beat;
pub use optional_card::CardError;
pub use reload::Reread;

/// From the first signal to the end, whatever hangs.
pub const STOP_MAX: Duration = Duration::from_millis(1_900);

/// Threads for sockets: one would do, and a second keeps a slow one from being heard.
const N_NET_THREADS: usize = 2;

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
    keeper: Keeper,
    reloader: Reloader,
    cards: Cards,
    network: Option<Network>,
    telemetry: Arc<Telemetry>,
}

impl Running {
    fn start(
        config: &Config,
        mut setup: Setup,
        door: Option<Door>,
        runtime: &Runtime,
    ) -> Result<Self, DaemonError> {
        let _inside = runtime.enter();
        let telemetry = telemetry(config);
        let (inquiries, inquired) = mpsc::channel(STATES_MAX);
        let keeper = Keeper::open(config, &mut setup, telemetry.clone(), inquired);
        announce::setup(config, &setup);
        let (load, n_sessions) = admit(config, &mut setup, &telemetry)?;
        let sessions = casting::sessions(config, &setup, n_sessions);
        let packet_len = casting::packet_len(&setup, &config.network);
        let settings = casting::pump_settings(config, &setup);
        let (openings, waiting) = casting::stations(config, &setup);
        // From here on nothing is cut: neither a prompt nor, later, what sounds.
        let mut signals = Signals::new().map_err(DaemonError::System)?;
        let primed = prime(
            config,
            setup,
            openings,
            (settings, &telemetry),
            &mut signals,
        )?;
        let controls = primed.controls();
        // A card that is there before the first code plays it.
        let opening = Cards::open(config, &controls, &telemetry, &mut signals);
        let cards = runtime.block_on(opening)?;
        // Recorded before the first packet, or it would not be in the first file.
        let air = air(config, waiting, load, (&controls, &telemetry));
        let air = air.map_err(DaemonError::System)?;
        let pump = primed.start()?;
        let heart = Heart::new(
            telemetry.clone(),
            air.subject(),
            packet_len as u64,
            config.cards.iter().any(|c| c.enabled == CardUse::Required),
            Arc::<Readiness>::default(),
        );
        let (readiness, stations) = (heart.readiness(), air.roster());
        let keys = door.as_ref().map(|door| door.keys.clone());
        let told = (controls.clone(), telemetry.clone());
        let reloader = Reloader::new(config, air, settings, keys, told);
        let network = door.map(|door| {
            let house = House {
                stations,
                controls: controls.clone(),
                sessions,
                settings: network::settings(&config.network, door.keys),
                telemetry: telemetry.clone(),
                readiness,
                inquiries,
            };
            Network::start(door.listener, house)
        });
        Ok(Self {
            signals,
            heart,
            pump,
            controls,
            keeper,
            reloader,
            cards,
            network: network.transpose()?,
            telemetry,
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
                    (Ok(()), Some(_)) => self.reloader.ask(),
                    (signal, _) => {
                        tracing::info!("{}: fading out", signal.err().unwrap_or("SIGHUP"));
                        break Ok(());
                    }
                },
                error = network::end(&mut self.network) => break Err(DaemonError::Network(error)),
                _ = ticks.tick() => {}
            }
            if !self.pump.is_running() {
                break Err(DaemonError::PumpEnded);
            }
            let page = self.network.as_ref().map(|network| &*network.page);
            self.heart.beat(&self.cards, page, on_beat);
            self.tell_falls();
            self.keeper.beat(&self.controls);
            if let Some(reread) = reread {
                self.reload(reread);
            }
        };
        self.heart.stop();
        result.and(self.stop().await)
    }

    /// Says once of each engine that it has failed.
    fn tell_falls(&mut self) {
        for (model, fall) in self.reloader.fallen() {
            let air = &self.reloader.air;
            announce::fall(&model, &fall);
            self.telemetry.pump.engine_failures.add(1);
            air.tell_lanes(&self.telemetry);
            self.heart.set_subject(air.subject());
        }
    }

    fn reload(&mut self, reread: Reread<'_>) {
        let hands = Hands {
            pump: &mut self.pump,
            keeper: &mut self.keeper,
            cards: &self.cards,
            heart: &mut self.heart,
        };
        self.reloader.go_on(reread, hands);
    }

    /// The card fades while the pump still feeds it and listeners are told; the pump ends last, and what
    /// its streams were then is recorded to the end and kept.
    async fn stop(self) -> Result<(), DaemonError> {
        let Self {
            mut signals,
            pump,
            keeper,
            reloader,
            cards,
            network,
            ..
        } = self;
        let fade = tokio::task::spawn_blocking(|| cards.stop());
        let farewell = async move {
            if let Some(network) = network {
                network.stop().await;
            }
        };
        let stopping = async move {
            let _ = tokio::join!(fade, farewell);
            tokio::task::spawn_blocking(|| -> Result<(), PumpError> {
                let stopped = pump.stop();
                Recorder::finish(reloader.into_recorders());
                let stopped = stopped?;
                keeper.finish(stopped);
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

fn telemetry(config: &Config) -> Arc<Telemetry> {
    let telemetry = Telemetry::with_cards(config.cards.iter().map(CardConfig::name));
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    telemetry
        .start_time_s
        .set(now.unwrap_or_default().as_secs());
    Arc::new(telemetry)
}

/// Measures what the stations cost here, says so, and refuses more than there is time for.
/// Says how many sessions there is time for besides.
fn admit(
    config: &Config,
    setup: &mut Setup,
    telemetry: &Telemetry,
) -> Result<(Load, usize), Overload> {
    let capacity = setup.warm_up(&config.network, false);
    let engines: Vec<usize> = setup.places.iter().map(|place| place.engine).collect();
    let warning = capacity.judge(&engines, config.overload)?;
    announce::capacity(&capacity, warning);
    air::tell_lanes(&capacity, engines[0], telemetry);
    // Nobody knows which models clients will want.
    let rooms = (0..setup.engines.len()).map(|engine| capacity.room_for(engine));
    let n_fit = rooms.min().unwrap_or(0);
    let max = config.sessions.max;
    let n_sessions = if config.overload { max } else { max.min(n_fit) };
    announce::sessions(n_sessions, max);
    let load = Load {
        reserve: capacity.cost_of_more(n_sessions),
        engines: capacity.engines().iter().cloned().enumerate().collect(),
        n_with_sessions: if max > 0 { setup.engines.len() } else { 0 },
    };
    Ok((load, n_sessions))
}

/// Everything that hangs on the first stations, which begin in a moment.
fn air(
    config: &Config,
    waiting: Vec<Waiting>,
    load: Load,
    (controls, telemetry): (&Controls, &Arc<Telemetry>),
) -> io::Result<Air> {
    let given = Numbers {
        engines: load.engines.len(),
        stations: waiting.len(),
    };
    let stations = config.stations.iter().zip(waiting).enumerate();
    let stations = stations.map(|(index, (station, waiting))| {
        let mut on_air = OnAir::new(waiting, Numbers::default(), index, controls);
        on_air.recorder = on_air.record(station, &config.state, telemetry)?;
        Ok(on_air)
    });
    Ok(Air::new(stations.collect::<io::Result<_>>()?, load, given))
}

/// Feeds the prompts, unless a signal comes.
fn prime(
    config: &Config,
    setup: Setup,
    openings: Vec<Opening>,
    (settings, telemetry): (PumpSettings, &Arc<Telemetry>),
    signals: &mut Signals,
) -> Result<Primed, PumpError> {
    let n_codes: usize = setup.starts.iter().map(|start| start.prompt.len()).sum();
    if n_codes > 0 {
        tracing::info!("listening to {n_codes} codes of prompt");
    }
    Primed::new(
        casting::engines(setup.engines, &config.network),
        openings,
        settings,
        telemetry.clone(),
        &mut |_| {
            let Some(signal) = signals.take() else {
                return ControlFlow::Continue(());
            };
            tracing::info!("{signal}: stopping before anything sounds");
            ControlFlow::Break(())
        },
    )
}

#[cfg(test)]
mod tests {
    use crate::config::limits;
    use crate::pump::STATIONS_MAX;

    #[test]
    fn a_configuration_may_have_as_many_stations_as_the_pump_drives() {
        assert!(limits::STATIONS.check(STATIONS_MAX as f64).is_ok());
        assert!(limits::STATIONS.check((STATIONS_MAX + 1) as f64).is_err());
    }
}
