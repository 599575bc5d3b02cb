//! The operations of training that candle has not, or has slowly: each a function of tensors with
//! a naive CPU twin (`cpu.rs`, f32) and a CUDA kernel (`cuda.rs`, `kernels/train.cu`, bf16).
//!
//! None records a gradient: the blocks of `train/blocks.rs` call them inside candle's autograd
//! and pair every forward with its backward. `N` = windows · T rows, a window after the other;
//! nothing reaches from one window into the next. *Activations* are f32 on the CPU and bf16 on a
//! GPU, the residual stream and all gradients of weights f32 on both.

mod attention_cpu;
mod cpu;
#[cfg(feature = "train-cuda")]
mod cuda;
mod hashed_cpu;
mod paired_cpu;
mod tiles;

pub use hashed_cpu::Sorted;
pub use tiles::Tiles;

#[cfg(feature = "train-cuda")]
pub use cuda::open as open_cuda;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Storage, Tensor, bail};

use crate::model::Spacing;
use crate::model::pattern::Hasher;

/// What matrices multiply on this device.
pub fn activation_type(device: &Device) -> DType {
    match device {
        Device::Cpu => DType::F32,
        _ => DType::BF16,
    }
}

/// A convolution after a norm, or the norm alone.
#[derive(Clone, Copy, Debug)]
pub struct NormConv<'a> {
    /// `[D]` f32.
    pub gain: &'a Tensor,
    /// `[D, W]` f32, the tap of the present position last; `None` leaves the norm as it is.
    pub conv: Option<&'a Tensor>,
    /// `T`, positions of a window: the convolution sees zeros before each.
    pub window: usize,
    /// Added to the mean square.
    pub eps: f32,
}

/// The sizes of a layer's attention, and who sees whom in it.
#[derive(Clone, Debug)]
pub struct Attention {
    /// `H`
    pub n_heads: usize,
    /// `G`
    pub n_kv_heads: usize,
    /// `K`
    pub head_size: usize,
    /// `T`, positions of a window.
    pub window: usize,
    /// What a position sees of its window.
    pub sight: Sight,
}

/// Who sees whom in a window.
#[derive(Clone, Debug)]
pub enum Sight {
    /// A position t sees t, t − stride, t − 2·stride, …: so many rows.
    Even(Spacing),
    /// Whatever the tiles say.
    Tiled(Arc<Tiles>),
    /// By buckets, which nobody knows before [`sort`].
    Hashed(Arc<[Hasher]>),
    /// By buckets.
    Sorted(Arc<Sorted>),
}

impl Sight {
    /// How many positions share a rotation in a KV head.
    pub fn turn(&self, group: usize) -> usize {
        match self {
            Self::Even(spacing) => spacing.stride,
            Self::Tiled(tiles) => tiles.turn(group),
            Self::Hashed(_) | Self::Sorted(_) => 1,
        }
    }
}

impl Attention {
    /// `(H + 2·G)·K`: queries, then keys, then values of a position.
    pub fn qkv_width(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.head_size
    }

    /// The KV head of the `i`th head that is turned: the queries' heads come before those of the keys.
    pub fn group(&self, i: usize) -> usize {
        match i.checked_sub(self.n_heads) {
            Some(key) => key,
            None => i / (self.n_heads / self.n_kv_heads),
        }
    }
}

/// Which way [`rotate`] turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Queries and keys on their way to attention.
    Forward,
    /// Their gradients on the way back.
    Back,
}

/// One iteration's numbers for [`adamw`].
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f32,
    /// Share of the first moment that is kept.
    pub beta1: f32,
    /// Share of the second moment that is kept.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Weight decay, decoupled.
    pub decay: f32,
    /// Gradients longer than this, all parameters together, are shortened to it.
    pub clip: f32,
    /// Share of the average that is kept.
    pub ema: f32,
    /// Iterations done, this one included, from 1.
    pub iteration: u64,
}

macro_rules! dispatch {
    ($on:expr, $op:ident($($arg:expr),* $(,)?)) => {
        match $on.device() {
            Device::Cpu => cpu::$op($($arg),*),
            #[cfg(feature = "train-cuda")]
            Device::Cuda(_) => cuda::$op($($arg),*),
            _ => bail!("no training on {:?} in this build", $on.device().location()),
        }
    };
}

/// `conv(rms_norm(x))` of the residual stream x `[N, D]` f32, as an activation `[N, D]`.
pub fn norm_conv(x: &Tensor, p: &NormConv) -> Result<Tensor> {
    dispatch!(x, norm_conv(x, p))
}

/// The gradients of [`norm_conv`]: of x with `past`, the gradient that reaches x beside it, added
/// `[N, D]` f32; of the gain `[D]`; of the convolution `[D, W]`. `d_out` is an activation.
pub fn norm_conv_backward(
    x: &Tensor,
    p: &NormConv,
    d_out: &Tensor,
    past: &Tensor,
) -> Result<(Tensor, Tensor, Option<Tensor>)> {
    dispatch!(x, norm_conv_backward(x, p, d_out, past))
}

/// Where keys fall into buckets: the sight of windows of `qkv` `[N, (H + 2·G)·K]`, not yet rotated.
pub fn sort(qkv: &Tensor, a: &Attention) -> Result<Sight> {
    match (&a.sight, qkv.device()) {
        (Sight::Hashed(heads), Device::Cpu) => {
            let sorted = hashed_cpu::Sorted::new(heads, qkv, a)?;
            Ok(Sight::Sorted(Arc::new(sorted)))
        }
        (Sight::Hashed(_), _) => bail!("{CPU_ALONE}"),
        (known, _) => Ok(known.clone()),
    }
}

