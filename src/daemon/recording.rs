//! Whether a station is recorded, and how.

use std::io;
use std::sync::Arc;

use crate::broadcast::Source;
use crate::config::{StateConfig, StationConfig};
use crate::protocol::Facts;
use crate::record::{Order, Recorder};
use crate::telemetry::Telemetry;

/// Under the directory of the states.
const DIRECTORY: &str = "recordings";

/// Begins to record a station with its next packet, if that is wanted.
pub(super) fn start(
    state: &StateConfig,
    station: &StationConfig,
    (facts, source): (&Facts, &Source),
    telemetry: &Arc<Telemetry>,
) -> io::Result<Option<Recorder>> {
    let Some(record) = &station.record else {
        return Ok(None);
    };
    let named = record.directory.clone();
    let format = record.format.at(facts.sample_rate_hz);
    if format != record.format {
        let (name, rate_hz) = (&station.name, facts.sample_rate_hz);
        tracing::warn!("station {name} is recorded as WAV: FLAC does not go to {rate_hz} Hz here");
    }
    let order = Order {
        station: station.name.clone(),
        // One that was named must be there: a disk that is not mounted should not fill another.
        is_made: named.is_none(),
        directory: named.unwrap_or_else(|| state.directory().join(DIRECTORY)),
        format,
        rate_hz: facts.sample_rate_hz,
        first_position: facts.first_position,
        rotate_samples: 60 * u64::from(record.rotate_min) * u64::from(facts.sample_rate_hz),
        rotate_bytes: record.rotate_bytes.unwrap_or(u64::MAX),
        keep: record.keep.map(|n| n as usize),
    };
    tracing::info!(
        "station {} is recorded in {}",
        station.name,
        order.directory.display()
    );
    Recorder::start(order, source.subscribe(0), telemetry.clone()).map(Some)
}
