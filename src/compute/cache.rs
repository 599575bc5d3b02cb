//! The KV cache of one KV head in one layer of one lane, in int8, laid out for dot products.
//!
//! Slots come in blocks of sixteen. A block holds the keys as `[K / 4][16 slots][4 dims]`, so that
//! one broadcast of four query dims meets sixteen keys, and the values as
//! `[K / 16][4 quads][16 dims][4 slots]`, so that one broadcast of four weights meets sixteen dims.
//! Keys are kept 128 above their value (the unsigned side of the CPU's dot products), values as
//! they are. A run of slots is one contiguous piece of memory.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::{Line, Lines};

/// Slots that are read together.
pub const SLOTS_PER_BLOCK: usize = 16;

/// Blocks whose weighted values are summed in 32 bits: 65,536 · 255 · 127 < 2³¹.
pub(super) const BLOCKS_PER_SUM: usize = 65_536 / SLOTS_PER_BLOCK;

/// The keys and values of one KV head.
#[derive(Debug)]
pub struct HeadCache {
    /// Lines of a block's keys, and of its values: `K / 4`, `K` filled up to whole sixteens.
    n_lines: usize,
    /// [blocks][keys then values]
    lines: Lines,
    /// [blocks][scales of the keys, scales of the values]
    scales: Vec<Scales>,
}

/// What one step of each slot's key, and of its value, is worth.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Scales {
    pub keys: [f32; SLOTS_PER_BLOCK],
    pub values: [f32; SLOTS_PER_BLOCK],
}

/// What attention reads: some runs of slots, each widened to whole blocks.
#[derive(Clone, Copy, Debug)]
pub struct Slots<'a> {
    cache: &'a HeadCache,
    runs: &'a [Range<usize>],
}

/// Sixteen slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    /// [K / 4][16 slots][4 dims]
    pub keys: &'a [Line],
    /// [K / 16][4 quads][16 dims][4 slots]
    pub values: &'a [Line],
    pub scales: &'a Scales,
}

impl HeadCache {
    /// Room for `n_slots` positions of a head of `head_size`.
    pub fn new(n_slots: usize, head_size: usize) -> Self {
        let n_blocks = n_slots.div_ceil(SLOTS_PER_BLOCK);
        let n_lines = head_size.next_multiple_of(16) / 4;
        Self {
            n_lines,
            lines: Lines::zeroed(n_blocks * 2 * n_lines),
            scales: vec![Scales::default(); n_blocks],
        }
    }

    /// Bytes that such a cache takes.
    pub fn bytes_for(n_slots: usize, head_size: usize) -> usize {
        let of_block = head_size.next_multiple_of(16) / 2 * size_of::<Line>() + size_of::<Scales>();
        n_slots.div_ceil(SLOTS_PER_BLOCK) * of_block
    }

    /// Becomes what `other` is, a cache of as many slots of the same size.
    pub fn copy(&mut self, other: &Self) {
        self.lines.copy_from_slice(&other.lines);
        self.scales.copy_from_slice(&other.scales);
    }

    /// Shows all bytes, and takes what `visit` leaves there.
    pub fn state(&mut self, visit: &mut dyn FnMut(&mut [u8])) {
        visit(bytemuck::cast_slice_mut(&mut self.lines));
        visit(bytemuck::cast_slice_mut(&mut self.scales));
    }

    /// Writes one key and one value, quantised as by `lanewise::quantize`, with their scales.
    #[inline(always)]
    pub fn write(&mut self, slot: usize, key: (&[i8], f32), value: (&[i8], f32)) {
        let (block, at) = (slot / SLOTS_PER_BLOCK, slot % SLOTS_PER_BLOCK);
        let scales = &mut self.scales[block];
        (scales.keys[at], scales.values[at]) = (key.1, value.1);
        let n = self.n_lines;
        let (keys, values) = self.lines[block * 2 * n..(block + 1) * 2 * n].split_at_mut(n);
        let mut places = keys
            .iter_mut()
            .map(|line| &mut line.0.as_chunks_mut().0[at]);
        let (quads, rest) = key.0.as_chunks::<4>();
        for (quad, place) in quads.iter().zip(&mut places) {
            *place = quad.map(above);
        }
        for (place, key) in places.flatten().zip(rest) {
            *place = above(*key);
        }
        for (lines, dims) in values.chunks_exact_mut(4).zip(value.0.chunks(16)) {
            // As 32-bit words, for sixteen dims at once.
            let (mask, shift) = (!(0xff << (at % 4 * 8)), at % 4 * 8);
            let line = lines[at / 4].0.as_chunks_mut::<4>().0;
            for (quad, value) in line.iter_mut().zip(dims) {
                let byte = u32::from(*value as u8) << shift;
                *quad = (u32::from_le_bytes(*quad) & mask | byte).to_le_bytes();
            }
        }
    }

