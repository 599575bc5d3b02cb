//! The instruction sets of x86-64: AVX2, AVX2 with VNNI, AVX-512 with VNNI.
//!
//! Each type is the proof that its instructions are there: only `detect` builds one. Arithmetic
//! intrinsics are safe inside a function that enables their feature; what stays unsafe is calling
//! such a function, and loading from a pointer.
#![allow(unsafe_code)] // The intrinsics: see the SAFETY line at each use.

mod avx2;
mod avx512;
mod avx_vnni;
mod sixteen;

use std::arch::x86_64::{
    __m256i, __m512i, _MM_HINT_T1, _mm_prefetch, _mm256_load_si256, _mm512_load_si512,
};

use super::cache::{Queries, Slots};
use super::matrix::{Activations, Panels};
use super::{Line, Ops, Stage};

/// Defines the proof of an instruction set and its [`Ops`], the integer kernels from `$kernels`.
macro_rules! instruction_set {
    ($(#[$doc:meta])* $name:ident, $word:literal, $kernels:ident, $floats:ident, $all:literal: $($one:tt),*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name(());

        impl $name {
            /// The proof, if this CPU has the instructions.
            pub fn detect() -> Option<Self> {
                let all = $(is_x86_feature_detected!($one))&&*;
                all.then_some(Self(()))
            }
        }

        impl Ops for $name {
            const NAME: &'static str = $word;
            type F = sixteen::$floats;

            #[inline(always)]
            fn run<S: Stage>(self, stage: S) -> S::Out {
                #[target_feature(enable = $all)]
                fn compiled<S: Stage>(stage: S) -> S::Out {
                    stage.run()
                }
                // SAFETY: `self` can only be built by `detect`, which saw every one of the features.
                unsafe { compiled(stage) }
            }

            #[inline(always)]
            fn matmul(self, panels: &Panels<'_>, x: &Activations, y: &mut [f32]) {
                // SAFETY: as in `run`.
                unsafe { $kernels::matmul(panels, x, y) }
            }

            #[inline(always)]
            fn scores(self, slots: &Slots<'_>, q: &Queries, scores: &mut [f32]) {
                // SAFETY: as in `run`.
                unsafe { $kernels::scores(slots, q, scores) }
            }

            #[inline(always)]
            fn mix(self, slots: &Slots<'_>, weights: &[u8], units: &[f32], out: &mut [f32]) {
                // SAFETY: as in `run`.
                unsafe { $kernels::mix(slots, weights, units, out) }
            }

            #[inline(always)]
            fn prefetch(self, lines: &[Line]) {
                for line in lines {
                    // SAFETY: a prefetch of any address has no effect but on the caches.
                    unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(line).cast()) };
                }
            }
        }
    };
}

instruction_set!(
    /// Proof that AVX-512 F, BW, VL and VNNI were detected.
    Avx512Vnni, "avx512-vnni", avx512, Wide, "fma,avx512f,avx512bw,avx512vl,avx512vnni":
    "fma", "avx512f", "avx512bw", "avx512vl", "avx512vnni"
);
instruction_set!(
    /// Proof that AVX2, FMA and the VNNI of CPUs without AVX-512 were detected.
    AvxVnni, "avx-vnni", avx_vnni, Halves, "fma,avx2,avxvnni": "fma", "avx2", "avxvnni"
);
instruction_set!(
    /// Proof that AVX2 and FMA were detected.
    Avx2, "avx2", avx2, Halves, "fma,avx2": "fma", "avx2"
);

/// Loads a whole line.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_512(line: &Line) -> __m512i {
    // SAFETY: a `Line` is 64 readable bytes, aligned to 64.
    unsafe { _mm512_load_si512(std::ptr::from_ref(line).cast()) }
}

/// Loads the lower and the upper half of a line.
#[inline]
#[target_feature(enable = "avx2")]
fn load_256(line: &Line) -> [__m256i; 2] {
    let half: *const __m256i = std::ptr::from_ref(line).cast();
    // SAFETY: a `Line` is 64 readable bytes, aligned to 64: two aligned halves.
    unsafe { [_mm256_load_si256(half), _mm256_load_si256(half.add(1))] }
}

/// Four bytes as the CPU's 32-bit lanes hold them.
#[inline(always)]
fn quad(bytes: &[u8; 4]) -> i32 {
    i32::from_le_bytes(*bytes)
}

/// Four signed bytes, likewise.
#[inline(always)]
fn signed_quad(bytes: &[i8; 4]) -> i32 {
    quad(&bytes.map(|byte| byte as u8))
}

/// 128 times the sum of a query: what the offset of the keys adds to each of its scores.
#[inline(always)]
fn key_offset(query: &[i8]) -> i32 {
    128 * query.iter().map(|byte| i32::from(*byte)).sum::<i32>()
}
