//! A WebSocket listener from hello to close.

use super::Lobby;
use super::desk::Now;
use super::feed::{Fed, Feed};
use crate::protocol::{self, Event, Facts, Format, Hello, Packet, Request, close};
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::Bytes;
use futures_util::SinkExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{self, Instant, MissedTickBehavior};

/// More messages than this between two pings are a flood.
pub(super) const MAX_MESSAGES: u32 = 100;
/// How long a close frame may take to leave; the peer may be the reason for the close.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// What the listener agreed to hear.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) lobby: Arc<Lobby>,
    pub(super) now: watch::Receiver<Now>,
    /// Changes of the station that the listener knows of.
    pub(super) n_told: u64,
    pub(super) facts: Facts,
    pub(super) format: Format,
    pub(super) feed: Feed,
}

/// Why the conversation is over: a close code and a sentence, or nobody there to be told.
pub(super) type Parting = Option<(u16, &'static str)>;

const GOING_AWAY: Parting = Some((close::GOING_AWAY, "the station shuts down"));
pub(super) const FLOOD: Parting = Some((close::POLICY, "too many messages"));
const OFF_AIR: Parting = Some((close::OFF_AIR, "the station was taken off the air"));
const TOO_SLOW: Parting = Some((close::TOO_SLOW, "the listener cannot keep up"));
pub(super) const IDLE: Parting = Some((close::IDLE, "nothing was heard from the listener"));
pub(super) const GONE: Parting = None;

impl Listener {
    /// Plays to the socket until either side ends it.
    pub(super) async fn run(mut self, mut socket: WebSocket) {
        let end = match self.play(&mut socket).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        let farewell = async {
            match end {
                Some((code, reason)) => farewell(&mut socket, code, reason).await,
                None => complete(&mut socket).await,
            }
        };
        let told = matches!(time::timeout(CLOSE_TIMEOUT, farewell).await, Ok(Ok(())));
        tracing::debug!(station = self.facts.station, ?end, told, "a listener left");
    }

    async fn play(&mut self, socket: &mut WebSocket) -> Result<std::convert::Infallible, Parting> {
        let hello = self.hello();
        self.send(socket, Message::text(hello.to_json())).await?;
        let mut pings = time::interval(self.lobby.settings.ping_interval);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last_heard, mut n_messages) = (Instant::now(), 0);
        loop {
            tokio::select! {
                fed = self.feed.next() => self.pass_on(socket, fed).await?,
                // An error means that `serve` is gone, which the feed says, too.
                Ok(()) = self.now.changed() => self.tell_changes(socket).await?,
                message = socket.recv() => {
                    (last_heard, n_messages) = (Instant::now(), n_messages + 1);
                    if n_messages > MAX_MESSAGES {
                        return Err(FLOOD);
                    }
                    self.hear(message)?;
                }
                _ = pings.tick() => {
                    if last_heard.elapsed() > self.lobby.settings.idle_timeout {
                        return Err(IDLE);
                    }
                    n_messages = 0;
                    self.send(socket, Message::Ping(Bytes::new())).await?;
                }
            }
        }
    }

    async fn tell_changes(&mut self, socket: &mut WebSocket) -> Result<(), Parting> {
        let events: Vec<String> = {
            let now = self.now.borrow_and_update();
            let events = now.since(self.n_told).cloned().map(Box::new);
            let events = events.map(|changed| Event::Changed(changed).to_json());
            self.n_told = now.n_changes;
            // The guard ends with the statement, and no guard may outlive an await.
            events.collect()
        };
        for event in events {
            self.send(socket, Message::text(event)).await?;
        }
        Ok(())
    }

    fn hello(&mut self) -> Event {
        let sequence = self.feed.sequence();
        let now = self.now.borrow_and_update();
        (self.n_told, self.facts) = (now.n_changes, now.facts.clone());
        Event::Hello(Box::new(Hello {
            protocol: protocol::VERSION,
            server: concat!("longwave ", env!("CARGO_PKG_VERSION")).to_owned(),
            format: self.format,
            sequence,
            position: self.facts.position(sequence),
            jitter_buffer_ms: self.lobby.settings.jitter_buffer_ms,
            session: None,
            facts: self.facts.clone(),
        }))
    }

    async fn pass_on(&self, socket: &mut WebSocket, fed: Fed) -> Result<(), Parting> {
        match fed {
            Fed::Packet(sequence) => {
                let codes = self.feed.packet();
                let len = protocol::HEADER_LEN + codes.len() * self.format.sample_len();
                let mut message = Vec::with_capacity(len);
                Packet::encode(self.format, sequence, codes, &mut message);
                self.send(socket, Message::Binary(message.into())).await?;
                self.feed.place().telemetry().packets_sent.add(1);
                Ok(())
            }
            Fed::Lost {
                n_packets,
                sequence,
            } => {
                let lost = Event::Lost {
                    n_packets,
                    sequence,
                    position: self.facts.position(sequence),
                };
                self.send(socket, Message::text(lost.to_json())).await
            }
            Fed::TooSlow => Err(TOO_SLOW),
            Fed::OffAir => Err(OFF_AIR),
            Fed::Stop => Err(GOING_AWAY),
        }
    }

    /// Sends one message; how long it may wait is `TimedIo`'s to say.
    async fn send(&self, socket: &mut WebSocket, message: Message) -> Result<(), Parting> {
        tokio::select! {
            sent = SinkExt::send(socket, message) => sent.map_err(|_| GONE),
            () = self.feed.stop() => Err(GOING_AWAY),
        }
    }

    fn hear(&self, message: Option<Result<Message, axum::Error>>) -> Result<(), Parting> {
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(GONE),
            Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_))) => return Ok(()),
        };
        if let Ok(Request::Report(report)) = Request::from_json(&text) {
            let n_underruns = u64::from(report.n_underruns);
            let telemetry = self.feed.place().telemetry();
            telemetry.listener_underruns.add(n_underruns);
            tracing::debug!(station = self.facts.station, ?report, "a listener reports");
        }
        Ok(())
    }
}

/// Says why the conversation is over, and ends it.
pub(super) async fn farewell(
    socket: &mut WebSocket,
    code: u16,
    reason: &str,
) -> Result<(), axum::Error> {
    let closing = Event::Closing {
        code,
        reason: reason.to_owned(),
    };
    socket.send(Message::text(closing.to_json())).await?;
    // No more fits into a close frame.
    let end = (0..=123.min(reason.len())).rfind(|&end| reason.is_char_boundary(end));
    let frame = CloseFrame {
        code,
        reason: reason[..end.unwrap_or(0)].into(),
    };
    socket.send(Message::Close(Some(frame))).await?;
    complete(socket).await
}

/// Completes the closing handshake, whoever began it.
async fn complete(socket: &mut WebSocket) -> Result<(), axum::Error> {
    while let Some(Ok(_)) = socket.recv().await {}
    SinkExt::close(socket).await
}