/// What no GPU trains, in a sentence.
pub const CPU_ALONE: &str = "layers that are hashed train on a CPU alone: give --device cpu";

/// Brings the keys of `qkv` to the length of a norm, in place, and tells what each was multiplied by
/// `[N, G]`, for the way back. On the CPU alone.
pub fn norm_keys(qkv: &Tensor, a: &Attention, eps: f32) -> Result<Tensor> {
    hashed_cpu::norm_keys(qkv, a, eps)
}

/// Changes the gradient of the keys that [`norm_keys`] made of `qkv`, in place, into that of the keys
/// before; whether both are rotated or not is the same. On the CPU alone.
pub fn norm_keys_backward(
    qkv: &Tensor,
    a: &Attention,
    scales: &Tensor,
    d_qkv: &Tensor,
) -> Result<()> {
    hashed_cpu::norm_keys_backward(qkv, a, scales, d_qkv)
}

/// Turns, in place, the queries and keys of `qkv` `[N, (H + 2·G)·K]` by the rows of `angles`
/// `[period, K]` f32 (K/2 cosines, then K/2 sines): row `floor(t / turn) mod period` at place t
/// of its window, by the [turn](Sight::turn) of its KV head. Pairs are (i, i + K/2) of a head.
pub fn rotate(qkv: &Tensor, a: &Attention, angles: &Tensor, turn: Turn) -> Result<()> {
    dispatch!(qkv, rotate(qkv, a, angles, turn))
}

/// Attention of rotated `qkv`: the mixed values `[N, H·K]` and, for the way back, the logarithm
/// (base 2) of each softmax's sum `[N, H]` f32 of scores q·k / sqrt(K) · log2(e).
pub fn attend(qkv: &Tensor, a: &Attention) -> Result<(Tensor, Tensor)> {
    dispatch!(qkv, attend(qkv, a))
}

/// The gradient of rotated `qkv`, given what [`attend`] returned and the gradient of its values.
pub fn attend_backward(
    qkv: &Tensor,
    a: &Attention,
    out: &Tensor,
    lse: &Tensor,
    d_out: &Tensor,
) -> Result<Tensor> {
    dispatch!(qkv, attend_backward(qkv, a, out, lse, d_out))
}

/// `gelu_tanh(u + bias)` of activations `[N, F]`, bias `[F]` f32.
pub fn gelu(u: &Tensor, bias: &Tensor) -> Result<Tensor> {
    dispatch!(u, gelu(u, bias))
}

/// The gradient of u, of [`gelu`], as an activation; its result, made once more; and the gradient
/// of the bias `[F]` f32.
pub fn gelu_backward(u: &Tensor, bias: &Tensor, d_g: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    dispatch!(u, gelu_backward(u, bias, d_g))
}

/// x + branch (+ bias): the residual stream `[N, D]` f32, an activation, `[D]` f32. The storage
/// alone, so that a block can be what autograd sees as its maker.
pub fn add_residual(x: &Tensor, branch: &Tensor, bias: Option<&Tensor>) -> Result<Storage> {
    dispatch!(x, add_residual(x, branch, bias))
}

/// The gradient of a branch `[N, D]` f32 as an activation, and its sum over N `[D]` f32.
pub fn branch_gradient(d: &Tensor) -> Result<(Tensor, Tensor)> {
    dispatch!(d, branch_gradient(d))
}

/// Rows of `table` `[V, D]` f32 for codes `[N]` u8.
pub fn embed(codes: &Tensor, table: &Tensor) -> Result<Tensor> {
    dispatch!(codes, embed(codes, table))
}

/// The gradient of the table `[V, D]` f32, given that of what [`embed`] returned.
pub fn embed_backward(codes: &Tensor, d_x: &Tensor) -> Result<Tensor> {
    dispatch!(codes, embed_backward(codes, d_x))
}

/// −ln of the probability of each target `[N]` f32, for logits `[N, V]` (an activation) + bias
/// `[V]` f32 and targets `[N]` u8; and the gradients of their *mean*: of the logits, as an
/// activation, and of the bias `[V]` f32.
pub fn cross_entropy(
    logits: &Tensor,
    bias: &Tensor,
    targets: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    dispatch!(logits, cross_entropy(logits, bias, targets))
}

/// Adds the sum of squares of `gradient` (f32, any shape) to `sum` `[1]` f32, in place.
pub fn add_squares(sum: &Tensor, gradient: &Tensor) -> Result<()> {
    dispatch!(sum, add_squares(sum, gradient))
}

/// What the optimiser keeps of one parameter; all `[n]` f32.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Mean of the gradient.
    pub first: Tensor,
    /// Mean of its square.
    pub second: Tensor,
    /// Average of the values.
    pub average: Tensor,
}

/// One step of AdamW (arXiv 1711.05101) in place, on `[n]` f32: `decayed` holds 1 where weight
/// decay applies and 0 elsewhere; `squares` `[1]` is the sum of squares of all gradients, for the
/// clip. Where that is not finite nothing is changed.
pub fn adamw(
    value: &Tensor,
    gradient: &Tensor,
    moments: &Moments,
    decayed: &Tensor,
    squares: &Tensor,
    step: &AdamW,
) -> Result<()> {
    dispatch!(
        value,
        adamw(value, gradient, moments, decayed, squares, step)
    )
}
