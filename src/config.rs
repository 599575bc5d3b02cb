//! Configuration: a TOML file that is understood whole or refused by line and key.
//!
//! The command line changes fields of a [`Config`] after the file was read and has it
//! [checked](Config::check) again. Nothing here opens a model, a card or a socket. What a key
//! comes to when it is absent stands in this file and in `network.rs` only, each with its reason (but for how codes are
//! drawn: that is the model's). Used at start, on the main thread.

mod card;
mod device;
mod fault;
mod find;
mod isa;
pub mod limits;
mod network;
mod record;
mod state;

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::draw::{self, DrawPatch};
use crate::engine::Device;
use fault::{Fault, blame, fault, locate, out_of, path_of, value_error};
use find::is_bare_name;

pub use card::{CardConfig, CardUse};
pub use find::find_model;
pub use network::{NetworkConfig, TlsConfig, check_address};
pub use record::RecordConfig;
pub use state::StateConfig;

/// The model that plays when none is named.
pub const DEFAULT_MODEL: &str = "piano-16k";

/// Longer is no configuration.
const FILE_LEN_MAX: u64 = 1 << 20;

/// Everything a running daemon can be told. Prints as the TOML it could be read from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A model's directory, or its bare name: see [`find_model`].
    pub model: PathBuf,
    /// What computes.
    #[serde(with = "device")]
    pub device: Device,
    /// Forces an instruction set; the best that this machine has when absent.
    pub isa: Option<String>,
    /// Who forces it, for the log.
    #[serde(skip)]
    pub isa_from: &'static str,
    /// Threads that share a step; chosen from the model and the machine when absent.
    pub threads: Option<u32>,
    /// Whether decode threads are kept on cores of their own; only those that wait for each other
    /// when absent, for a lone one must be able to get out of another program's way.
    pub pin: Option<bool>,
    /// Whether more stations may start than this machine plays in time.
    pub overload: bool,
    /// The sound cards, at least one: a `[card]` table, or several `[[card]]`.
    #[serde(rename = "card", with = "card")]
    pub cards: Vec<CardConfig>,
    /// The network.
    pub network: NetworkConfig,
    /// Streams of clients' own.
    pub sessions: SessionsConfig,
    /// Whether streams survive a restart.
    pub state: StateConfig,
    /// The streams, at least one.
    #[serde(rename = "station")]
    pub stations: Vec<StationConfig>,
}

/// The `[sessions]` table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionsConfig {
    /// At once, as far as this machine has time for them; none by default, for each may hold a lane of
    /// every model, and who listens should not be who decides how busy the machine is.
    pub max: usize,
}

/// One `[[station]]`: a stream that all its listeners share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, remote = "Self")]
pub struct StationConfig {
    /// Its place in addresses: `/v1/stations/NAME/stream`.
    pub name: String,
    /// Its model, as [`Config::model`]; that one when absent.
    pub model: Option<PathBuf>,
    /// The same seed and model play the same for ever; from the clock when absent.
    pub seed: Option<u64>,
    /// How it is drawn, key by key; as the model says when absent.
    #[serde(flatten, skip_deserializing, serialize_with = "draw::given")]
    pub draw: DrawPatch,
    /// A WAV file the model hears first and then continues; from silence when absent.
    pub prompt: Option<PathBuf>,
    /// Whether it returns by itself from noise and from silence that does not end.
    pub watch: bool,
    /// How it is recorded; not at all when absent.
    pub record: Option<RecordConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: DEFAULT_MODEL.into(),
            // A stream alone is drawn faster by a processor; a GPU is for many.
            device: Device::Cpu,
            isa: None,
            isa_from: "the configuration",
            threads: None,
            pin: None,
            // Whoever configures more than there is room for should hear of it, not stutters.
            overload: false,
            cards: vec![CardConfig::default()],
            network: NetworkConfig::default(),
            sessions: SessionsConfig::default(),
            state: StateConfig::default(),
            stations: vec![StationConfig::default()],
        }
    }
}

impl Default for StationConfig {
    fn default() -> Self {
        Self {
            name: "piano".into(),
            model: None,
            // New music at each start; the log tells the seed, so it can be played again.
            seed: None,
            // What a model was found to play best with is its own.
            draw: DrawPatch::default(),
            prompt: None,
            // It costs two lanes of memory and next to no time, and nobody sits beside a daemon.
            watch: true,
            // A disk fills up by wish only.
            record: None,
        }
    }
}

/// Why a configuration is refused. *Fatal*: exit 78, a human must change the file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}; name another with --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says what it should not.
    #[error("{}, line {line}, `{text}`: {why}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What stands there.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A value that no line of a file is to blame for.
    #[error("{key} {why}")]
    Value {
        /// The key with the tables that hold it, such as `station.0.name`.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// No such model.
    #[error(
        "no model {}: looked for {tried}; give its directory with --model",
        name.display()
    )]
    NoModel {
        /// What was asked for.
        name: PathBuf,
        /// Where it was looked for.
        tried: String,
    },
}

