//! Configuration: a TOML file that is understood whole or refused by line and key.
//!
//! The command line changes fields of a [`Config`] after the file was read and has it
//! [checked](Config::check) again. Nothing here opens a model, a card or a socket. What a key
//! comes to when it is absent stands in this file only, each with its reason (but for how codes are
//! drawn, see [`DrawParams`]). Used at start, on the main thread.

mod fault;
mod find;
pub mod limits;

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::{DrawParams, Isa};
use fault::{Fault, blame, fault, locate, out_of, path_of, value_error};
use find::is_bare_name;

pub use find::find_model;

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
    pub device: Device,
    /// Forces an instruction set; the best that this machine has when absent.
    pub isa: Option<String>,
    /// The sound card.
    pub card: CardConfig,
    /// The network.
    pub network: NetworkConfig,
    /// The streams, at least one, all of the same model.
    #[serde(rename = "station")]
    pub stations: Vec<StationConfig>,
}

/// What computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// This machine's processor.
    #[default]
    Cpu,
}

/// One `[[station]]`: a stream that all its listeners share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StationConfig {
    /// Its place in addresses: `/v1/stations/NAME/stream`.
    pub name: String,
    /// The same seed and model play the same for ever; from the clock when absent.
    pub seed: Option<u64>,
    /// See [`DrawParams::temperature`].
    pub temperature: f32,
    /// See [`DrawParams::top_p`].
    pub top_p: f32,
    /// See [`DrawParams::min_p`].
    pub min_p: f32,
    /// A WAV file the model hears first and then continues; from silence when absent.
    pub prompt: Option<PathBuf>,
}

/// The `[card]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CardConfig {
    /// Whether to play.
    pub enabled: CardUse,
    /// Which card, as `longwave devices` names it; the system's default when absent.
    pub output_device: Option<String>,
    /// Which station is heard; the first when absent.
    pub station: Option<String>,
    /// Audio generated ahead of the card.
    pub lead_ms: u32,
    /// What the card asks for at once.
    pub period_ms: u32,
}

/// Whether a sound card is played: `"auto"`, `true` or `false` in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "toml::Value", into = "toml::Value")]
pub enum CardUse {
    /// Played if there is one.
    Auto,
    /// Without one the daemon does not start.
    Required,
    /// Never opened.
    Off,
}

/// The `[network]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Whether to listen at all.
    pub enabled: bool,
    /// `HOST:PORT`; port 0 takes a free one.
    pub listen: String,
    /// Listeners of all stations together; one more is refused with 503.
    pub max_listeners: usize,
    /// Web pages of other origins that may connect, such as `https://radio.example`; `*` for all.
    pub allowed_origins: Vec<String>,
    /// Audio in one message.
    pub packet_ms: u32,
    /// What a listener is advised to gather before it plays.
    pub jitter_ms: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: DEFAULT_MODEL.into(),
            device: Device::Cpu,
            isa: None,
            card: CardConfig::default(),
            network: NetworkConfig::default(),
            stations: vec![StationConfig::default()],
        }
    }
}

impl Default for StationConfig {
    fn default() -> Self {
        let draw = DrawParams::default();
        Self {
            name: "piano".into(),
            // New music at each start; the log tells the seed, so it can be played again.
            seed: None,
            temperature: draw.temperature,
            top_p: draw.top_p,
            min_p: draw.min_p,
            prompt: None,
        }
    }
}

