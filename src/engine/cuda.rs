//! The GPU engine: the int8 arithmetic of the CPU engine, to the last bit, in one launch for a
//! chunk of codes of all lanes (`kernels/decode.cu`), and prompts layer by layer (`kernels/prefill.cu`).
//!
//! Called by one thread. Weights and lanes live in the GPU's memory; a call sends uniforms, waits,
//! and fetches codes. Should the GPU fail while it plays, a call says so, and no later one succeeds:
//! [`Fallback`](super::Fallback) knows the way on.

mod device;
mod image;
mod plan;
mod prefill;

use std::sync::Arc;

pub use self::device::GpuError;
use self::device::{Gpu, Kernel, Memory, count};
use self::plan::lane::{from_state, state_len, to_state};
use self::plan::{Block, HEAD_BYTES, LaneHead, Layout, Plan, SLOT_BLOCK, TurnPlan};
use self::prefill::Prefill;
use super::work::Perform;
use super::{DrawParams, Fallible, STEPPED_MAX, See, Turn, Work, check_turns, noise};
use crate::compute::{Plain, lanewise};
use crate::model::{Model, ModelConfig, Rotary, V};
use crate::mulaw;

/// The most codes of one launch.
const CHUNK: usize = 4096;
/// Codes of a prompt that are taken in between two chunks: 2 ms on an H200.
const PROMPT_TILE: usize = 2048;
/// The most codes of one launch that shows its logits.
const SEEN: usize = 1024;

/// The engine on one GPU.
pub struct CudaDecoder {
    config: ModelConfig,
    layout: Layout,
    gpu: Gpu,
    /// In the order of how many lanes they advance at once.
    kernels: Vec<Ready>,
    plan: Plan,
    /// Weights and tables, which the plan names.
    _tables: [Memory; 4],
    lanes: Memory,
    positions: Vec<u64>,
    exchange: Exchange,
    /// Of one lane, for as many codes as one launch shows.
    logits: Memory,
    /// Takes in prompts, of models whose filters a block has room for.
    prefill: Option<Prefill>,
}

/// A kernel of `decode.cu`, loaded.
struct Ready {
    kernel: Kernel,
    block: Block,
    /// Lanes that it advances at once.
    n_lanes: usize,
}

impl Ready {
    fn new(gpu: &Gpu, block: Block) -> Result<Option<Self>, GpuError> {
        let Some(kernel) = gpu.decode_kernel(&block)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            n_lanes: gpu.lanes_at_once(&kernel, &block)?,
            kernel,
            block,
        }))
    }
}

/// What a launch takes in and gives out besides the lanes.
struct Exchange {
    memory: Memory,
    /// What it takes in, as it is sent.
    sent: Vec<u8>,
    codes: Vec<u8>,
}

impl std::fmt::Debug for CudaDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaDecoder")
            .field("gpu", &self.gpu.name)
            .field("n_lanes", &self.positions.len())
            .finish_non_exhaustive()
    }
}

/// What each lane of a launch shall do.
enum Task<'a> {
    Draw(&'a DrawParams, &'a [f32]),
    TakeIn(&'a [u8]),
}

impl CudaDecoder {
    /// An engine with `n_lanes` lanes at the start of their streams, on the GPU of that number.
    pub fn open(model: &Arc<Model>, number: usize, n_lanes: usize) -> Result<Self, GpuError> {
        Self::open_as(model, number, n_lanes, None)
    }

    /// The same, without clusters, and as if blocks had no more than so many bytes of shared memory: smaller
    /// GPUs have less.
    pub fn open_without_clusters(
        model: &Arc<Model>,
        number: usize,
        n_lanes: usize,
        most_shared: usize,
    ) -> Result<Self, GpuError> {
        Self::open_as(model, number, n_lanes, Some(most_shared))
    }

