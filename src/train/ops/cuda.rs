//! The operations on an NVIDIA GPU: checks of shapes, memory for results, launches of the kernels
//! in `kernels/train.cu`. Each function stands for its namesake in `ops`.
//!
//! Called by one thread, on the device's one stream: kernels run in the order of the calls, and
//! nothing here waits for the GPU. [`rotate`], [`add_squares`] and [`adamw`] write into tensors
//! that others may hold: whoever reads such a tensor later reads it through the same stream.

// Kernels are launched by address: no compiler can check what they do there.
#![allow(unsafe_code)]

mod attention;
mod launch;
mod parameters;

pub use self::attention::{attend, attend_backward, rotate};

use candle_core::{DType, Device, Result, Storage, Tensor, bail};

use self::launch::{Gpu, int, launch};
use self::parameters::{AdamWStep, AdamWTensors, NormBack};
use super::{AdamW, Moments, NormConv};

const F32: DType = DType::F32;
const BF16: DType = DType::BF16;
const U8: DType = DType::U8;
const U32: DType = DType::U32;

/// `kBlock`: threads of a block of every memory-bound kernel.
const BLOCK: usize = 256;
/// `kTapGroup`: taps whose gradients one launch gathers.
const TAP_GROUP: usize = 4;
/// `kTables`: warps of a block of `embed_backward`.
const TABLES: usize = 5;
/// `V`
const CODES: usize = 256;

const LINE: (u32, u32) = (BLOCK as u32, 1);

/// The GPU of that number with a queue of its own: candle's default is that of the thread, and
/// events on every tensor cost a small iteration a sixth of its time.
pub fn open(number: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(number)?;
    // SAFETY: events order tensors between streams. There is one stream, and everything that is
    // computed goes through it, as the contract above says.
    unsafe { device.as_cuda_device()?.disable_event_tracking() };
    Ok(device)
}

/// The checked sizes of a norm with its convolution.
struct NormSizes {
    n: usize,
    d: usize,
    /// Taps; 1 without a convolution.
    w: usize,
    /// Rows a tile may not reach beyond: with a single tap nothing reaches anywhere.
    window: usize,
    gain: u64,
    /// Null without a convolution.
    conv: u64,
}

impl NormSizes {
    fn check(gpu: &Gpu, x: &Tensor, p: &NormConv) -> Result<Self> {
        let (n, d) = x.dims2()?;
        let w = p.conv.map_or(Ok(1), |conv| conv.dims2().map(|(_, w)| w))?;
        if !d.is_multiple_of(32) || !(32..=512).contains(&d) || !(1..=16).contains(&w) {
            bail!("norm: a width of {d} with {w} taps; 32, 64 … 512 with 1 … 16 are possible");
        }
        if n == 0 || p.window == 0 || !n.is_multiple_of(p.window) {
            bail!("norm: {n} rows are no windows of {}", p.window);
        }
        let conv = match p.conv {
            Some(conv) => gpu.address(conv, "conv", F32, &[d, w])?,
            None => 0,
        };
        let gain = gpu.address(p.gain, "gain", F32, &[d])?;
        Ok(Self {
            n,
            d,
            w,
            window: if w == 1 { n } else { p.window },
            gain,
            conv,
        })
    }

    /// Rows of a tile: 32 KiB of f32 at most.
    fn rows(&self, most: usize) -> usize {
        (8192 / self.d).clamp(16, most)
    }
}

