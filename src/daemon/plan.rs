//! What a changed configuration comes to, before anything is changed: on a thread of its own, which may
//! take seconds, beside all that plays.

use std::ops::ControlFlow;
use std::path::Path;

use super::DaemonError;
use super::air::{Load, Seat};
use super::announce;
use super::casting::{self, Waiting};
use super::door::Keys;
use super::kept::Kept;
use crate::config::{Config, SessionsConfig, StationConfig, find_model};
use crate::machine;
use crate::model::Model;
use crate::protocol::Patch;
use crate::pump::{self, Ensemble, Numbers, PumpSettings};
use crate::setup::{self, Setup, SetupError};
use crate::state::Asked;

/// What there is while a plan is made, and stays so until it is carried out.
pub(super) struct Present {
    /// What it started with: what computes, and how it is sent and kept, is still so.
    pub first: Config,
    /// What was read last.
    pub config: Config,
    /// Of its stations, in their order.
    pub seats: Vec<Seat>,
    pub load: Load,
    /// Engines that have failed.
    pub n_fallen: usize,
    pub given: Numbers,
    pub settings: PumpSettings,
    /// Of the network, if there is one.
    pub keys: Option<Keys>,
}

/// What is to become.
pub(super) struct Plan {
    pub config: Config,
    pub keys: Option<Keys>,
    pub wishes: Vec<Wish>,
    /// Those that play already and are recorded otherwise.
    pub recordings: Vec<usize>,
    pub newcomers: Newcomers,
    pub load: Load,
    /// Engines that had failed when it was begun.
    n_fallen: usize,
}

/// Stations that come, ready to play.
#[derive(Default)]
pub(super) struct Newcomers {
    pub ensembles: Vec<Ensemble>,
    /// In the order of their numbers.
    pub waiting: Vec<Waiting>,
    /// The same, where stations are kept.
    pub kept: Vec<Kept>,
}

/// A station that is to be changed.
pub(super) struct Wish {
    pub number: usize,
    pub patch: Patch,
    pub prompt: Option<Vec<u8>>,
    pub asked: Asked,
}

impl Plan {
    /// Itself, unless somebody comes for whom there may be no time any more: `n_fallen` engines have
    /// failed by now.
    pub fn if_it_fits(self, n_fallen: usize) -> Result<Self, &'static str> {
        match self.n_fallen < n_fallen && !self.newcomers.waiting.is_empty() {
            true => Err(
                "a GPU has failed meanwhile, and nobody knows what else the processor has time for",
            ),
            false => Ok(self),
        }
    }
}

impl Present {
    /// Everything that may fail, before anything is changed.
    pub fn plan(mut self, config: Config) -> Result<Plan, DaemonError> {
        // Of those that play already, too: it holds after a restart, which must not be when a model turns
        // out to be missing.
        for model in config.models() {
            find_model(model).map_err(SetupError::from)?;
        }
        let keys = self.keys.as_ref();
        let keys = keys.map(|keys| keys.again(&config.network));
        let keys = keys.transpose()?;
        let (mut wishes, mut recordings, mut newcomers) = (Vec::new(), Vec::new(), Vec::new());
        // Who draws each; of those who come that is not known yet.
        let mut engines = Vec::new();
        for (new, model) in config.stations.iter().zip(config.models()) {
            let stays = self.stays(&new.name, model);
            engines.push(stays.map(|(_, seat)| seat.engine));
            match stays {
                Some((old, seat)) => {
                    wishes.extend(wish(seat, old, new)?);
                    recordings.extend((old.record != new.record).then_some(seat.number));
                }
                None => newcomers.push(StationConfig {
                    model: Some(model.to_owned()),
                    ..new.clone()
                }),
            }
        }
        let is_grown = !newcomers.is_empty();
        let cast = Config {
            stations: newcomers,
            sessions: SessionsConfig::default(),
            ..self.first.clone()
        };
        let mut setup = is_grown.then(|| Setup::new(&cast)).transpose()?;
        // The engines' own threads have begun, and keep their precedence.
        machine::give_way();
        let engines = self.measure(setup.as_mut(), engines);
        if is_grown {
            self.load.keep(&engines);
            let (capacity, places) = self.load.of(&engines);
            let warning = capacity.judge(&places, config.overload)?;
            announce::capacity(&capacity, warning);
        }
        let newcomers = setup.map(|setup| self.prime(&cast, setup)).transpose()?;
        Ok(Plan {
            config,
            keys,
            wishes,
            recordings,
            newcomers: newcomers.unwrap_or_default(),
            load: self.load,
            n_fallen: self.n_fallen,
        })
    }

