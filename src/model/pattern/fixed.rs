//! `fixed`: the own block so far, and `summary` positions of every finished block of the context
//! (Sparse Transformer, arXiv 1904.10509).
//!
//! The summary of a block are its last `summary` positions, or with `sub_block` s those that come
//! s · `summary` before them: heads with different sub-blocks, which a list of entries says, do better
//! than heads that share one (section 4.2 of the paper). Blocks are counted from the start of the
//! stream, and a block leaves as a whole when a new one begins.
//!
//! A position is kept once: in the ring of summaries, or in the room for the rest of the own block,
//! which the next block overwrites.

use serde::Deserialize;
use serde_json::Value;
use std::ops::Range;

use super::{ALIGNMENT, Defaults, Head, Kind, Parsed, Pattern, Placed, checked, fields};

pub(super) const KIND: Kind = Kind {
    name: "fixed",
    parse,
};

#[derive(Debug)]
struct Fixed {
    block: usize,
    /// Blocks of the context, the own one included.
    blocks: usize,
    /// Columns of a block that are kept.
    kept: Range<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(rename = "kind")]
    _kind: String,
    block: usize,
    blocks: usize,
    summary: usize,
    #[serde(default)]
    sub_block: usize,
}

/// The word alone: blocks of a stride over the model's context, an eighth of each kept (the paper has
/// 8 to 32 of 128 and 256).
fn parse(entry: &Value, defaults: &Defaults) -> Parsed {
    let own = match entry {
        Value::String(_) => Fields {
            _kind: String::new(),
            block: defaults.stride,
            blocks: defaults.context / defaults.stride,
            summary: (defaults.stride / 8).max(1),
            sub_block: 0,
        },
        object => fields(object)?,
    };
    let (block, blocks) = (checked("block", own.block)?, checked("blocks", own.blocks)?);
    checked("block times blocks", block.saturating_mul(blocks))?;
    let behind = own
        .sub_block
        .saturating_mul(checked("summary", own.summary)?);
    let Some(end) = block.checked_sub(behind).filter(|end| own.summary <= *end) else {
        return Err(format!(
            "summary {} with sub_block {} does not lie in a block of {block}",
            own.summary, own.sub_block
        ));
    };
    Ok(Head::placed(Fixed {
        block,
        blocks,
        kept: end - own.summary..end,
    }))
}

impl Fixed {
    /// (block, column) of a position.
    fn place(&self, position: u64) -> (u64, usize) {
        let size = self.block as u64;
        (position / size, (position % size) as usize)
    }

    /// How many of the first `n` columns are kept.
    fn n_kept(&self, n: usize) -> usize {
        n.clamp(self.kept.start, self.kept.end) - self.kept.start
    }

    /// Where the ring of summaries begins.
    fn base(&self) -> usize {
        (self.block - self.kept.len()).next_multiple_of(ALIGNMENT)
    }

    /// Where the summary of a block begins.
    fn summary(&self, block: u64) -> usize {
        self.base() + (block % self.blocks as u64) as usize * self.kept.len()
    }
}

impl Pattern for Fixed {
    fn kind(&self) -> &'static str {
        KIND.name
    }

    fn reach(&self) -> u64 {
        let farthest = match self.blocks {
            1 => 0,
            blocks => self.block * blocks - self.kept.start,
        };
        farthest.max(self.block) as u64
    }

    fn n_slots(&self) -> usize {
        self.base() + self.blocks * self.kept.len()
    }

    fn max_visible(&self) -> usize {
        self.block + (self.blocks - 1) * self.kept.len()
    }

    fn max_runs(&self) -> usize {
        3
    }

    fn cycle(&self, rope_period: u64) -> Option<u64> {
        crate::model::lcm((self.block * self.blocks) as u64, rope_period)
    }
}

impl Placed for Fixed {
    fn sees(&self, query: u64, key: u64) -> bool {
        let (now, then) = (self.place(query).0, self.place(key));
        key <= query
            && (now == then.0 || now - then.0 < self.blocks as u64 && self.kept.contains(&then.1))
    }

    fn slot(&self, position: u64) -> usize {
        let (block, column) = self.place(position);
        let n_kept = self.n_kept(column);
        match self.kept.contains(&column) {
            true => self.summary(block) + n_kept,
            false => column - n_kept,
        }
    }

    fn visible(&self, position: u64, run: &mut dyn FnMut(Range<usize>)) {
        let (block, column) = self.place(position);
        let n_kept = self.n_kept(column + 1);
        if column + 1 > n_kept {
            run(0..column + 1 - n_kept);
        }
        // Up to what this block has of its summary; and, once the ring is full, behind that.
        let own = self.summary(block);
        if own + n_kept > self.base() {
            run(self.base()..own + n_kept);
        }
        let behind = own + self.kept.len()..self.n_slots();
        if block >= self.blocks as u64 && !behind.is_empty() {
            run(behind);
        }
    }
}
