//! `PATCH /v1/stations/{name}`: changing how a station plays.

use super::http::Refusal;
use super::visitor::Visitor;
use super::{Lobby, Unchanged};
use crate::access::Role;
use crate::protocol::{Change, Changed};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use std::sync::Arc;
use tokio::task;

/// The longest body: every key there is fits a few times.
pub(super) const MAX_BODY_LEN: usize = 1024;

/// Carries it out, tells the station's listeners, and answers from which position on it holds.
pub(super) async fn change(
    State(lobby): State<Arc<Lobby>>,
    Path(name): Path<String>,
    visitor: Visitor,
    body: Bytes,
) -> Result<Json<Changed>, Refusal> {
    lobby.admit(&visitor, Role::Control)?;
    let tuned = lobby.find(&name)?;
    let bad = |why: String| Refusal(StatusCode::BAD_REQUEST, why);
    let change = Change::from_json(&body).map_err(|error| bad(error.to_string()))?;
    if change.is_empty() {
        let example = r#"nothing is asked for; a change is such as {"temperature": 1.02}"#;
        return Err(bad(example.into()));
    }
    let place = lobby.place_of(tuned);
    let _turn = lobby.changing.lock().await;
    let desk = lobby.desk.clone();
    let changed = task::spawn_blocking(move || desk.change(place, &change)).await;
    let broken = |error: String| Refusal(StatusCode::SERVICE_UNAVAILABLE, error);
    let changed = changed.map_err(|error| broken(error.to_string()))?;
    let changed = changed.map_err(|error| match error {
        Unchanged::Refused(why) => bad(why),
        Unchanged::Failed(why) => broken(why),
    })?;
    tuned.changes.send_replace(Some(changed));
    tracing::info!(station = name, ?changed, "changed by a controller");
    Ok(Json(changed))
}
