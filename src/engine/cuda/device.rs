//! The GPU: memory on it, and launches of `kernels/decode.cu` and `kernels/prefill.cu`. The only file of
//! the engine that names CUDA.

// Kernels are launched by address: no compiler can check what they do there.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DeviceRepr,
    DriverError, LaunchConfig, PushKernelArg, sys,
};
use cudarc::nvrtc::Ptx;

use super::plan::{Block, Plan};
use super::prefill::{Grid, Prompt};

/// Machine code for Hopper, and PTX from which a driver makes it for other GPUs; see `build.rs`.
static DECODE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/decode.fatbin"));
static PREFILL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/prefill.fatbin"));

/// What is loaded of both on each GPU, by its number: engines share it, for where the driver has to compile the
/// kernels that takes it long.
static LOADED: Mutex<BTreeMap<usize, [Weak<CudaModule>; 2]>> = Mutex::new(BTreeMap::new());

/// Why there is no GPU to compute on.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// No NVIDIA driver is installed: use the CPU.
    #[error("there is no NVIDIA driver on this machine")]
    NoDriver,
    /// Fewer GPUs than asked for.
    #[error("there is no GPU {number}: this machine has {n}")]
    NoSuchGpu {
        /// The one asked for.
        number: usize,
        /// How many there are.
        n: usize,
    },
    /// A GPU from before Ampere: use the CPU.
    #[error(
        "{name} has compute capability {major}.{minor} and the kernels need 8.0 (Ampere, 2020) or \
         more: use another GPU, or the CPU"
    )]
    TooOld {
        /// The GPU.
        name: String,
        /// Its compute capability.
        major: i32,
        /// What stands behind the point.
        minor: i32,
    },
    /// A model that does not fit the kernels.
    #[error("{0}")]
    Model(String),
    /// The driver refused.
    #[error("the GPU's driver says: {0}")]
    Driver(#[from] DriverError),
}

/// One GPU, its kernels loaded, with a queue of its own.
pub struct Gpu {
    context: Arc<CudaContext>,
    queue: Arc<CudaStream>,
    decode: Arc<CudaModule>,
    prefill: Arc<CudaModule>,
    /// In the driver's words.
    pub name: String,
}

/// A piece of the GPU's memory.
pub struct Memory(CudaSlice<u8>, u64);

// SAFETY: a plan is plain numbers, laid out as the kernel's.
unsafe impl DeviceRepr for Plan {}
// SAFETY: a plan and plain numbers, laid out as the kernels'.
unsafe impl DeviceRepr for Prompt {}

/// How many GPUs there are; none without a driver.
pub fn count() -> usize {
    // SAFETY: loads the driver's library and looks for its functions, as any first call would.
    if !unsafe { sys::is_culib_present() } {
        return 0;
    }
    CudaContext::device_count().map_or(0, |n| n.max(0) as usize)
}

impl Gpu {
    /// The GPU of that number.
    pub fn open(number: usize) -> Result<Self, GpuError> {
        let n = count();
        if n == 0 {
            return Err(GpuError::NoDriver);
        }
        if number >= n {
            return Err(GpuError::NoSuchGpu { number, n });
        }
        let context = CudaContext::new(number)?;
        let (name, (major, minor)) = (context.name()?, context.compute_capability()?);
        if major < 8 {
            return Err(GpuError::TooOld { name, major, minor });
        }
        // SAFETY: events order memory between queues; there is one, and everything goes through it.
        unsafe { context.disable_event_tracking() };
        let queue = context.new_stream()?;
        let [decode, prefill] = modules(number, &context)?;
        Ok(Self {
            decode,
            prefill,
            context,
            queue,
            name,
        })
    }

    /// Bytes of its memory that are free, and all.
    pub fn memory(&self) -> Result<(usize, usize), GpuError> {
        Ok(self.context.mem_get_info()?)
    }