    fn open_as(
        model: &Arc<Model>,
        number: usize,
        n_lanes: usize,
        limit: Option<usize>,
    ) -> Result<Self, GpuError> {
        let config = model.config.clone();
        let layout = Layout::of(&config).map_err(GpuError::Model)?;
        let gpu = Gpu::open(number)?;
        let most_shared = limit.unwrap_or(usize::MAX).min(gpu.most_shared()?);
        let blocks = layout.blocks(most_shared, limit.is_none());
        let blocks = blocks.map_err(GpuError::Model)?;
        let kernels = blocks
            .into_iter()
            .filter_map(|block| Ready::new(&gpu, block).transpose())
            .collect::<Result<Vec<_>, GpuError>>()?;
        let tables = [
            gpu.holding(&image::of(model))?,
            gpu.holding(bytemuck::cast_slice(&model.weights.embed))?,
            gpu.holding(bytemuck::cast_slice(&samples()))?,
            gpu.holding(bytemuck::cast_slice(&angles(&config)))?,
        ];
        let mut engine = Self {
            plan: layout.plan(&config, &tables),
            _tables: tables,
            lanes: gpu.zeroed(n_lanes * layout.lane_bytes)?,
            positions: vec![0; n_lanes],
            exchange: Exchange {
                memory: gpu.zeroed(Exchange::bytes(n_lanes, CHUNK))?,
                sent: Vec::with_capacity(Exchange::bytes(n_lanes, CHUNK)),
                codes: vec![0; n_lanes * CHUNK],
            },
            logits: gpu.zeroed(SEEN * V * size_of::<f32>())?,
            prefill: Prefill::new(&gpu, &config, most_shared)?,
            config,
            layout,
            gpu,
            kernels,
        };
        for lane in 0..n_lanes {
            engine.begin(lane)?;
        }
        Ok(engine)
    }

    /// The GPU, in its driver's words.
    pub fn gpu_name(&self) -> &str {
        &self.gpu.name
    }

    /// Whether the driver has compiled its kernels, rather than taken the machine code for Hopper.
    pub fn is_compiled_by_driver(&self) -> Result<bool, GpuError> {
        Ok(self.kernels[0].kernel.made_from()? < 90)
    }

