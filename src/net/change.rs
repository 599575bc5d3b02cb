//! Changing a station over HTTP: its state, a patch, a prompt.

use super::Lobby;
use super::desk::{Desk, Now, Prompt};
use super::http::Refusal;
use super::visitor::Visitor;
use crate::access::Role;
use crate::mulaw;
use crate::protocol::{Changed, Facts, Patch};
use crate::state::sha256_of;
use crate::wav;
use axum::Json;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{self, HeaderMap};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time;

/// The longest patch.
const PATCH_LEN_MAX: usize = 4 * 1024;
/// The longest prompt: what any model hears, at the rate and the width of any studio.
pub(super) const PROMPT_LEN_MAX: usize = 16 * 1024 * 1024;
/// How long a body may be under way.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A body of codes, as the model has them.
const CODES: &str = "application/octet-stream";

/// All that is known of a station.
#[derive(Serialize)]
struct Portrait<'a> {
    #[serde(flatten)]
    facts: &'a Facts,
    volume_db: f32,
    mute: bool,
    n_changes: u64,
    changes: Vec<&'a Changed>,
}

impl<'a> Portrait<'a> {
    fn of(now: &'a Now) -> Self {
        Self {
            facts: &now.facts,
            volume_db: now.volume_db,
            mute: now.mute,
            n_changes: now.n_changes,
            changes: now.since(0).collect(),
        }
    }
}

pub(super) async fn portrait(
    State(lobby): State<Arc<Lobby>>,
    Path(name): Path<String>,
    visitor: Visitor,
) -> Result<Response, Refusal> {
    lobby.admit(&visitor, Role::Listen)?;
    let now = lobby.find(&name)?.station.desk.watch();
    let portrait = Json(Portrait::of(&now.borrow())).into_response();
    Ok(([(header::CACHE_CONTROL, "no-cache")], portrait).into_response())
}

pub(super) async fn patch(
    State(lobby): State<Arc<Lobby>>,
    Path(name): Path<String>,
    visitor: Visitor,
    body: Body,
) -> Result<Json<Changed>, Refusal> {
    lobby.admit(&visitor, Role::Control)?;
    let desk = lobby.find(&name)?.station.desk.clone();
    let body = whole(body, PATCH_LEN_MAX).await?;
    let bad = |why: String| Refusal(StatusCode::BAD_REQUEST, why);
    let patch = Patch::from_json(&body).map_err(|error| bad(error.to_string()))?;
    if patch.is_empty() {
        let example = r#"nothing is asked for; a change is such as {"temperature": 1.02}"#;
        return Err(bad(example.into()));
    }
    desk.change(patch, None).await.map(Json)
}

pub(super) async fn prime(
    State(lobby): State<Arc<Lobby>>,
    Path(name): Path<String>,
    visitor: Visitor,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Changed>, Refusal> {
    lobby.admit(&visitor, Role::Control)?;
    let tuned = lobby.find(&name)?;
    let desk: Arc<Desk> = tuned.station.desk.clone();
    // So that what is under way stays bounded.
    let Ok(_permit) = lobby.uploads.try_acquire() else {
        let sentence = "other prompts are under way; try again in a few seconds";
        return Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, sentence.into()));
    };
    let body = whole(body, PROMPT_LEN_MAX).await?;
    let is_codes = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == CODES);
    let kind = if is_codes { Kind::Codes } else { Kind::Wav };
    let (rate_hz, hears) = (tuned.station.facts.sample_rate_hz, tuned.station.hears);
    let prompt = tokio::task::spawn_blocking(move || prompt_of(&body, kind, rate_hz, hears));
    let prompt = prompt
        .await
        .unwrap_or_else(|_| Err("it cannot be read".into()));
    let prompt = prompt.map_err(|why| Refusal(StatusCode::BAD_REQUEST, why))?;
    desk.change(Patch::default(), Some(prompt)).await.map(Json)
}

/// A body of bounded length, in bounded time.
async fn whole(body: Body, len_max: usize) -> Result<Bytes, Refusal> {
    match time::timeout(BODY_TIMEOUT, to_bytes(body, len_max)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(Refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body did not come whole, or is longer than {len_max} bytes"),
        )),
        Err(_) => Err(Refusal(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not come within {BODY_TIMEOUT:?}"),
        )),
    }
}

/// What a prompt is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Codes,
    Wav,
}

/// The end of a prompt, as far back as a model hears.
pub(super) fn prompt_of(
    bytes: &[u8],
    kind: Kind,
    rate_hz: u32,
    hears: usize,
) -> Result<Prompt, String> {
    let codes = match kind {
        Kind::Codes => bytes.to_vec(),
        Kind::Wav => {
            let last_s = hears as f64 / f64::from(rate_hz);
            let samples = wav::parse_mono(bytes.to_vec(), "the prompt", rate_hz, last_s);
            let samples = samples.map_err(|error| error.to_string())?;
            let code = |sample| mulaw::encode(sample).unwrap_or(mulaw::SILENCE);
            samples.into_iter().map(code).collect()
        }
    };
    let codes = &codes[codes.len().saturating_sub(hears)..];
    if codes.is_empty() {
        return Err(
            "the prompt is empty; send a WAV file, or codes as application/octet-stream".into(),
        );
    }
    Ok(Prompt {
        codes: codes.into(),
        sha256: sha256_of(codes),
    })
}
