//! Fields of messages as strangers write them: each is read as what it may be and written so that everybody
//! can read it.

use crate::draw::{Draw, DrawParams};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

/// The longest string of a station, in characters, that is kept.
pub(super) const MAX_TEXT_LEN: usize = 300;

/// A stranger's words made fit for a terminal and a log: one line of at most 300 characters, none
/// of which commands it (escape sequences) or turns the order of the others.
pub fn plain(text: &str) -> String {
    let is_command =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let words = text.trim().chars().take(MAX_TEXT_LEN);
    let words: String = words.map(|c| if is_command(c) { ' ' } else { c }).collect();
    // Once more: what is fit stays as it is.
    words.trim().to_owned()
}

pub(super) fn plain_string<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(plain(&String::deserialize(deserializer)?))
}

pub(super) fn plain_option<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.map(|text| plain(&text)))
}

/// A number beyond what an `f32` holds reads as infinite, which nobody can write again.
pub(super) fn finite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    let number = f32::deserialize(deserializer)?;
    let error = || D::Error::custom("a number is beyond all bounds");
    number.is_finite().then_some(number).ok_or_else(error)
}

/// All parameters, and each of them finite.
pub(super) fn finite_draw<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<DrawParams, D::Error> {
    #[derive(Deserialize)]
    struct Finite(#[serde(deserialize_with = "finite")] f32);

    let draw = Draw::<Finite>::deserialize(deserializer)?;
    Ok(draw.map(|Finite(value)| value))
}

/// Beyond 2^53 a number is not what some readers take it for.
pub(super) fn seed_text<S: Serializer>(
    seed: &Option<u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match seed {
        Some(seed) => serializer.collect_str(seed),
        None => serializer.serialize_none(),
    }
}

pub(super) fn seed_option<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Seed {
        Number(u64),
        Text(String),
    }
    match Option::<Seed>::deserialize(deserializer) {
        Ok(None) => Ok(None),
        Ok(Some(Seed::Number(seed))) => Ok(Some(seed)),
        Ok(Some(Seed::Text(text))) if text.parse::<u64>().is_ok() => Ok(text.parse().ok()),
        _ => Err(D::Error::custom(
            "a seed is a whole number from 0 to 18446744073709551615",
        )),
    }
}

pub(super) mod as_string {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}
