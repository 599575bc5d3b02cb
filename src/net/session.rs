//! A session from its first request to its end.

use super::Lobby;
use super::http::Refusal;
use super::places::Share;
use super::sessions::{Opened, Seat};
use super::socket::{CLOSE_TIMEOUT, FLOOD, GONE, IDLE, MAX_MESSAGES, Parting, farewell};
use super::visitor::Visitor;
use crate::access::Role;
use crate::control::{self, Change, Receipt, Whose};
use crate::protocol::{
    self, Changed, Event, Format, Hello, Packet, Patch, PromptHead, Start, Wish, close,
};
use axum::Json;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::http::header::{self, HeaderMap};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::SinkExt;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{self, Instant, Interval, MissedTickBehavior};

/// For the first request and its prompt.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest message: a piece of a prompt.
const MESSAGE_MAX: usize = 256 * 1024;
/// Between two looks for an answer of the pump.
const LOOK: Duration = Duration::from_millis(5);
const AT_END: Parting = Some((close::NORMAL, "the session has ended as it was asked to"));
const SPENT: Parting = Some((close::NORMAL, "the budget is spent"));
const FULL: Parting = Some((
    close::TRY_LATER,
    "all sessions are taken; try again in 10 seconds",
));
const SHED: Parting = Some((close::TRY_LATER, control::SHED));
const ENDING: Parting = Some((close::GOING_AWAY, "the daemon shuts down"));
const MUTE: Parting = Some((close::POLICY, "no start request came in time"));

pub(super) async fn open(
    State(lobby): State<Arc<Lobby>>,
    visitor: Visitor,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    if !headers.contains_key(header::UPGRADE) {
        lobby.admit(&visitor, Role::Listen)?;
        let offer = lobby
            .sessions
            .offer(lobby.judge(&visitor, Role::Session).is_ok());
        return Ok(([(header::CACHE_CONTROL, "no-cache")], Json(offer)).into_response());
    }
    lobby.admit(&visitor, Role::Session)?;
    if lobby.sessions.max == 0 {
        let sentence = "there are no sessions here; the settings can allow some: [sessions] max";
        return Err(Refusal(StatusCode::NOT_FOUND, sentence.into()));
    }
    let upgrade = upgrade.map_err(|error| {
        let sentence = format!("this path speaks WebSocket: {}", error.body_text());
        Refusal(error.status(), sentence)
    })?;
    let seat = lobby.sessions.seat().ok_or_else(|| {
        lobby.telemetry.net.refused.add(1);
        super::http::full(&format!("all {} sessions", lobby.sessions.max))
    })?;
    let share = lobby.places.share(visitor.who(&lobby));
    let share = share.map_err(|places| super::http::full(&places))?;
    let upgrade = upgrade
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(512 * 1024)
        .max_message_size(MESSAGE_MAX)
        .max_frame_size(MESSAGE_MAX);
    Ok(upgrade.on_upgrade(move |socket| run(lobby, (seat, share), socket)))
}

async fn run(lobby: Arc<Lobby>, seat: (Seat, Share), mut socket: WebSocket) {
    lobby.telemetry.net.sessions.add(1);
    let mut stopping = lobby.stopping.clone();
    let played = async {
        let begun = time::timeout(START_TIMEOUT, begin(&lobby, &mut socket)).await;
        let mut player = begun.unwrap_or(Err(Ended::As(MUTE)))?;
        match player.play(&mut socket).await? {}
    };
    let end: Result<Infallible, Ended> = tokio::select! {
        end = played => end,
        // An error means that `serve` is gone, which comes to the same.
        _ = stopping.wait_for(|&stop| stop) => Err(Ended::As(ENDING)),
    };
    // The lane is free from here on, whatever the farewell takes.
    drop(seat);
    lobby.telemetry.net.sessions.sub(1);
    let (code, reason) = match end {
        Err(Ended::As(Some((code, reason)))) => (code, reason.to_owned()),
        // A close frame holds 123 bytes.
        Err(Ended::Refused(reason)) => (close::POLICY, reason),
        Err(Ended::As(None)) => return,
    };
    let told = time::timeout(CLOSE_TIMEOUT, farewell(&mut socket, code, &reason)).await;
    tracing::debug!(code, reason, told = told.is_ok(), "a session ended");
}

/// Why a session is over.
enum Ended {
    As(Parting),
    /// The request was wrong, in these words.
    Refused(String),
}

impl From<Parting> for Ended {
    fn from(parting: Parting) -> Self {
        Self::As(parting)
    }
}