pub fn norm_conv(x: &Tensor, p: &NormConv) -> Result<Tensor> {
    let gpu = Gpu::of(x)?;
    let s = NormSizes::check(&gpu, x, p)?;
    let from = gpu.address(x, "x", F32, &[s.n, s.d])?;
    let out = gpu.fresh(BF16, (s.n, s.d))?;
    let d = int(s.d)?;
    if p.conv.is_none() {
        let (grid, n) = ((s.n.div_ceil(8), 1), int(s.n)?);
        let kernel = &gpu.kernels.rms_norm;
        launch!(
            gpu,
            kernel,
            grid,
            LINE,
            0,
            from,
            s.gain,
            out.address,
            n,
            d,
            p.eps
        );
        return Ok(out.tensor());
    }
    let rows = s.rows(64);
    let tiles = s.window.div_ceil(rows);
    let shared = 4 * s.d * (rows + 2 * s.w - 1);
    launch!(
        gpu,
        &gpu.kernels.norm_conv,
        (s.n / s.window * tiles, 1),
        LINE,
        shared as u32,
        from,
        s.gain,
        s.conv,
        out.address,
        int(s.window)?,
        int(tiles)?,
        int(rows)?,
        d,
        int(s.w)?,
        p.eps,
    );
    Ok(out.tensor())
}

pub fn norm_conv_backward(
    x: &Tensor,
    p: &NormConv,
    d_out: &Tensor,
    past: &Tensor,
) -> Result<(Tensor, Tensor, Option<Tensor>)> {
    let gpu = Gpu::of(x)?;
    let s = NormSizes::check(&gpu, x, p)?;
    let (kernel, per_sm) = match s.d {
        ..=128 => (&gpu.kernels.norm_conv_backward_1, 3),
        129..=256 => (&gpu.kernels.norm_conv_backward_2, 2),
        _ => (&gpu.kernels.norm_conv_backward_4, 1),
    };
    let rows = s.rows(32);
    let tiles = s.window.div_ceil(rows);
    let all_tiles = s.n / s.window * tiles;
    let blocks = gpu.persistent(per_sm, all_tiles);
    let dx = gpu.fresh(F32, (s.n, s.d))?;
    let d_gain = gpu.partials(blocks, s.d)?;
    let d_conv = gpu.partials(blocks, s.d * s.w)?;
    let shared = 4 * s.d * (s.w + 1 + TAP_GROUP) + 2 * s.d * (rows + s.w - 1);
    let mut back = NormBack {
        x: gpu.address(x, "x", F32, &[s.n, s.d])?,
        gain: s.gain,
        conv: s.conv,
        d_out: gpu.address(d_out, "d_out", BF16, &[s.n, s.d])?,
        past: gpu.address(past, "past", F32, &[s.n, s.d])?,
        dx: dx.address,
        gain_partials: d_gain.address,
        conv_partials: d_conv.address,
        window: int(s.window)?,
        tiles: int(tiles)?,
        all_tiles: int(all_tiles)?,
        rows: int(rows)?,
        d: int(s.d)?,
        w: int(s.w)?,
        tap0: 0,
        eps: p.eps,
    };
    for tap0 in (0..s.w).step_by(TAP_GROUP) {
        back.tap0 = int(tap0)?;
        launch!(gpu, kernel, (blocks, 1), LINE, shared as u32, back);
    }
    let d_gain = gpu.sum(d_gain, s.d)?;
    let d_conv = match p.conv {
        Some(_) => Some(gpu.sum(d_conv, (s.d, s.w))?),
        None => None,
    };
    Ok((dx.tensor(), d_gain, d_conv))
}

/// Rows and columns of an activation of the MLP.
fn check_mlp(u: &Tensor) -> Result<(usize, usize)> {
    let (n, f) = u.dims2()?;
    if n == 0 || f == 0 || !f.is_multiple_of(8) || f > 8 * BLOCK {
        bail!(
            "gelu: [{n}, {f}]; a multiple of 8 up to {} columns is possible",
            8 * BLOCK
        );
    }
    int(n * f / 8 + BLOCK)?;
    Ok((n, f))
}

pub fn gelu(u: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(u)?;
    let (n, f) = check_mlp(u)?;
    let count = n * f / 8;
    let out = gpu.fresh(BF16, (n, f))?;
    launch!(
        gpu,
        &gpu.kernels.gelu,
        (count.div_ceil(BLOCK), 1),
        LINE,
        0,
        gpu.address(u, "u", BF16, &[n, f])?,
        gpu.address(bias, "bias", F32, &[f])?,
        out.address,
        int(count)?,
        int(f)?,
    );
    Ok(out.tensor())
}

