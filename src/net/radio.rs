//! Stations for players: endless bodies over plain HTTP, as WAV and as Ogg Opus.

use super::desk::Now;
use super::feed::{Fed, Feed};
use super::http::{Refusal, full};
use super::icy::{self, Icy};
use super::visitor::Visitor;
use super::{Lobby, Tuned};
use crate::access::Role;
use crate::protocol::Format;
use crate::wav::{self, WavFormat};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Method;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::watch;

#[cfg(feature = "opus")]
use super::opus::OpusBody;

/// Whether this program makes Opus.
pub(super) const HAS_OPUS: bool = cfg!(feature = "opus");

/// A body that has no end of its own.
trait Endless: Sized + Send + 'static {
    /// The next bytes; `None` when the listener is too slow, or the station or the daemon stops. Dropping the future
    /// is the end of the listener.
    fn next(self) -> impl Future<Output = Option<(Bytes, Self)>> + Send;

    fn into_body(self) -> Body {
        let chunk = async |body: Self| -> Option<(Result<Bytes, Infallible>, Self)> {
            let (bytes, body) = body.next().await?;
            Some((Ok(bytes), body))
        };
        Body::from_stream(stream::unfold(self, chunk))
    }
}

pub(super) async fn wav(
    State(lobby): State<Arc<Lobby>>,
    Path(name): Path<String>,
    visitor: Visitor,
    method: Method,
    asked: HeaderMap,
) -> Result<Response, Refusal> {
    lobby.admit(&visitor, Role::Listen)?;
    let tuned = lobby.find(&name)?;
    let mut headers = head("audio/wav");
    let icy = Icy::wanted(&asked);
    if icy.is_some() {
        icy::announce(&name, &mut headers);
    }
    let make = || WavBody::open(&lobby, &tuned, &visitor, icy);
    answer(headers, method, make)
}

/// The first station's, for those who do not want to know its name.
pub(super) async fn first_wav(
    state: State<Arc<Lobby>>,
    visitor: Visitor,
    method: Method,
    asked: HeaderMap,
) -> Result<Response, Refusal> {
    let name = state.first();
    wav(state, Path(name), visitor, method, asked).await
}

#[cfg(feature = "opus")]
pub(super) async fn opus(
    State(lobby): State<Arc<Lobby>>,
    Path(name): Path<String>,
    visitor: Visitor,
    method: Method,
) -> Result<Response, Refusal> {
    lobby.admit(&visitor, Role::Listen)?;
    let tuned = lobby.find(&name)?;
    let make = || OpusBody::open(&lobby, &tuned, visitor.who(&lobby));
    answer(head("audio/ogg"), method, make)
}

#[cfg(not(feature = "opus"))]
pub(super) async fn opus(
    State(lobby): State<Arc<Lobby>>,
    Path(name): Path<String>,
    visitor: Visitor,
    _method: Method,
) -> Result<Response, Refusal> {
    lobby.admit(&visitor, Role::Listen)?;
    lobby.find(&name)?;
    let sentence = "this longwave was built without Opus (the feature `opus`); there is stream.wav";
    let status = axum::http::StatusCode::NOT_IMPLEMENTED;
    Err(Refusal(status, sentence.into()))
}

pub(super) async fn first_opus(
    state: State<Arc<Lobby>>,
    visitor: Visitor,
    method: Method,
) -> Result<Response, Refusal> {
    let name = state.first();
    opus(state, Path(name), visitor, method).await
}

/// What is said of any of these bodies.
fn head(kind: &'static str) -> HeaderMap {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::ACCEPT_RANGES, "none"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // nginx would gather seconds of sound before it passes any on.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
    HeaderMap::from_iter(headers)
}

/// The body that `make` finds a place for, unless the head alone was asked for.
fn answer<B: Endless>(
    headers: HeaderMap,
    method: Method,
    make: impl FnOnce() -> Result<B, Refusal>,
) -> Result<Response, Refusal> {
    if method == Method::HEAD {
        // A stream, not nothing, whose length of 0 would be announced.
        let body = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>());
        return Ok((headers, body).into_response());
    }
    Ok((headers, make()?.into_body()).into_response())
}

/// An endless WAV file.
#[derive(Debug)]
struct WavBody {
    feed: Feed,
    /// The header, until it has gone out.
    pending: Vec<u8>,
    icy: Option<Icy>,
    now: watch::Receiver<Now>,
}

impl WavBody {
    fn open(
        lobby: &Lobby,
        tuned: &Tuned,
        visitor: &Visitor,
        icy: Option<Icy>,
    ) -> Result<Self, Refusal> {
        // PCM, mono, 16 bit, without end.
        let header = wav::header(WavFormat::S16, tuned.station.facts.sample_rate_hz, u32::MAX);
        Ok(Self {
            feed: Feed::open(lobby, tuned, visitor.who(lobby)).map_err(|places| full(&places))?,
            pending: header.into(),
            icy,
            now: tuned.station.desk.watch(),
        })
    }
}

impl Endless for WavBody {
    /// What was pending and one packet.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        packet(&mut self.feed).await?;
        let mut bytes = std::mem::take(&mut self.pending);
        Format::S16.encode(self.feed.packet(), &mut bytes);
        if let Some(icy) = &mut self.icy {
            bytes = icy.interleave(&bytes, &icy::title(&self.now.borrow().facts));
        }
        Some((bytes.into(), self))
    }
}

#[cfg(feature = "opus")]
impl Endless for OpusBody {
    async fn next(self) -> Option<(Bytes, Self)> {
        self.page().await
    }
}

/// Waits for a packet, which is then in the feed. What was lost is left out: neither kind of file has
/// a place to tell it.
pub(super) async fn packet(feed: &mut Feed) -> Option<()> {
    loop {
        match feed.next().await {
            Fed::Packet(_) => break,
            Fed::Lost { .. } => {}
            Fed::TooSlow | Fed::OffAir | Fed::Stop => return None,
        }
    }
    feed.place().telemetry().packets_sent.add(1);
    Some(())
}
