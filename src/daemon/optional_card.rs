//! The sound card as the daemon sees it, in builds with one and without.

use std::fmt;
use std::sync::Arc;
#[cfg(feature = "playback")]
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::CardConfig;
use crate::control::{Controls, Part};
use crate::telemetry::CardTelemetry;

/// Why no card plays. *Retry*: cards come and go.
#[cfg(feature = "playback")]
pub type CardError = crate::card::CardError;

/// Why no card plays.
#[cfg(not(feature = "playback"))]
#[derive(Debug, thiserror::Error)]
#[error("this longwave was built without sound cards (feature `playback`)")]
pub struct CardError;

/// A card that plays a station.
#[cfg(feature = "playback")]
#[derive(Debug)]
pub(super) struct OptionalCard {
    card: crate::card::Card,
    tuned: Arc<Mutex<Tuned>>,
}

/// Which station the card plays, by its number, and in which part.
#[cfg(feature = "playback")]
#[derive(Debug)]
struct Tuned {
    wanted: (usize, Part),
    /// What was attached last.
    attached: usize,
}

/// Neither who tunes nor the card's supervisor is in a hurry.
#[cfg(feature = "playback")]
fn lock(tuned: &Mutex<Tuned>) -> MutexGuard<'_, Tuned> {
    tuned.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No value: there are no cards in this build.
#[cfg(not(feature = "playback"))]
#[derive(Debug)]
pub(super) enum OptionalCard {}

#[cfg(feature = "playback")]
impl OptionalCard {
    pub fn open(
        config: &CardConfig,
        (station, part): (usize, Part),
        controls: Controls,
        telemetry: Arc<CardTelemetry>,
    ) -> Result<Self, CardError> {
        let settings = crate::card::CardSettings {
            output_device: config.output_device.clone(),
            lead_ms: config.lead_ms,
            period_ms: config.period_ms,
            is_paced_elsewhere: part != Part::Paces,
            volume: config.volume(),
            channels: config.channels.clone(),
            ..crate::card::CardSettings::default()
        };
        let tuned = Arc::new(Mutex::new(Tuned {
            wanted: (station, part),
            attached: station,
        }));
        let (asked, told) = (tuned.clone(), telemetry.clone());
        let attach = move |feed: crate::card::CardFeed| {
            let end = crate::control::CardEnd {
                frames: feed.frames,
                rate_hz: feed.rate_hz,
                period_len: feed.period_len,
                telemetry: told.clone(),
            };
            let (station, part) = lock(&asked).wanted;
            if let Err(error) = controls.attach_card(station, part, end) {
                tracing::error!("the card stays silent: {error}");
            }
            lock(&asked).attached = station;
        };
        let card = crate::card::Card::open(settings, telemetry, attach)?;
        Ok(Self { card, tuned })
    }

    /// Fades out, and in with another station or in another part if that is not so already; whether it
    /// has to.
    pub fn tune(&self, station: usize, part: Part) -> bool {
        let mut tuned = lock(&self.tuned);
        let is_new = tuned.wanted != (station, part);
        tuned.wanted = (station, part);
        if is_new {
            self.card.begin_anew(part != Part::Paces);
        }
        is_new
    }

    /// Whether it plays a station, or may still do.
    pub fn is_on(&self, station: usize) -> bool {
        lock(&self.tuned).attached == station
    }

    /// Fades out and closes; the pump must still run.
    pub fn stop(self) {
        self.card.stop();
    }

    /// Why it is silent, if it is.
    pub fn trouble(&self) -> Option<String> {
        self.card.trouble()
    }
}

#[cfg(feature = "playback")]
impl fmt::Display for OptionalCard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = self.card.facts();
        let period_ms = f64::from(facts.period_len) * 1e3 / f64::from(facts.rate_hz);
        write!(
            f,
            "{} ({}), {} Hz, {} channels of {}, periods of {period_ms:.1} ms",
            facts.id, facts.name, facts.rate_hz, facts.n_channels, facts.format,
        )
    }
}

#[cfg(not(feature = "playback"))]
impl OptionalCard {
    pub fn open(
        _: &CardConfig,
        _: (usize, Part),
        _: Controls,
        _: Arc<CardTelemetry>,
    ) -> Result<Self, CardError> {
        Err(CardError)
    }

    pub fn tune(&self, _: usize, _: Part) -> bool {
        match *self {}
    }

    pub fn is_on(&self, _: usize) -> bool {
        match *self {}
    }

    pub fn stop(self) {
        match self {}
    }

    pub fn trouble(&self) -> Option<String> {
        match *self {}
    }
}

#[cfg(not(feature = "playback"))]
impl fmt::Display for OptionalCard {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}
