//! A lane as the GPU has it, and as the CPU engine shows it: one state, so that a station's file and a
//! prompt's caches move from either to the other. Pure; what lies where on the GPU is `decode_plan.cuh`'s
//! to say, and the order of the state `engine/cpu/worker.rs`'.

use std::mem::offset_of;
use std::ops::Range;

use super::{HEAD_BYTES, LaneHead, Layout, SLOT_BLOCK, ring};
use crate::engine::draw::MOST_LOUDNESS;
use crate::model::{DrawParams, ModelConfig};
use crate::predictor::INAUDIBLE;

/// Bytes of a line of the CPU's caches.
const LINE: usize = 64;
/// Slots of a block, in both.
const SLOTS: usize = 16;
/// Room for dimensions of a head, in the GPU's.
const DIMS: usize = 32;
/// Where the values and the scales of a block lie in the GPU's.
const VALUES: usize = SLOTS * DIMS;
const SCALES: usize = 2 * VALUES;

/// What the CPU engine would show of a lane. The filters' past is laid out as by a filter that has just
/// moved its own.
pub fn to_state(layout: &Layout, config: &ModelConfig, lane: &mut [u8]) -> Vec<u8> {
    let mut state = vec![0; state_len(config)];
    Ferry {
        lane,
        state: &mut state,
        at: 0,
        is_to_state: true,
    }
    .cross(layout, config);
    state
}

/// Makes the bytes of a lane, all zero, what the CPU engine has shown, of the same model; the position
/// that it is at then.
pub fn from_state(layout: &Layout, config: &ModelConfig, state: &mut [u8], lane: &mut [u8]) -> u64 {
    assert_eq!(state.len(), state_len(config), "a state of another model");
    Ferry {
        lane,
        state,
        at: 0,
        is_to_state: false,
    }
    .cross(layout, config);
    hold_within_bounds(lane)
}

/// Whoever wrote those bytes: it can go on from there. The same as the CPU engine does.
fn hold_within_bounds(lane: &mut [u8]) -> u64 {
    let (position, _) = lane.split_first_chunk_mut().expect("a head");
    let held = u64::from_le_bytes(*position).min(u64::MAX / 2);
    *position = held.to_le_bytes();
    let (any, bits) = (f32::INFINITY, DrawParams::MAX_ENTROPY_BITS);
    for (mean, least, most) in [
        (offset_of!(LaneHead, error), INAUDIBLE, any),
        (offset_of!(LaneHead, usual), INAUDIBLE, any),
        (offset_of!(LaneHead, spread), INAUDIBLE, any),
        (offset_of!(LaneHead, recent), 0.0, bits),
        (offset_of!(LaneHead, long_recent), 0.0, bits),
        (offset_of!(LaneHead, loudness), 0.0, MOST_LOUDNESS),
    ] {
        let bytes = lane[mean..].first_chunk_mut().expect("a head");
        let mean = f32::from_le_bytes(*bytes).max(least).min(most);
        *bytes = mean.to_le_bytes();
    }
    held
}

/// Bytes of the CPU engine's state.
pub fn state_len(config: &ModelConfig) -> usize {
    let filters = config.predictor.iter().map(|of| 12 * of.taps + 16);
    let cascade = match config.predictor.len() {
        0 => 0,
        n => 4 * (4 + n + 1),
    };
    let caches = config.layers.iter();
    let caches = caches.map(|layer| layer.head(0).n_slots().div_ceil(SLOTS) * block_len(config));
    8 + 1 + 12 + filters.sum::<usize>() + cascade + taps_len(config) + caches.sum::<usize>()
}

/// Of the convolutions of all layers.
fn taps_len(config: &ModelConfig) -> usize {
    4 * config.n_layers() * config.conv_width * config.d_model
}

/// Keys of a block in the CPU's cache, or values.
fn half_len(config: &ModelConfig) -> usize {
    config.head_size().next_multiple_of(16) / 4 * LINE
}

