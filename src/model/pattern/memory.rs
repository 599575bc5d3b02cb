//! `memory`: the own segment so far and the whole one before it (Transformer-XL, arXiv 1901.02860).
//!
//! Gradients stop at the border of a segment, as in the paper; there the memory is computed before
//! the segment is, here within the same pass. Rotation stands for the paper's relative positions.

use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::pages::Pages;
use super::{Defaults, Kind, Parsed, Pattern, checked, fields};

pub(super) const KIND: Kind = Kind {
    name: "memory",
    parse,
};

#[derive(Debug)]
struct Memory {
    /// Two segments.
    pages: Pages,
}

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
    let pages = Pages::new(checked("segment", segment)?, 2)?;
    Ok(Arc::new(Memory { pages }))
}

impl Pattern for Memory {
    fn kind(&self) -> &'static str {
        KIND.name
    }

    fn sees(&self, query: u64, key: u64) -> bool {
        let of = |position| self.pages.block_of(position);
        key <= query && of(query) - of(key) < 2
    }

    fn carries_gradient(&self, query: u64, key: u64) -> bool {
        key <= query && self.pages.block_of(query) == self.pages.block_of(key)
    }

    fn reach(&self) -> u64 {
        self.pages.n_slots() as u64
    }

    fn n_slots(&self) -> usize {
        self.pages.n_slots()
    }

    fn slot(&self, position: u64) -> usize {
        self.pages.slot(position)
    }

    fn visible(&self, position: u64, run: &mut dyn FnMut(Range<usize>)) {
        run(self.pages.own(position));
        if let Some(before) = self.pages.block_of(position).checked_sub(1) {
            run(self.pages.page(before));
        }
    }

    fn max_visible(&self) -> usize {
        self.pages.n_slots()
    }

    fn max_runs(&self) -> usize {
        2
    }

    fn cycle(&self, rope_period: u64) -> Option<u64> {
        crate::model::lcm(self.pages.n_slots() as u64, rope_period)
    }
}