/// Hears the first request and its prompt, and gets a lane.
async fn begin(lobby: &Arc<Lobby>, socket: &mut WebSocket) -> Result<Player, Ended> {
    let start = loop {
        match hear(socket).await? {
            Heard::Text(text) => match Wish::from_json(&text).map_err(refused)? {
                Wish::Start(start) => break start,
                _ => return Err(refused("the first request of a session is start")),
            },
            Heard::Bytes(_) => return Err(refused("the start request comes before its prompt")),
            Heard::Nothing => {}
        }
    };
    no_card(&start.patch).map_err(Ended::Refused)?;
    let engine = lobby.sessions.engine_for(&start).map_err(Ended::Refused)?;
    let prompt = match &start.prompt {
        Some(head) => Some(hear_prompt(lobby, socket, engine, *head).await?),
        None => None,
    };
    let opened = lobby.sessions.open(engine, &start, prompt);
    let mut opened = opened.map_err(Ended::Refused)?;
    let position = loop {
        match opened.receipt.read() {
            Some(Ok(position)) => break position,
            Some(Err(control::Refusal::Shed)) => return Err(SHED.into()),
            // A seat is free before its lane is: the pump sweeps every few milliseconds.
            Some(Err(_)) if start.branch_of.is_none() => return Err(FULL.into()),
            Some(Err(refusal)) => return Err(refused(refusal)),
            None => time::sleep(LOOK).await,
        }
    };
    opened.facts.first_position = position;
    opened.facts.since = position;
    Ok(Player::new(lobby.clone(), &start, opened))
}

/// What may be said of a session: it has no card.
fn no_card(patch: &Patch) -> Result<(), String> {
    match (patch.volume_db, patch.mute) {
        (None, None) => Ok(()),
        _ => Err("a session has no card: leave out volume_db and mute".into()),
    }
}

fn refused(why: impl ToString) -> Ended {
    Ended::Refused(why.to_string())
}

/// What a client said.
enum Heard {
    Text(String),
    Bytes(Bytes),
    Nothing,
}

async fn hear(socket: &mut WebSocket) -> Result<Heard, Ended> {
    understood(socket.recv().await)
}

fn understood(message: Option<Result<Message, axum::Error>>) -> Result<Heard, Ended> {
    match message {
        Some(Ok(Message::Text(text))) => Ok(Heard::Text(text.to_string())),
        Some(Ok(Message::Binary(bytes))) => Ok(Heard::Bytes(bytes)),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(Heard::Nothing),
        Some(Ok(Message::Close(_)) | Err(_)) | None => Err(GONE.into()),
    }
}

/// The binary messages that `head` announces, as codes.
async fn hear_prompt(
    lobby: &Arc<Lobby>,
    socket: &mut WebSocket,
    engine: usize,
    head: PromptHead,
) -> Result<Box<[u8]>, Ended> {
    let checked = lobby.sessions.check_prompt(engine, &head);
    checked.map_err(Ended::Refused)?;
    let mut bytes = Vec::new();
    while bytes.len() < head.n_bytes {
        match hear(socket).await? {
            Heard::Bytes(more) => bytes.extend_from_slice(&more),
            Heard::Text(_) => return Err(refused("a prompt is not whole before the next request")),
            Heard::Nothing => {}
        }
    }
    if bytes.len() > head.n_bytes {
        return Err(refused("more bytes came than the prompt was said to have"));
    }
    let lobby = lobby.clone();
    let codes = move || lobby.sessions.prompt(engine, &head, bytes);
    let codes = tokio::task::spawn_blocking(codes).await;
    codes.map_err(refused)?.map_err(Ended::Refused)
}

/// A session that plays. What ends it, its drop included, drops the ring, by which the pump knows.
struct Player {
    lobby: Arc<Lobby>,
    session: Opened,
    format: Format,
    /// Packets sent.
    n_sent: u64,
    /// Packets that may be sent.
    budget: u64,
    is_paused: bool,
    /// A change that was asked for and is not made yet.
    pending: Option<(Receipt, Changed)>,
    codes: Vec<u8>,
}

impl Player {
    fn new(lobby: Arc<Lobby>, start: &Start, session: Opened) -> Self {
        let facts = &session.facts;
        let per_s = f64::from(facts.sample_rate_hz) / f64::from(facts.packet_len);
        // The conversion saturates: what is negative or no number is spent at once.
        let budget = start
            .budget_s
            .map_or(u64::MAX, |s| (s * per_s).ceil() as u64);
        let codes = Vec::with_capacity(facts.packet_len as usize);
        let player = Self {
            lobby,
            format: start.format,
            n_sent: 0,
            budget,
            is_paused: false,
            pending: None,
            codes,
            session,
        };
        player.note();
        player
    }

    /// For those who want to branch from it.
    fn note(&self) {
        let is = (self.session.engine, self.session.facts.clone());
        self.lobby.sessions.note(self.session.number, Some(is));
    }

