//! `strided`: t sees t, t − stride, t − 2·stride, …: the last `rows` positions of its own phase.
//!
//! Kept phase-major: the rows of one phase (position mod stride) lie side by side, so a step reads
//! one contiguous piece, and which one is known a whole stride ahead.

use serde::Deserialize;
use serde_json::Value;
use std::ops::Range;

use super::{Defaults, Head, Kind, Parsed, Pattern, Placed, Spacing, checked, fields};

pub(super) const KIND: Kind = Kind {
    name: "strided",
    parse,
};

#[derive(Debug)]
pub(super) struct Strided {
    kind: &'static str,
    stride: usize,
    rows: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(rename = "kind")]
    _kind: String,
    stride: usize,
    rows: usize,
}

fn parse(entry: &Value, defaults: &Defaults) -> Parsed {
    let (stride, rows) = match entry {
        Value::String(_) => (defaults.stride, defaults.context / defaults.stride),
        object => {
            let own: Fields = fields(object)?;
            (own.stride, own.rows)
        }
    };
    let (stride, rows) = (checked("stride", stride)?, checked("rows", rows)?);
    Ok(Head::placed(Strided::new(KIND.name, stride, rows)?))
}

impl Strided {
    /// `rows` positions `stride` apart, under the word of its kind.
    pub fn new(kind: &'static str, stride: usize, rows: usize) -> Result<Self, String> {
        checked("the reach", stride.saturating_mul(rows))?;
        Ok(Self { kind, stride, rows })
    }

    /// (phase, how many positions of that phase came before this one).
    fn phase_and_count(&self, position: u64) -> (usize, u64) {
        let stride = self.stride as u64;
        ((position % stride) as usize, position / stride)
    }
}

impl Pattern for Strided {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn reach(&self) -> u64 {
        (self.stride * (self.rows - 1) + 1) as u64
    }

    fn n_slots(&self) -> usize {
        self.stride * self.rows
    }

    fn max_visible(&self) -> usize {
        self.rows
    }

    fn turn(&self) -> u64 {
        self.stride as u64
    }

    fn cycle(&self, rope_period: u64) -> Option<u64> {
        crate::model::lcm(self.rows as u64, rope_period)?.checked_mul(self.stride as u64)
    }
}

impl Placed for Strided {
    fn sees(&self, query: u64, key: u64) -> bool {
        let stride = self.stride as u64;
        key <= query
            && (query - key).is_multiple_of(stride)
            && (query - key) / stride < self.rows as u64
    }

    fn spacing(&self) -> Option<Spacing> {
        Some(Spacing {
            stride: self.stride,
            rows: self.rows,
        })
    }

    fn slot(&self, position: u64) -> usize {
        let (phase, count) = self.phase_and_count(position);
        phase * self.rows + (count % self.rows as u64) as usize
    }

    fn visible(&self, position: u64, run: &mut dyn FnMut(Range<usize>)) {
        let (phase, count) = self.phase_and_count(position);
        let start = phase * self.rows;
        run(start..start + (count + 1).min(self.rows as u64) as usize);
    }
}
