//! What is wrong with a configuration, and at which line of it.

use std::path::Path;

use super::ConfigError;
use super::limits::Limits;

/// A value out of order: the path to it and why.
pub(super) type Fault = (Vec<String>, String);

/// The path that [`Fault`] wants.
pub(super) fn path_of(key: &[&str]) -> Vec<String> {
    key.iter().map(ToString::to_string).collect()
}

/// A fault, for the end of a function that looks for one.
pub(super) fn fault(key: &[&str], why: String) -> Option<Fault> {
    Some((path_of(key), why))
}

/// The fault of a number outside its limits.
pub(super) fn out_of(limits: Limits, key: &[&str], value: impl Into<f64>) -> Option<Fault> {
    let why = limits.check(value.into()).err()?;
    fault(key, why)
}

/// A fault that no line is to blame for.
pub(super) fn value_error((key, why): Fault) -> ConfigError {
    let key = key.join(".");
    ConfigError::Value { key, why }
}

/// The byte at which the value of `key` stands, or the nearest table around it.
pub(super) fn locate(text: &str, key: &[String]) -> Option<usize> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let mut place = None;
    let mut value: Option<&toml::Spanned<toml::de::DeValue<'_>>> = None;
    for segment in key {
        value = match value.map(toml::Spanned::get_ref) {
            None => document.get_ref().get(segment.as_str()),
            Some(toml::de::DeValue::Array(items)) => items.get(segment.parse::<usize>().ok()?),
            Some(toml::de::DeValue::Table(table)) => match table.get(segment.as_str()) {
                // A table may stand for a list of one.
                None if segment == "0" => value,
                found => found,
            },
            Some(_) => None,
        };
        place = Some(value?.span().start);
    }
    place
}

/// A fault of the line that holds the byte `place`.
pub(super) fn blame(text: &str, path: &Path, place: usize, why: String) -> ConfigError {
    let place = place.min(text.len());
    let line = text[..place].matches('\n').count();
    ConfigError::Line {
        path: path.to_owned(),
        line: line + 1,
        text: text.lines().nth(line).unwrap_or("").trim().to_owned(),
        // One sentence on one line, whatever the parser wrote.
        why: why.replace('\n', "; "),
    }
}
