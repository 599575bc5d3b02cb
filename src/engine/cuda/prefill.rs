//! A prompt taken in by `kernels/prefill.cu`: a piece of it goes through a layer as a whole, and the
//! lane comes to what stepping through it would make of it, to the last bit.

use super::device::{Gpu, GpuError, Kernel, Memory};
use super::plan::{Plan, ring};
use crate::model::{ModelConfig, V};

/// Codes that go through a layer together: what is computed of them takes 20 MB for `piano-16k`.
const PIECE: usize = 16_384;
/// `kParty`: threads of most blocks.
const PARTY: u32 = 256;
/// `kPartyWarps`
const PARTY_WARPS: usize = 8;
/// `kAttendWarps`, as threads.
const ATTEND_THREADS: u32 = 4 * 32;
/// `kAttendRows`
const ATTEND_ROWS: u64 = 64;
/// What `PREFILL` allows the kernels that take positions by tiles.
const ROOMS: usize = 96 << 10;
/// `kMostHeard`: filters that are heard at once.
const MOST_HEARD_FILTERS: usize = 7;
/// 32 times `kMostPairs`: taps of one of them.
const MOST_FILTER_TAPS: usize = 1024;
/// `kHeardRoom`
const HEARD_ROOM: usize = 8;
/// `Told`, as floats.
const TOLD: usize = 4 * HEARD_ROOM + V;

/// A launch: `Prompt` of `kernels/prefill_plan.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Prompt {
    plan: Plan,
    lane: u64,
    codes: u64,
    start: u64,
    heard: u64,
    predictions: u64,
    spreads: u64,
    x: u64,
    heads: u64,
    head_scales: u64,
    attended: u64,
    n: u32,
    layer: u32,
}

// The kernels' says the same.
const _: () = assert!(size_of::<Prompt>() == 1040 && std::mem::offset_of!(Prompt, n) == 1032);

/// How many blocks, of how many threads, with how many bytes of shared memory.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub blocks: (u32, u32),
    pub threads: u32,
    pub shared: usize,
}

/// The kernels, and memory for what they compute of a piece.
pub struct Prefill {
    hear: Kernel,
    embed: Kernel,
    project: Kernel,
    attend: Kernel,
    keep: Kernel,
    finish: Kernel,
    scratch: Memory,
    /// Where each part of the scratch begins.
    places: [usize; N_PARTS],
    /// Shared memory of the kernel that hears.
    hearing: usize,
    /// Positions of a block.
    tile: usize,
}

const N_PARTS: usize = 8;

impl Prefill {
    /// For a model that the kernels of `decode.cu` take; nothing where its filters are too many or too
    /// long, or a block has no room for them.
    pub fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        most_shared: usize,
    ) -> Result<Option<Self>, GpuError> {
        let filters = &config.predictor;
        let hearing = size_of::<f32>() * (TOLD + hearing_floats(config));
        if filters.len() > MOST_HEARD_FILTERS
            || filters.iter().any(|of| of.taps > MOST_FILTER_TAPS)
            || hearing.max(ROOMS) > most_shared
        {
            return Ok(None);
        }
        let d = config.d_model;
        let kernel = |stage: &str| gpu.prefill_kernel(&format!("prefill_{stage}_{d}"));
        let (places, bytes) = parts(config);
        Ok(Some(Self {
            hear: gpu.prefill_kernel("prefill_hear")?,
            embed: kernel("embed")?,
            project: kernel("project")?,
            attend: kernel("attend")?,
            keep: kernel("keep")?,
            finish: kernel("finish")?,
            scratch: gpu.zeroed(bytes)?,
            places,
            hearing,
            tile: if d > 128 { 16 } else { 32 },
        }))
    }

    /// Feeds codes to the lane at this address, which is at position `start`.
    pub fn take_in(
        &mut self,
        gpu: &Gpu,
        plan: &Plan,
        (lane, start): (u64, u64),
        codes: &[u8],
    ) -> Result<(), GpuError> {
        for (i, codes) in codes.chunks(PIECE).enumerate() {
            gpu.write(&mut self.scratch, 0, codes)?;
            let at = |part: usize| self.scratch.address() + self.places[part] as u64;
            let prompt = Prompt {
                plan: *plan,
                lane,
                codes: at(0),
                start: start + (i * PIECE) as u64,
                heard: at(1),
                predictions: at(2),
                spreads: at(3),
                x: at(4),
                heads: at(5),
                head_scales: at(6),
                attended: at(7),
                n: codes.len() as u32,
                layer: 0,
            };
            self.take_in_piece(gpu, prompt)?;
        }
        Ok(())
    }

    fn take_in_piece(&self, gpu: &Gpu, mut prompt: Prompt) -> Result<(), GpuError> {
        let n = prompt.n as usize;
        let grid = |n_blocks: usize, shared| Grid {
            blocks: (n_blocks as u32, 1),
            threads: PARTY,
            shared,
        };
        let tiles = grid(n.div_ceil(self.tile), ROOMS);
        let hearing = Grid {
            threads: 32 * (2 * prompt.plan.n_filters() + 1),
            ..grid(1, self.hearing)
        };
        gpu.launch_prompt(&self.hear, &prompt, hearing)?;
        gpu.launch_prompt(&self.embed, &prompt, tiles)?;
        for layer in 0..prompt.plan.n_layers() {
            prompt.layer = layer;
            gpu.launch_prompt(&self.project, &prompt, tiles)?;
            gpu.launch_prompt(&self.attend, &prompt, phases(&prompt))?;
            gpu.launch_prompt(&self.keep, &prompt, grid(n.div_ceil(PARTY_WARPS), 0))?;
            gpu.launch_prompt(&self.finish, &prompt, tiles)?;
        }
        Ok(())
    }
}

/// A block for each phase and each part of a wrap that the piece touches, as `Part` counts them.
fn phases(prompt: &Prompt) -> Grid {
    let (stride, rows) = prompt.plan.spacing(prompt.layer as usize);
    let per_wrap = rows.div_ceil(ATTEND_ROWS);
    let part = |position: u64| {
        let count = position / stride;
        count / rows * per_wrap + count % rows / ATTEND_ROWS
    };
    let last = prompt.start + u64::from(prompt.n) - 1;
    Grid {
        blocks: (stride as u32, (part(last) - part(prompt.start) + 1) as u32),
        threads: ATTEND_THREADS,
        shared: 0,
    }
}

/// Room for the past of every filter, which has everything twice.
fn hearing_floats(config: &ModelConfig) -> usize {
    config.predictor.iter().map(|of| 2 * ring(of.taps)).sum()
}

/// Where codes, heard, predictions, spreads, x, heads, their scales and attended begin, and the end.
fn parts(config: &ModelConfig) -> ([usize; N_PARTS], usize) {
    let (d, heads, float) = (config.d_model, config.n_heads + 2, size_of::<f32>());
    let of_a_code = [
        1,
        1,
        float * config.predictor.len(),
        float,
        float * d,
        32 * heads,
        float * heads,
        float * d,
    ];
    let mut end = 0;
    let places = of_a_code.map(|bytes| {
        let start = end;
        end = (start + PIECE * bytes).next_multiple_of(128);
        start
    });
    (places, end)
}
