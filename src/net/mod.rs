//! The network: stations over WebSocket and HTTP, the page that plays them, health and metrics.
//!
//! [`serve`] runs on the daemon's tokio runtime, one small task per connection. Each listener reads
//! the station's broadcast ring at its own pace through its own reader, so a stalled one delays
//! neither the pump nor anybody else: it holds a message and what its socket takes
//! ([`Settings::socket_buffer_len`]), is lapped and told so, and in the end cut off. The pump knows
//! nothing of tokio: one ticker per station looks for new packets and wakes the listeners.
//!
//! The wire format is `docs/protocol.md`.

mod change;
mod desk;
mod doorstep;
mod feed;
mod forwarded;
mod http;
mod icy;
mod metrics;
#[cfg(feature = "opus")]
mod opus;
mod places;
mod radio;
mod readiness;
mod session;
mod sessions;
mod socket;
mod state;
mod timed_io;
mod visitor;

use crate::access::Tokens;
use crate::broadcast::{Reader, Source};
use crate::control::Controls;
use crate::protocol::Facts;
use crate::telemetry::Telemetry;
use crate::tls::Identity;
use axum::extract::Request;
use axum::middleware;
use doorstep::{Doorstep, Guest};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use places::{Limits, Places};
use sessions::Register;
use std::future::{self, Future};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use timed_io::TimedIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time;
use visitor::Peer;

pub use desk::Desk;
pub use readiness::Readiness;
pub use sessions::{SessionModel, Sessions};
pub use state::{Inquiry, STATES_MAX};

/// Connections beyond the listeners: pages loading, scrapers, those about to be refused.
const N_SPARE_CONNECTIONS: usize = 64;
/// Prompts that may be under way at once, each some megabytes.
const UPLOADS_MAX: usize = 2;
/// How long [`serve`] waits, once told to stop, for listeners to be told.
const FAREWELL: Duration = Duration::from_millis(1_000);
/// A client that has not sent its request by then is no client.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// All that the network needs to know.
#[derive(Debug)]
pub struct House {
    /// What plays, whenever that changes; the first one is the page's default. Who listens to one that
    /// is not there any more hears it until its ring is over.
    pub stations: watch::Receiver<Vec<Station>>,
    /// Changes them.
    pub controls: Controls,
    /// What sessions may be drawn besides.
    pub sessions: Sessions,
    /// Limits.
    pub settings: Settings,
    /// Raised here, and shown at `/metrics`.
    pub telemetry: Arc<Telemetry>,
    /// Whether the stations play: the answer of `/readyz`.
    pub readiness: Arc<Readiness>,
    /// Where it is asked what a station is.
    pub inquiries: mpsc::Sender<Inquiry>,
}

/// One station as listeners see it.
#[derive(Clone, Debug)]
pub struct Station {
    /// What its first hello says; what is so now, the desk knows.
    pub facts: Facts,
    /// Its packets: `facts.packet_len` codes each.
    pub source: Source,
    /// How far back its model hears, in codes.
    pub hears: usize,
    /// Where it is changed.
    pub desk: Arc<Desk>,
}

/// Limits of the network; [`Default`] suits a small machine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// More listeners, WebSocket and WAV together, are refused.
    pub max_listeners: usize,
    /// More from one address are refused, sessions among them; this machine's own has no such limit.
    pub max_per_address: usize,
    /// More with one token, or links that it has signed, are refused, sessions among them.
    pub max_per_token: usize,
    /// Who is believed about whom they ask for (`X-Forwarded-For`).
    pub trusted_proxies: Vec<IpNet>,
    /// What has to be proved, and by what.
    pub tokens: Tokens,
    /// With it only encrypted connections are spoken to.
    pub identity: Option<Identity>,
    /// Who has not agreed by then on how to encrypt is sent away.
    pub handshake_timeout: Duration,
    /// Origins whose pages may open the WebSocket besides our own; `*` allows all.
    pub allowed_origins: Vec<String>,
    /// How much of the recent past a newcomer gets at once.
    pub burst_ms: u32,
    /// What the hello suggests.
    pub jitter_buffer_ms: u32,
    /// A peer that takes no byte for so long is dropped.
    pub send_timeout: Duration,
    /// How often a WebSocket is pinged.
    pub ping_interval: Duration,
    /// A WebSocket that is silent for so long, pongs included, is closed.
    pub idle_timeout: Duration,
    /// A listener lapped so often, never a minute apart, is closed.
    pub max_laps: u32,
    /// What the kernel may hold for a peer that does not read.
    pub socket_buffer_len: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_listeners: 64,
            max_per_address: 16,
            max_per_token: 32,
            trusted_proxies: Vec::new(),
            tokens: Tokens::default(),
            identity: None,
            // A telephone in a tunnel; nobody is kept out by it meanwhile.
            handshake_timeout: Duration::from_secs(10),
            allowed_origins: Vec::new(),
            // The jitter buffer of 200 ms is full on arrival.
            burst_ms: 200,
            jitter_buffer_ms: 200,
            send_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            max_laps: 8,
            // Linux counts bookkeeping too: about a second of mu-law packets fits.
            socket_buffer_len: 32 * 1024,
        }
    }
}

