//! `memory`: the own segment so far and the whole one before it (Transformer-XL, arXiv 1901.02860).
//!
//! Gradients stop at the border of a segment, as in the paper; there the memory is computed before
//! the segment is, here within the same pass. Rotation stands for the paper's relative positions.

use serde::Deserialize;
use serde_json::Value;

use super::pages::{Choice, Pages};
use super::{Defaults, Head, Kind, Parsed, checked, fields};

pub(super) const KIND: Kind = Kind {
    name: "memory",
    parse,
};

/// A segment is a block.
#[derive(Debug)]
struct Memory;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(rename = "kind")]
    _kind: String,
    segment: usize,
}

/// The word alone: segments as long as the model's stride.
fn parse(entry: &Value, defaults: &Defaults) -> Parsed {
    let segment = match entry {
        Value::String(_) => defaults.stride,
        object => fields::<Fields>(object)?.segment,
    };
    let pages = Pages::new(checked("segment", segment)?, 2, Memory)?;
    Ok(Head::placed(pages))
}

impl Choice for Memory {
    const KIND: &'static str = KIND.name;
    const CARRIES: bool = false;

    fn others(&self, block: u64, seen: &mut dyn FnMut(u64)) {
        block.checked_sub(1).into_iter().for_each(seen);
    }

    fn most_others(&self) -> usize {
        1
    }

    fn period(&self) -> Option<u64> {
        Some(1)
    }
}