    /// The kernel that advances so many lanes.
    pub fn kernel_of(&self, n_lanes: usize) -> &'static str {
        self.ready_for(n_lanes).block.name
    }

    /// The first whose lanes all find room at once, or the last: where a block of a cluster finds room, one
    /// alone does, which needs less.
    fn ready_for(&self, n_lanes: usize) -> &Ready {
        let mut kernels = self.kernels.iter();
        let has_room = kernels.find(|ready| ready.n_lanes >= n_lanes);
        has_room.unwrap_or(&self.kernels[self.kernels.len() - 1])
    }

    /// Puts a lane back to the start of a stream.
    fn begin(&mut self, lane: usize) -> Result<(), GpuError> {
        let start = self.start(lane);
        let fresh = start + HEAD_BYTES..start + HEAD_BYTES + self.layout.fresh_bytes;
        // Old keys and values stay: no run shows a slot before it is written again.
        self.gpu.clear(&mut self.lanes, fresh)?;
        let head = LaneHead::new();
        self.gpu
            .write(&mut self.lanes, start, bytemuck::bytes_of(&head))?;
        self.positions[lane] = 0;
        Ok(())
    }

    /// Where a lane begins in the memory of all.
    fn start(&self, lane: usize) -> usize {
        assert!(lane < self.positions.len(), "no lane {lane}");
        lane * self.layout.lane_bytes
    }

    /// Advances lanes by `n` codes each, at most [`CHUNK`]; what they draw is in the exchange then.
    fn advance(
        &mut self,
        tasks: &[(usize, Task<'_>)],
        n: usize,
        wants_logits: bool,
    ) -> Result<(), GpuError> {
        let address = self.exchange.memory.address();
        let inputs = address + (tasks.len() * size_of::<TurnPlan>()) as u64;
        let codes = inputs + (tasks.len() * n * size_of::<f32>()) as u64;
        self.exchange.sent.clear();
        for (i, (lane, task)) in tasks.iter().enumerate() {
            let mut turn = TurnPlan {
                lane: self.lanes.address() + self.start(*lane) as u64,
                codes: codes + (i * n) as u64,
                logits: if wants_logits {
                    self.logits.address()
                } else {
                    0
                },
                is_drawn: u32::from(wants_logits),
                ..TurnPlan::default()
            };
            let input = inputs + (i * n * size_of::<f32>()) as u64;
            match task {
                Task::TakeIn(_) => turn.forced = input,
                Task::Draw(draw, _) => {
                    (turn.uniforms, turn.is_drawn) = (input, 1);
                    (turn.temperature, turn.max_entropy) = (draw.temperature, draw.max_entropy);
                    (turn.max_rise, turn.leveling) = (draw.max_rise, draw.leveling);
                    (turn.top_p, turn.min_p) = (draw.top_p, draw.min_p);
                    (turn.max_click, turn.min_entropy) = (draw.max_click, draw.min_entropy);
                }
            }
            self.exchange
                .sent
                .extend_from_slice(bytemuck::bytes_of(&turn));
        }
        for (_, task) in tasks {
            let end = self.exchange.sent.len() + n * size_of::<f32>();
            match task {
                Task::TakeIn(codes) => self.exchange.sent.extend_from_slice(codes),
                Task::Draw(_, uniforms) => {
                    self.exchange
                        .sent
                        .extend_from_slice(bytemuck::cast_slice(uniforms));
                }
            }
            self.exchange.sent.resize(end, 0);
        }
        let Exchange { memory, sent, .. } = &mut self.exchange;
        self.gpu.write(memory, 0, sent)?;
        let Ready { kernel, block, .. } = self.ready_for(tasks.len());
        let mut plan = self.plan;
        (plan.n_steps, plan.n_pieces) = (n as u32, block.n_pieces as u32);
        self.gpu
            .launch(kernel, &plan, (address, tasks.len()), block)?;
        let Exchange {
            memory,
            codes,
            sent,
        } = &mut self.exchange;
        self.gpu
            .read(memory, sent.len(), &mut codes[..tasks.len() * n])?;
        for (lane, _) in tasks {
            self.positions[*lane] += n as u64;
        }
        Ok(())
    }

    /// The logits of the last launch, one code after another.
    fn show(&self, n: usize, first: usize, see: See<'_>) -> Result<(), GpuError> {
        let mut bytes = vec![0; n * V * size_of::<f32>()];
        self.gpu.read(&self.logits, 0, &mut bytes)?;
        let floats = bytes.as_chunks::<4>().0.iter();
        let logits: Vec<f32> = floats.map(|bytes| f32::from_le_bytes(*bytes)).collect();
        for (i, logits) in logits.chunks_exact(V).enumerate() {
            see(first + i, logits);
        }
        Ok(())
    }

    /// A lane's cache of one layer with noise in every slot, as the CPU engine makes it.
    fn noisy_cache(&self, layer: usize, noise: &mut impl Iterator<Item = f32>) -> Vec<u8> {
        let (k, n_slots) = (
            self.config.head_size(),
            self.config.layers[layer].head(0).n_slots(),
        );
        let mut cache = vec![0; n_slots.div_ceil(16) * SLOT_BLOCK];
        let (mut bytes, mut numbers) = (vec![0; k], vec![0.0; k]);
        for slot in 0..n_slots {
            numbers.fill_with(|| noise.next().unwrap_or(0.0));
            let scale = lanewise::quantize::<Plain>(&numbers, &mut bytes);
            let (block, at) = (
                &mut cache[slot / 16 * SLOT_BLOCK..][..SLOT_BLOCK],
                slot % 16,
            );
            for (dim, byte) in bytes.iter().enumerate() {
                block[32 * at + dim] = *byte as u8;
                block[512 + 16 * dim + at] = *byte as u8;
            }
            for scales in [1024, 1024 + 64] {
                block[scales + 4 * at..][..4].copy_from_slice(&scale.to_le_bytes());
            }
        }
        cache
    }
}

/// A GPU that computes.
#[derive(Clone, Debug)]
pub struct GpuFacts {
    /// In its driver's words.
    pub name: String,
    /// Bytes of its memory that are free.
    pub free_bytes: usize,
    /// All of its memory.
    pub all_bytes: usize,
    /// Lanes of a model like `piano-16k` that it draws at once; more take turns.
    pub n_lanes: usize,
}

/// The GPUs that could be asked for, or why one cannot compute.
pub fn gpus() -> Vec<Result<GpuFacts, GpuError>> {
    let facts = |number| {
        let gpu = Gpu::open(number)?;
        let (free_bytes, all_bytes) = gpu.memory()?;
        Ok(GpuFacts {
            n_lanes: plan::lanes_of_a_small_model(gpu.most_shared()?) * gpu.n_multiprocessors()?,
            name: gpu.name,
            free_bytes,
            all_bytes,
        })
    };
    (0..count()).map(facts).collect()
}

impl Exchange {
    /// Bytes for so many lanes and codes.
    fn bytes(n_lanes: usize, n_codes: usize) -> usize {
        n_lanes * (size_of::<TurnPlan>() + n_codes * (size_of::<f32>() + 1))
    }
}

/// The sample of each code.
fn samples() -> [f32; V] {
    std::array::from_fn(|code| mulaw::decode(code as u8))
}

/// [rope_period, K]: the cosines of each rotation, then its sines.
fn angles(config: &ModelConfig) -> Vec<f32> {
    let rotary = Rotary::new(config.rope_period, &config.rope_harmonics);
    let k = config.head_size();
    let mut angles = vec![0.0; config.rope_period * k];
    for (p, angles) in angles.chunks_exact_mut(k).enumerate() {
        let (cos, sin) = angles.split_at_mut(k / 2);
        rotary.angles(p as u64, cos, sin);
    }
    angles
}

impl Fallible for CudaDecoder {
    type Error = GpuError;

    fn attempt(&mut self, work: &mut Work<'_, '_>) -> Result<(), GpuError> {
        match work {
            Work::Open(lane) => self.begin(*lane),
            Work::Copy(from, to) => self.copy_lane(*from, *to),
            Work::Save(lane, bytes) => {
                bytes.copy_from_slice(&self.save_lane(*lane)?);
                Ok(())
            }
            Work::Restore(lane, bytes) => self.restore_lane(*lane, bytes),
            Work::Prime(lane, codes) => self.take_in(*lane, codes),
            Work::Score(lane, codes, see) => self.show_scores(*lane, codes, &mut **see),
            Work::Generate(turns) => self.draw(turns),
            Work::GenerateSeen(turn, see) => self.draw_seen(turn, &mut **see),
            Work::Age(lane, position) => self.grow_old(*lane, *position),
        }
    }

    fn n_lanes(&self) -> usize {
        self.positions.len()
    }

    fn state_len(&self) -> usize {
        state_len(&self.config)
    }

    fn position(&self, lane: usize) -> u64 {
        self.positions[lane]
    }

    fn prompt_tile(&self) -> usize {
        match self.prefill {
            Some(_) => PROMPT_TILE,
            None => STEPPED_MAX,
        }
    }

    fn isa(&self) -> &'static str {
        "cuda"
    }
}

