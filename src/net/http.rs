//! Paths and answers.

use super::feed::Feed;
use super::socket::Listener;
use super::visitor::Visitor;
use super::{Lobby, Tuned, change, icy, metrics, radio, session, state};
use crate::access::Role;
use crate::protocol::{Facts, Format, HEADER_LEN, MAX_REQUEST_LEN};
use axum::extract::rejection::QueryRejection;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Path, Query, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Nothing but our own files, and nobody may frame them.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// When a refused listener may try again.
const RETRY_AFTER_S: &str = "10";

/// Everything that is served.
pub(super) fn router(lobby: Arc<Lobby>) -> Router {
    let html = "text/html; charset=utf-8";
    let script = "text/javascript; charset=utf-8";
    let style = "text/css; charset=utf-8";
    Router::new()
        .route("/", page(html, include_str!("page/index.html")))
        .route("/page.js", page(script, include_str!("page/page.js")))
        .route("/panel.js", page(script, include_str!("page/panel.js")))
        .route("/prompt.js", page(script, include_str!("page/prompt.js")))
        .route("/radio.js", page(script, include_str!("page/radio.js")))
        .route(
            "/receiver.js",
            page(script, include_str!("page/receiver.js")),
        )
        .route("/scope.js", page(script, include_str!("page/scope.js")))
        .route("/session.js", page(script, include_str!("page/session.js")))
        .route("/words.js", page(script, include_str!("page/words.js")))
        .route("/worklet.js", page(script, include_str!("page/worklet.js")))
        .route("/style.css", page(style, include_str!("page/style.css")))
        .route("/v1/stations", get(stations))
        .route(
            "/v1/stations/{name}",
            get(change::portrait).patch(change::patch),
        )
        .route("/v1/stations/{name}/prime", post(change::prime))
        .route("/v1/stations/{name}/state", get(state::get))
        .route("/v1/stations/{name}/stream", any(stream_socket))
        .route("/v1/stations/{name}/stream.wav", get(radio::wav))
        .route("/v1/stations/{name}/stream.opus", get(radio::opus))
        .route("/v1/stations/{name}/listen.m3u", get(playlist))
        .route("/stream.wav", get(radio::first_wav))
        .route("/stream.opus", get(radio::first_opus))
        .route("/listen.m3u", get(first_playlist))
        .route("/v1/sessions", any(session::open))
        .route("/healthz", get(async || "the daemon answers\n"))
        .route("/readyz", get(readiness))
        .route("/metrics", get(figures))
        .fallback(nowhere)
        .layer(middleware::map_response(close_after))
        .with_state(lobby)
}

/// Between requests a connection would be silent, and hold a door.
async fn close_after(mut response: Response) -> Response {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// One embedded file of the page.
fn page(kind: &'static str, text: &'static str) -> axum::routing::MethodRouter<Arc<Lobby>> {
    const HEADERS: [(HeaderName, &str); 5] = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        // The page belongs to the daemon that serves it: an update must not meet yesterday's half.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    get(async move || (HEADERS, [(header::CONTENT_TYPE, kind)], text))
}

/// An answer that is no sound: a status and a sentence.
pub(super) struct Refusal(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, sentence) = self;
        let mut response = (status, sentence + "\n").into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        if status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

/// Why there is no place for one more listener.
pub(super) fn full(places: &str) -> Refusal {
    let sentence = format!("{places} are taken; try again in {RETRY_AFTER_S} seconds");
    Refusal(StatusCode::SERVICE_UNAVAILABLE, sentence)
}

impl Lobby {
    pub(super) fn find(&self, name: &str) -> Result<Arc<Tuned>, Refusal> {
        let stations = self.stations();
        let is_it = |tuned: &&Arc<Tuned>| tuned.station.facts.station == name;
        stations.iter().find(is_it).cloned().ok_or_else(|| {
            let names = stations.iter().map(|tuned| &*tuned.station.facts.station);
            let names = names.collect::<Vec<_>>().join(", ");
            let sentence = format!("there is no station {name:?}; the stations are: {names}");
            Refusal(StatusCode::NOT_FOUND, sentence)
        })
    }

    /// The name of the first station; a house has one.
    pub(super) fn first(&self) -> String {
        let stations = self.stations();
        let first = stations.first().map(|tuned| &tuned.station.facts.station);
        first.cloned().unwrap_or_default()
    }
}

#[derive(Serialize)]
struct Listing {
    #[serde(flatten)]
    facts: Facts,
    stream: String,
    wav: String,
    /// Where it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    opus: Option<String>,
}

async fn stations(State(lobby): State<Arc<Lobby>>, visitor: Visitor) -> Result<Response, Refusal> {
    lobby.admit(&visitor, Role::Listen)?;
    let listings: Vec<Listing> = (lobby.stations().iter())
        .map(|tuned| {
            let facts = tuned.station.desk.facts();
            let stream = format!("/v1/stations/{}/stream", facts.station);
            Listing {
                facts,
                wav: format!("{stream}.wav"),
                opus: radio::HAS_OPUS.then(|| format!("{stream}.opus")),
                stream,
            }
        })
        .collect();
    Ok(([(header::CACHE_CONTROL, "no-cache")], Json(listings)).into_response())
}

#[derive(Deserialize)]
struct StreamQuery {
    format: Option<String>,
}

/// The format that the query names, or else the first of ours that the listener offers.
fn choose_format(
    query: Result<Query<StreamQuery>, QueryRejection>,
    upgrade: &WebSocketUpgrade,
) -> Result<Format, Refusal> {
    let bad = |sentence: String| Refusal(StatusCode::BAD_REQUEST, sentence);
    let Query(StreamQuery { format }) = query.map_err(|error| bad(error.body_text()))?;
    if let Some(name) = format {
        return Format::from_name(&name).ok_or_else(|| {
            let names = Format::ALL.map(Format::name).join(", ");
            bad(format!(
                "there is no format {name:?}; the formats are: {names}"
            ))
        });
    }
    let is_offered = |format: &Format| {
        let mut offered = upgrade.requested_protocols();
        offered.any(|name| name == format.subprotocol())
    };
    let offered = Format::ALL.into_iter().find(is_offered);
    Ok(offered.unwrap_or(Format::Mulaw))
}

async fn stream_socket(
    State(lobby): State<Arc<Lobby>>,
    Path(name): Path<String>,
    visitor: Visitor,
    query: Result<Query<StreamQuery>, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    lobby.admit(&visitor, Role::Listen)?;
    let tuned = lobby.find(&name)?;
    let upgrade = upgrade.map_err(|error| {
        let sentence = format!("this path speaks WebSocket: {}", error.body_text());
        Refusal(error.status(), sentence)
    })?;
    let format = choose_format(query, &upgrade)?;
    let feed = Feed::open(&lobby, &tuned, visitor.who(&lobby)).map_err(|places| full(&places))?;
    let facts = tuned.station.facts.clone();
    let message_len = HEADER_LEN + facts.packet_len as usize * format.sample_len();
    let listener = Listener {
        lobby: lobby.clone(),
        now: tuned.station.desk.watch(),
        n_told: 0,
        facts,
        format,
        feed,
    };
    let upgrade = upgrade
        .protocols([format.subprotocol()])
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * message_len + 4 * 1024)
        .max_message_size(MAX_REQUEST_LEN)
        .max_frame_size(MAX_REQUEST_LEN);
    Ok(upgrade.on_upgrade(move |socket| listener.run(socket)))
}