    /// The blocks that hold the slots of `runs`.
    pub fn slots<'a>(&'a self, runs: &'a [Range<usize>]) -> Slots<'a> {
        Slots { cache: self, runs }
    }

    /// The memory that holds the slots of `run`, keys and values and then their scales: for fetching it
    /// before it is needed.
    pub fn memory_of(&self, run: &Range<usize>) -> [&[Line]; 2] {
        let scales = bytemuck::cast_slice(&self.scales[blocks_of(run)]);
        [self.lines(run), scales]
    }

    fn lines(&self, run: &Range<usize>) -> &[Line] {
        let (blocks, n) = (blocks_of(run), 2 * self.n_lines);
        &self.lines[blocks.start * n..blocks.end * n]
    }
}

/// A byte of a key, 128 above its value.
#[inline(always)]
fn above(key: i8) -> u8 {
    key as u8 ^ 128
}

/// The blocks that hold the slots of `run`.
pub fn blocks_of(run: &Range<usize>) -> Range<usize> {
    run.start / SLOTS_PER_BLOCK..run.end.div_ceil(SLOTS_PER_BLOCK)
}

impl<'a> Slots<'a> {
    /// How many blocks are read.
    pub fn n_blocks(&self) -> usize {
        self.runs.iter().map(|run| blocks_of(run).len()).sum()
    }

    /// Copies the scales of the values, one for each slot of the blocks.
    #[inline(always)]
    pub fn copy_value_scales(&self, out: &mut [f32]) {
        let out = out.as_chunks_mut::<SLOTS_PER_BLOCK>().0;
        let blocks = self.runs.iter().flat_map(blocks_of);
        for (out, block) in out.iter_mut().zip(blocks) {
            *out = self.cache.scales[block].values;
        }
    }

    /// Run after run, each block by block.
    #[inline(always)]
    pub(super) fn runs(self) -> impl Iterator<Item = impl Iterator<Item = Block<'a>>> {
        let Self { cache, runs } = self;
        runs.iter().map(move |run| {
            let lines = cache.lines(run).chunks_exact(2 * cache.n_lines);
            let scales = &cache.scales[blocks_of(run)];
            lines.zip(scales).map(move |(lines, scales)| {
                let (keys, values) = lines.split_at(cache.n_lines);
                Block {
                    keys,
                    values,
                    scales,
                }
            })
        })
    }
}

/// The queries of the heads that share one KV head, quantised as by `lanewise::quantize`.
#[derive(Debug)]
pub struct Queries {
    /// `K`, filled up to whole fours with zeros.
    width: usize,
    head_size: usize,
    bytes: Vec<i8>,
    scales: Vec<f32>,
}

impl Queries {
    /// Room for `n_heads` queries of `head_size`.
    pub fn new(n_heads: usize, head_size: usize) -> Self {
        let width = head_size.next_multiple_of(4);
        Self {
            width,
            head_size,
            bytes: vec![0; n_heads * width],
            scales: vec![0.0; n_heads],
        }
    }

    /// Where to write the query of `head`, and what one step of it is worth.
    #[inline(always)]
    pub fn head_mut(&mut self, head: usize) -> (&mut [i8], &mut f32) {
        let start = head * self.width;
        (
            &mut self.bytes[start..start + self.head_size],
            &mut self.scales[head],
        )
    }

    /// How many heads.
    pub fn n_heads(&self) -> usize {
        self.scales.len()
    }

    /// The query of `head`, filled up to whole fours.
    #[inline(always)]
    pub(super) fn head(&self, head: usize) -> (&[i8], f32) {
        (
            &self.bytes[head * self.width..(head + 1) * self.width],
            self.scales[head],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_foretold_are_the_bytes_taken() {
        for (n_slots, head_size) in [(1, 2), (16, 32), (100, 20)] {
            let cache = HeadCache::new(n_slots, head_size);
            let taken = size_of_val(&cache.lines[..]) + size_of_val(&cache.scales[..]);
            assert_eq!(HeadCache::bytes_for(n_slots, head_size), taken);
        }
    }
}