/// By itself it has nobody who plays on: what the tests of its kernels and measurements want.
impl Perform for CudaDecoder {
    fn perform(&mut self, mut work: Work<'_, '_>) {
        self.attempt(&mut work).expect("the GPU works on");
    }

    fn n_lanes(&self) -> usize {
        Fallible::n_lanes(self)
    }

    fn state_len(&self) -> usize {
        Fallible::state_len(self)
    }

    fn position(&self, lane: usize) -> u64 {
        Fallible::position(self, lane)
    }

    fn prompt_tile(&self) -> usize {
        Fallible::prompt_tile(self)
    }

    fn isa(&self) -> &'static str {
        Fallible::isa(self)
    }
}

impl CudaDecoder {
    fn copy_lane(&mut self, from: usize, to: usize) -> Result<(), GpuError> {
        assert_ne!(from, to, "a lane named twice");
        let (start, to_start) = (self.start(from), self.start(to));
        let range = start..start + self.layout.lane_bytes;
        self.gpu.copy(&mut self.lanes, range, to_start)?;
        self.positions[to] = self.positions[from];
        Ok(())
    }

    fn save_lane(&self, lane: usize) -> Result<Vec<u8>, GpuError> {
        let mut bytes = vec![0; self.layout.lane_bytes];
        self.gpu.read(&self.lanes, self.start(lane), &mut bytes)?;
        Ok(to_state(&self.layout, &self.config, &mut bytes))
    }

