//! What every launch needs: the kernels, loaded once per device; addresses of tensors that were
//! checked; fresh memory for results.

use std::sync::{Arc, OnceLock};

use candle_core::backend::BackendDevice;
use candle_core::cuda::cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, sys,
};
use candle_core::cuda::cudarc::nvrtc::Ptx;
use candle_core::cuda::{CudaDevice, CudaStorage, CudaStorageSlice, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{DType, Device, Result, Shape, Storage, Tensor, bail};

/// Machine code for Hopper and PTX for an A100 and later; see `build.rs`.
static FATBIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/train.fatbin"));

/// Devices by ordinal: more than any machine holds.
static KERNELS: [OnceLock<Kernels>; 16] = [const { OnceLock::new() }; 16];

/// Puts a kernel into the stream: function, grid (x, y), block (x, y), bytes of dynamic shared
/// memory, then its arguments in their order: `i32`, `f32`, `usize`, addresses as `u64`, or a
/// structure that mirrors the kernel's. Returns from the caller where the driver refuses.
macro_rules! launch {
    ($gpu:expr, $kernel:expr, $grid:expr, $block:expr, $shared:expr, $($arg:expr),+ $(,)?) => {{
        use candle_core::cuda::WrapErr;
        use candle_core::cuda::cudarc::driver::{LaunchConfig, PushKernelArg};
        let (grid, block): ((usize, usize), (u32, u32)) = ($grid, $block);
        // int: more blocks than 2^31 − 1 are refused like any size.
        let config = LaunchConfig {
            grid_dim: (
                $crate::train::ops::cuda::launch::int(grid.0)? as u32,
                $crate::train::ops::cuda::launch::int(grid.1)? as u32,
                1,
            ),
            block_dim: (block.0, block.1, 1),
            shared_mem_bytes: $shared,
        };
        // SAFETY: the arguments have the types and the order of the kernel's header; `Gpu`
        // checked type, shape, contiguity, alignment and device of every tensor behind an
        // address, and its memory outlives the kernel: candle frees in the order of the same
        // stream. Where a kernel writes to a tensor that others hold, the operation says so.
        unsafe { $gpu.stream.launch_builder($kernel)$(.arg(&$arg))+.launch(config) }.w()?;
    }};
}
pub(super) use launch;

macro_rules! kernels {
    ($($name:ident),+ $(,)?) => {
        /// Every kernel of `kernels/train.cu`, by its name there.
        pub struct Kernels {
            /// Multiprocessors of the device.
            pub n_sm: usize,
            $(pub $name: CudaFunction,)+
        }

        impl Kernels {
            fn load(context: &Arc<CudaContext>) -> Result<Self> {
                use sys::CUdevice_attribute as Attribute;
                let n_sm = context
                    .attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
                    .w()?;
                let shared = context
                    .attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
                    .w()?;
                let module = context.load_module(Ptx::from_binary(FATBIN.to_vec())).w()?;
                let kernels = Self {
                    n_sm: n_sm as usize,
                    $($name: module.load_function(stringify!($name)).w()?,)+
                };
                kernels.widen(shared)?;
                keep_memory(context)?;
                Ok(kernels)
            }
        }
    };
}

kernels!(
    add_residual,
    add_squares,
    add_total,
    adamw,
    attend_16,
    attend_32,
    attend_64,
    attend_keys_16,
    attend_keys_32,
    attend_keys_64,
    attend_queries_16,
    attend_queries_32,
    attend_queries_64,
    attend_tiles_16,
    attend_tiles_32,
    attend_tiles_64,
    attend_tiles_keys_16,
    attend_tiles_keys_32,
    attend_tiles_keys_64,
    attend_tiles_queries_16,
    attend_tiles_queries_32,
    attend_tiles_queries_64,
    branch_gradient,
    cross_entropy,
    embed,
    embed_backward,
    gelu,
    gelu_backward,
    norm_conv,
    norm_conv_backward_1,
    norm_conv_backward_2,
    norm_conv_backward_4,
    rms_norm,
    rotate,
    squares_partials,
    sum_partials,
);

/// Freed memory stays with the pool: it would go back to the driver at each synchronisation, and
/// the next iteration would wait for it anew.
fn keep_memory(context: &CudaContext) -> Result<()> {
    use candle_core::cuda::cudarc::driver::result::{device, mem_pool};
    let mut threshold = u64::MAX;
    // SAFETY: the device is that of a living context, the attribute is a u64 that the call reads.
    unsafe {
        let pool = device::get_default_mem_pool(context.cu_device()).w()?;
        mem_pool::set_attribute(
            pool,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            (&raw mut threshold).cast(),
        )
        .w()
    }
}

impl Kernels {
    /// Lets those that may want more than 48 KiB of dynamic shared memory have it.
    fn widen(&self, limit: i32) -> Result<()> {
        use sys::CUfunction_attribute_enum as Attribute;
        for kernel in [
            &self.attend_keys_64,
            &self.attend_queries_64,
            &self.attend_tiles_keys_64,
            &self.attend_tiles_queries_64,
            &self.embed_backward,
            &self.norm_conv,
            &self.norm_conv_backward_1,
            &self.norm_conv_backward_2,
            &self.norm_conv_backward_4,
        ] {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            kernel.set_attribute(attribute, limit).w()?;
        }
        Ok(())
    }
}

/// A device as an operation sees it.
pub struct Gpu<'a> {
    device: &'a CudaDevice,
    /// The one stream of the device: candle's own kernels run on it too.
    pub stream: Arc<CudaStream>,
    pub kernels: &'static Kernels,
}

