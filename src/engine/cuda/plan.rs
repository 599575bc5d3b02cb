//! What `kernels/decode.cu` is given, and `kernels/prefill.cu` too, as `kernels/decode_plan.cuh` has it, and what a model must be
//! for it.

pub mod lane;

use std::mem::offset_of;

use bytemuck::NoUninit;

use super::device::Memory;
use crate::model::{DrawParams, Layer, ModelConfig};
use crate::mulaw;

/// `kSlotBlock`: bytes of sixteen slots of a cache.
pub const SLOT_BLOCK: usize = 1152;

const MOST_LAYERS: usize = 32;
const MOST_TAPS: usize = 4;
const MOST_FILTERS: usize = 15;
/// Far above what `root` in `kernels/decode_float.cuh` takes.
const LEAST_EPS: f32 = 1e-20;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct LayerPlan {
    stride: u32,
    rows: u32,
    cache: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct FilterPlan {
    taps: u32,
    ring: u32,
    rate: f32,
    kept: f32,
    weights: u32,
    heard: u32,
}

/// A launch.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub image: u64,
    pub embed: u64,
    pub samples: u64,
    pub angles: u64,
    kept_bytes: u32,
    n_layers: u32,
    conv_width: u32,
    n_filters: u32,
    rope_period: u32,
    filter_floats: u32,
    taps: u32,
    filters: u32,
    pub n_steps: u32,
    pub n_pieces: u32,
    norm_eps: f32,
    score_unit: f32,
    layers: [LayerPlan; MOST_LAYERS],
    filter: [FilterPlan; MOST_FILTERS],
}

impl Plan {
    /// How many layers.
    pub fn n_layers(&self) -> u32 {
        self.n_layers
    }

    /// How many filters.
    pub fn n_filters(&self) -> u32 {
        self.n_filters
    }

    /// A layer's stride and rows.
    pub fn spacing(&self, layer: usize) -> (u64, u64) {
        let layer = &self.layers[layer];
        (u64::from(layer.stride), u64::from(layer.rows))
    }
}

/// One lane's part in a launch.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, NoUninit)]
pub struct TurnPlan {
    pub lane: u64,
    pub uniforms: u64,
    pub forced: u64,
    pub codes: u64,
    pub logits: u64,
    pub temperature: f32,
    pub max_entropy: f32,
    pub top_p: f32,
    pub min_p: f32,
    pub is_drawn: u32,
    pub max_rise: f32,
    pub leveling: f32,
    pub max_click: f32,
    pub min_entropy: f32,
    pub gap: u32,
}

/// The part of a lane that changes as a whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, NoUninit)]
pub struct LaneHead {
    pub position: u64,
    last: u32,
    expected: f32,
    error: f32,
    usual: f32,
    spread: f32,
    places: [f32; MOST_FILTERS + 1],
    energy: [f32; MOST_FILTERS],
    prediction: [f32; MOST_FILTERS],
    newest: [u32; MOST_FILTERS],
    recent: f32,
    long_recent: f32,
    loudness: f32,
    gap: u32,
}

// The kernels' say the same.
const _: () = {
    assert!(size_of::<TurnPlan>() == 80 && offset_of!(TurnPlan, min_entropy) == 72);
    assert!(size_of::<LaneHead>() == 288 && offset_of!(LaneHead, long_recent) == 276);
    assert!(size_of::<LaneHead>() <= HEAD_BYTES);
};

impl LaneHead {
    /// That of a stream that has not begun.
    pub fn new() -> Self {
        Self {
            position: 0,
            last: u32::from(mulaw::SILENCE),
            expected: 0.0,
            error: 1.0,
            usual: 1.0,
            spread: 1.0,
            places: [f32::from(mulaw::SILENCE) / 256.0; MOST_FILTERS + 1],
            energy: [0.0; MOST_FILTERS],
            prediction: [0.0; MOST_FILTERS],
            newest: [0; MOST_FILTERS],
            recent: 0.0,
            long_recent: DrawParams::MAX_ENTROPY_BITS,
            loudness: 64.0,
            gap: 0,
        }
    }
}

