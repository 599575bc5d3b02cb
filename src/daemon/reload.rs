//! SIGHUP: what a changed configuration can change while everything plays.
//!
//! Either all of it is understood or nothing is changed. Of stations the seed, the draw parameters and
//! the prompt change, without a click and told to all who listen, as by `longwave control`; the tokens
//! and the certificate change. What else has changed holds after a restart, and that is said.

use std::sync::Arc;

use crate::config::{Config, ConfigError, StationConfig, TlsConfig, find_model};
use crate::model::Model;
use crate::net::Desk;
use crate::protocol::Patch;
use crate::setup::{self, SetupError};
use crate::state::Asked;

use super::DaemonError;
use super::door::Keys;

/// What reads the configuration again.
pub type Reread<'a> = &'a dyn Fn() -> Result<Config, ConfigError>;

/// What can be changed.
pub(super) struct Reloader {
    /// In force.
    config: Config,
    /// Of the configuration, in its order.
    stations: Vec<(Arc<Model>, Arc<Desk>)>,
    /// Of the network, if there is one.
    keys: Option<Keys>,
}

/// A station that is to be changed.
struct Wish {
    index: usize,
    patch: Patch,
    prompt: Option<Vec<u8>>,
    asked: Asked,
}

impl Reloader {
    pub fn new(config: Config, stations: Vec<(Arc<Model>, Arc<Desk>)>, keys: Option<Keys>) -> Self {
        Self {
            config,
            stations,
            keys,
        }
    }

    /// Reads the configuration again and begins what it changes; what every station is asked to be then,
    /// if that has changed.
    pub fn reload(&mut self, reread: Reread<'_>) -> Vec<(usize, Asked)> {
        match self.prepare(reread) {
            Ok((config, wishes, keys)) => {
                self.say_what_waits(&config);
                if let (Some(ours), Some(others)) = (&self.keys, keys) {
                    ours.adopt(&others);
                }
                // Those that play, in their order, whatever the file has come to list.
                let running = self.config.stations.iter().map(|old| {
                    let mut all = config.stations.iter();
                    all.find(|new| new.name == old.name).unwrap_or(old).clone()
                });
                let stations = running.collect();
                self.config = Config { stations, ..config };
                tracing::info!("the configuration was read again");
                wishes.into_iter().map(|wish| self.begin(wish)).collect()
            }
            Err(error) => {
                tracing::error!("{error}; all stays as it was");
                Vec::new()
            }
        }
    }

    /// All that may fail, before anything is changed.
    fn prepare(
        &self,
        reread: Reread<'_>,
    ) -> Result<(Config, Vec<Wish>, Option<Keys>), DaemonError> {
        let config = reread().map_err(SetupError::from)?;
        // It holds after a restart, which must not be when a model turns out to be missing.
        for model in config.models() {
            find_model(model).map_err(SetupError::from)?;
        }
        let keys = self.keys.as_ref();
        let keys = keys.map(|keys| keys.again(&config.network));
        let keys = keys.transpose()?;
        let mut wishes = Vec::new();
        for (index, old) in self.config.stations.iter().enumerate() {
            let new = config.stations.iter().find(|new| new.name == old.name);
            if let Some(new) = new.filter(|new| *new != old) {
                wishes.extend(self.wish(index, old, new)?);
            }
        }
        Ok((config, wishes, keys))
    }

    fn wish(
        &self,
        index: usize,
        old: &StationConfig,
        new: &StationConfig,
    ) -> Result<Option<Wish>, SetupError> {
        let (model, _) = &self.stations[index];
        let (before, draw) = (old.draw(&model.config.draw), new.draw(&model.config.draw));
        let has = |is_new: bool, value: f32| is_new.then_some(value);
        let patch = Patch {
            seed: new.seed.filter(|_| new.seed != old.seed),
            temperature: has(draw.temperature != before.temperature, draw.temperature),
            max_entropy: has(draw.max_entropy != before.max_entropy, draw.max_entropy),
            max_rise: has(draw.max_rise != before.max_rise, draw.max_rise),
            leveling: has(draw.leveling != before.leveling, draw.leveling),
            top_p: has(draw.top_p != before.top_p, draw.top_p),
            min_p: has(draw.min_p != before.min_p, draw.min_p),
            ..Patch::default()
        };
        let heard = |path| setup::prompt_codes(path, model);
        let prompt = new.prompt.as_deref().map(heard).transpose()?;
        let asked = Asked::new(new.seed, draw, prompt.as_deref().unwrap_or_default());
        let prompt = prompt.filter(|_| new.prompt != old.prompt);
        let is_wanted = !patch.is_empty() || prompt.is_some();
        Ok(is_wanted.then_some(Wish {
            index,
            patch,
            prompt,
            asked,
        }))
    }

    /// Goes on while nobody waits: a prompt takes seconds.
    fn begin(&self, wish: Wish) -> (usize, Asked) {
        let (_, desk) = &self.stations[wish.index];
        let (desk, name) = (desk.clone(), self.config.stations[wish.index].name.clone());
        tokio::spawn(async move {
            // What became of it the desk says; but not that nothing did.
            if let Err(why) = desk.turn_to(wish.patch, wish.prompt).await {
                tracing::error!("station {name} stays as it was: {why}");
            }
        });
        (wish.index, wish.asked)
    }

    /// What cannot change while it plays.
    fn say_what_waits(&self, new: &Config) {
        let old = &self.config;
        // What a station is besides what was changed above.
        let rest = |config: &Config| {
            let rest = config.stations.iter().map(|station| StationConfig {
                name: station.name.clone(),
                model: station.model.clone(),
                watch: station.watch,
                ..StationConfig::default()
            });
            rest.collect::<Vec<_>>()
        };
        let record = |c: &Config| {
            c.stations
                .iter()
                .map(|s| s.record.clone())
                .collect::<Vec<_>>()
        };
        let network = |config: &Config| {
            let mut network = config.network.clone();
            (network.tokens, network.open) = (None, false);
            // Which certificate it is has changed already; not whether there is one.
            network.tls = network.tls_paths().map(|_| TlsConfig::default());
            network
        };
        let engine = |c: &Config| (c.model.clone(), c.device, c.isa.clone(), c.threads, c.pin);
        let waiting = [
            ("which stations there are", rest(old) != rest(new)),
            ("what is recorded", record(old) != record(new)),
            ("what computes", engine(old) != engine(new)),
            ("[card]", old.card != new.card),
            ("[network]", network(old) != network(new)),
            ("[sessions]", old.sessions != new.sessions),
            ("[state]", old.state != new.state),
        ];
        for (what, _) in waiting.into_iter().filter(|(_, is_new)| *is_new) {
            tracing::warn!("{what}: changed in the configuration, and holds after a restart");
        }
    }
}
