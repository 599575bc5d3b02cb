//! `local`: t sees the last `window` positions, itself included, kept in a ring.

use serde::Deserialize;
use serde_json::Value;
use std::ops::Range;

use super::{Defaults, Head, Kind, Parsed, Pattern, Placed, Spacing, checked, fields};

pub(super) const KIND: Kind = Kind {
    name: "local",
    parse,
};

#[derive(Debug)]
pub(super) struct Local {
    pub window: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(rename = "kind")]
    _kind: String,
    window: usize,
}

fn parse(entry: &Value, defaults: &Defaults) -> Parsed {
    let window = match entry {
        Value::String(_) => defaults.stride,
        object => fields::<Fields>(object)?.window,
    };
    Ok(Head::placed(Local {
        window: checked("window", window)?,
    }))
}

impl Pattern for Local {
    fn kind(&self) -> &'static str {
        KIND.name
    }

    fn reach(&self) -> u64 {
        self.window as u64
    }

    fn n_slots(&self) -> usize {
        self.window
    }

    fn max_visible(&self) -> usize {
        self.window
    }

    fn cycle(&self, rope_period: u64) -> Option<u64> {
        crate::model::lcm(self.window as u64, rope_period)
    }
}

impl Placed for Local {
    fn sees(&self, query: u64, key: u64) -> bool {
        key <= query && query - key < self.window as u64
    }

    fn spacing(&self) -> Option<Spacing> {
        Some(Spacing {
            stride: 1,
            rows: self.window,
        })
    }

    fn slot(&self, position: u64) -> usize {
        (position % self.window as u64) as usize
    }

    fn visible(&self, position: u64, run: &mut dyn FnMut(Range<usize>)) {
        run(0..(position + 1).min(self.window as u64) as usize);
    }
}