/// Memory that the next launch fills entirely.
pub struct Fresh {
    storage: CudaStorage,
    shape: Shape,
    /// On the device.
    pub address: u64,
}

/// Sums of blocks `[blocks, n]`, not yet summed over the blocks.
pub struct Partials {
    /// Keeps the memory; given back, in the stream's order, when dropped.
    _memory: CudaSlice<f32>,
    n_blocks: usize,
    n: usize,
    /// On the device.
    pub address: u64,
}

impl<'a> Gpu<'a> {
    /// The device of `t`, its kernels loaded.
    pub fn of(t: &'a Tensor) -> Result<Self> {
        let Device::Cuda(device) = t.device() else {
            bail!("a tensor on a GPU was expected, not on {:?}", t.device());
        };
        let stream = device.cuda_stream();
        let context = stream.context();
        let Some(cell) = KERNELS.get(context.ordinal()) else {
            bail!("no kernels for device {}", context.ordinal());
        };
        if cell.get().is_none() {
            // Should another thread have been faster, its kernels serve as well.
            let _ = cell.set(Kernels::load(context)?);
        }
        let kernels = cell.get().expect("set above");
        Ok(Self {
            device,
            stream,
            kernels,
        })
    }

    /// Where the elements of `t` begin: of this type and shape, contiguous, on this device, and
    /// on 16 bytes, because kernels read so many at once (codes are read one by one).
    pub fn address(&self, t: &Tensor, name: &str, dtype: DType, shape: &[usize]) -> Result<u64> {
        let address = self.loose_address(t, name, dtype, shape)?;
        if dtype != DType::U8 && !address.is_multiple_of(16) {
            bail!("{name} does not lie on 16 bytes: a view at an odd offset");
        }
        Ok(address)
    }

    /// The same wherever it lies.
    pub fn loose_address(
        &self,
        t: &Tensor,
        name: &str,
        dtype: DType,
        shape: &[usize],
    ) -> Result<u64> {
        if t.dtype() != dtype || t.dims() != shape || !t.is_contiguous() {
            let (got_type, got, lies) = (t.dtype(), t.dims(), t.is_contiguous());
            bail!(
                "{name}: expected {dtype:?} {shape:?}, contiguous; \
                 got {got_type:?} {got:?}, contiguous: {lies}"
            );
        }
        let (storage, layout) = t.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            bail!("{name} is not on the GPU");
        };
        if !storage.device.same_device(self.device) {
            bail!("{name} is on another GPU, or came by another handle of this one");
        }
        let bytes = layout.start_offset() * dtype.size_in_bytes();
        Ok(self.start(storage, name)? + bytes as u64)
    }

    fn start(&self, storage: &CudaStorage, name: &str) -> Result<u64> {
        // The guards beside the addresses record events for other streams: there are none.
        Ok(match &storage.slice {
            CudaStorageSlice::U8(s) => s.device_ptr(&self.stream).0,
            CudaStorageSlice::U32(s) => s.device_ptr(&self.stream).0,
            CudaStorageSlice::F32(s) => s.device_ptr(&self.stream).0,
            CudaStorageSlice::BF16(s) => s.device_ptr(&self.stream).0,
            _ => bail!("{name}: no kernel takes {:?}", storage.slice),
        })
    }

    /// Memory for a result.
    pub fn fresh(&self, dtype: DType, shape: impl Into<Shape>) -> Result<Fresh> {
        let shape = shape.into();
        // SAFETY: the caller launches a kernel that writes every element before anything later
        // in the stream can read one; this is what `Fresh` is for.
        let storage = unsafe { self.device.alloc_uninit(&shape, dtype) }?;
        let address = self.start(&storage, "result")?;
        Ok(Fresh {
            storage,
            shape,
            address,
        })
    }

    /// Memory for what `n_blocks` blocks leave, `n` sums each.
    pub fn partials(&self, n_blocks: usize, n: usize) -> Result<Partials> {
        // SAFETY: every block writes all of its sums before `sum` reads them.
        let memory = unsafe { self.device.alloc::<f32>(n_blocks * n) }?;
        let address = memory.device_ptr(&self.stream).0;
        Ok(Partials {
            _memory: memory,
            n_blocks,
            n,
            address,
        })
    }

    /// So many blocks that `per_sm` run on every multiprocessor, or fewer where there is less to
    /// do than `most`.
    pub fn persistent(&self, per_sm: usize, most: usize) -> usize {
        most.clamp(1, per_sm * self.kernels.n_sm)
    }

    /// The blocks' sums, added up, in `shape`.
    pub fn sum(&self, partials: Partials, shape: impl Into<Shape>) -> Result<Tensor> {
        let out = self.fresh(DType::F32, shape)?;
        let (n_blocks, n) = (int(partials.n_blocks)?, int(partials.n)?);
        let grid = (partials.n.div_ceil(32), 1);
        launch!(
            self,
            &self.kernels.sum_partials,
            grid,
            (32, 32),
            0,
            partials.address,
            out.address,
            n_blocks,
            n
        );
        Ok(out.tensor())
    }
}

impl Fresh {
    /// The result, once the kernel that fills it is in the stream.
    pub fn tensor(self) -> Tensor {
        Tensor::from_storage(
            Storage::Cuda(self.storage),
            self.shape,
            BackpropOp::none(),
            false,
        )
    }

    /// The same without a shape.
    pub fn storage(self) -> Storage {
        Storage::Cuda(self.storage)
    }
}

/// A size as kernels take it.
pub fn int(size: usize) -> Result<i32> {
    match i32::try_from(size) {
        Ok(size) => Ok(size),
        Err(_) => bail!("a size of {size} is too large for the kernels"),
    }
}
