//! The sound card as the daemon sees it, in builds with one and without.

use std::fmt;
use std::sync::Arc;
#[cfg(feature = "playback")]
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::CardConfig;
use crate::control::Controls;
use crate::telemetry::Telemetry;

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
    tuned: Arc<Tuned>,
}

/// Which station the card plays, by its number.
#[cfg(feature = "playback")]
#[derive(Debug)]
struct Tuned {
    wanted: AtomicUsize,
    /// What was attached last.
    attached: AtomicUsize,
}

/// No value: there are no cards in this build.
#[cfg(not(feature = "playback"))]
#[derive(Debug)]
pub(super) enum OptionalCard {}

#[cfg(feature = "playback")]
impl OptionalCard {
    pub fn open(
        config: &CardConfig,
        station: usize,
        controls: Controls,
        telemetry: Arc<Telemetry>,
    ) -> Result<Self, CardError> {
        let settings = crate::card::CardSettings {
            output_device: config.output_device.clone(),
            lead_ms: config.lead_ms,
            period_ms: config.period_ms,
            ..crate::card::CardSettings::default()
        };
        let tuned = Arc::new(Tuned {
            wanted: AtomicUsize::new(station),
            attached: AtomicUsize::new(station),
        });
        let asked = tuned.clone();
        let attach = move |feed: crate::card::CardFeed| {
            let station = asked.wanted.load(Ordering::Relaxed);
            if let Err(error) = controls.attach_card(station, feed.frames, feed.rate_hz) {
                tracing::error!("the card stays silent: {error}");
            }
            asked.attached.store(station, Ordering::Relaxed);
        };
        let card = crate::card::Card::open(settings, telemetry, attach)?;
        Ok(Self { card, tuned })
    }

    /// Fades out, and in with another station if that is not the one already; whether it has to.
    pub fn tune(&self, station: usize) -> bool {
        let is_new = self.tuned.wanted.swap(station, Ordering::Relaxed) != station;
        if is_new {
            self.card.begin_anew();
        }
        is_new
    }

    /// Whether it plays a station, or may still do.
    pub fn is_on(&self, station: usize) -> bool {
        self.tuned.attached.load(Ordering::Relaxed) == station
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
        _: usize,
        _: Controls,
        _: Arc<Telemetry>,
    ) -> Result<Self, CardError> {
        Err(CardError)
    }

    pub fn tune(&self, _: usize) -> bool {
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
