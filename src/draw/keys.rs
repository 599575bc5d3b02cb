//! Draw parameters as keys of a file or a message.
//!
//! Most stand among other keys. Such a table is read by [`DrawPatch::among`] and not by `#[serde(flatten)]`, which
//! forgets where a key stood: the line that is to blame.

use std::fmt;

use serde::de::value::StringDeserializer;
use serde::de::{DeserializeSeed, Error, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serializer, forward_to_deserialize_any};

use super::{DrawParams, DrawPatch, KEYS};

/// Writes what a patch says, for `#[serde(flatten, serialize_with)]`.
pub fn given<S: Serializer>(patch: &DrawPatch, serializer: S) -> Result<S::Ok, S::Error> {
    let given = patch.each().into_iter();
    let given = given.filter_map(|(parameter, value)| Some((parameter.key, value?)));
    serializer.collect_map(given)
}

/// Reads an object that holds parameters and nothing else; what is left out is neutral.
pub fn or_neutral<'de, D: Deserializer<'de>>(object: D) -> Result<DrawParams, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename = "DrawParams")]
    struct Nothing {}

    let mut patch = DrawPatch::default();
    Nothing::deserialize(patch.among(object))?;
    Ok(patch.unwrap_or(DrawParams::NEUTRAL))
}

impl DrawPatch {
    /// Puts aside what a table says of parameters: the struct that is read from what this returns has its own
    /// keys alone to deal with, and those that are nobody's are refused.
    pub fn among<'de, D: Deserializer<'de>>(
        &mut self,
        table: D,
    ) -> impl Deserializer<'de, Error = D::Error> {
        Among {
            inner: table,
            patch: self,
            others: &[],
        }
    }
}

/// A table, its visitor or its keys, on their way to a struct.
struct Among<'a, X> {
    inner: X,
    patch: &'a mut DrawPatch,
    /// The struct's own keys.
    others: &'static [&'static str],
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Among<'_, D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        others: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = Among {
            inner: visitor,
            patch: self.patch,
            others,
        };
        self.inner.deserialize_struct(name, others, visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, D::Error> {
        Err(D::Error::custom("draw parameters stand in structs alone"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Among<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, keys: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Among {
            inner: keys,
            patch: self.patch,
            others: self.others,
        })
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Among<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.inner.next_key_seed(Known(self.others))? {
            let Some(place) = self.patch.get_mut(&key) else {
                let key: StringDeserializer<A::Error> = key.into_deserializer();
                return seed.deserialize(key).map(Some);
            };
            if place.is_some() {
                return Err(A::Error::custom(format_args!("duplicate field `{key}`")));
            }
            *place = self.inner.next_value()?;
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(seed)
    }
}

/// Reads a key, which must be one of these or a parameter's: refused here, it is refused where it stands.
struct Known(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Known {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<String, D::Error> {
        let key = String::deserialize(key)?;
        let known = [self.0, KEYS].concat();
        if known.contains(&key.as_str()) {
            return Ok(key);
        }
        let known = known.join("`, `");
        Err(D::Error::custom(format_args!(
            "unknown field `{key}`, expected one of `{known}`"
        )))
    }
}
