//! Kinds that see whole blocks: a ring of pages, one for each of the last blocks, and a choice among
//! them.

use std::fmt;
use std::ops::Range;

use super::{Pattern, Placed, checked};

/// The own block so far, and of the blocks before it those that are chosen.
#[derive(Debug)]
pub(super) struct Pages<C> {
    size: usize,
    /// Blocks held, the one being written included.
    n: usize,
    choice: C,
}

/// Which of the blocks before it a block sees.
pub(super) trait Choice: fmt::Debug + Send + Sync {
    /// The word of the kind.
    const KIND: &'static str;
    /// Does a gradient pass from block to block?
    const CARRIES: bool = true;

    /// Tells the blocks that `block` sees before it, each once; all are among the last `n` of the pages.
    fn others(&self, block: u64, seen: &mut dyn FnMut(u64));

    /// The most that there are.
    fn most_others(&self) -> usize;

    /// After how many blocks the choice is what it was; `None` if it never is.
    fn period(&self) -> Option<u64>;
}

impl<C: Choice> Pages<C> {
    /// `n` pages of `size` positions; refuses sizes beyond every use.
    pub fn new(size: usize, n: usize, choice: C) -> Result<Self, String> {
        checked("block times blocks", size.saturating_mul(n))?;
        Ok(Self { size, n, choice })
    }

    fn block_of(&self, position: u64) -> u64 {
        position / self.size as u64
    }

    /// Where the slots of a block that is held begin.
    fn page(&self, block: u64) -> usize {
        (block % self.n as u64) as usize * self.size
    }
}

impl<C: Choice> Pattern for Pages<C> {
    fn kind(&self) -> &'static str {
        C::KIND
    }

    fn reach(&self) -> u64 {
        self.n_slots() as u64
    }

    fn n_slots(&self) -> usize {
        self.size * self.n
    }

    fn max_visible(&self) -> usize {
        self.size * self.max_runs()
    }

    fn max_runs(&self) -> usize {
        1 + self.choice.most_others().min(self.n - 1)
    }

    fn cycle(&self, rope_period: u64) -> Option<u64> {
        let choice = self.choice.period()?.checked_mul(self.size as u64)?;
        let slots = crate::model::lcm(self.n_slots() as u64, choice)?;
        crate::model::lcm(slots, rope_period)
    }
}

impl<C: Choice> Placed for Pages<C> {
    fn sees(&self, query: u64, key: u64) -> bool {
        let (now, then) = (self.block_of(query), self.block_of(key));
        let mut sees = now == then;
        if then < now {
            self.choice.others(now, &mut |block| sees |= block == then);
        }
        key <= query && sees
    }

    fn carries_gradient(&self, query: u64, key: u64) -> bool {
        let is_own = self.block_of(query) == self.block_of(key);
        (C::CARRIES || is_own) && self.sees(query, key)
    }

    fn slot(&self, position: u64) -> usize {
        (position % self.n_slots() as u64) as usize
    }

    fn visible(&self, position: u64, run: &mut dyn FnMut(Range<usize>)) {
        let block = self.block_of(position);
        let written = (position % self.size as u64) as usize + 1;
        let own = self.page(block);
        run(own..own + written);
        self.choice.others(block, &mut |block| {
            let page = self.page(block);
            run(page..page + self.size);
        });
    }
}
