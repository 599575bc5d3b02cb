//! The KV cache of one layer of one lane, in int8, laid out for dot products.
//!
//! Slots come in blocks of sixteen. A block holds, for each KV head in turn, the keys as
//! `[K / 4][16 slots][4 dims]`, so that one broadcast of four query dims meets sixteen keys, and
//! the values as `[K / 16][8 pairs][16 dims][2 slots]`, so that one broadcast of two weights meets
//! sixteen dims.
//! Keys are kept 128 above their value (the unsigned side of the CPU's dot products), values as
//! they are.
//! A run of slots is one contiguous piece of memory.

use std::ops::Range;

use super::Line;

/// Slots that are read together.
pub const SLOTS_PER_BLOCK: usize = 16;

/// The keys and values of one layer of one lane.
#[derive(Debug)]
pub struct LayerCache {
    n_groups: usize,
    /// `K`, filled up to whole sixteens.
    head_width: usize,
    /// [blocks][G][keys then values], `K / 4` lines each.
    lines: Vec<Line>,
    /// [blocks][G][scales of the keys, scales of the values]
    scales: Vec<[[f32; SLOTS_PER_BLOCK]; 2]>,
}

/// What attention of one group of query heads reads: one KV head over some runs of slots, each
/// widened to whole blocks.
#[derive(Clone, Copy, Debug)]
pub struct HeadGroup<'a> {
    cache: &'a LayerCache,
    group: usize,
    runs: &'a [Range<usize>],
}

impl LayerCache {
    /// Room for `n_slots` positions of `n_groups` KV heads of `head_size`.
    pub fn new(n_slots: usize, n_groups: usize, head_size: usize) -> Self {
        let n_blocks = n_slots.div_ceil(SLOTS_PER_BLOCK);
        let head_width = head_size.next_multiple_of(16);
        Self {
            n_groups,
            head_width,
            lines: vec![Line([0; 64]); n_blocks * n_groups * head_width / 2],
            scales: vec![[[0.0; SLOTS_PER_BLOCK]; 2]; n_blocks * n_groups],
        }
    }

    /// Bytes that such a cache takes.
    pub fn bytes_for(n_slots: usize, n_groups: usize, head_size: usize) -> usize {
        let of_head = head_size.next_multiple_of(16) / 2 * size_of::<Line>();
        let scales = size_of::<[[f32; SLOTS_PER_BLOCK]; 2]>();
        n_slots.div_ceil(SLOTS_PER_BLOCK) * n_groups * (of_head + scales)
    }

    /// Writes one key and one value, quantised as by `lanewise::quantize`, with their scales.
    pub fn write(&mut self, slot: usize, group: usize, key: (&[i8], f32), value: (&[i8], f32)) {
        let (block, at) = (slot / SLOTS_PER_BLOCK, slot % SLOTS_PER_BLOCK);
        let piece = block * self.n_groups + group;
        self.scales[piece][0][at] = key.1;
        self.scales[piece][1][at] = value.1;
        let n_lines = self.head_width / 4;
        let (keys, values) =
            self.lines[piece * 2 * n_lines..(piece + 1) * 2 * n_lines].split_at_mut(n_lines);
        for (line, quad) in keys.iter_mut().zip(key.0.chunks(4)) {
            for (byte, key) in line.0[4 * at..].iter_mut().zip(quad) {
                *byte = (*key as u8).wrapping_add(128);
            }
        }
        for (dim, value) in value.0.iter().enumerate() {
            let (line, byte) = value_place(dim, at);
            values[line].0[byte] = *value as u8;
        }
    }

    /// One KV head over the blocks that hold the slots of `runs`.
    pub fn head_group<'a>(&'a self, group: usize, runs: &'a [Range<usize>]) -> HeadGroup<'a> {
        HeadGroup {
            cache: self,
            group,
            runs,
        }
    }

    /// The memory that holds the slots of `run`, all heads: for fetching it before it is needed.
    pub fn lines(&self, run: &Range<usize>) -> &[Line] {
        let n_lines = self.n_groups * self.head_width / 2;
        let blocks = blocks_of(run);
        &self.lines[blocks.start * n_lines..blocks.end * n_lines]
    }
}

/// The line and the byte in it of a block's values that hold `dim` of the slot at `at`.
pub(super) fn value_place(dim: usize, at: usize) -> (usize, usize) {
    (
        dim / 16 * 4 + at / 4,
        at / 2 % 2 * 32 + dim % 16 * 2 + at % 2,
    )
}

/// The blocks that hold the slots of `run`.
pub fn blocks_of(run: &Range<usize>) -> Range<usize> {
    run.start / SLOTS_PER_BLOCK..run.end.div_ceil(SLOTS_PER_BLOCK)
}

impl<'a> HeadGroup<'a> {
    /// How many blocks are read.
    pub fn n_blocks(&self) -> usize {
        self.runs.iter().map(|run| blocks_of(run).len()).sum()
    }

    /// Copies the scales of the values, one for each slot of the blocks.
    pub fn copy_value_scales(&self, out: &mut [f32]) {
        for (out, block) in out.chunks_exact_mut(SLOTS_PER_BLOCK).zip(self.blocks()) {
            out.copy_from_slice(block.value_scales);
        }
    }

    /// Block after block, run after run.
    #[inline(always)]
    pub(super) fn blocks(&self) -> impl Iterator<Item = Block<'a>> + use<'a> {
        let Self { cache, group, runs } = *self;
        let n_lines = cache.head_width / 4;
        runs.iter().flat_map(blocks_of).map(move |block| {
            let piece = block * cache.n_groups + group;
            let (keys, values) =
                cache.lines[piece * 2 * n_lines..(piece + 1) * 2 * n_lines].split_at(n_lines);
            let [key_scales, value_scales] = &cache.scales[piece];
            Block {
                keys,
                values: values.as_chunks().0,
                key_scales,
                value_scales,
            }
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
    pub(super) fn head(&self, head: usize) -> (&[i8], f32) {
        (
            &self.bytes[head * self.width..(head + 1) * self.width],
            self.scales[head],
        )
    }
}

/// Sixteen slots of one KV head.
#[derive(Debug)]
pub(super) struct Block<'a> {
    /// [K / 4][16 slots][4 dims]
    pub keys: &'a [Line],
    /// [K / 16][8 pairs][16 dims][2 slots], four lines for each sixteen dims
    pub values: &'a [[Line; 4]],
    pub key_scales: &'a [f32; SLOTS_PER_BLOCK],
    value_scales: &'a [f32; SLOTS_PER_BLOCK],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_foretold_are_the_bytes_taken() {
        for (n_slots, n_groups, head_size) in [(1, 1, 2), (16, 2, 32), (100, 3, 20)] {
            let cache = LayerCache::new(n_slots, n_groups, head_size);
            let taken = size_of_val(&cache.lines[..]) + size_of_val(&cache.scales[..]);
            assert_eq!(LayerCache::bytes_for(n_slots, n_groups, head_size), taken);
        }
    }
}