    /// The station of that name that plays the same model, as it was read last.
    fn stays(&self, name: &str, model: &Path) -> Option<(&StationConfig, &Seat)> {
        let stations = self.config.stations.iter().zip(self.config.models());
        let mut stations = stations.zip(&self.seats);
        let is_it = |((old, old_model), _): &((&StationConfig, &Path), &Seat)| {
            old.name == name && *old_model == model
        };
        stations.find(is_it).map(|((old, _), seat)| (old, seat))
    }

    /// Measures the engines of those who come; all stations' engines, where `None` stands for the next of
    /// them.
    fn measure(&mut self, setup: Option<&mut Setup>, engines: Vec<Option<usize>>) -> Vec<usize> {
        let mut coming = Vec::new();
        if let Some(setup) = setup {
            let measured = setup.warm_up(&self.first.network, true);
            let numbers = self.given.engines..;
            self.load
                .engines
                .extend(numbers.zip(measured.engines().iter().cloned()));
            coming.extend(setup.places.iter().map(|p| self.given.engines + p.engine));
        }
        let mut coming = coming.into_iter();
        let engines = engines.into_iter();
        engines
            .filter_map(|known| known.or_else(|| coming.next()))
            .collect()
    }

    /// Lets those who come hear their prompts, or be what they were when they left.
    fn prime(&self, cast: &Config, mut setup: Setup) -> Result<Newcomers, DaemonError> {
        let kept = Kept::all(cast, &mut setup);
        announce::setup(cast, &setup);
        let (openings, waiting) = casting::stations(cast, &setup);
        let engines = casting::engines(setup.engines, &self.first.network);
        let given = (self.settings, self.given);
        let ensembles = pump::open(engines, openings, given, &mut |_| ControlFlow::Continue(()))?;
        Ok(Newcomers {
            ensembles,
            waiting,
            kept,
        })
    }
}

/// What of a station that plays is to be otherwise.
fn wish(seat: &Seat, old: &StationConfig, new: &StationConfig) -> Result<Option<Wish>, SetupError> {
    let model: &Model = &seat.model;
    let usual = model.config.draw;
    let (before, draw) = (old.draw.unwrap_or(usual), new.draw.unwrap_or(usual));
    let patch = Patch {
        seed: new.seed.filter(|_| new.seed != old.seed),
        draw: draw.zip(before, |new, old| (new != old).then_some(new)),
        ..Patch::default()
    };
    let heard = |path| setup::prompt_codes(path, model);
    let prompt = new.prompt.as_deref().map(heard).transpose()?;
    let asked = Asked::new(new.seed, draw, prompt.as_deref().unwrap_or_default());
    let prompt = prompt.filter(|_| new.prompt != old.prompt);
    let is_wanted = !patch.is_empty() || prompt.is_some();
    Ok(is_wanted.then_some(Wish {
        number: seat.number,
        patch,
        prompt,
        asked,
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::capacity::{Costs, EngineLoad};

    const PRESENT: &str = "overload = true\nmodel = \"models/tiny\"\n[[station]]\n";

    /// What that configuration becomes where the tiny model plays once.
    fn plan(config: &str) -> Plan {
        let parse = |text| Config::parse(text, Path::new("c.toml")).unwrap();
        let costs = Costs {
            one: 0.01,
            n_lanes: 1,
            all: 0.01,
        };
        let first = parse(PRESENT);
        let seat = Seat {
            number: 0,
            engine: 0,
            model: Arc::new(Model::load(Path::new("models/tiny")).unwrap()),
        };
        let present = Present {
            config: first.clone(),
            first,
            seats: vec![seat],
            load: Load {
                engines: BTreeMap::from([(0, EngineLoad::new("tiny", 1, costs))]),
                n_with_sessions: 0,
                reserve: 0.0,
            },
            n_fallen: 1,
            given: Numbers::default(),
            settings: PumpSettings::default(),
            keys: None,
        };
        present.plan(parse(config)).unwrap()
    }

    #[test]
    fn nobody_comes_where_an_engine_has_failed_since_it_was_looked_for_room() {
        let guest = format!("{PRESENT}[[station]]\nname = \"guest\"\n");
        assert!(plan(&guest).if_it_fits(1).is_ok());
        let why = plan(&guest).if_it_fits(2).err().unwrap();
        assert!(why.contains("a GPU has failed meanwhile"), "{why}");
        let changed = plan(&format!("{PRESENT}temperature = 0.9\n"));
        assert_eq!(changed.wishes.len(), 1);
        assert!(changed.if_it_fits(2).is_ok());
    }
}