/// Sizes and places, of a model that the kernels can compute.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The kernels that are compiled for it.
    kernels: &'static Kernels,
    /// Bytes of norms and taps.
    kept_bytes: usize,
    /// Bytes of a lane.
    pub lane_bytes: usize,
    /// Those that a new stream begins with zeros, behind the head.
    pub fresh_bytes: usize,
    filter_floats: usize,
}

/// The kernels of one shape.
#[derive(Debug)]
pub struct Kernels {
    /// Their D, F, H and K.
    sizes: [usize; 4],
    /// In the order of how many lanes they advance at once.
    ways: &'static [Way],
}

/// How a kernel deals lanes to blocks.
#[derive(Debug)]
struct Way {
    name: &'static str,
    /// Blocks of a cluster, which share a step out; 1 where there are no clusters.
    n_blocks: usize,
    /// Lanes of such a cluster.
    n_lanes: usize,
    /// `kThreads`, and `kBringers`.
    n_threads: usize,
    /// KiB of `Rooms`, at most.
    rooms: usize,
    /// `kPieceBytes`
    piece: usize,
}

impl Way {
    /// So many lanes to a block.
    const fn alone(name: &'static str, n_lanes: usize, rooms: usize) -> Self {
        Self {
            name,
            n_blocks: 1,
            n_lanes,
            n_threads: 640,
            rooms,
            piece: 17920,
        }
    }

    /// A lane to eight blocks.
    const fn cluster(name: &'static str, rooms: usize, piece: usize) -> Self {
        Self {
            name,
            n_blocks: 8,
            n_lanes: 1,
            n_threads: 288,
            rooms,
            piece,
        }
    }

    /// Blocks of a cluster multiply one while the next comes.
    const fn least_pieces(&self) -> usize {
        match self.n_blocks {
            1 => 1,
            _ => 2,
        }
    }
}

/// A kernel of a model's, and what a block of it has on some GPU.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    pub name: &'static str,
    /// Blocks of a cluster.
    pub n_blocks: usize,
    /// Lanes of a cluster.
    pub n_lanes: usize,
    pub n_threads: usize,
    /// Bytes of shared memory.
    pub shared: usize,
    /// Pieces of matrices that there is room for in it.
    pub n_pieces: usize,
}

/// Those at the end of `kernels/decode.cu`.
const KERNELS: [Kernels; 3] = [
    Kernels {
        sizes: [128, 512, 4, 32],
        ways: &[
            Way::cluster("decode_cluster_128", 35, 8960),
            Way::alone("decode_one_128", 1, 34),
            Way::alone("decode_two_128", 2, 64),
        ],
    },
    Kernels {
        sizes: [256, 1024, 8, 32],
        ways: &[
            Way::cluster("decode_cluster_256", 48, 34304),
            Way::alone("decode_one_256", 1, 45),
            Way::alone("decode_two_256", 2, 85),
        ],
    },
    Kernels {
        sizes: [32, 64, 2, 16],
        ways: &[
            Way::alone("decode_one_32", 1, 30),
            Way::alone("decode_two_32", 2, 57),
        ],
    },
];

/// Lanes of a block, at most.
const MOST_LANES: usize = 2;
/// `kMostPieces`
const MOST_PIECES: usize = 8;
/// `kSlots`
const MOST_SLOTS: usize = 256;

