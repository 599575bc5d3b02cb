//! `random`: the own block so far and `r` of the last blocks, drawn anew for each block of queries
//! (BigBird, arXiv 2007.14062, causal).
//!
//! What a block sees follows from its index and the seed alone, by a hash: training and drawing see
//! the same, and no table grows with the stream. BigBird draws once for a sequence of known length;
//! here the draw is over the blocks still held, and goes on for ever.

use serde::Deserialize;
use serde_json::Value;

use super::pages::{Choice, Pages};
use super::{Defaults, Head, Kind, Parsed, checked, fields, hash};

pub(super) const KIND: Kind = Kind {
    name: "random",
    parse,
};

#[derive(Debug)]
struct Random {
    /// Finished blocks that are held.
    held: u64,
    r: usize,
    seed: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(rename = "kind")]
    _kind: String,
    block: usize,
    blocks: usize,
    r: usize,
    seed: u64,
}

/// The most blocks that are drawn for one.
const MAX_R: usize = 64;

/// The word alone: three blocks of a stride out of the context (BigBird's number), by seed 0.
fn parse(entry: &Value, defaults: &Defaults) -> Parsed {
    let own = match entry {
        Value::String(_) => Fields {
            _kind: String::new(),
            block: defaults.stride,
            blocks: defaults.context / defaults.stride,
            r: 3,
            seed: 0,
        },
        object => fields(object)?,
    };
    if own.r == 0 || own.r > MAX_R {
        return Err(format!("r is {}; 1 to {MAX_R} are possible", own.r));
    }
    let (block, blocks) = (checked("block", own.block)?, checked("blocks", own.blocks)?);
    let choice = Random {
        held: blocks as u64 - 1,
        r: own.r,
        seed: own.seed,
    };
    Ok(Head::placed(Pages::new(block, blocks, choice)?))
}

impl Random {
    /// The finished blocks that `block` sees, in no order: `r` of those held, or all if there are
    /// no more. Robert Floyd's way to draw without a repetition (Bentley, *Programming Pearls*,
    /// 1987): one number for each that is drawn, and no list of those left.
    fn drawn(&self, block: u64) -> impl Iterator<Item = u64> {
        let n = block.min(self.held);
        let r = n.min(self.r as u64);
        let mut back = [0; MAX_R];
        for i in 0..r as usize {
            let last = n - r + i as u64;
            let pick = hash(self.seed, [block, i as u64]) % (last + 1);
            let is_new = !back[..i].contains(&(pick + 1));
            back[i] = 1 + if is_new { pick } else { last };
        }
        back.into_iter()
            .take(r as usize)
            .map(move |back| block - back)
    }
}

impl Choice for Random {
    const KIND: &'static str = KIND.name;

    fn others(&self, block: u64, seen: &mut dyn FnMut(u64)) {
        self.drawn(block).for_each(seen);
    }

    fn most_others(&self) -> usize {
        self.r
    }

    /// Draws do not repeat.
    fn period(&self) -> Option<u64> {
        None
    }
}
