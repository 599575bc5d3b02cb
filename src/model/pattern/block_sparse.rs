//! `block_sparse`: any causal layout of blocks that repeats (after OpenAI's blocksparse).
//!
//! `layout` is a table whose rows are taken in turn, one for each block of queries: how many blocks
//! back the blocks lie that it sees, its own (0) first and seen only so far as it is written. A table
//! of offsets instead of the original's matrix of ones and zeros is what makes it endless.

use serde::Deserialize;
use serde_json::Value;

use super::pages::{Choice, Pages};
use super::{Defaults, Head, Kind, Parsed, checked, fields};

pub(super) const KIND: Kind = Kind {
    name: "block_sparse",
    parse,
};

#[derive(Debug)]
struct BlockSparse {
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
    let choice = BlockSparse { layout };
    Ok(Head::placed(Pages::new(
        block,
        farthest.saturating_add(1),
        choice,
    )?))
}

impl Choice for BlockSparse {
    const KIND: &'static str = KIND.name;

    fn others(&self, block: u64, seen: &mut dyn FnMut(u64)) {
        let row = &self.layout[(block % self.layout.len() as u64) as usize];
        let others = row[1..].iter();
        let others = others.map_while(|back| block.checked_sub(*back as u64));
        others.for_each(seen);
    }

    fn most_others(&self) -> usize {
        self.layout.iter().map(Vec::len).max().unwrap_or(1) - 1
    }

    fn period(&self) -> Option<u64> {
        Some(self.layout.len() as u64)
    }
}
