//! Changing how a station plays: what is asked for, and what came of it.

use serde::{Deserialize, Serialize};

use super::{Draw, Facts, ProtocolError, as_string, text_error};

/// What a station shall change; what is absent stays as it is. The body of `PATCH`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    /// Written as a string.
    #[serde(with = "maybe_as_string", skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// See [`Draw::temperature`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// See [`Draw::max_entropy`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_entropy: Option<f32>,
    /// See [`Draw::max_rise`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rise: Option<f32>,
    /// See [`Draw::leveling`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leveling: Option<f32>,
    /// See [`Draw::top_p`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// See [`Draw::min_p`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
}

/// How a station plays from a position on. The answer to `PATCH`, and an event.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// The first position that is drawn so.
    pub since: u64,
    /// See [`Facts::seed`].
    #[serde(with = "as_string")]
    pub seed: u64,
    /// All of it, changed or not.
    pub draw: Draw,
}

impl Change {
    /// Reads the body of a request.
    pub fn from_json(text: &[u8]) -> Result<Self, ProtocolError> {
        serde_json::from_slice(text).map_err(text_error)
    }

    /// The body of a request.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a change has string keys and finite numbers")
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What `seed` and `draw` become.
    pub fn apply(&self, seed: u64, draw: Draw) -> (u64, Draw) {
        let draw = Draw {
            temperature: self.temperature.unwrap_or(draw.temperature),
            max_entropy: self.max_entropy.unwrap_or(draw.max_entropy),
            max_rise: self.max_rise.unwrap_or(draw.max_rise),
            leveling: self.leveling.unwrap_or(draw.leveling),
            top_p: self.top_p.unwrap_or(draw.top_p),
            min_p: self.min_p.unwrap_or(draw.min_p),
        };
        (self.seed.unwrap_or(seed), draw)
    }
}

impl Facts {
    /// Takes over what has changed.
    pub fn change(&mut self, changed: &Changed) {
        let Changed { since, seed, draw } = *changed;
        (self.since, self.seed, self.draw) = (since, seed, draw);
    }
}

mod maybe_as_string {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(of: D) -> Result<Option<u64>, D::Error> {
        let text = Option::<String>::deserialize(of)?;
        let number = text.map(|text| text.parse().map_err(D::Error::custom));
        number.transpose()
    }
}
