//! The cache of kinds that see whole blocks: a ring of pages, one for each of the last blocks.

use std::ops::Range;

use super::checked;

/// The last `n` blocks of `size` positions, the one being written included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages {
    pub size: usize,
    pub n: usize,
}

impl Pages {
    /// Refuses sizes of zero and beyond every use.
    pub fn new(size: usize, n: usize) -> Result<Self, String> {
        checked("block times blocks", size.saturating_mul(n))?;
        Ok(Self { size, n })
    }

    /// The block of a position.
    pub fn block_of(&self, position: u64) -> u64 {
        position / self.size as u64
    }

    pub fn n_slots(&self) -> usize {
        self.size * self.n
    }

    pub fn slot(&self, position: u64) -> usize {
        (position % self.n_slots() as u64) as usize
    }

    /// The slots of the position's own block, so far.
    pub fn own(&self, position: u64) -> Range<usize> {
        let written = (position % self.size as u64) as usize + 1;
        let start = self.page(self.block_of(position)).start;
        start..start + written
    }

    /// The slots of a finished block that is still held.
    pub fn page(&self, block: u64) -> Range<usize> {
        let start = (block % self.n as u64) as usize * self.size;
        start..start + self.size
    }
}
