//! The KV cache of one layer of one lane, in int8, laid out for dot products.
//!
//! Slots come in blocks of sixteen. A block holds, for each KV head in turn, the keys as
//! `[K / 4][16 slots][4 dims]`, so that one broadcast of four query dims meets sixteen keys, and
//! the values as `[8 pairs][K][2 slots]`, so that one broadcast of two weights meets sixteen dims.
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

    /// Bytes held.
    pub fn n_bytes(&self) -> usize {
        self.lines.len() * 64 + self.scales.len() * size_of::<[[f32; SLOTS_PER_BLOCK]; 2]>()
    }

    /// Writes one key and one value, quantised as by `lanewise::quantize`, with their scales.
    pub fn write(&mut self, slot: usize, group: usize, key: (&[u8], f32), value: (&[u8], f32)) {
        let (block, at) = (slot / SLOTS_PER_BLOCK, slot % SLOTS_PER_BLOCK);
        let piece = block * self.n_groups + group;
        self.scales[piece][0][at] = key.1;
        self.scales[piece][1][at] = value.1;
        let n_lines = self.head_width / 4;
        let (keys, values) =
            self.lines[piece * 2 * n_lines..(piece + 1) * 2 * n_lines].split_at_mut(n_lines);
        for (line, quad) in keys.iter_mut().zip(key.0.chunks(4)) {
            line.0[4 * at..4 * at + quad.len()].copy_from_slice(quad);
        }
        let pair = at / 2 * self.head_width;
        for (dim, byte) in value.0.iter().enumerate() {
            let byte_at = 2 * (pair + dim) + at % 2;
            values[byte_at / 64].0[byte_at % 64] = byte.wrapping_sub(128);
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

    /// `K`, filled up to whole sixteens.
    pub(super) fn head_width(&self) -> usize {
        self.cache.head_width
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
                values,
                key_scales,
                value_scales,
            }
        })
    }
}

/// Sixteen slots of one KV head.
#[derive(Debug)]
pub(super) struct Block<'a> {
    /// [K / 4][16 slots][4 dims]
    pub keys: &'a [Line],
    /// [8 pairs][K][2 slots]
    pub values: &'a [Line],
    pub key_scales: &'a [f32; SLOTS_PER_BLOCK],
    value_scales: &'a [f32; SLOTS_PER_BLOCK],
}