impl Layout {
    /// Refuses, with a reason, a model that no kernel is compiled for.
    pub fn of(config: &ModelConfig) -> Result<Self, String> {
        let (d, f, h) = (config.d_model, config.mlp_width(), config.n_heads);
        let sizes = [d, f, h, config.head_size()];
        let Some(kernels) = KERNELS.iter().find(|known| known.sizes == sizes) else {
            return Err(format!(
                "no GPU kernel is compiled for a width of {d}, {f} in the MLP and {h} heads"
            ));
        };
        let n_layers = config.n_layers();
        let may = [
            (config.n_kv_heads == 1, "one KV head"),
            (n_layers <= MOST_LAYERS, "32 layers"),
            (
                config.conv_width <= MOST_TAPS,
                "a convolution of 4 positions",
            ),
            (config.predictor.len() <= MOST_FILTERS, "15 filters"),
        ];
        if let Some((_, most)) = may.iter().find(|(is_so, _)| !is_so) {
            return Err(format!("the GPU kernels know at most {most} of a layer"));
        }
        if let Some(i) = config.layers.iter().position(|layer| !can_see(layer)) {
            return Err(format!(
                "the GPU kernels see at most 240 positions, or just 256, an even distance apart; \
                 pattern[{i}] is {} with {}",
                config.layers[i].kind(),
                config.layers[i].max_visible()
            ));
        }
        if config.norm_eps < LEAST_EPS {
            return Err(format!(
                "norm_eps is {:e}, and the GPU kernels want {LEAST_EPS:e} at least",
                config.norm_eps
            ));
        }
        Ok(Self::measure(config, kernels))
    }

    fn measure(config: &ModelConfig, kernels: &'static Kernels) -> Self {
        let d = config.d_model;
        let kept_bytes = 4 * d * (config.n_layers() * (2 + config.conv_width) + 1);
        let filter_floats = config.predictor.iter().map(|p| p.taps + ring(p.taps)).sum();
        let mut layout = Self {
            kernels,
            kept_bytes,
            lane_bytes: 0,
            fresh_bytes: 4 * config.n_layers() * config.conv_width * d + 4 * filter_floats,
            filter_floats,
        };
        let blocks = |slots: usize| slots.div_ceil(16) * SLOT_BLOCK;
        let caches = config
            .layers
            .iter()
            .map(|layer| blocks(layer.head(0).n_slots()));
        layout.lane_bytes = (layout.caches() + caches.sum::<usize>()).next_multiple_of(128);
        layout
    }

    /// Where a lane's caches begin.
    fn caches(&self) -> usize {
        (HEAD_BYTES + self.fresh_bytes).next_multiple_of(128)
    }

    /// The kernels whose blocks do with so many bytes of shared memory, in the order of how many lanes they
    /// advance at once; or what one lane needs. Without clusters where they are not wanted.
    pub fn blocks(&self, most_shared: usize, has_clusters: bool) -> Result<Vec<Block>, String> {
        let ways = self.kernels.ways.iter();
        let ways = ways.filter(|way| has_clusters || way.n_blocks == 1);
        let blocks: Vec<Block> = ways
            .clone()
            .filter_map(|way| self.block(way, most_shared))
            .collect();
        match blocks.is_empty() {
            true => Err(format!(
                "a step of this model needs {} KiB of a multiprocessor's memory, of which a block may \
                 have {} on this GPU",
                ways.map(|way| self.fixed(way) + way.piece * way.least_pieces())
                    .min()
                    .unwrap_or(0)
                    .div_ceil(1 << 10),
                most_shared >> 10
            )),
            false => Ok(blocks),
        }
    }

    /// A block with all the pieces that it has room for.
    fn block(&self, way: &Way, most_shared: usize) -> Option<Block> {
        let fixed = self.fixed(way);
        let n_pieces = MOST_PIECES.min(most_shared.checked_sub(fixed)? / way.piece);
        (n_pieces >= way.least_pieces()).then_some(Block {
            name: way.name,
            n_blocks: way.n_blocks,
            n_lanes: way.n_lanes,
            n_threads: way.n_threads,
            shared: fixed + n_pieces * way.piece,
            n_pieces,
        })
    }

    /// Shared memory of a block, but for the pieces.
    fn fixed(&self, way: &Way) -> usize {
        let filters = way.n_lanes * 4 * self.filter_floats;
        (way.rooms << 10) + self.kept_bytes + filters
    }

