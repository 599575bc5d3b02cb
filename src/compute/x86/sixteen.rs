//! Sixteen f32 as one 512-bit vector or as two of 256 bits.

use std::arch::x86_64::*;

use crate::compute::sixteen::{LANES, Sixteen};

/// One 512-bit vector. Only the [`Ops`](crate::compute::Ops) of a CPU that has AVX-512 name it, and
/// only in stages that they run.
#[derive(Clone, Copy, Debug)]
pub struct Wide(__m512);

/// Two 256-bit vectors, likewise of a CPU that has AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub struct Halves([__m256; 2]);

/// Methods that are one intrinsic each.
macro_rules! by_intrinsics {
    ($($name:ident($($arg:ident),*) = $intrinsic:ident;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: Self),*) -> Self {
            // SAFETY: see the type: the CPU has the instructions.
            Self(unsafe { $intrinsic(self.0, $($arg.0),*) })
        })*
    };
}

/// The same, once for each half.
macro_rules! by_halves {
    ($($name:ident($($arg:ident),*) = $intrinsic:ident;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: Self),*) -> Self {
            // SAFETY: see the type: the CPU has the instructions.
            unsafe {
                Self([
                    $intrinsic(self.0[0], $($arg.0[0]),*),
                    $intrinsic(self.0[1], $($arg.0[1]),*),
                ])
            }
        })*
    };
}

/// Folds sixteen lanes in two halves: i and i + 8, then i + 4, i + 2, i + 1.
macro_rules! fold {
    ($low:expr, $high:expr, $of_256:ident, $of_128:ident) => {{
        let eight = $of_256($low, $high);
        let four = $of_128(
            _mm256_castps256_ps128(eight),
            _mm256_extractf128_ps::<1>(eight),
        );
        let two = $of_128(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32($of_128(two, _mm_movehdup_ps(two)))
    }};
}

impl Wide {
    /// The lower and the upper eight lanes.
    #[inline(always)]
    fn halves(self) -> Halves {
        // SAFETY: see the type.
        unsafe {
            let upper = _mm512_shuffle_f32x4::<0b11_10_11_10>(self.0, self.0);
            Halves([
                _mm512_castps512_ps256(self.0),
                _mm512_castps512_ps256(upper),
            ])
        }
    }
}

impl Sixteen for Wide {
    by_intrinsics! {
        add(other) = _mm512_add_ps;
        sub(other) = _mm512_sub_ps;
        mul(other) = _mm512_mul_ps;
        div(other) = _mm512_div_ps;
        mul_add(factor, term) = _mm512_fmadd_ps;
        max(other) = _mm512_max_ps;
        min(other) = _mm512_min_ps;
        abs() = _mm512_abs_ps;
    }

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: see the type.
        Self(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Self {
        // SAFETY: see the type; sixteen readable f32, and loadu needs no alignment.
        Self(unsafe { _mm512_loadu_ps(x.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, out: &mut [f32; LANES]) {
        // SAFETY: see the type; sixteen writable f32, and storeu needs no alignment.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) };
    }

    #[inline(always)]
    fn scale_by_low_bits(self, power: Self) -> Self {
        // SAFETY: see the type.
        unsafe {
            let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(power.0));
            let sum = _mm512_add_epi32(_mm512_castps_si512(self.0), power);
            Self(_mm512_castsi512_ps(sum))
        }
    }

    #[inline(always)]
    fn low_bytes(self) -> [u8; LANES] {
        let mut bytes = [0; LANES];
        // SAFETY: see the type; sixteen writable bytes, and storeu needs no alignment.
        unsafe {
            let low = _mm512_cvtepi32_epi8(_mm512_castps_si512(self.0));
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), low);
        }
        bytes
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        self.halves().sum()
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        self.halves().largest()
    }

    #[inline(always)]
    fn smallest(self) -> f32 {
        self.halves().smallest()
    }
}

impl Sixteen for Halves {
    by_halves! {
        add(other) = _mm256_add_ps;
        sub(other) = _mm256_sub_ps;
        mul(other) = _mm256_mul_ps;
        div(other) = _mm256_div_ps;
        mul_add(factor, term) = _mm256_fmadd_ps;
        max(other) = _mm256_max_ps;
        min(other) = _mm256_min_ps;
    }

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: see the type.
        Self([unsafe { _mm256_set1_ps(x) }; 2])
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Self {
        // SAFETY: see the type; twice eight readable f32, and loadu needs no alignment.
        Self(unsafe {
            [
                _mm256_loadu_ps(x.as_ptr()),
                _mm256_loadu_ps(x[8..].as_ptr()),
            ]
        })
    }

    #[inline(always)]
    fn store(self, out: &mut [f32; LANES]) {
        // SAFETY: see the type; twice eight writable f32, and storeu needs no alignment.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), self.0[0]);
            _mm256_storeu_ps(out[8..].as_mut_ptr(), self.0[1]);
        }
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: see the type.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            Self([
                _mm256_andnot_ps(sign, self.0[0]),
                _mm256_andnot_ps(sign, self.0[1]),
            ])
        }
    }

    #[inline(always)]
    fn scale_by_low_bits(self, power: Self) -> Self {
        let mut out = self;
        for (out, power) in out.0.iter_mut().zip(power.0) {
            // SAFETY: see the type.
            unsafe {
                let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(power));
                let sum = _mm256_add_epi32(_mm256_castps_si256(*out), power);
                *out = _mm256_castsi256_ps(sum);
            }
        }
        out
    }

    #[inline(always)]
    fn low_bytes(self) -> [u8; LANES] {
        let mut bytes = [0; LANES];
        // SAFETY: see the type; twice eight writable bytes, and storel needs no alignment.
        unsafe {
            // The lowest byte of each 32-bit lane to the front of its 128 bits, then both together.
            let front = _mm256_setr_epi8(
                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, //
                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
            );
            for (half, bytes) in self.0.into_iter().zip(bytes.as_chunks_mut::<8>().0) {
                let fronts = _mm256_shuffle_epi8(_mm256_castps_si256(half), front);
                let both = _mm_unpacklo_epi32(
                    _mm256_castsi256_si128(fronts),
                    _mm256_extracti128_si256::<1>(fronts),
                );
                _mm_storel_epi64(bytes.as_mut_ptr().cast(), both);
            }
        }
        bytes
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: see the type.
        unsafe { fold!(self.0[0], self.0[1], _mm256_add_ps, _mm_add_ps) }
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: see the type.
        unsafe { fold!(self.0[0], self.0[1], _mm256_max_ps, _mm_max_ps) }
    }

    #[inline(always)]
    fn smallest(self) -> f32 {
        // SAFETY: see the type.
        unsafe { fold!(self.0[0], self.0[1], _mm256_min_ps, _mm_min_ps) }
    }
}
