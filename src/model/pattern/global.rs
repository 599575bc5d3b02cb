//! `global`: the first positions of the stream, kept for ever, beside another kind (Longformer, arXiv
//! 2004.05150, and BigBird, arXiv 2007.14062).
//!
//! In the papers global positions also see everybody, which no causal stream can have; what is left is
//! that everybody sees them. They keep the rotation of where they stood, and rotations are cyclic: a
//! query meets an anchor at its distance modulo the period, not at a distance that grows for ever.

use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ALIGNMENT, Defaults, Head, Kind, Parsed, Pattern, Placed, checked, fields};

pub(super) const KIND: Kind = Kind {
    name: "global",
    parse,
};

#[derive(Debug)]
struct Global {
    anchors: usize,
    /// Sees the stream that begins behind the anchors.
    beside: Arc<dyn Placed>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(rename = "kind")]
    _kind: String,
    anchors: usize,
    beside: Value,
}

/// The word alone: sixteen anchors beside `local`.
fn parse(entry: &Value, defaults: &Defaults) -> Parsed {
    let (anchors, beside) = match entry {
        Value::String(_) => (16, json!("local")),
        object => {
            let own: Fields = fields(object)?;
            (own.anchors, own.beside)
        }
    };
    let anchors = checked("anchors", anchors)?;
    let beside = super::parse(&beside, defaults).map_err(|why| format!("beside: {why}"))?;
    match beside {
        Head::Placed(beside) if beside.kept() == 0 && beside.above().is_none() => {
            Ok(Head::placed(Global { anchors, beside }))
        }
        other => Err(format!("beside anchors {} is not possible", other.kind())),
    }
}

impl Global {
    /// Where a position stands in the stream behind the anchors.
    fn behind(&self, position: u64) -> Option<u64> {
        position.checked_sub(self.anchors as u64)
    }

    /// Where the slots of that stream begin.
    fn base(&self) -> usize {
        self.anchors.next_multiple_of(ALIGNMENT)
    }

    fn both(&self, query: u64, key: u64, of: impl Fn(&dyn Placed, u64, u64) -> bool) -> bool {
        match (self.behind(query), self.behind(key)) {
            (Some(query), Some(key)) => of(self.beside.as_ref(), query, key),
            _ => key <= query,
        }
    }
}

impl Pattern for Global {
    fn kind(&self) -> &'static str {
        KIND.name
    }

    fn reach(&self) -> u64 {
        self.beside.reach()
    }

    fn kept(&self) -> u64 {
        self.anchors as u64
    }

    fn n_slots(&self) -> usize {
        self.base() + self.beside.n_slots()
    }

    fn max_visible(&self) -> usize {
        self.anchors + self.beside.max_visible()
    }

    fn max_runs(&self) -> usize {
        1 + self.beside.max_runs()
    }

    fn turn(&self) -> u64 {
        self.beside.turn()
    }

    fn cycle(&self, rope_period: u64) -> Option<u64> {
        self.beside.cycle(rope_period)
    }
}

impl Placed for Global {
    fn sees(&self, query: u64, key: u64) -> bool {
        self.both(query, key, |beside, query, key| beside.sees(query, key))
    }

    fn carries_gradient(&self, query: u64, key: u64) -> bool {
        self.both(query, key, |beside, query, key| {
            beside.carries_gradient(query, key)
        })
    }

    fn slot(&self, position: u64) -> usize {
        match self.behind(position) {
            None => position as usize,
            Some(behind) => self.base() + self.beside.slot(behind),
        }
    }

    fn visible(&self, position: u64, run: &mut dyn FnMut(Range<usize>)) {
        let Some(behind) = self.behind(position) else {
            return run(0..position as usize + 1);
        };
        run(0..self.anchors);
        let base = self.base();
        self.beside.visible(behind, &mut |seen| {
            run(base + seen.start..base + seen.end);
        });
    }
}