    /// Where each layer's cache begins within a lane.
    pub fn cache_starts(&self, config: &ModelConfig) -> Vec<usize> {
        let starts = config.layers.iter().scan(self.caches(), |at, layer| {
            let start = *at;
            *at += layer.head(0).n_slots().div_ceil(16) * SLOT_BLOCK;
            Some(start)
        });
        starts.collect()
    }

    /// A launch of a model whose weights and tables lie at these places.
    pub fn plan(&self, config: &ModelConfig, tables: &[Memory; 4]) -> Plan {
        let mut layers = [LayerPlan::default(); MOST_LAYERS];
        let starts = self.cache_starts(config);
        for ((plan, layer), start) in layers.iter_mut().zip(&config.layers).zip(starts) {
            let spacing = layer.spacing().expect("`of` has looked");
            (plan.stride, plan.rows) = (spacing.stride as u32, spacing.rows as u32);
            plan.cache = start as u64;
        }
        let mut filter = [FilterPlan::default(); MOST_FILTERS];
        let mut at = 0;
        for (plan, of) in filter.iter_mut().zip(&config.predictor) {
            *plan = FilterPlan {
                taps: of.taps as u32,
                ring: ring(of.taps) as u32,
                rate: of.rate,
                kept: 1.0 - of.leak,
                weights: at as u32,
                heard: (at + of.taps) as u32,
            };
            at += of.taps + ring(of.taps);
        }
        let [image, embed, samples, angles] = tables.each_ref().map(Memory::address);
        let taps = HEAD_BYTES;
        let filters = taps + 4 * config.n_layers() * config.conv_width * config.d_model;
        Plan {
            image,
            embed,
            samples,
            angles,
            kept_bytes: self.kept_bytes as u32,
            n_layers: config.n_layers() as u32,
            conv_width: config.conv_width as u32,
            n_filters: config.predictor.len() as u32,
            rope_period: config.rope_period as u32,
            filter_floats: self.filter_floats as u32,
            taps: taps as u32,
            filters: filters as u32,
            n_steps: 0,
            n_pieces: 0,
            norm_eps: config.norm_eps,
            score_unit: std::f32::consts::LOG2_E / (config.head_size() as f32).sqrt(),
            layers,
            filter,
        }
    }
}

/// Whether a layer's run, widened to whole blocks of sixteen, is one that a block's warps hold.
fn can_see(layer: &Layer) -> bool {
    let rows = layer.max_visible();
    // A run of an odd number of slots may begin anywhere in a block.
    let most = rows.next_multiple_of(16) + if rows.is_multiple_of(16) { 0 } else { 16 };
    layer.spacing().is_some() && most <= MOST_SLOTS
}

/// Room for a `LaneHead`, on whole lines.
pub const HEAD_BYTES: usize = 384;
/// `kTileRows`
pub const TILE_ROWS: usize = 16;

/// Places of a filter's ring: as many as it sees, at least, and a power of two.
pub fn ring(taps: usize) -> usize {
    taps.next_power_of_two()
}