impl Config {
    /// Reads a file. Relative paths in it start from the directory that holds it.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut config = Self::parse(&text, path)?;
        let home = path.parent().unwrap_or(Path::new(""));
        let at_home = |model: &mut PathBuf| {
            if !is_bare_name(model) {
                *model = home.join(&model);
            }
        };
        at_home(&mut config.model);
        let tokens = config.network.tokens.take();
        config.network.tokens = tokens.map(|tokens| home.join(tokens));
        if let Some(tls) = &mut config.network.tls {
            (tls.cert, tls.key) = (home.join(&tls.cert), home.join(&tls.key));
        }
        let states = config.state.directory.take();
        config.state.directory = states.map(|directory| home.join(directory));
        for station in &mut config.stations {
            station.model.as_mut().map(at_home);
            station.prompt = station.prompt.take().map(|prompt| home.join(prompt));
            if let Some(record) = &mut station.record {
                record.directory = record
                    .directory
                    .take()
                    .map(|directory| home.join(directory));
            }
        }
        Ok(config)
    }

    /// Understands `text`; `path` is what errors call it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let at = |place: Option<usize>, why: String| blame(text, path, place.unwrap_or(0), why);
        let config: Self = toml::from_str(text).map_err(|error| {
            let why = error.message().replacen("unknown field", "unknown key", 1);
            at(error.span().map(|span| span.start), why)
        })?;
        match config.first_fault() {
            None => Ok(config),
            Some((key, why)) => match locate(text, &key) {
                Some(place) => Err(at(Some(place), why)),
                None => Err(value_error((key, why))),
            },
        }
    }

    /// Checks every value and what they are to each other.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.first_fault()
            .map_or(Ok(()), |fault| Err(value_error(fault)))
    }

    /// The index of the station that a card plays.
    pub fn station_of(&self, card: &CardConfig) -> usize {
        let wanted = card.station.as_deref();
        self.stations
            .iter()
            .position(|station| Some(station.name.as_str()) == wanted)
            .unwrap_or(0)
    }

    /// Plays on this card, as the first is played on, and on no other; it must be there.
    pub fn play_only_on(&mut self, output_device: String) {
        self.cards.truncate(1);
        if let Some(card) = self.cards.first_mut() {
            card.enabled = CardUse::Required;
            card.output_device = Some(output_device);
        }
    }

    /// The model of each station.
    pub fn models(&self) -> impl Iterator<Item = &Path> {
        let own = self.stations.iter().map(|station| station.model.as_deref());
        own.map(|model| model.unwrap_or(&self.model))
    }

    fn first_fault(&self) -> Option<Fault> {
        if let Some(fault) = self.isa_fault() {
            return Some(fault);
        }
        let stations = self.stations.iter().enumerate();
        let mut names = HashSet::new();
        let twice = stations
            .clone()
            .find(|(_, station)| !names.insert(&station.name));
        if limits::STATIONS.check(self.stations.len() as f64).is_err() {
            let why = format!("there must be {} stations", limits::STATIONS);
            return fault(&["station"], why);
        }
        if let Some((index, station)) = twice {
            let why = format!("is the second station named {}", station.name);
            return fault(&["station", &index.to_string(), "name"], why);
        }
        stations
            .into_iter()
            .find_map(|(index, station)| station.first_fault(&index.to_string()))
            .or_else(|| out_of(limits::THREADS, &["threads"], self.threads?))
            .or_else(|| self.cards_fault())
            .or_else(|| self.network.first_fault())
            .or_else(|| self.state.first_fault())
            .or_else(|| self.sessions_fault())
            .or_else(|| self.idle_fault())
    }

    fn sessions_fault(&self) -> Option<Fault> {
        // A lane more hears new prompts.
        let n_lanes = self.stations.len() + self.sessions.max.saturating_add(1);
        let why =
            format!("must leave stations and sessions together below 64 streams, not {n_lanes}");
        let is_too_many = self.sessions.max > 0 && limits::STATIONS.check(n_lanes as f64).is_err();
        is_too_many.then(|| (path_of(&["sessions", "max"]), why))
    }

    fn idle_fault(&self) -> Option<Fault> {
        let is_idle =
            self.cards.iter().all(|card| card.enabled == CardUse::Off) && !self.network.enabled;
        let why = "must be true when the card is off, or nobody can hear anything";
        is_idle.then(|| (path_of(&["network", "enabled"]), why.into()))
    }
}

impl<'de> Deserialize<'de> for StationConfig {
    fn deserialize<D: Deserializer<'de>>(table: D) -> Result<Self, D::Error> {
        let mut draw = DrawPatch::default();
        // What is derived bears the same name and knows nothing of how it is drawn.
        let station = Self::deserialize(draw.among(table))?;
        Ok(Self { draw, ..station })
    }
}

impl Serialize for StationConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl StationConfig {
    fn first_fault(&self, index: &str) -> Option<Fault> {
        let at = |key| ["station", index, key];
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(is_plain) {
            let why = "must be 1 to 64 letters, digits, '-' or '_': it is part of an address";
            return fault(&at("name"), why.into());
        }
        let mut draw = self.draw.each().into_iter();
        draw.find_map(|(parameter, value)| out_of(parameter.limits, &at(parameter.key), value?))
            .or_else(|| self.record.as_ref()?.first_fault(index))
    }
}

/// Refuses what is longer than any configuration: a device may never end.
fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let n_bytes = File::open(path)?
        .take(FILE_LEN_MAX + 1)
        .read_to_string(&mut text)?;
    match n_bytes as u64 > FILE_LEN_MAX {
        true => Err(io::Error::other("it is longer than 1 MiB")),
        false => Ok(text),
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&toml::to_string(self).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests;