pub fn gelu_backward(u: &Tensor, bias: &Tensor, d_g: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let gpu = Gpu::of(u)?;
    let (n, f) = check_mlp(u)?;
    let blocks = gpu.persistent(4, n.div_ceil(BLOCK / (f / 8)));
    let (d_u, g) = (gpu.fresh(BF16, (n, f))?, gpu.fresh(BF16, (n, f))?);
    let d_bias = gpu.partials(blocks, f)?;
    launch!(
        gpu,
        &gpu.kernels.gelu_backward,
        (blocks, 1),
        LINE,
        0,
        gpu.address(u, "u", BF16, &[n, f])?,
        gpu.address(bias, "bias", F32, &[f])?,
        gpu.address(d_g, "d_g", BF16, &[n, f])?,
        d_u.address,
        g.address,
        d_bias.address,
        int(n)?,
        int(f)?,
    );
    Ok((d_u.tensor(), g.tensor(), gpu.sum(d_bias, f)?))
}

/// Rows and columns of the residual stream.
fn check_stream(x: &Tensor) -> Result<(usize, usize)> {
    let (n, d) = x.dims2()?;
    if n == 0 || d == 0 || !d.is_multiple_of(32) || d > 512 {
        bail!("[{n}, {d}]: a width of 32, 64 … 512 is possible");
    }
    int(n * d / 4 + BLOCK)?;
    Ok((n, d))
}

pub fn add_residual(x: &Tensor, branch: &Tensor, bias: Option<&Tensor>) -> Result<Storage> {
    let gpu = Gpu::of(x)?;
    let (n, d) = check_stream(x)?;
    let count = n * d / 4;
    let bias = match bias {
        Some(bias) => gpu.address(bias, "bias", F32, &[d])?,
        None => 0,
    };
    let out = gpu.fresh(F32, (n, d))?;
    launch!(
        gpu,
        &gpu.kernels.add_residual,
        (count.div_ceil(BLOCK), 1),
        LINE,
        0,
        gpu.address(x, "x", F32, &[n, d])?,
        gpu.address(branch, "branch", BF16, &[n, d])?,
        bias,
        out.address,
        int(count)?,
        int(d)?,
    );
    Ok(out.storage())
}

pub fn branch_gradient(d: &Tensor) -> Result<(Tensor, Tensor)> {
    let gpu = Gpu::of(d)?;
    let (n, width) = check_stream(d)?;
    let blocks = gpu.persistent(8, n.div_ceil(BLOCK / (width / 4)));
    let out = gpu.fresh(BF16, (n, width))?;
    let sums = gpu.partials(blocks, width)?;
    launch!(
        gpu,
        &gpu.kernels.branch_gradient,
        (blocks, 1),
        LINE,
        0,
        gpu.address(d, "gradient", F32, &[n, width])?,
        out.address,
        sums.address,
        int(n)?,
        int(width)?,
    );
    Ok((out.tensor(), gpu.sum(sums, width)?))
}

pub fn embed(codes: &Tensor, table: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(codes)?;
    let (n, (_, d)) = (codes.dims1()?, check_stream(table)?);
    let count = n * d / 4;
    int(count + BLOCK)?;
    let out = gpu.fresh(F32, (n, d))?;
    launch!(
        gpu,
        &gpu.kernels.embed,
        (count.div_ceil(BLOCK), 1),
        LINE,
        0,
        gpu.address(codes, "codes", U8, &[n])?,
        gpu.address(table, "table", F32, &[CODES, d])?,
        out.address,
        int(count)?,
        int(d)?,
    );
    Ok(out.tensor())
}

