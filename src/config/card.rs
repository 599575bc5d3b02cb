//! The `[card]` table, or several `[[card]]` tables: which sound cards play, and what.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::fault::{Fault, fault, out_of, path_of};
use super::{Config, limits};

/// A sound card.
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
    /// How loud, besides what `longwave control` says of the station.
    pub volume_db: f32,
    /// Which of its channels sound, from 1; all of them when empty.
    pub channels: Vec<u16>,
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

impl Default for CardConfig {
    fn default() -> Self {
        Self {
            // A server without a card should start with the same file as a desk with one.
            enabled: CardUse::Auto,
            output_device: None,
            station: None,
            // Five periods: a busy desktop was seen to hold a thread back for 16 ms, a slow step
            // or a page fault may add to it, and nobody plays along with a station.
            lead_ms: 100,
            // Short enough for the ring's fill to pace the pump evenly; a sound server on a busy machine
            // stumbles over 10 ms (docs/soak.md).
            period_ms: 20,
            volume_db: 0.0,
            channels: Vec::new(),
        }
    }
}

impl CardConfig {
    /// What it is called: in the log, and by the label of its figures.
    pub fn name(&self) -> &str {
        self.output_device.as_deref().unwrap_or("default")
    }

    /// The factor that its volume is.
    pub fn volume(&self) -> f32 {
        10f32.powf(self.volume_db / 20.0)
    }

    fn first_fault(&self, index: &str) -> Option<Fault> {
        let at = |key| ["card", index, key];
        let Self {
            lead_ms, period_ms, ..
        } = *self;
        let too_short = || {
            let why = format!("must be at least two periods of {period_ms} ms, not {lead_ms}");
            (lead_ms < 2 * period_ms).then(|| (path_of(&at("lead_ms")), why))
        };
        let channels = || {
            let mut channels = self.channels.iter();
            channels.find_map(|&c| out_of(limits::CHANNEL, &at("channels"), c))
        };
        out_of(limits::LEAD_MS, &at("lead_ms"), lead_ms)
            .or_else(|| out_of(limits::PERIOD_MS, &at("period_ms"), period_ms))
            .or_else(|| out_of(limits::VOLUME_DB, &at("volume_db"), self.volume_db))
            .or_else(too_short)
            .or_else(channels)
    }
}

impl Config {
    /// The longest lead of a card that may play.
    pub fn card_lead_ms(&self) -> u32 {
        let leads = self.cards.iter().map(|card| card.lead_ms);
        leads.max().unwrap_or(0)
    }

    pub(super) fn cards_fault(&self) -> Option<Fault> {
        if limits::CARDS.check(self.cards.len() as f64).is_err() {
            let why = format!(
                "there must be {} cards; `enabled = false` plays none",
                limits::CARDS
            );
            return fault(&["card"], why);
        }
        self.cards.iter().enumerate().find_map(|(index, card)| {
            let place = index.to_string();
            self.unknown_station(card, &place)
                .or_else(|| card.first_fault(&place))
                .or_else(|| self.fault_beside_others(index, card))
        })
    }

    fn unknown_station(&self, card: &CardConfig, index: &str) -> Option<Fault> {
        let name = card.station.as_ref()?;
        if self.stations.iter().any(|station| station.name == *name) {
            return None;
        }
        let known: Vec<&str> = self.stations.iter().map(|s| s.name.as_str()).collect();
        let why = format!("there is no station {name}, only {}", known.join(", "));
        fault(&["card", index, "station"], why)
    }

    /// What a card may not be because of those before it.
    fn fault_beside_others(&self, index: usize, card: &CardConfig) -> Option<Fault> {
        let place = index.to_string();
        let before = &self.cards[..index];
        if before.iter().any(|other| other.name() == card.name()) {
            let why = format!("is the second card named {}", card.name());
            let key = card.output_device.as_ref().map(|_| "output_device");
            let path: Vec<&str> = ["card", &place].into_iter().chain(key).collect();
            return fault(&path, why);
        }
        // Its station's chunks come as another card takes its periods.
        let station = self.station_of(card);
        let beside = before.iter().filter(|o| self.station_of(o) == station);
        let period_ms = beside.map(|other| other.period_ms).max()?;
        let least = card.period_ms.max(period_ms) * 2 + self.network.packet_ms;
        let why = format!(
            "must be at least {least}, not {}: another card plays this station, and the ring of this one has \
             to bear two periods of either and a packet",
            card.lead_ms
        );
        (card.lead_ms < least).then(|| (path_of(&["card", &place, "lead_ms"]), why))
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

/// A single card is written as a table, as it may be read.
pub(super) fn serialize<S: Serializer>(cards: &[CardConfig], to: S) -> Result<S::Ok, S::Error> {
    match cards {
        [card] => card.serialize(to),
        cards => cards.serialize(to),
    }
}

/// One table or several. Not by an untagged enum: that would forget in which line a fault is.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<CardConfig>, D::Error> {
    struct OneOrMore;

    impl<'de> Visitor<'de> for OneOrMore {
        type Value = Vec<CardConfig>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table [card], or several [[card]]")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            CardConfig::deserialize(MapAccessDeserializer::new(map)).map(|card| vec![card])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(seq))
        }
    }

    from.deserialize_any(OneOrMore)
}
