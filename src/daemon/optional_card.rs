//! The sound card as the daemon sees it, in builds with one and without.

use std::fmt;
use std::sync::Arc;

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
pub(super) struct OptionalCard(crate::card::Card);

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
        let attach = move |feed: crate::card::CardFeed| {
            if let Err(error) = controls.attach_card(station, feed.frames, feed.rate_hz) {
                tracing::error!("the card stays silent: {error}");
            }
        };
        crate::card::Card::open(settings, telemetry, attach).map(Self)
    }

    /// Fades out and closes; the pump must still run.
    pub fn stop(self) {
        self.0.stop();
    }

    /// Why it is silent, if it is.
    pub fn trouble(&self) -> Option<String> {
        self.0.trouble()
    }
}

#[cfg(feature = "playback")]
impl fmt::Display for OptionalCard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = self.0.facts();
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