    /// A kernel of `decode.cu`; none where this GPU's code has no such kernel, for it knows no clusters.
    pub fn decode_kernel(&self, block: &Block) -> Result<Option<Kernel>, GpuError> {
        match self.kernel(&self.decode, block.name) {
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND)) if block.n_blocks > 1 => Ok(None),
            kernel => Ok(Some(kernel?)),
        }
    }

    /// How many lanes a kernel of `decode.cu` advances at once; more take turns.
    pub fn lanes_at_once(&self, kernel: &Kernel, block: &Block) -> Result<usize, GpuError> {
        if block.n_blocks == 1 {
            return Ok(block.n_lanes * self.n_multiprocessors()?);
        }
        let one = config_of(block, block.n_blocks);
        // A part of a GPU may have no room for a cluster: some drivers answer 0, others with an error.
        let n_clusters = kernel.0.occupancy_max_active_clusters(one, &self.queue);
        Ok(block.n_lanes * n_clusters.unwrap_or(0) as usize)
    }

    /// A kernel of `prefill.cu`.
    pub fn prefill_kernel(&self, name: &str) -> Result<Kernel, GpuError> {
        Ok(self.kernel(&self.prefill, name)?)
    }

    /// A kernel that may have all the shared memory there is: engines share it, whatever each of them needs.
    fn kernel(&self, module: &Arc<CudaModule>, name: &str) -> Result<Kernel, DriverError> {
        use sys::CUfunction_attribute_enum::{
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST,
            CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES as OWN,
        };
        let function = module.load_function(name)?;
        function.set_attribute(MOST, self.shared()? - function.get_attribute(OWN)?)?;
        Ok(Kernel(function))
    }

    /// Its multiprocessors: a block of the kernels fills one.
    pub fn n_multiprocessors(&self) -> Result<usize, GpuError> {
        let count = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        Ok(self.context.attribute(count)?.max(1) as usize)
    }

    /// Bytes of shared memory that a block may have.
    pub fn most_shared(&self) -> Result<usize, GpuError> {
        Ok(self.shared()?.max(0) as usize)
    }

    fn shared(&self) -> Result<i32, DriverError> {
        let most =
            sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        self.context.attribute(most)
    }

    /// So many bytes, all zero.
    pub fn zeroed(&self, n: usize) -> Result<Memory, GpuError> {
        let slice = self.queue.alloc_zeros::<u8>(n)?;
        let address = slice.device_ptr(&self.queue).0;
        Ok(Memory(slice, address))
    }

    /// Memory that holds these bytes.
    pub fn holding(&self, bytes: &[u8]) -> Result<Memory, GpuError> {
        let mut memory = self.zeroed(bytes.len())?;
        self.write(&mut memory, 0, bytes)?;
        Ok(memory)
    }

    /// Writes bytes, behind all that was asked for before.
    pub fn write(&self, to: &mut Memory, at: usize, bytes: &[u8]) -> Result<(), GpuError> {
        let mut to = to.0.slice_mut(at..at + bytes.len());
        Ok(self.queue.memcpy_htod(bytes, &mut to)?)
    }

    /// Reads bytes, when all that was asked for before is done.
    pub fn read(&self, from: &Memory, at: usize, bytes: &mut [u8]) -> Result<(), GpuError> {
        let from = from.0.slice(at..at + bytes.len());
        self.queue.memcpy_dtoh(&from, bytes)?;
        Ok(self.queue.synchronize()?)
    }

    /// Waits until all that was asked for is done.
    pub fn wait(&self) -> Result<(), GpuError> {
        Ok(self.queue.synchronize()?)
    }

    /// Clears bytes.
    pub fn clear(&self, memory: &mut Memory, range: Range<usize>) -> Result<(), GpuError> {
        Ok(self.queue.memset_zeros(&mut memory.0.slice_mut(range))?)
    }

    /// Copies bytes within a memory; the ranges do not overlap.
    pub fn copy(&self, memory: &mut Memory, from: Range<usize>, to: usize) -> Result<(), GpuError> {
        let n = from.len();
        let (low, high) = (from.start.min(to), from.start.max(to));
        let (mut first, mut second) = memory.0.split_at_mut(high);
        let (mut low, mut high) = (first.slice_mut(low..low + n), second.slice_mut(..n));
        match from.start < to {
            true => self.queue.memcpy_dtod(&low, &mut high)?,
            false => self.queue.memcpy_dtod(&high, &mut low)?,
        }
        Ok(())
    }

    /// Puts a launch of a kernel of `decode.cu` into the queue.
    pub fn launch(
        &self,
        kernel: &Kernel,
        plan: &Plan,
        (turns, n_turns): (u64, usize),
        block: &Block,
    ) -> Result<(), GpuError> {
        let n = n_turns as i32;
        let n_blocks = n_turns.div_ceil(block.n_lanes) * block.n_blocks;
        let mut launch = self.queue.launch_builder(&kernel.0);
        launch.arg(plan).arg(&turns).arg(&n);
        // SAFETY: the arguments have the types and the order of the kernel's. `plan` and the turns
        // name memory of this GPU that the caller holds and that is as large as `Layout` says;
        // whoever frees it does so in the order of the same queue. `block` is the kernel's own, as `Ready`
        // holds them together: it has the threads and the shared memory that the kernel was compiled for, and
        // clusters are whole.
        unsafe { launch.launch(config_of(block, n_blocks)) }?;
        Ok(())
    }

    /// Puts a launch of a kernel of `prefill.cu` into the queue.
    pub fn launch_prompt(
        &self,
        kernel: &Kernel,
        prompt: &Prompt,
        grid: Grid,
    ) -> Result<(), GpuError> {
        let mut launch = self.queue.launch_builder(&kernel.0);
        launch.arg(prompt);
        // SAFETY: the only argument is of the kernel's type. It names a lane and the scratch of
        // `Prefill`, which the caller holds and whose parts are as large as a piece; whoever frees them
        // does so in the order of the same queue.
        unsafe { launch.launch(config(grid.blocks, grid.threads, grid.shared)) }?;
        Ok(())
    }
}

/// A kernel, ready to launch.
pub struct Kernel(CudaFunction);

impl Kernel {
    /// The architecture whose PTX it was made from: 90 if it is the machine code for Hopper, 80 if the
    /// driver compiled it.
    pub fn made_from(&self) -> Result<i32, GpuError> {
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_PTX_VERSION;
        Ok(self.0.get_attribute(attribute)?)
    }
}

impl Memory {
    /// Where it begins, on the GPU.
    pub fn address(&self) -> u64 {
        self.1
    }
}

/// `decode.cu` and `prefill.cu` on a GPU.
fn modules(number: usize, context: &Arc<CudaContext>) -> Result<[Arc<CudaModule>; 2], DriverError> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = loaded
        .get(&number)
        .map(|[decode, prefill]| [decode.upgrade(), prefill.upgrade()]);
    if let Some([Some(decode), Some(prefill)]) = known {
        return Ok([decode, prefill]);
    }
    let load = |fatbin: &[u8]| context.load_module(Ptx::from_binary(fatbin.to_vec()));
    let modules = [load(DECODE)?, load(PREFILL)?];
    loaded.insert(number, modules.each_ref().map(Arc::downgrade));
    Ok(modules)
}

/// So many blocks of a kernel of `decode.cu`.
fn config_of(block: &Block, n_blocks: usize) -> LaunchConfig {
    config((n_blocks as u32, 1), block.n_threads as u32, block.shared)
}

fn config(blocks: (u32, u32), threads: u32, shared: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (blocks.0, blocks.1, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: shared as u32,
    }
}