    async fn play(&mut self, socket: &mut WebSocket) -> Result<Infallible, Ended> {
        let hello = self.hello();
        send(socket, Message::text(hello.to_json())).await?;
        let (mut looks, mut pings) = (ticks(LOOK), ticks(self.lobby.settings.ping_interval));
        let (mut last_heard, mut n_messages) = (Instant::now(), 0);
        loop {
            tokio::select! {
                _ = looks.tick() => self.look(socket).await?,
                message = socket.recv() => {
                    (last_heard, n_messages) = (Instant::now(), n_messages + 1);
                    if n_messages > MAX_MESSAGES {
                        return Err(FLOOD.into());
                    }
                    match understood(message)? {
                        Heard::Text(text) => self.obey(socket, &text).await?,
                        Heard::Bytes(_) => return Err(refused("no prompt was announced")),
                        Heard::Nothing => {}
                    }
                }
                _ = pings.tick() => {
                    if last_heard.elapsed() > self.lobby.settings.idle_timeout {
                        return Err(IDLE.into());
                    }
                    n_messages = 0;
                    send(socket, Message::Ping(Bytes::new())).await?;
                }
            }
        }
    }

    fn hello(&self) -> Event {
        Event::Hello(Box::new(Hello {
            protocol: protocol::VERSION,
            server: concat!("longwave ", env!("CARGO_PKG_VERSION")).to_owned(),
            format: self.format,
            sequence: 0,
            position: self.session.facts.first_position,
            jitter_buffer_ms: self.lobby.settings.jitter_buffer_ms,
            session: Some(format!("{:016x}", self.session.number)),
            facts: self.session.facts.clone(),
        }))
    }

    /// Passes on what was drawn, and tells what has changed.
    async fn look(&mut self, socket: &mut WebSocket) -> Result<(), Ended> {
        if let Some(answer) = self
            .pending
            .as_ref()
            .and_then(|(receipt, _)| receipt.read())
            && let Some((_, mut changed)) = self.pending.take()
        {
            changed.since = answer.map_err(refused)?;
            let facts = &mut self.session.facts;
            (facts.seed, facts.draw) = (changed.seed, changed.draw);
            facts.since = changed.since;
            self.note();
            let event = Event::Changed(Box::new(changed));
            send(socket, Message::text(event.to_json())).await?;
        }
        let packet_len = self.session.facts.packet_len as usize;
        while !self.is_paused {
            if self.n_sent >= self.budget {
                return Err(SPENT.into());
            }
            let Ok(chunk) = self.session.ring.read_chunk(packet_len) else {
                return self.has_ended();
            };
            self.codes.clear();
            self.codes.extend(chunk);
            let len = protocol::HEADER_LEN + packet_len * self.format.sample_len();
            let mut message = Vec::with_capacity(len);
            Packet::encode(self.format, self.n_sent, &self.codes, &mut message);
            send(socket, Message::Binary(message.into())).await?;
            self.n_sent += 1;
            self.lobby.telemetry.net.packets_sent.add(1);
        }
        Ok(())
    }

    /// Whether the pump has given it up, and why: it ends itself, or all sessions.
    fn has_ended(&self) -> Result<(), Ended> {
        match self.session.receipt.read() {
            Some(Err(control::Refusal::Shed)) => Err(SHED.into()),
            _ if self.session.ring.is_abandoned() => Err(ENDING.into()),
            _ => Ok(()),
        }
    }

    async fn obey(&mut self, socket: &mut WebSocket, text: &str) -> Result<(), Ended> {
        match Wish::from_json(text).map_err(refused)? {
            Wish::Start(_) => return Err(refused("a session starts once")),
            Wish::Pause => self.is_paused = true,
            Wish::Resume => self.is_paused = false,
            Wish::Stop => return Err(AT_END.into()),
            Wish::Change(patch) => {
                no_card(&patch).map_err(Ended::Refused)?;
                self.change(&patch, None)?;
            }
            Wish::Prime { prompt } => {
                let engine = self.session.engine;
                let codes = hear_prompt(&self.lobby, socket, engine, prompt);
                let codes = time::timeout(START_TIMEOUT, codes).await;
                let codes = codes.unwrap_or(Err(MUTE.into()))?;
                self.change(&Patch::default(), Some(codes))?;
            }
        }
        Ok(())
    }

    /// Asks the pump for a change; one after the other.
    fn change(&mut self, patch: &Patch, prompt: Option<Box<[u8]>>) -> Result<(), Ended> {
        if self.pending.is_some() {
            return Err(refused("wait for the event changed before the next change"));
        }
        let facts = &self.session.facts;
        let changed = Changed {
            since: 0,
            seed: patch.seed.unwrap_or(facts.seed),
            draw: patch.draw.unwrap_or(facts.draw),
            prompt_sha256: prompt.as_deref().map(crate::state::sha256_of),
            volume_db: 0.0,
            mute: false,
        };
        changed.draw.check().map_err(Ended::Refused)?;
        let change = Change {
            seed: Some(changed.seed),
            draw: Some(changed.draw),
            gain: None,
            prompt,
        };
        let whose = Whose::Session(self.session.number);
        let receipt = self.lobby.sessions.controls().change(whose, change);
        self.pending = Some((receipt.map_err(refused)?, changed));
        Ok(())
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.lobby.sessions.note(self.session.number, None);
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// How long a message may wait is `TimedIo`'s to say.
async fn send(socket: &mut WebSocket, message: Message) -> Result<(), Ended> {
    SinkExt::send(socket, message)
        .await
        .map_err(|_| GONE.into())
}
