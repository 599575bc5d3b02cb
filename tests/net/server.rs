//! An in-process server whose packets a test publishes, and a listener that checks them.

use futures_util::StreamExt;
use longwave::broadcast::{self, Writer};
use longwave::control::{self, ChunkShape, Inbox};
use longwave::draw::DrawParams;
use longwave::net::{
    self, Desk, House, Inquiry, Readiness, STATES_MAX, Sessions, Settings, Station,
};
use longwave::protocol::{Event, Facts, Hello, ModelFacts, Packet};
use longwave::telemetry::Telemetry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request as Handshake;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

pub const PACKET_LEN: usize = 320;
pub const N_SLOTS: usize = 64;
/// How far back the station's model hears.
pub const HEARS: usize = 1_000;
/// Where packet 0 begins in these tests.
pub const FIRST_POSITION: u64 = 1_000;

/// The codes of a packet, as good as random.
pub fn codes(sequence: u64) -> Vec<u8> {
    let hash = |i: u64| (sequence * 320 + i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
    (0..PACKET_LEN as u64).map(|i| hash(i) as u8).collect()
}

pub fn facts(station: &str) -> Facts {
    Facts {
        station: station.into(),
        model: ModelFacts {
            name: "tiny".into(),
            sha256: "ab".repeat(32),
        },
        seed: 7,
        draw: DrawParams {
            temperature: 0.95,
            ..DrawParams::default()
        },
        since: FIRST_POSITION,
        isa: "naive".into(),
        sample_rate_hz: 16_000,
        packet_len: PACKET_LEN as u32,
        first_position: FIRST_POSITION,
        prompt_sha256: None,
    }
}

/// A running server with the station "piano" and the writer of its packets.
pub struct Server {
    pub addr: SocketAddr,
    pub writer: Writer,
    pub n_written: u64,
    pub telemetry: Arc<Telemetry>,
    pub readiness: Arc<Readiness>,
    /// What is on the air.
    pub roster: watch::Sender<Vec<Station>>,
    /// Where it is asked what the station is.
    pub inquiries: mpsc::Receiver<Inquiry>,
    pub shutdown: oneshot::Sender<()>,
    pub served: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub async fn start(settings: Settings) -> Self {
        Self::start_idle(settings).await.0
    }

    /// The same, and where orders arrive.
    pub async fn start_idle(settings: Settings) -> (Self, Inbox) {
        Self::start_with(settings, Sessions::default()).await
    }

    /// The same, with sessions that may be asked for.
    pub async fn start_with(settings: Settings, sessions: Sessions) -> (Self, Inbox) {
        let (writer, source) = broadcast::ring(N_SLOTS, PACKET_LEN);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let telemetry = Arc::new(Telemetry::with_cards(["default"]));
        let readiness = Arc::<Readiness>::default();
        let shape = ChunkShape {
            rate_hz: 16_000,
            len: PACKET_LEN,
        };
        let (controls, inbox) = control::channel(vec![shape]);
        let station = Station {
            facts: facts("piano"),
            source,
            hears: HEARS,
            desk: Arc::new(Desk::new(controls.clone(), 0, facts("piano"), 1.0)),
        };
        let (roster, stations) = watch::channel(vec![station]);
        let (inquiries, inquired) = mpsc::channel(STATES_MAX);
        let house = House {
            stations,
            controls,
            sessions,
            settings,
            telemetry: telemetry.clone(),
            readiness: readiness.clone(),
            inquiries,
        };
        let (shutdown, stopped) = oneshot::channel();
        let stopped = async move { stopped.await.unwrap_or(()) };
        let served = tokio::spawn(net::serve(listener, house, stopped));
        let server = Self {
            addr,
            writer,
            n_written: 0,
            telemetry,
            readiness,
            roster,
            inquiries: inquired,
            shutdown,
            served,
        };
        (server, inbox)
    }

    /// One that nobody serves yet, and who publishes its packets.
    pub fn station(&self, name: &str) -> (Station, Writer) {
        let (writer, source) = broadcast::ring(N_SLOTS, PACKET_LEN);
        let controls = control::channel(Vec::new()).0;
        let station = Station {
            facts: facts(name),
            source,
            hears: HEARS,
            desk: Arc::new(Desk::new(controls, 1, facts(name), 1.0)),
        };
        (station, writer)
    }

    pub fn publish(&mut self, n: u64) {
        for _ in 0..n {
            self.writer.publish(&codes(self.n_written));
            self.n_written += 1;
        }
    }

    pub fn request(&self, query: &str) -> Handshake {
        let url = format!("ws://{}/v1/stations/piano/stream{query}", self.addr);
        url.into_client_request().unwrap()
    }

    pub async fn listen(&self, query: &str) -> Listener {
        self.listen_by(self.request(query)).await.unwrap()
    }

    pub async fn listen_by(&self, request: Handshake) -> Result<Listener, Error> {
        let socket = TcpSocket::new_v4().unwrap();
        // So that a listener that does not read is noticed soon.
        socket.set_recv_buffer_size(4 * 1024).unwrap();
        let stream = socket.connect(self.addr).await.unwrap();
        let (socket, _) = client_async(request, stream).await?;
        let mut listener = Listener {
            socket,
            hello: None,
            expected: 0,
        };
        let Some(Event::Hello(hello)) = listener.event().await else {
            panic!("no hello");
        };
        listener.expected = hello.sequence;
        listener.hello = Some(*hello);
        Ok(listener)
    }

    /// Sends a request of HTTP/1.0, whose answer ends with the connection.
    pub async fn http(&self, method: &str, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let head = format!("{method} {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.addr);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    /// Sends these bytes and hears the whole answer.
    pub async fn say(&self, request: &str) -> String {
        let mut text = String::new();
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    pub async fn text(&self, method: &str, path: &str) -> String {
        let mut text = Vec::new();
        let mut stream = self.http(method, path).await;
        stream.read_to_end(&mut text).await.unwrap();
        String::from_utf8(text).unwrap()
    }

    pub async fn stop(self) {
        let _ = self.shutdown.send(());
        self.served.await.unwrap().unwrap();
    }
}

/// Waits for what must come to pass, however long this machine takes.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came to pass: {what}");
}

/// A listener that checks every code and accounts for every packet.
pub struct Listener {
    pub socket: WebSocketStream<TcpStream>,
    pub hello: Option<Hello>,
    pub expected: u64,
}

/// What a listener met.
#[derive(Debug, PartialEq)]
pub enum Met {
    Packet,
    Lost(u64),
    Closing(u16),
    Closed(Option<u16>),
}

impl Listener {
    pub async fn message(&mut self) -> Option<Message> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(message) => return Some(message),
                Err(_) => return None,
            }
        }
    }

    pub async fn event(&mut self) -> Option<Event> {
        match self.message().await? {
            Message::Text(text) => Some(Event::from_json(&text).unwrap()),
            other => panic!("{other:?} is no event"),
        }
    }

    pub async fn meet(&mut self) -> Met {
        match self.message().await {
            Some(Message::Binary(message)) => {
                let packet = Packet::decode(&message).unwrap();
                let hello = self.hello.as_ref().unwrap();
                assert_eq!(packet.format, hello.format);
                assert_eq!(packet.sequence, self.expected);
                let heard: Vec<u8> = packet.codes().collect();
                assert_eq!(heard, codes(packet.sequence));
                self.expected += 1;
                Met::Packet
            }
            Some(Message::Text(text)) => match Event::from_json(&text).unwrap() {
                Event::Lost {
                    n_packets,
                    sequence,
                    position,
                } => {
                    assert_eq!(sequence, self.expected);
                    assert_eq!(position, FIRST_POSITION + sequence * PACKET_LEN as u64);
                    self.expected += n_packets;
                    Met::Lost(n_packets)
                }
                Event::Closing { code, .. } => Met::Closing(code),
                other => panic!("unexpected {other:?}"),
            },
            Some(Message::Close(frame)) => Met::Closed(frame.map(|frame| frame.code.into())),
            Some(other) => panic!("unexpected {other:?}"),
            None => Met::Closed(None),
        }
    }

    /// Hears until packet `end` is next; how many were received and lost.
    pub async fn hear_until(&mut self, end: u64) -> (u64, u64) {
        let (mut received, mut lost) = (0, 0);
        while self.expected < end {
            match self.meet().await {
                Met::Packet => received += 1,
                Met::Lost(n_packets) => lost += n_packets,
                other => panic!("{other:?} after packet {}", self.expected),
            }
        }
        (received, lost)
    }

    /// Hears until the connection ends; the code in the closing event and in the close frame.
    pub async fn hear_the_end(&mut self) -> (Option<u16>, Option<u16>) {
        let mut told = None;
        loop {
            match self.meet().await {
                Met::Closing(code) => told = Some(code),
                Met::Closed(code) => return (told, code),
                Met::Packet | Met::Lost(_) => {}
            }
        }
    }
}