/// Serves until `shutdown` resolves, then says farewell to every listener and returns within about
/// a second.
///
/// Retry: an error is the listening socket's.
///
/// # Panics
/// If a station's ring has other slots than its facts say.
pub async fn serve(
    listener: TcpListener,
    house: House,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    listener.local_addr()?;
    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let mut roster = house.stations.clone();
    let lobby = Arc::new(Lobby::open(house, stopping, &mut tasks));
    let max_listeners = lobby.settings.max_listeners;
    let doors = Arc::new(Semaphore::new(max_listeners + N_SPARE_CONNECTIONS));
    let doorstep = Arc::new(Doorstep::default());
    let router = http::router(lobby.clone());
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = tasks.join_next() => continue,
            Ok(()) = roster.changed() => {
                lobby.tune(&roster.borrow_and_update(), &mut tasks);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let door = doors.clone().try_acquire_owned().ok();
                if door.is_none() {
                    lobby.telemetry.net.pushed_out.add(1);
                    if !doorstep.push_out() {
                        // All are being served: it is the newcomer who has to go.
                        continue;
                    }
                }
                let (doors, guest) = (doors.clone(), doorstep.step_up());
                let connection = connection((stream, peer), guest, router.clone(), lobby.clone());
                tasks.spawn(async move {
                    let _door = match door {
                        Some(door) => Ok(door),
                        // Who was pushed out leaves one free in a moment.
                        None => doors.acquire_owned().await,
                    };
                    connection.await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    stop.send_replace(true);
    let farewell = lobby.places.emptied();
    // Who could not be told in time is told by the end of the connection.
    let _ = time::timeout(FAREWELL, farewell).await;
    tasks.shutdown().await;
    Ok(())
}

/// Speaks HTTP/1.1 on one connection, encrypted if the house has an identity, until it has answered,
/// becomes a WebSocket, which then lives on in a task of its own, or must make room before it has asked
/// for anything.
async fn connection(
    (stream, peer): (TcpStream, SocketAddr),
    guest: Guest,
    router: axum::Router,
    lobby: Arc<Lobby>,
) {
    let settings = &lobby.settings;
    let socket = socket2::SockRef::from(&stream);
    // Packets are small and due now; a refusal of either option costs comfort, not correctness.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_send_buffer_size(settings.socket_buffer_len);
    let guest = Arc::new(guest);
    let asking = guest.clone();
    let router = router.layer(middleware::map_request(move |mut request: Request| {
        asking.has_asked();
        request.extensions_mut().insert(Peer(peer));
        future::ready(request)
    }));
    let io = TimedIo::new(stream, settings.send_timeout, lobby.telemetry.clone());
    let served = async {
        let Some(identity) = &settings.identity else {
            return speak(io, router).await;
        };
        match time::timeout(settings.handshake_timeout, identity.accept(io)).await {
            Ok(Ok(io)) => speak(io, router).await,
            Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
            Err(_) => tracing::debug!("a handshake took too long"),
        }
    };
    tokio::select! {
        () = served => {}
        () = guest.pushed_out() => {}
    }
}

async fn speak<S>(io: S, router: axum::Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(router))
        .with_upgrades();
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection broke");
    }
}

/// What all connections share.
#[derive(Debug)]
struct Lobby {
    /// Never locked for longer than it takes to look something up.
    stations: RwLock<Vec<Arc<Tuned>>>,
    sessions: Register,
    /// Prompts that may be under way at once.
    uploads: Semaphore,
    /// States that may be, the other way.
    states: Arc<Semaphore>,
    inquiries: mpsc::Sender<Inquiry>,
    settings: Settings,
    telemetry: Arc<Telemetry>,
    readiness: Arc<Readiness>,
    places: Arc<Places>,
    stopping: watch::Receiver<bool>,
}

/// A station as it goes out.
#[derive(Debug)]
struct Tuned {
    station: Station,
    /// As it is drawn.
    codes: Arc<Channel>,
    /// For those who want it so, while there are any.
    #[cfg(feature = "opus")]
    opus: opus::Booth,
}

/// A ring of packets, and the bell that rings when it has a new one.
#[derive(Debug)]
struct Channel {
    source: Source,
    ticks: watch::Receiver<u64>,
    /// How long a packet plays.
    packet: Duration,
}

impl Channel {
    /// A reader that begins with a little of the past.
    fn newcomer(&self, settings: &Settings) -> Reader {
        let burst = Duration::from_millis(settings.burst_ms.into());
        let n_packets = burst.as_micros() / self.packet.as_micros().max(1);
        self.source.subscribe(n_packets as u64)
    }
}

impl Tuned {
    /// Its ticker is one of `tasks`.
    fn new(station: Station, tasks: &mut JoinSet<()>) -> Self {
        let packet_len = station.facts.packet_len as usize;
        assert_eq!(packet_len, station.source.slot_len(), "codes in a packet");
        let (bell, ticks) = watch::channel(0);
        let rate_hz = f64::from(station.facts.sample_rate_hz);
        let codes = Channel {
            source: station.source.clone(),
            ticks,
            packet: Duration::from_secs_f64(packet_len as f64 / rate_hz),
        };
        tasks.spawn(ticker(codes.source.clone(), codes.packet, bell));
        Self {
            station,
            codes: Arc::new(codes),
            #[cfg(feature = "opus")]
            opus: opus::Booth::default(),
        }
    }
}

impl Lobby {
    fn open(mut house: House, stopping: watch::Receiver<bool>, tasks: &mut JoinSet<()>) -> Self {
        let stations = house.stations.borrow_and_update().clone();
        let House {
            settings,
            telemetry,
            readiness,
            sessions,
            controls,
            inquiries,
            ..
        } = house;
        let limits = Limits {
            in_all: settings.max_listeners,
            per_address: settings.max_per_address,
            per_token: settings.max_per_token,
        };
        let lobby = Self {
            stations: RwLock::default(),
            sessions: Register::new(sessions, controls),
            uploads: Semaphore::new(UPLOADS_MAX),
            states: Arc::new(Semaphore::new(STATES_MAX)),
            inquiries,
            places: Arc::new(Places::new(limits, telemetry.clone())),
            settings,
            telemetry,
            readiness,
            stopping,
        };
        lobby.tune(&stations, tasks);
        lobby
    }

    /// Serves these stations from now on; those that were there already as they are.
    fn tune(&self, stations: &[Station], tasks: &mut JoinSet<()>) {
        let mut tuned = self
            .stations
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let stations = stations.iter().map(|station| {
            let is_it = |tuned: &&Arc<Tuned>| Arc::ptr_eq(&tuned.station.desk, &station.desk);
            let known = tuned.iter().find(is_it).cloned();
            known.unwrap_or_else(|| Arc::new(Tuned::new(station.clone(), tasks)))
        });
        *tuned = stations.collect();
    }

    /// Those that are served now.
    fn stations(&self) -> Vec<Arc<Tuned>> {
        // What is in it is whole whoever panicked.
        let stations = self.stations.read().unwrap_or_else(PoisonError::into_inner);
        stations.clone()
    }
}

/// Looks for new packets four times a packet and wakes the station's listeners, until its ring is over.
async fn ticker(source: Source, packet: Duration, bell: watch::Sender<u64>) {
    let period = (packet / 4).clamp(Duration::from_millis(1), Duration::from_millis(20));
    let mut ticks = time::interval(period);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let n_written = source.n_written();
        bell.send_if_modified(|seen| std::mem::replace(seen, n_written) != n_written);
        if source.is_over() {
            // So that they look once more, and see that.
            bell.send_replace(u64::MAX);
            return;
        }
    }
}
