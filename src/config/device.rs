//! A device as the file writes it: a word.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

use crate::engine::Device;

pub fn serialize<S: Serializer>(device: &Device, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(device)
}

pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Device, D::Error> {
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}
