//! Sixteen f32 as four vectors of 128 bits.

use std::arch::aarch64::*;

use crate::compute::sixteen::{LANES, Sixteen};

/// Four vectors. Their instructions are those of every 64-bit ARM.
#[derive(Clone, Copy, Debug)]
pub struct Quarters([float32x4_t; 4]);

/// Methods that are one function of vectors each, once for each quarter.
macro_rules! by_quarters {
    ($($name:ident($($arg:ident),*) = $of_vectors:ident;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: Self),*) -> Self {
            // SAFETY: see the type: the CPU has the instructions.
            Self(std::array::from_fn(|i| unsafe { $of_vectors(self.0[i], $($arg.0[i]),*) }))
        })*
    };
}

/// Methods that fold all lanes: i and i + 8, then i + 4, i + 2, i + 1.
macro_rules! by_folding {
    ($($name:ident = $of_vectors:ident;)*) => {
        $(#[inline(always)]
        fn $name(self) -> f32 {
            let [a, b, c, d] = self.0;
            // SAFETY: see the type.
            unsafe {
                let four = $of_vectors($of_vectors(a, c), $of_vectors(b, d));
                let two = $of_vectors(four, vextq_f32::<2>(four, four));
                vgetq_lane_f32::<0>($of_vectors(two, vextq_f32::<1>(two, two)))
            }
        })*
    };
}

impl Sixteen for Quarters {
    by_quarters! {
        add(other) = vaddq_f32;
        sub(other) = vsubq_f32;
        mul(other) = vmulq_f32;
        div(other) = vdivq_f32;
        mul_add(factor, term) = multiply_add;
        max(other) = larger;
        min(other) = smaller;
        abs() = vabsq_f32;
        scale_by_low_bits(power) = scale_by_low_bits;
    }

    by_folding! {
        sum = vaddq_f32;
        largest = larger;
        smallest = smaller;
    }

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: see the type.
        Self([unsafe { vdupq_n_f32(x) }; 4])
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Self {
        let quarters = x.as_chunks::<4>().0;
        // SAFETY: see the type; four readable f32.
        Self(std::array::from_fn(|i| unsafe {
            vld1q_f32(quarters[i].as_ptr())
        }))
    }

    #[inline(always)]
    fn store(self, out: &mut [f32; LANES]) {
        for (quarter, out) in self.0.into_iter().zip(out.as_chunks_mut::<4>().0) {
            // SAFETY: see the type; four writable f32.
            unsafe { vst1q_f32(out.as_mut_ptr(), quarter) };
        }
    }

    #[inline(always)]
    fn low_bytes(self) -> [u8; LANES] {
        let mut bytes = [0; LANES];
        // SAFETY: see the type; sixteen writable bytes.
        unsafe {
            // Every other 16 bits, then every other byte of those.
            let [a, b, c, d] = self.0.map(|x| vreinterpretq_u16_f32(x));
            let low = vreinterpretq_u8_u16(vuzp1q_u16(a, b));
            let high = vreinterpretq_u8_u16(vuzp1q_u16(c, d));
            vst1q_u8(bytes.as_mut_ptr(), vuzp1q_u8(low, high));
        }
        bytes
    }
}

/// The intrinsic, with the term last.
#[inline]
#[target_feature(enable = "neon")]
fn multiply_add(x: float32x4_t, factor: float32x4_t, term: float32x4_t) -> float32x4_t {
    vfmaq_f32(term, x, factor)
}

/// The larger of each lane. `vmaxq_f32` would tell −0 from 0, as no other CPU does.
#[inline]
#[target_feature(enable = "neon")]
fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vbslq_f32(vcgtq_f32(a, b), a, b)
}

/// The smaller, likewise.
#[inline]
#[target_feature(enable = "neon")]
fn smaller(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vbslq_f32(vcltq_f32(a, b), a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn scale_by_low_bits(x: float32x4_t, power: float32x4_t) -> float32x4_t {
    let power = vshlq_n_u32::<23>(vreinterpretq_u32_f32(power));
    vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(x), power))
}
