//! The arithmetic of one step: int8 matrix products, attention over int8 caches, and the small
//! float stages between them, for each instruction set.
//!
//! Nothing here knows a model's names, audio, or threads. An instruction set is a zero-size type
//! that only its `detect` can build: whoever holds one has the proof that the CPU has it.
//!
//! Three operations carry the cost and are written by hand per instruction set ([`Ops::matmul`],
//! [`Ops::scores`], [`Ops::mix`]): all are sums of integer products, so every backend must give
//! *equal* results. The float stages are written once ([`lanewise`]) in vectors
//! of sixteen ([`Sixteen`]), and compiled for each instruction set by [`Ops::run`]: they too are
//! equal to the last bit. So the same seed draws the same codes on every CPU.
//!
//! A new instruction set is one file with an [`Ops`], an [`Isa`] and a line in `tests.rs`.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod cache;
pub mod lanewise;
mod lines;
mod matrix;
mod portable;
pub mod probe;
mod sixteen;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub use aarch64::Neon;
pub use cache::{HeadCache, Queries, SLOTS_PER_BLOCK, Slots, blocks_of};
pub use lines::{Line, Lines};
pub use matrix::{Activations, Matrix, Panels};
pub use portable::Portable;
pub use sixteen::{LANES, Part, Plain, Sixteen};
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512Vnni, AvxVnni};

/// Work that is to be compiled for an instruction set. Not a closure: those are compiled by
/// themselves, without the instructions, where they are too large to be inlined.
pub trait Stage {
    /// What comes of it.
    type Out;

    /// Does the work. Implementations are `inline(always)`, and so is all that they call and that
    /// shall use the instructions.
    fn run(self) -> Self::Out;
}

/// What an engine needs of an instruction set.
pub trait Ops: Copy + std::fmt::Debug + Send + Sync + 'static {
    /// Its word for logs and bench records.
    const NAME: &'static str;

    /// What the float stages are made of.
    type F: Sixteen;

    /// Runs a stage, compiled for this instruction set.
    fn run<S: Stage>(self, stage: S) -> S::Out;

    /// `y[b][row] = matrix[row] · x[b] + bias[row]` for the rows of `panels` and each lane `b` of
    /// the batch; `y` is [B, rows of the whole matrix].
    fn matmul(self, panels: &Panels<'_>, x: &Activations, y: &mut [f32]);

    /// `scores[h][slot] = (q[h] · key[slot]) · q_scale[h] · key_scale[slot]` for every slot of
    /// the blocks, `scores` being [heads, 16 · blocks].
    fn scores(self, slots: &Slots<'_>, q: &Queries, scores: &mut [f32]);

    /// `out[h] = units[h] · sum over slots of weight[h][slot] · value[slot]`, `weights` shaped as
    /// in [`scores`](Self::scores), `out` as [heads, K].
    fn mix(self, slots: &Slots<'_>, weights: &[u8], units: &[f32], out: &mut [f32]);

    /// Asks for memory that will be read soon.
    fn prefetch(self, lines: &[Line]);
}

/// What wants to be done with an instruction set that only the running CPU decides.
pub trait Job {
    /// What comes of it.
    type Out;

    /// Does it.
    fn run<O: Ops>(self, ops: O) -> Self::Out;
}

/// Does a job with an instruction set; `None` if this CPU lacks it.
pub fn dispatch<J: Job>(isa: Isa, job: J) -> Option<J::Out> {
    Some(match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => job.run(Avx512Vnni::detect()?),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => job.run(AvxVnni::detect()?),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => job.run(Avx2::detect()?),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => job.run(Neon::detect()?),
        Isa::Portable => job.run(Portable),
        // Those of other processors.
        _ => return None,
    })
}

/// The instruction sets there are code paths for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 with the 8-bit dot products (VNNI).
    Avx512Vnni,
    /// AVX2 with the same dot products, of CPUs without AVX-512.
    AvxVnni,
    /// AVX2.
    Avx2,
    /// NEON with the 8-bit dot products.
    Neon,
    /// Plain loops: the twin that the others are tested against, and the way on any other CPU.
    Portable,
}

impl Isa {
    /// Every instruction set, best first.
    pub const ALL: [Self; 5] = [
        Self::Avx512Vnni,
        Self::AvxVnni,
        Self::Avx2,
        Self::Neon,
        Self::Portable,
    ];

    /// Its word on the command line, in logs and in bench records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512Vnni => "avx512-vnni",
            Self::AvxVnni => "avx-vnni",
            Self::Avx2 => "avx2",
            Self::Neon => "neon-dot",
            Self::Portable => Portable::NAME,
        }
    }

    /// Can this CPU run it?
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Avx512Vnni::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => AvxVnni::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::detect().is_some(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => Neon::detect().is_some(),
            Self::Portable => true,
            _ => false,
        }
    }

    /// Is it of this kind of processor, so that a better one may have it?
    pub fn is_of_this_kind(self) -> bool {
        match self {
            Self::Avx512Vnni | Self::AvxVnni | Self::Avx2 => cfg!(target_arch = "x86_64"),
            Self::Neon => cfg!(target_arch = "aarch64"),
            Self::Portable => true,
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
