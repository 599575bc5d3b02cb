//! The sound cards of the configuration: opened one after another, watched and stopped together.

use std::io;
use std::sync::Arc;
use std::thread;

use super::optional_card::OptionalCard;
use super::{DaemonError, Signals};
use crate::config::{CardUse, Config};
use crate::control::{Controls, Part};
use crate::pump::PumpError;
use crate::telemetry::Telemetry;

/// Those that were opened; they may be lost and come back.
#[derive(Debug, Default)]
pub(super) struct Cards {
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    /// As figures and log call it.
    name: String,
    /// Whether nothing but this card will do.
    is_required: bool,
    /// By its place in the configuration at the start.
    number: usize,
    card: OptionalCard,
}

impl Cards {
    /// Opens those that are not off by wish; ones that need not be there may be missing. The first that
    /// plays a station sets its pace. The system may take seconds: signals are heard meanwhile.
    pub async fn open(
        config: &Config,
        controls: &Controls,
        telemetry: &Telemetry,
        signals: &mut Signals,
    ) -> Result<Self, DaemonError> {
        let (mut cards, mut clocks) = (Self::default(), Clocks::default());
        let wanted = config.cards.iter().zip(&telemetry.cards).enumerate();
        for (number, (card, told)) in wanted {
            if card.enabled == CardUse::Off {
                continue;
            }
            let station = config.station_of(card);
            let part = clocks.part_of(number, station);
            let (settings, controls, told) = (card.clone(), controls.clone(), Arc::clone(told));
            let open = move || OptionalCard::open(&settings, (station, part), controls, told);
            let opened = tokio::select! {
                opened = tokio::task::spawn_blocking(open) => opened,
                signal = signals.next() => {
                    tracing::info!("{signal}: stopping before anything sounds");
                    return Err(PumpError::Interrupted.into());
                }
            };
            match opened.map_err(|error| DaemonError::System(io::Error::other(error)))? {
                Ok(opened) => {
                    let name = &config.stations[station].name;
                    tracing::info!("playing {name} on {opened}{}", beside(part));
                    clocks.take(station);
                    cards.open.push(Open {
                        name: card.name().into(),
                        is_required: card.enabled == CardUse::Required,
                        number,
                        card: opened,
                    });
                }
                Err(error) if card.enabled == CardUse::Auto => {
                    tracing::warn!("{error}; going on without");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(cards)
    }

    /// Has each card play the station that `config` says, of `stations` with their numbers and names in the
    /// order of the configuration. Cards that are no more there, or not yet, stay as they are until a
    /// restart; the former play the first station if theirs is gone.
    pub fn tune(&self, config: &Config, stations: &[(usize, &str)]) {
        let mut clocks = Clocks::default();
        for open in &self.open {
            let mut cards = config.cards.iter();
            // By its name: the file may list it elsewhere by now.
            let card = cards.find(|card| card.name() == open.name);
            let at = match card {
                Some(card) => config.station_of(card),
                None => {
                    let mut there = stations.iter();
                    let own = there.position(|(number, _)| open.card.is_on(*number));
                    own.unwrap_or(0)
                }
            };
            let Some(&(station, name)) = stations.get(at) else {
                continue;
            };
            let part = clocks.part_of(open.number, station);
            clocks.take(station);
            if open.card.tune(station, part) {
                let card = &open.name;
                tracing::info!(
                    "the card {card} fades over to station {name}{}",
                    beside(part)
                );
            }
        }
    }

    /// Whether a card plays a station, or may still do.
    pub fn are_on(&self, station: usize) -> bool {
        self.open.iter().any(|open| open.card.is_on(station))
    }

    /// How many there are.
    pub fn n(&self) -> usize {
        self.open.len()
    }

    /// Why some are silent, if they are.
    pub fn trouble(&self) -> Option<String> {
        self.trouble_of(|_| true)
    }

    /// Why some are silent that have to play.
    pub fn trouble_of_required(&self) -> Option<String> {
        self.trouble_of(|card| card.is_required)
    }

    fn trouble_of(&self, is_meant: impl Fn(&Open) -> bool) -> Option<String> {
        let meant = self.open.iter().filter(|card| is_meant(card));
        let troubles = meant.filter_map(|card| {
            let why = card.card.trouble()?;
            let is_one_of_many = self.open.len() > 1;
            Some(match is_one_of_many {
                true => format!("{}: {why}", card.name),
                false => why,
            })
        });
        let troubles: Vec<String> = troubles.collect();
        (!troubles.is_empty()).then(|| troubles.join("; "))
    }

    /// Fades out and closes all at once; the pump must still run.
    pub fn stop(self) {
        thread::scope(|scope| {
            for open in self.open {
                scope.spawn(|| open.card.stop());
            }
        });
    }
}

/// The stations that have a card to set their pace.
#[derive(Default)]
struct Clocks(Vec<usize>);

impl Clocks {
    /// What a card would be to a station.
    fn part_of(&self, card: usize, station: usize) -> Part {
        match self.0.contains(&station) {
            true => Part::Follows(card),
            false => Part::Paces,
        }
    }

    fn take(&mut self, station: usize) {
        self.0.push(station);
    }
}

/// What there is to say of a card that does not set the pace.
fn beside(part: Part) -> &'static str {
    match part {
        Part::Paces => "",
        Part::Follows(_) => ", in time with the card before",
    }
}