/// What players open by a click: where the streams lie from here, whatever a proxy calls us.
async fn playlist(
    State(lobby): State<Arc<Lobby>>,
    Path(name): Path<String>,
    visitor: Visitor,
    uri: Uri,
) -> Result<Response, Refusal> {
    lobby.admit(&visitor, Role::Listen)?;
    let facts = lobby.find(&name)?.station.desk.facts();
    Ok(m3u(&facts, &uri))
}

async fn first_playlist(
    state: State<Arc<Lobby>>,
    visitor: Visitor,
    uri: Uri,
) -> Result<Response, Refusal> {
    let name = state.first();
    playlist(state, Path(name), visitor, uri).await
}

/// A list of what a station can be had as, by what plays; a signed link is handed on.
fn m3u(facts: &Facts, uri: &Uri) -> Response {
    let link = uri.query().map(|query| format!("?{query}"));
    let (title, link) = (icy::title(facts), link.unwrap_or_default());
    let kinds = [("WAV", "wav", true), ("Opus", "opus", radio::HAS_OPUS)];
    let made = kinds.into_iter().filter(|(_, _, is_made)| *is_made);
    let entries = made
        .map(|(kind, suffix, _)| format!("#EXTINF:-1,{title}, {kind}\nstream.{suffix}{link}\n"));
    let text = format!("#EXTM3U\n{}", entries.collect::<String>());
    ([(header::CONTENT_TYPE, "audio/x-mpegurl")], text).into_response()
}

async fn readiness(State(lobby): State<Arc<Lobby>>) -> Result<&'static str, Refusal> {
    match lobby.readiness.trouble() {
        None => Ok("the stations play\n"),
        Some(trouble) => Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, trouble)),
    }
}

async fn figures(State(lobby): State<Arc<Lobby>>, headers: HeaderMap) -> Response {
    let stations = lobby.stations();
    let facts = stations.iter().map(|tuned| tuned.station.desk.facts());
    let facts: Vec<Facts> = facts.collect();
    let is_ready = lobby.readiness.trouble().is_none();
    let text = metrics::text(&lobby.telemetry, &facts, is_ready);
    let asked = headers.get(header::ACCEPT).and_then(|h| h.to_str().ok());
    let (kind, text) = match asked.is_some_and(|kinds| kinds.contains(metrics::OPEN_METRICS)) {
        true => (metrics::OPEN_METRICS_TYPE, text),
        false => (metrics::CLASSIC_TYPE, metrics::classic(&text)),
    };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn nowhere(uri: Uri) -> Refusal {
    let sentence = format!(
        "there is nothing at {:?}; try /, /v1/stations, /listen.m3u, /healthz, /readyz or /metrics",
        uri.path()
    );
    Refusal(StatusCode::NOT_FOUND, sentence)
}
