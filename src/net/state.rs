//! All that a station is at a moment, handed out as a file: `render` goes on from it, here or elsewhere.
//!
//! Whoever has it knows what the station will play, and each one costs the pump a copy: it is for those
//! who control. What is asked for is gathered by the daemon, which keeps stations anyway.

use super::http::Refusal;
use super::visitor::Visitor;
use super::{Lobby, Station};
use crate::access::Role;
use crate::state;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{self, HeaderName};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time;

/// States that may be under way at once, each some megabytes.
pub const STATES_MAX: usize = 2;
/// A busy pump fills one in when nothing is due.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is handed to a connection at a time.
const PIECE_LEN: usize = 64 * 1024;

/// Somebody wants to know all that a station is.
#[derive(Debug)]
pub struct Inquiry {
    /// The pump's number of it.
    pub station: usize,
    /// Dropped, nobody knows.
    pub answer: oneshot::Sender<Arc<state::State>>,
}

pub(super) async fn get(
    State(lobby): State<Arc<Lobby>>,
    Path(name): Path<String>,
    visitor: Visitor,
) -> Result<Response, Refusal> {
    lobby.admit(&visitor, Role::Control)?;
    let station = lobby.find(&name)?.station.clone();
    let permit = lobby.states.clone().try_acquire_owned();
    let permit = permit.map_err(|_| later("other states are under way"))?;
    let shown = ask(&lobby, &station).await?;
    let facts = station.desk.facts();
    let position = shown.snapshot.position;
    let bytes = tokio::task::spawn_blocking(move || shown.to_bytes()).await;
    let bytes = bytes.ok().and_then(Result::ok);
    let bytes = bytes.ok_or_else(|| later("the state cannot be written"))?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, bytes.len().to_string()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (LONGWAVE_POSITION, position.to_string()),
        (LONGWAVE_MODEL, facts.model.sha256),
        (LONGWAVE_ENGINE, facts.isa),
    ];
    Ok((headers, body(bytes, permit)).into_response())
}

const LONGWAVE_POSITION: HeaderName = HeaderName::from_static("longwave-position");
const LONGWAVE_MODEL: HeaderName = HeaderName::from_static("longwave-model-sha256");
const LONGWAVE_ENGINE: HeaderName = HeaderName::from_static("longwave-engine");

/// What the daemon says of a station.
async fn ask(lobby: &Lobby, station: &Station) -> Result<Arc<state::State>, Refusal> {
    let (answer, answered) = oneshot::channel();
    let inquiry = Inquiry {
        station: station.desk.number(),
        answer,
    };
    let sent = lobby.inquiries.try_send(inquiry);
    sent.map_err(|_| later("the daemon is busy"))?;
    match time::timeout(PATIENCE, answered).await {
        Ok(Ok(shown)) => Ok(shown),
        Ok(Err(_)) => Err(later("the station has just left, or the daemon ends")),
        Err(_) => Err(later("the generator is busy and has not come to it yet")),
    }
}

/// Memory is taken until all of it was: so long it counts.
fn body(bytes: Vec<u8>, permit: OwnedSemaphorePermit) -> Body {
    let pieces = stream::unfold((Bytes::from(bytes), permit), async |(mut rest, permit)| {
        let piece = rest.split_to(rest.len().min(PIECE_LEN));
        (!piece.is_empty()).then_some((Ok::<_, Infallible>(piece), (rest, permit)))
    });
    Body::from_stream(pieces)
}

fn later(why: &str) -> Refusal {
    let sentence = format!("{why}; try again in a few seconds");
    Refusal(StatusCode::SERVICE_UNAVAILABLE, sentence)
}
