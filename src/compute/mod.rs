//! The arithmetic of one step: int8 matrix products, attention over int8 caches, and the small
//! float stages between them, for each instruction set.
//!
//! Nothing here knows a model's names, audio, or threads. An instruction set is a zero-size type
//! that only its `detect` can build: whoever holds one has the proof that the CPU has it.
//!
//! Three operations carry the cost and are written by hand per instruction set ([`Ops::matmul`],
//! [`Ops::scores`], [`Ops::mix`]): all are sums of integer products, so every backend must give
//! *equal* results. The float stages are written once, sixteen lanes wide with a fixed order of
//! additions and without fused multiply-add ([`lanewise`]), and compiled for each instruction set:
//! they too are equal to the last bit. So the same seed draws the same codes on every CPU.

mod cache;
pub mod lanewise;
mod matrix;
mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use cache::{HeadGroup, LayerCache, Queries, SLOTS_PER_BLOCK, blocks_of};
pub use matrix::{Activations, Matrix};
pub use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512Vnni};

/// How many f32 the float stages handle side by side, whatever the CPU's own width.
pub const LANES: usize = 16;

/// 64 bytes on a cache line of their own: the unit in which packed weights and caches are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

/// What an engine needs of an instruction set.
pub trait Ops: Copy + std::fmt::Debug + Send + Sync + 'static {
    /// Its word for logs and bench records.
    const NAME: &'static str;

    /// `y[b][row] = matrix[row] · x[b] + bias[row]` for each of the batch's activations.
    fn matmul(self, matrix: &Matrix, x: &Activations, y: &mut [f32]);

    /// `scores[h][slot] = (q[h] · key[slot]) · q_scale[h] · key_scale[slot]` for every slot of
    /// the group's blocks, `scores` being [heads, 16 · blocks].
    fn scores(self, keys: &HeadGroup<'_>, q: &Queries, scores: &mut [f32]);

    /// `out[h] = unit[h] · sum over slots of weight[h][slot] · value[slot]`, `weights` shaped as
    /// in [`scores`](Self::scores), `out` as [heads, K].
    fn mix(self, values: &HeadGroup<'_>, weights: &[i16], unit: &[f32], out: &mut [f32]);

    /// Asks for memory that will be read soon.
    fn prefetch(self, _lines: &[Line]) {}

    /// [`lanewise::rms_norm`]
    fn rms_norm(self, x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
        lanewise::rms_norm(x, gain, eps, out);
    }

    /// [`lanewise::multiply_add`]
    fn multiply_add(self, x: &[f32], y: &[f32], out: &mut [f32]) {
        lanewise::multiply_add(x, y, out);
    }

    /// [`lanewise::add`]
    fn add(self, x: &[f32], out: &mut [f32]) {
        lanewise::add(x, out);
    }

    /// [`lanewise::gelu`]
    fn gelu(self, x: &mut [f32]) {
        lanewise::gelu(x);
    }

    /// [`lanewise::rotate`]
    fn rotate(self, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        lanewise::rotate(head, cos, sin);
    }

    /// [`lanewise::quantize`]
    fn quantize(self, x: &[f32], out: &mut [i8]) -> f32 {
        lanewise::quantize(x, out)
    }

    /// [`lanewise::quantize_range`]
    fn quantize_range(self, x: &[f32], out: &mut [u8]) -> (f32, i32) {
        lanewise::quantize_range(x, out)
    }

    /// [`lanewise::softmax`]
    fn softmax(self, scores: &mut [f32], value_scales: &[f32], weights: &mut [i16]) -> f32 {
        lanewise::softmax(scores, value_scales, weights)
    }

    /// [`lanewise::exp_of_difference`]
    fn exp_of_difference(self, x: &mut [f32], from: f32) {
        lanewise::exp_of_difference(x, from);
    }
}

/// The instruction sets there are code paths for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 with the 8-bit dot products (VNNI).
    Avx512Vnni,
    /// AVX2.
    Avx2,
    /// Plain loops: the twin that the others are tested against, and the way on any other CPU.
    Portable,
}

impl Isa {
    /// Every instruction set, best first.
    pub const ALL: [Self; 3] = [Self::Avx512Vnni, Self::Avx2, Self::Portable];

    /// Its word on the command line, in logs and in bench records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx2 => "avx2",
            Self::Portable => Portable::NAME,
        }
    }

    /// Can this CPU run it?
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Avx512Vnni::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::detect().is_some(),
            Self::Portable => true,
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The best one that this CPU can run.
    pub fn best() -> Self {
        Self::ALL
            .into_iter()
            .find(|isa| isa.is_available())
            .unwrap_or(Self::Portable)
    }
}