/// Lanes of a block of a small model, on a GPU whose blocks may have so much shared memory.
pub fn lanes_of_a_small_model(most_shared: usize) -> usize {
    match most_shared >= 144 << 10 {
        true => MOST_LANES,
        false => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::Model;

    /// What a block may have on an A100, on GeForce since Ampere, and on Hopper.
    const SHARED: [usize; 3] = [163 << 10, 99 << 10, 227 << 10];

    fn blocks(config: &ModelConfig, most_shared: usize) -> Result<Vec<Block>, String> {
        Layout::of(config).unwrap().blocks(most_shared, false)
    }

    #[test]
    fn a_block_has_the_lanes_and_pieces_that_a_gpu_has_room_for() {
        let config = Model::load(Path::new("models/piano-16k")).unwrap().config;
        let pieces = SHARED.map(|most_shared| {
            let blocks = blocks(&config, most_shared).unwrap();
            assert!(blocks.iter().all(|block| block.shared <= most_shared));
            assert_eq!(blocks.len(), lanes_of_a_small_model(most_shared));
            blocks
                .iter()
                .map(|block| block.n_pieces)
                .collect::<Vec<_>>()
        });
        assert_eq!(pieces, [vec![5, 2], vec![1], vec![8, 5]]);
    }

    #[test]
    fn the_kernels_say_the_same_of_themselves() {
        let source = std::fs::read_to_string("kernels/decode.cu").unwrap();
        let said = source.lines().filter_map(|line| {
            let of_one = line.strip_prefix("DECODE(")?.strip_suffix(')')?;
            of_one.starts_with("decode_").then(|| of_one.to_owned())
        });
        let known = KERNELS.iter().flat_map(|kernels| {
            kernels.ways.iter().map(|way| {
                let deal = format!("{}, {}, {}", way.name, way.n_blocks, way.n_lanes);
                let room = format!("{}, {}, {}", way.n_threads, way.rooms, way.piece);
                let [d, f, h, k] = kernels.sizes;
                format!("{deal}, {room}, {d}, {f}, {h}, {k}")
            })
        });
        let (mut said, mut known): (Vec<_>, Vec<_>) = (said.collect(), known.collect());
        said.sort();
        known.sort();
        assert_eq!(said, known);
    }

    #[test]
    fn a_gpu_with_clusters_has_one_for_a_single_lane_of_the_models_that_are_compiled_for_them() {
        let json = std::fs::read_to_string("models/piano-16k/config.json").unwrap();
        let piano = ModelConfig::parse(&json).unwrap();
        let json = json.replace("\"d_model\": 128", "\"d_model\": 256");
        let wide = ModelConfig::parse(&json.replace("\"n_heads\": 4", "\"n_heads\": 8")).unwrap();
        let tiny = Model::load(Path::new("models/tiny")).unwrap().config;
        let blocks_of_first = [piano, wide, tiny].map(|config| {
            let blocks = Layout::of(&config)
                .unwrap()
                .blocks(SHARED[2], true)
                .unwrap();
            assert!(blocks.iter().all(|block| block.shared <= SHARED[2]));
            blocks[0].n_blocks
        });
        assert_eq!(blocks_of_first, [8, 8, 1]);
    }

    #[test]
    fn a_model_for_which_a_gpu_has_no_room_is_told_what_it_needs() {
        let config = Model::load(Path::new("models/piano-16k")).unwrap().config;
        for has_clusters in [false, true] {
            let layout = Layout::of(&config).unwrap();
            assert_eq!(
                layout.blocks(64 << 10, has_clusters).unwrap_err(),
                "a step of this model needs 92 KiB of a multiprocessor's memory, of which a block may have \
                 64 on this GPU"
            );
        }
    }

    #[test]
    fn an_eps_whose_root_the_kernels_cannot_take_is_refused() {
        let mut config = Model::load(Path::new("models/tiny")).unwrap().config;
        assert!(Layout::of(&config).is_ok());
        config.norm_eps = 1e-30;
        assert!(
            Layout::of(&config)
                .unwrap_err()
                .contains("norm_eps is 1e-30")
        );
    }

    #[test]
    fn what_lies_unevenly_or_is_too_much_is_refused_by_its_kind() {
        let mut played = Vec::new();
        for file in std::fs::read_dir("examples/patterns").unwrap() {
            let path = file.unwrap().path();
            let config = ModelConfig::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
            let kind = path.file_stem().unwrap().to_str().unwrap().to_owned();
            match Layout::of(&config) {
                Ok(_) => played.push(kind),
                Err(why) => assert!(
                    why.contains("the GPU kernels see") && why.contains(&format!("is {kind} with")),
                    "{why}"
                ),
            }
        }
        played.sort();
        assert_eq!(played, ["dilated", "local", "strided", "strided-256"]);
    }
}