    fn restore_lane(&mut self, lane: usize, state: &[u8]) -> Result<(), GpuError> {
        let mut bytes = vec![0; self.layout.lane_bytes];
        let position = from_state(&self.layout, &self.config, &mut state.to_vec(), &mut bytes);
        let start = self.start(lane);
        self.gpu.write(&mut self.lanes, start, &bytes)?;
        self.positions[lane] = position;
        Ok(())
    }

    /// Feeds codes to a lane: a few step by step, more as a prompt.
    fn take_in(&mut self, lane: usize, codes: &[u8]) -> Result<(), GpuError> {
        let address = self.lanes.address() + self.start(lane) as u64;
        if let Some(prefill) = &mut self.prefill
            && codes.len() > STEPPED_MAX
        {
            let at = (address, self.positions[lane]);
            prefill.take_in(&self.gpu, &self.plan, at, codes)?;
            self.gpu.wait()?;
            self.positions[lane] += codes.len() as u64;
            return Ok(());
        }
        for codes in codes.chunks(CHUNK) {
            self.advance(&[(lane, Task::TakeIn(codes))], codes.len(), false)?;
        }
        Ok(())
    }

    fn show_scores(&mut self, lane: usize, codes: &[u8], see: See<'_>) -> Result<(), GpuError> {
        for (i, codes) in codes.chunks(SEEN).enumerate() {
            self.advance(&[(lane, Task::TakeIn(codes))], codes.len(), true)?;
            self.show(codes.len(), i * SEEN, see)?;
        }
        Ok(())
    }

    fn draw(&mut self, turns: &mut [Turn<'_>]) -> Result<(), GpuError> {
        let n = check_turns(turns);
        for start in (0..n).step_by(CHUNK) {
            let end = n.min(start + CHUNK);
            let tasks: Vec<_> = turns
                .iter()
                .map(|turn| {
                    let uniforms = &turn.uniforms[start..end];
                    (turn.lane, Task::Draw(&turn.draw, uniforms))
                })
                .collect();
            self.advance(&tasks, end - start, false)?;
            let codes = self.exchange.codes.chunks_exact(end - start);
            for (turn, codes) in turns.iter_mut().zip(codes) {
                turn.codes[start..end].copy_from_slice(codes);
            }
        }
        Ok(())
    }

    fn draw_seen(&mut self, turn: &mut Turn<'_>, see: See<'_>) -> Result<(), GpuError> {
        let n = check_turns(std::slice::from_ref(turn));
        for start in (0..n).step_by(SEEN) {
            let end = n.min(start + SEEN);
            let task = Task::Draw(&turn.draw, &turn.uniforms[start..end]);
            self.advance(&[(turn.lane, task)], end - start, true)?;
            turn.codes[start..end].copy_from_slice(&self.exchange.codes[..end - start]);
            self.show(end - start, start, see)?;
        }
        Ok(())
    }

    /// As [`Decoder::age`](super::Decoder::age) says.
    fn grow_old(&mut self, lane: usize, position: u64) -> Result<(), GpuError> {
        let start = self.start(lane);
        let mut noise = noise();
        for (layer, at) in self.layout.cache_starts(&self.config).iter().enumerate() {
            let cache = self.noisy_cache(layer, &mut noise);
            self.gpu.write(&mut self.lanes, start + at, &cache)?;
        }
        let bytes = position.to_le_bytes();
        self.gpu.write(&mut self.lanes, start, &bytes)?;
        self.positions[lane] = position;
        Ok(())
    }
}