pub fn embed_backward(codes: &Tensor, d_x: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(codes)?;
    let (n, d) = check_stream(d_x)?;
    // A block fills a multiprocessor: one wave, or fewer where each would have few rows.
    let groups = d / 32;
    let chunks = (gpu.kernels.n_sm / groups).clamp(1, n.div_ceil(TABLES * 32));
    let table = gpu.partials(chunks, CODES * d)?;
    launch!(
        gpu,
        &gpu.kernels.embed_backward,
        (groups, chunks),
        (32 * TABLES as u32, 1),
        (TABLES * CODES * 32 * 4) as u32,
        gpu.address(codes, "codes", U8, &[n])?,
        gpu.address(d_x, "d_x", F32, &[n, d])?,
        table.address,
        int(n)?,
        int(d)?,
    );
    gpu.sum(table, (CODES, d))
}

pub fn cross_entropy(
    logits: &Tensor,
    bias: &Tensor,
    targets: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let gpu = Gpu::of(logits)?;
    let n = logits.dims2()?.0;
    let blocks = gpu.persistent(4, n.div_ceil(BLOCK / 32));
    let (loss, d_logits) = (gpu.fresh(F32, n)?, gpu.fresh(BF16, (n, CODES))?);
    let d_bias = gpu.partials(blocks, CODES)?;
    launch!(
        gpu,
        &gpu.kernels.cross_entropy,
        (blocks, 1),
        LINE,
        0,
        gpu.address(logits, "logits", BF16, &[n, CODES])?,
        gpu.address(bias, "bias", F32, &[CODES])?,
        gpu.address(targets, "targets", U8, &[n])?,
        loss.address,
        d_logits.address,
        d_bias.address,
        int(n)?,
    );
    Ok((loss.tensor(), d_logits.tensor(), gpu.sum(d_bias, CODES)?))
}

/// Writes to `sum` although others may hold it: see above.
pub fn add_squares(sum: &Tensor, gradient: &Tensor) -> Result<()> {
    // Longer tensors are worth two launches.
    const SHORT: usize = 1 << 15;
    let gpu = Gpu::of(sum)?;
    let n = gradient.elem_count();
    let from = gpu.loose_address(gradient, "gradient", F32, gradient.dims())?;
    let sum = gpu.loose_address(sum, "sum", F32, &[1])?;
    let wide = i32::from(from.is_multiple_of(16));
    if n <= SHORT {
        let kernel = &gpu.kernels.add_squares;
        launch!(gpu, kernel, (1, 1), (1024, 1), 0, from, sum, n, wide);
        return Ok(());
    }
    let blocks = gpu.persistent(4, n.div_ceil(16 * BLOCK)).min(1024);
    let partials = gpu.partials(blocks, 1)?;
    let address = partials.address;
    let kernel = &gpu.kernels.squares_partials;
    launch!(gpu, kernel, (blocks, 1), LINE, 0, from, address, n, wide);
    let kernel = &gpu.kernels.add_total;
    launch!(
        gpu,
        kernel,
        (1, 1),
        (1024, 1),
        0,
        address,
        sum,
        int(blocks)?
    );
    Ok(())
}

/// Writes to `value` and the moments although others may hold them: see above.
pub fn adamw(
    value: &Tensor,
    gradient: &Tensor,
    moments: &Moments,
    decayed: &Tensor,
    squares: &Tensor,
    step: &AdamW,
) -> Result<()> {
    let gpu = Gpu::of(value)?;
    let n = value.dims1()?;
    let at = |t: &Tensor, name: &str| gpu.loose_address(t, name, F32, &[n]);
    let tensors = AdamWTensors {
        value: at(value, "value")?,
        gradient: at(gradient, "gradient")?,
        first: at(&moments.first, "first moment")?,
        second: at(&moments.second, "second moment")?,
        average: at(&moments.average, "average")?,
        decayed: at(decayed, "decayed")?,
    };
    let squares = gpu.loose_address(squares, "squares", F32, &[1])?;
    let wide = i32::from(tensors.aligned());
    launch!(
        gpu,
        &gpu.kernels.adamw,
        (n.div_ceil(4 * BLOCK).max(1), 1),
        LINE,
        0,
        tensors,
        squares,
        AdamWStep::new(step),
        n,
        wide,
    );
    Ok(())
}