/// Keys, values and scales of a block there.
fn block_len(config: &ModelConfig) -> usize {
    2 * half_len(config) + 2 * 4 * SLOTS
}

/// Carries a lane over, field by field, in the order of the state.
struct Ferry<'a> {
    lane: &'a mut [u8],
    state: &'a mut [u8],
    /// Bytes of the state that have been carried.
    at: usize,
    is_to_state: bool,
}

impl Ferry<'_> {
    fn cross(&mut self, layout: &Layout, config: &ModelConfig) {
        let head = |at: usize, len: usize| at..at + len;
        self.same(head(offset_of!(LaneHead, position), 8));
        // One byte here, and the low one of a word there.
        self.same(head(offset_of!(LaneHead, last), 1));
        self.same(head(offset_of!(LaneHead, recent), 4));
        self.same(head(offset_of!(LaneHead, long_recent), 4));
        self.same(head(offset_of!(LaneHead, loudness), 4));
        let n_filters = config.predictor.len();
        let mut at = HEAD_BYTES + taps_len(config);
        for (index, filter) in config.predictor.iter().enumerate() {
            self.filter(index, at, filter.taps);
            at += 4 * (filter.taps + ring(filter.taps));
        }
        if n_filters > 0 {
            // `expected`, `error`, `usual` and `spread`, one behind the other.
            self.same(head(offset_of!(LaneHead, expected), 16));
            self.same(head(offset_of!(LaneHead, places), 4 * (n_filters + 1)));
        }
        self.same(HEAD_BYTES..HEAD_BYTES + taps_len(config));
        for (layer, start) in config.layers.iter().zip(layout.cache_starts(config)) {
            let n_blocks = layer.head(0).n_slots().div_ceil(SLOTS);
            self.cache(start, n_blocks, config);
        }
    }

    /// The next bytes of the state are those of the lane.
    fn same(&mut self, of_lane: Range<usize>) {
        let (n, lane) = (of_lane.len(), &mut self.lane[of_lane]);
        let state = &mut self.state[self.at..self.at + n];
        carry(self.is_to_state, lane, state, 0);
        self.at += n;
    }

    /// Weights; what came in, and where the newest of it lies; energy and prediction. The weights and the
    /// ring of the filter begin at `at` of the lane.
    fn filter(&mut self, index: usize, at: usize, taps: usize) {
        self.same(at..at + 4 * taps);
        self.heard(index, at + 4 * taps, taps);
        self.same(word(offset_of!(LaneHead, energy), index));
        self.same(word(offset_of!(LaneHead, prediction), index));
    }

    /// The newest first in both: on a ring there, and here in room for twice as much, wherever it has
    /// come to in it.
    fn heard(&mut self, index: usize, ring_at: usize, taps: usize) {
        let newest = word(offset_of!(LaneHead, newest), index);
        let (heard, rest) = self.state[self.at..].split_at_mut(8 * taps);
        let head = &mut rest[..8];
        let places = ring(taps);
        let (newest, ring) = self
            .lane
            .get_disjoint_mut([newest, ring_at..ring_at + 4 * places])
            .map(|[newest, ring]| (newest, ring.as_chunks_mut::<4>().0))
            .expect("a head lies before the rings");
        let heard = heard.as_chunks_mut::<4>().0;
        if self.is_to_state {
            let first = u32::from_le_bytes(newest.try_into().expect("a word")) as usize;
            heard[..taps].fill([0; 4]);
            for (i, heard) in heard[taps..].iter_mut().enumerate() {
                *heard = ring[(first + i) % places];
            }
            head.copy_from_slice(&(taps as u64).to_le_bytes());
        } else {
            let first = u64::from_le_bytes(head.try_into().expect("eight bytes")) as usize;
            // Whoever wrote those bytes: nothing beyond is ever read.
            let first = first.min(taps);
            ring.fill([0; 4]);
            ring[..taps].copy_from_slice(&heard[first..first + taps]);
            newest.fill(0);
        }
        self.at += 8 * taps + 8;
    }

    /// All keys and values of a layer, then all scales.
    fn cache(&mut self, start: usize, n_blocks: usize, config: &ModelConfig) {
        let (half, k) = (half_len(config), config.head_size());
        let (lines, rest) = self.state[self.at..].split_at_mut(n_blocks * 2 * half);
        let scales = &mut rest[..n_blocks * 2 * 4 * SLOTS];
        let lane = &mut self.lane[start..start + n_blocks * SLOT_BLOCK];
        let blocks = lane.chunks_exact_mut(SLOT_BLOCK);
        let state = lines
            .chunks_exact_mut(2 * half)
            .zip(scales.chunks_exact_mut(2 * 4 * SLOTS));
        for (block, (lines, scales)) in blocks.zip(state) {
            let (keys, values) = lines.split_at_mut(half);
            let (own_keys, rest) = block.split_at_mut(VALUES);
            let (own_values, own_scales) = rest.split_at_mut(SCALES - VALUES);
            carry_keys(self.is_to_state, own_keys, keys, k);
            carry_values(self.is_to_state, own_values, values, k);
            carry(self.is_to_state, own_scales, scales, 0);
        }
        self.at += n_blocks * block_len(config);
    }
}