impl Default for CardConfig {
    fn default() -> Self {
        Self {
            // A server without a card should start with the same file as a desk with one.
            enabled: CardUse::Auto,
            output_device: None,
            station: None,
            // Ten periods: a busy desktop was seen to hold a thread back for 16 ms, a slow step
            // or a page fault may add to it, and nobody plays along with a station.
            lead_ms: 100,
            // Short enough for the ring's fill to pace the pump evenly, long enough for any card.
            period_ms: 10,
        }
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            // Nobody but this machine, until somebody decides otherwise.
            listen: "127.0.0.1:8420".into(),
            // At mu-law's 16 kB/s each, 1 MB/s in all: a home's upload.
            max_listeners: 64,
            allowed_origins: Vec::new(),
            // 50 messages a second: headers stay below a tenth of the bytes.
            packet_ms: 20,
            // Ten packets: covers a Wi-Fi hiccup; the page adapts from there.
            jitter_ms: 200,
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
        if !is_bare_name(&config.model) {
            config.model = home.join(&config.model);
        }
        for station in &mut config.stations {
            station.prompt = station.prompt.take().map(|prompt| home.join(prompt));
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

    /// The index of the station that the card plays.
    pub fn card_station(&self) -> usize {
        let wanted = self.card.station.as_deref();
        self.stations
            .iter()
            .position(|station| Some(station.name.as_str()) == wanted)
            .unwrap_or(0)
    }

    /// The instruction set that is forced, if one is; refused if this processor lacks it.
    pub fn available_isa(&self) -> Result<Option<Isa>, ConfigError> {
        match self.named_isa() {
            Some(isa) if !isa.is_available() => {
                let why = format!("{} is not of this processor: name another", isa.name());
                Err(value_error((path_of(&["isa"]), why)))
            }
            isa => Ok(isa),
        }
    }

    fn named_isa(&self) -> Option<Isa> {
        let name = self.isa.as_deref();
        Isa::ALL.into_iter().find(|isa| Some(isa.name()) == name)
    }

    fn first_fault(&self) -> Option<Fault> {
        if let Some(name) = &self.isa
            && self.named_isa().is_none()
        {
            let known = Isa::ALL.map(Isa::name).join(", ");
            return fault(&["isa"], format!("must be one of {known}, not {name}"));
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
            .or_else(|| self.card_fault(&names))
            .or_else(|| self.network.first_fault())
            .or_else(|| self.idle_fault())
    }

    fn idle_fault(&self) -> Option<Fault> {
        let is_idle = self.card.enabled == CardUse::Off && !self.network.enabled;
        let why = "must be true when the card is off, or nobody can hear anything";
        is_idle.then(|| (path_of(&["network", "enabled"]), why.into()))
    }

    fn card_fault(&self, names: &HashSet<&String>) -> Option<Fault> {
        let CardConfig {
            lead_ms, period_ms, ..
        } = self.card;
        if let Some(name) = &self.card.station
            && !names.contains(name)
        {
            let known: Vec<&str> = self.stations.iter().map(|s| s.name.as_str()).collect();
            let why = format!("there is no station {name}, only {}", known.join(", "));
            return fault(&["card", "station"], why);
        }
        out_of(limits::LEAD_MS, &["card", "lead_ms"], lead_ms)
            .or_else(|| out_of(limits::PERIOD_MS, &["card", "period_ms"], period_ms))
            .or_else(|| {
                let why = format!("must be at least two periods of {period_ms} ms, not {lead_ms}");
                (lead_ms < 2 * period_ms).then(|| (path_of(&["card", "lead_ms"]), why))
            })
    }
}

impl StationConfig {
    /// How this station chooses its codes.
    pub fn draw(&self) -> DrawParams {
        DrawParams {
            temperature: self.temperature,
            top_p: self.top_p,
            min_p: self.min_p,
        }
    }

    fn first_fault(&self, index: &str) -> Option<Fault> {
        let at = |key| ["station", index, key];
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(is_plain) {
            let why = "must be 1 to 64 letters, digits, '-' or '_': it is part of an address";
            return fault(&at("name"), why.into());
        }
        out_of(limits::TEMPERATURE, &at("temperature"), self.temperature)
            .or_else(|| out_of(limits::TOP_P, &at("top_p"), self.top_p))
            .or_else(|| out_of(limits::MIN_P, &at("min_p"), self.min_p))
    }
}

impl NetworkConfig {
    fn first_fault(&self) -> Option<Fault> {
        if let Err(why) = check_address(&self.listen) {
            return fault(&["network", "listen"], why);
        }
        let is_origin = |origin: &&String| {
            let rest = origin.split_once("://").map(|(_, host)| host);
            let is_host = rest.is_some_and(|host| !host.is_empty() && !host.contains('/'));
            is_host || *origin == "*"
        };
        if let Some(origin) = self.allowed_origins.iter().find(|o| !is_origin(o)) {
            let why = format!("must hold origins such as https://radio.example, not {origin}");
            return fault(&["network", "allowed_origins"], why);
        }
        let n_listeners = self.max_listeners as f64;
        out_of(
            limits::MAX_LISTENERS,
            &["network", "max_listeners"],
            n_listeners,
        )
        .or_else(|| out_of(limits::PACKET_MS, &["network", "packet_ms"], self.packet_ms))
        .or_else(|| out_of(limits::JITTER_MS, &["network", "jitter_ms"], self.jitter_ms))
    }
}

/// Refuses what is not `HOST:PORT`.
pub fn check_address(address: &str) -> Result<(), String> {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(()),
        _ => Err(format!(
            "must be HOST:PORT such as 127.0.0.1:8420, not {address}"
        )),
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

impl TryFrom<toml::Value> for CardUse {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match &value {
            toml::Value::String(word) if word == "auto" => Ok(Self::Auto),
            toml::Value::Boolean(true) => Ok(Self::Required),
            toml::Value::Boolean(false) => Ok(Self::Off),
            _ => Err(format!("must be \"auto\", true or false, not {value}")),
        }
    }
}

impl From<CardUse> for toml::Value {
    fn from(value: CardUse) -> Self {
        match value {
            CardUse::Auto => Self::String("auto".into()),
            CardUse::Required => Self::Boolean(true),
            CardUse::Off => Self::Boolean(false),
        }
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&toml::to_string(self).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn refusal(text: &str) -> String {
        Config::parse(text, Path::new("c.toml"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        let config = Config::parse("", Path::new("c.toml")).unwrap();
        assert_eq!(config, Config::default());
        config.check().unwrap();
    }

    #[test]
    fn the_example_holds_every_key_and_its_default() {
        let text = include_str!("../examples/longwave.toml");
        let path = Path::new("longwave.toml");
        assert_eq!(Config::parse(text, path).unwrap(), Config::default());
        // Keys without a default stand there as comments: all of them together parse as well.
        let full = text.replace("\n#? ", "\n");
        let config = Config::parse(&full, path).unwrap();
        let (station, card) = (&config.stations[0], &config.card);
        assert!(station.seed.is_some() && station.prompt.is_some() && config.isa.is_some());
        assert!(card.output_device.is_some() && card.station.is_some());
        // And what the program prints names no key that the example does not.
        for key in config
            .to_string()
            .lines()
            .filter_map(|l| l.split_once(" = "))
        {
            assert!(
                full.contains(&format!("\n{} = ", key.0)),
                "{} is missing",
                key.0
            );
        }
    }

    #[test]
    fn what_is_printed_can_be_read() {
        let mut config = Config::default();
        config.stations[0].seed = Some(7);
        config.stations.push(StationConfig {
            name: "second".into(),
            temperature: 0.7,
            ..StationConfig::default()
        });
        config.card.enabled = CardUse::Off;
        let again = Config::parse(&config.to_string(), Path::new("c.toml")).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let text = include_str!("../examples/broken.toml");
        let why = Config::parse(text, Path::new("broken.toml"))
            .unwrap_err()
            .to_string();
        assert!(
            why.starts_with("broken.toml, line 9, `temprature = 0.9`: unknown key"),
            "{why}"
        );
        assert!(
            why.contains("`temperature`") && !why.contains('\n'),
            "{why}"
        );
    }

    #[test]
    fn a_value_out_of_its_limits_is_named_with_its_line() {
        assert_eq!(
            refusal("[[station]]\n\n[[station]]\nname = \"b\"\ntop_p = 1.5"),
            "c.toml, line 5, `top_p = 1.5`: must be above 0 and at most 1, not 1.5"
        );
        assert_eq!(
            refusal("[card]\nlead_ms = 15"),
            "c.toml, line 2, `lead_ms = 15`: must be at least two periods of 10 ms, not 15"
        );
        assert!(refusal("[card]\nenabled = 3").contains("line 2, `enabled = 3`: must be \"auto\""));
        assert!(refusal("[network]\nlisten = \"8420\"").contains("HOST:PORT"));
        assert!(refusal("[[station]]\ntemperature = nan").contains("not NaN"));
        assert!(refusal("[[station]]\ntemperature = 1e-3").contains("must be 0, or at least 0.01"));
        assert!(refusal("[network]\njitter_ms = 3001").contains("at most 3000"));
        assert!(refusal("station = []").contains("there must be at least 1 and at most 64"));
        assert!(refusal("device = \"gpu\"").contains("cpu"));
        assert!(refusal("isa = \"mmx\"").contains("must be one of avx512-vnni, avx2"));
    }

    #[test]
    fn more_stations_than_the_engine_serves_are_refused() {
        let stations = |n| {
            let tables = (0..n).map(|i| format!("\n[[station]]\nname = \"s{i}\"\n"));
            format!("model = \"tiny\"{}", tables.collect::<String>())
        };
        Config::parse(&stations(64), Path::new("c.toml")).unwrap();
        let why = refusal(&stations(65));
        assert!(
            why.starts_with("c.toml, line 2, `[[station]]`: there must be"),
            "{why}"
        );
    }

    #[test]
    fn stations_are_told_apart() {
        let twice = "[[station]]\nname = \"a\"\n[[station]]\nname = \"a\"";
        assert!(refusal(twice).starts_with("c.toml, line 4"));
        assert!(refusal("[card]\nstation = \"b\"").contains("there is no station b, only piano"));
        assert!(refusal("[[station]]\nname = \"a/b\"").contains("letters"));
    }

    #[test]
    fn broken_toml_is_one_sentence() {
        let why = refusal("[card\nlead_ms = 3");
        assert!(
            why.starts_with("c.toml, line 1, `[card`:") && !why.contains('\n'),
            "{why}"
        );
    }

    #[test]
    fn a_file_without_an_end_is_refused() {
        let why = Config::read(Path::new("/dev/zero"))
            .unwrap_err()
            .to_string();
        assert!(why.contains("/dev/zero: it is longer than 1 MiB"), "{why}");
    }

    #[test]
    fn paths_in_a_file_start_from_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        fs::write(&path, "model = \"m/x\"\n[[station]]\nprompt = \"p.wav\"").unwrap();
        let config = Config::read(&path).unwrap();
        assert_eq!(config.model, dir.path().join("m/x"));
        assert_eq!(config.stations[0].prompt, Some(dir.path().join("p.wav")));
        fs::write(&path, "model = \"x\"").unwrap();
        assert_eq!(Config::read(&path).unwrap().model, Path::new("x"));
    }
}
