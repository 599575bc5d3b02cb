//! AVX2 and AVX-512 with VNNI.
//!
//! Each type is the proof that its instructions are there: only `detect` builds one. Arithmetic
//! intrinsics are safe inside a function that enables their feature; what stays unsafe is calling
//! such a function, and loading from a pointer.
#![allow(unsafe_code)] // The intrinsics: see the SAFETY line at each use.

mod avx2;
mod avx512;

use std::arch::x86_64::{
    __m256i, __m512i, _MM_HINT_T1, _mm_prefetch, _mm256_load_si256, _mm512_load_si512,
};

use super::cache::{HeadGroup, Queries};
use super::matrix::{Activations, Matrix};
use super::{Line, Ops, lanewise};

/// Proof that AVX-512 F, BW, VL and VNNI were detected.
#[derive(Clone, Copy, Debug)]
pub struct Avx512Vnni(());

/// Proof that AVX2 was detected.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx512Vnni {
    /// The proof, if this CPU has the instructions.
    pub fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        all.then_some(Self(()))
    }
}

impl Avx2 {
    /// The proof, if this CPU has the instructions.
    pub fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }
}

/// Compiles methods of [`Ops`] with an instruction set enabled, each around the function named.
macro_rules! compile_for {
    ($features:literal: $($name:ident = $body:path, ($($arg:ident: $type:ty),*) $(-> $out:ty)?;)*) => {
        $(#[inline]
        fn $name(self, $($arg: $type),*) $(-> $out)? {
            #[target_feature(enable = $features)]
            fn compiled($($arg: $type),*) $(-> $out)? {
                $body($($arg),*)
            }
            // SAFETY: `self` can only be built by `detect`, which saw every one of the features.
            unsafe { compiled($($arg),*) }
        })*
    };
}

/// All methods of [`Ops`], the integer kernels from module `$kernels`.
macro_rules! all_ops {
    ($features:literal, $kernels:ident) => {
        #[inline]
        fn prefetch(self, lines: &[Line]) {
            for line in lines {
                // SAFETY: a prefetch of any address has no effect but on the caches.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(line).cast()) };
            }
        }

        compile_for! { $features:
            matmul = $kernels::matmul, (matrix: &Matrix, x: &Activations, y: &mut [f32]);
            scores = $kernels::scores,
                (keys: &HeadGroup<'_>, q: &Queries, scores: &mut [f32]);
            mix = $kernels::mix,
                (values: &HeadGroup<'_>, weights: &[i16], unit: &[f32], out: &mut [f32]);
            rms_norm = lanewise::rms_norm, (x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]);
            multiply_add = lanewise::multiply_add, (x: &[f32], y: &[f32], out: &mut [f32]);
            add = lanewise::add, (x: &[f32], out: &mut [f32]);
            gelu = lanewise::gelu, (x: &mut [f32]);
            rotate = lanewise::rotate, (head: &mut [f32], cos: &[f32], sin: &[f32]);
            quantize = lanewise::quantize, (x: &[f32], out: &mut [i8]) -> f32;
            quantize_range = lanewise::quantize_range, (x: &[f32], out: &mut [u8]) -> (f32, i32);
            softmax = lanewise::softmax,
                (scores: &mut [f32], value_scales: &[f32], weights: &mut [i16]) -> f32;
            exp_of_difference = lanewise::exp_of_difference, (x: &mut [f32], from: f32);
        }
    };
}

impl Ops for Avx512Vnni {
    const NAME: &'static str = "avx512-vnni";
    all_ops!("avx512f,avx512bw,avx512vl,avx512vnni", avx512);
}

impl Ops for Avx2 {
    const NAME: &'static str = "avx2";
    all_ops!("avx2", avx2);
}

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

/// Two neighbouring weights as one 32-bit lane.
#[inline(always)]
fn pair(weights: [i16; 2]) -> i32 {
    i32::from(weights[0] as u16) | i32::from(weights[1]) << 16
}

/// 128 times the sum of a query: what the offset of the keys adds to each of its scores.
#[inline(always)]
fn key_offset(query: &[i8]) -> i32 {
    128 * query.iter().map(|byte| i32::from(*byte)).sum::<i32>()
}