/// A word of one of the head's arrays.
fn word(array: usize, index: usize) -> Range<usize> {
    array + 4 * index..array + 4 * index + 4
}

/// [16 slots][32 dims] there, [K / 4][16 slots][4 dims] here, and 128 above their value.
fn carry_keys(is_to_state: bool, lane: &mut [u8], state: &mut [u8], k: usize) {
    for (slot, lane) in lane.chunks_exact_mut(DIMS).enumerate() {
        for (quad, lane) in lane[..k].chunks_exact_mut(4).enumerate() {
            let state = &mut state[quad * LINE + 4 * slot..][..4];
            carry(is_to_state, lane, state, 0x80);
        }
    }
}

/// [32 dims][16 slots] there, [K / 16][4 quads][16 dims][4 slots] here.
fn carry_values(is_to_state: bool, lane: &mut [u8], state: &mut [u8], k: usize) {
    for (dim, lane) in lane.chunks_exact_mut(SLOTS).take(k).enumerate() {
        for (quad, lane) in lane.chunks_exact_mut(4).enumerate() {
            let line = dim / 16 * 4 + quad;
            let state = &mut state[line * LINE + 4 * (dim % 16)..][..4];
            carry(is_to_state, lane, state, 0);
        }
    }
}

/// One way or the other, some bits turned over.
fn carry(is_to_state: bool, lane: &mut [u8], state: &mut [u8], bits: u8) {
    for (lane, state) in lane.iter_mut().zip(state) {
        match is_to_state {
            true => *state = *lane ^ bits,
            false => *lane = *state ^ bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::engine::{self, Decoder, Settings, Turn, uniform};
    use crate::model::Model;

    fn models() -> impl Iterator<Item = Arc<Model>> {
        let mut of_rings = Model::load(Path::new("models/tiny")).unwrap();
        of_rings.config.predictor.clear();
        of_rings.weights.predictor.clear();
        let named = ["models/tiny", "models/piano-16k"].into_iter();
        let named = named.map(|path| Model::load(Path::new(path)).unwrap());
        named.chain([of_rings]).map(Arc::new)
    }

    fn draw(engine: &mut dyn Decoder, lane: usize, n: usize) -> Vec<u8> {
        let start = engine.position(lane);
        let uniforms: Vec<f32> = (start..).take(n).map(|t| uniform(7, t)).collect();
        let mut codes = vec![0; n];
        engine.generate(&mut [Turn {
            lane,
            draw: engine::DrawParams::default(),
            uniforms: &uniforms,
            codes: &mut codes,
        }]);
        codes
    }

    #[test]
    fn a_lane_of_the_cpu_engine_goes_over_and_comes_back_and_plays_on() {
        for model in models() {
            let (config, layout) = (&model.config, Layout::of(&model.config).unwrap());
            let mut cpu = engine::open(&model, &Settings::default(), 3).unwrap();
            assert_eq!(cpu.state_len(), state_len(config));
            // Of an age at which every cache is full, and of none; filters at several places of their
            // rooms.
            cpu.age(0, 123_456_789);
            for n in [0, 1, 333, 700] {
                draw(&mut *cpu, 0, n);
                draw(&mut *cpu, 1, n);
                for lane in [0, 1] {
                    let mut state = vec![0; state_len(config)];
                    cpu.save(lane, &mut state);
                    let mut there = vec![0; layout.lane_bytes];
                    from_state(&layout, config, &mut state, &mut there);
                    let back = to_state(&layout, config, &mut there);
                    let position = cpu.restore(2, &back);
                    assert_eq!(position, cpu.position(lane));
                    let expected = {
                        let mut other = engine::open(&model, &Settings::default(), 1).unwrap();
                        other.restore(0, &state);
                        draw(&mut *other, 0, 200)
                    };
                    assert!(draw(&mut *cpu, 2, 200) == expected, "{}, {n}", model.name);
                }
            }
        }
    }

    #[test]
    fn a_stream_that_has_not_begun_is_the_same_there() {
        for model in models() {
            let (config, layout) = (&model.config, Layout::of(&model.config).unwrap());
            let mut there = vec![0; layout.lane_bytes];
            let head = LaneHead::new();
            there[..size_of::<LaneHead>()].copy_from_slice(bytemuck::bytes_of(&head));
            let mut cpu = engine::open(&model, &Settings::default(), 1).unwrap();
            let mut state = vec![0; state_len(config)];
            cpu.save(0, &mut state);
            // Position, last code and what is remembered of draws; zeros of a filter may lie elsewhere.
            let own = 8 + 1 + 12;
            assert_eq!(to_state(&layout, config, &mut there)[..own], state[..own]);
        }
    }

    #[test]
    fn what_no_lane_can_be_is_held_within_bounds_as_by_the_cpu_engine() {
        for model in models() {
            let (config, layout) = (&model.config, Layout::of(&model.config).unwrap());
            for wild in [f32::NAN, f32::INFINITY, -1e38] {
                let mut cpu = engine::open(&model, &Settings::default(), 2).unwrap();
                let mut state = vec![0; state_len(config)];
                cpu.save(0, &mut state);
                for mean in state[9..21].as_chunks_mut().0 {
                    *mean = wild.to_le_bytes();
                }
                let mut there = vec![0; layout.lane_bytes];
                from_state(&layout, config, &mut state.clone(), &mut there);
                cpu.restore(1, &state);
                cpu.save(1, &mut state);
                assert_eq!(
                    to_state(&layout, config, &mut there)[..21],
                    state[..21],
                    "{wild}"
                );
                assert!(draw(&mut *cpu, 1, 50).iter().any(|code| *code != 0));
            }
        }
    }

    #[test]
    fn every_byte_of_a_state_has_its_place_there() {
        for model in models() {
            let (config, layout) = (&model.config, Layout::of(&model.config).unwrap());
            let noise = |t: usize| (uniform(3, t as u64) * 256.0) as u8;
            let mut state: Vec<u8> = (0..state_len(config)).map(noise).collect();
            let mut there = vec![0; layout.lane_bytes];
            from_state(&layout, config, &mut state, &mut there);
            let back = to_state(&layout, config, &mut there);
            let mut again = vec![0; layout.lane_bytes];
            from_state(&layout, config, &mut back.clone(), &mut again);
            assert!(there == again, "{}", model.name);
            // But for the past of the filters, which has moved, and room that no head fills.
            let heard: usize = config.predictor.iter().map(|of| 8 * of.taps + 8).sum();
            let differ = state.iter().zip(&back).filter(|(a, b)| a != b).count();
            // Position and mean errors are held within bounds.
            let held = 8 + 6 * 4;
            assert!(differ <= heard + held, "{}: {differ} bytes", model.name);
        }
    }
}
