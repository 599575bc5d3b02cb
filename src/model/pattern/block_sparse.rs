//! `block_sparse`: any causal layout of blocks that repeats (after OpenAI's blocksparse).
//!
//! `layout` is a table whose rows are taken in turn, one for each block of queries: how many blocks
//! back the blocks lie that it sees, its own (0) first and seen only so far as it is written. A table
//! of offsets instead of the original's matrix of ones and zeros is what makes it endless.

use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::pages::Pages;
use super::{Defaults, Kind, Parsed, Pattern, checked, fields};

pub(super) const KIND: Kind = Kind {
    name: "block_sparse",
    parse,
};

#[derive(Debug)]
struct BlockSparse {
    pages: Pages,
    layout: Vec<Vec<usize>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(rename = "kind")]
    _kind: String,
    block: usize,
    layout: Vec<Vec<usize>>,
}

/// The most rows of a layout.
const MAX_ROWS: usize = 4096;
/// The most blocks that a row names.
const MAX_BLOCKS: usize = 1024;

/// The word alone: blocks of a stride; the own, and those 1, 2, 4, … back within the context.
fn parse(entry: &Value, defaults: &Defaults) -> Parsed {
    let (block, layout) = match entry {
        Value::String(_) => {
            let n = defaults.context / defaults.stride;
            let back = std::iter::successors(Some(1), |back| Some(2 * back));
            let row = std::iter::once(0).chain(back.take_while(|back| *back < n));
            (defaults.stride, vec![row.collect()])
        }
        object => {
            let own: Fields = fields(object)?;
            (own.block, own.layout)
        }
    };
    checked("block", block)?;
    if layout.is_empty() || layout.len() > MAX_ROWS {
        return Err(format!(
            "layout has {} rows; 1 to {MAX_ROWS} are possible",
            layout.len()
        ));
    }
    for (i, row) in layout.iter().enumerate() {
        if row.first() != Some(&0) || !row.is_sorted_by(|a, b| a < b) || row.len() > MAX_BLOCKS {
            return Err(format!(
                "a row of layout begins with 0, the own block, and goes on with ever larger \
                 offsets, {MAX_BLOCKS} in all at most; row {i} does not"
            ));
        }
    }
    let farthest = layout.iter().flatten().max().copied().unwrap_or(0);
    let pages = Pages::new(block, farthest.saturating_add(1))?;
    Ok(Arc::new(BlockSparse { pages, layout }))
}

impl BlockSparse {
    /// The offsets of the block, its own first.
    fn row(&self, block: u64) -> &[usize] {
        &self.layout[(block % self.layout.len() as u64) as usize]
    }

    fn most_blocks(&self) -> usize {
        self.layout.iter().map(Vec::len).max().unwrap_or(1)
    }
}

impl Pattern for BlockSparse {
    fn kind(&self) -> &'static str {
        KIND.name
    }

    fn sees(&self, query: u64, key: u64) -> bool {
        let block = self.pages.block_of(query);
        key <= query && {
            let back = (block - self.pages.block_of(key)) as usize;
            self.row(block).contains(&back)
        }
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
        let block = self.pages.block_of(position);
        let others = &self.row(block)[1..];
        let seen = others
            .iter()
            .map_while(|back| block.checked_sub(*back as u64));
        seen.for_each(|block| run(self.pages.page(block)));
    }

    fn max_visible(&self) -> usize {
        self.pages.size * self.most_blocks()
    }

    fn max_runs(&self) -> usize {
        self.most_blocks()
    }

    fn cycle(&self, rope_period: u64) -> Option<u64> {
        let layout = (self.layout.len() as u64).checked_mul(self.pages.size as u64)?;
        let slots = crate::model::lcm(self.pages.n_slots() as u64, layout)?;
        crate::model::lcm(slots, rope_period)
    }
}
