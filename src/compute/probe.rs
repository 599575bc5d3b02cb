//! What an instruction set reaches when nothing stands in its way: the rates that `longwave bench`
//! holds a step against.
//!
//! One pass over some lines, either reading each as fast as it can be used, or multiplying each as
//! often as a batch of lanes would. Whoever takes the time must hand the lines over through
//! `black_box` at each pass: a compiler that sees two passes over the same lines makes one of them.
#![allow(unsafe_code)] // The intrinsics: see the SAFETY line at each use.

use super::{Isa, Line};

/// Multiplications of a line in one pass of [`multiply`].
pub const MACS_PER_LINE: usize = 64 * REUSE;

/// Lanes that share a loaded line: each brings numbers of its own.
const REUSE: usize = 4;

/// Reads the lines, a multiple of eight, front to back. The answer depends on every byte; it means nothing.
pub fn read(isa: Isa, lines: &[Line]) -> i32 {
    match isa {
        // SAFETY: the guard saw the features.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni if isa.is_available() => unsafe { x86::dot_512::<8, 1>(lines) },
        // SAFETY: likewise.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni | Isa::Avx2 if isa.is_available() => unsafe { x86::sum_256(lines) },
        _ => portable::sum(lines),
    }
}

/// Multiplies the bytes of every line, a multiple of eight, by as many numbers as [`MACS_PER_LINE`]
/// says. The answer means nothing.
pub fn multiply(isa: Isa, lines: &[Line]) -> i32 {
    match isa {
        // SAFETY: the guard saw the features.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni if isa.is_available() => unsafe { x86::dot_512::<4, REUSE>(lines) },
        // SAFETY: likewise.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni if isa.is_available() => unsafe { x86::dot_256_vnni(lines) },
        // SAFETY: likewise.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if isa.is_available() => unsafe { x86::dot_256(lines) },
        _ => portable::dot(lines),
    }
}

mod portable {
    use super::{Line, REUSE};

    pub fn sum(lines: &[Line]) -> i32 {
        let mut sums = [0u64; 8];
        for line in lines {
            for (sum, word) in sums.iter_mut().zip(line.0.as_chunks().0) {
                *sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
        }
        let halves = sums
            .iter()
            .flat_map(|sum| [*sum as i32, (sum >> 32) as i32]);
        halves.fold(0, i32::wrapping_add)
    }

    pub fn dot(lines: &[Line]) -> i32 {
        let mut sums = [[0i32; 16]; REUSE];
        for line in lines {
            for (x, sums) in sums.iter_mut().enumerate() {
                let x = x as i32 + 3;
                for (sum, quad) in sums.iter_mut().zip(line.0.as_chunks::<4>().0) {
                    let products = quad.iter().map(|byte| i32::from(*byte) * x);
                    *sum = sum.wrapping_add(products.sum());
                }
            }
        }
        sums.as_flattened()
            .iter()
            .copied()
            .fold(0, i32::wrapping_add)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Line, REUSE};

    /// `vpdpbusd` as the kernels use it: `L` lines, each against `X` broadcasts, every product
    /// into a sum of its own.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub fn dot_512<const L: usize, const X: usize>(lines: &[Line]) -> i32 {
        let x: [__m512i; X] = std::array::from_fn(|x| _mm512_set1_epi8(x as i8 + 3));
        let mut sums = [[_mm512_setzero_si512(); X]; L];
        for lines in lines.as_chunks::<L>().0 {
            for (line, sums) in lines.iter().zip(&mut sums) {
                // SAFETY: a `Line` is 64 readable bytes, aligned to 64.
                let line = unsafe { _mm512_load_si512(std::ptr::from_ref(line).cast()) };
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = _mm512_dpbusd_epi32(*sum, x, line);
                }
            }
        }
        let sums = sums.as_flattened().iter();
        sums.fold(0, |all: i32, sum| {
            all.wrapping_add(_mm512_reduce_add_epi32(*sum))
        })
    }

    /// Two instructions for 32 bytes: less than any use of them takes.
    #[target_feature(enable = "avx2")]
    pub fn sum_256(lines: &[Line]) -> i32 {
        let mut sums = [_mm256_setzero_si256(); 8];
        for lines in lines.as_chunks::<4>().0 {
            for (line, sums) in lines.iter().zip(sums.as_chunks_mut::<2>().0) {
                for (half, sum) in halves(line).into_iter().zip(sums) {
                    let bytes = _mm256_sad_epu8(half, _mm256_setzero_si256());
                    *sum = _mm256_add_epi32(*sum, bytes);
                }
            }
        }
        sums.iter()
            .fold(0, |all: i32, sum| all.wrapping_add(added(*sum)))
    }

    /// `vpmaddubsw` with both halves of each number, as the engine has it: eight half lines add up in 16 bits.
    #[target_feature(enable = "avx2")]
    pub fn dot_256(lines: &[Line]) -> i32 {
        let x: [[__m256i; 2]; REUSE] =
            std::array::from_fn(|x| [x as i8 + 3, x as i8 + 1].map(|half| _mm256_set1_epi8(half)));
        let units = [1, 16].map(|unit| _mm256_set1_epi16(unit));
        let mut sums = [_mm256_setzero_si256(); REUSE];
        for lines in lines.chunks(4) {
            let mut parts = [[_mm256_setzero_si256(); 2]; REUSE];
            for bytes in lines.iter().flat_map(|line| halves(line)) {
                for (part, x) in parts.as_flattened_mut().iter_mut().zip(x.as_flattened()) {
                    *part = _mm256_add_epi16(*part, _mm256_maddubs_epi16(*x, bytes));
                }
            }
            for (sum, parts) in sums.iter_mut().zip(parts) {
                for (part, unit) in parts.into_iter().zip(units) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(part, unit));
                }
            }
        }
        let sums = sums.iter();
        sums.fold(0, |all: i32, sum| all.wrapping_add(added(*sum)))
    }

    /// `vpdpbusd` on half a line, for CPUs that have it in this width alone.
    #[target_feature(enable = "avx2,avxvnni")]
    pub fn dot_256_vnni(lines: &[Line]) -> i32 {
        let x: [__m256i; REUSE] = std::array::from_fn(|x| _mm256_set1_epi8(x as i8 + 3));
        let mut sums = [[_mm256_setzero_si256(); 2]; REUSE];
        for line in lines {
            for (i, half) in halves(line).into_iter().enumerate() {
                for (sums, x) in sums.iter_mut().zip(x) {
                    sums[i] = _mm256_dpbusd_avx_epi32(sums[i], x, half);
                }
            }
        }
        let sums = sums.as_flattened().iter();
        sums.fold(0, |all: i32, sum| all.wrapping_add(added(*sum)))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn halves(line: &Line) -> [__m256i; 2] {
        let half: *const __m256i = std::ptr::from_ref(line).cast();
        // SAFETY: a `Line` is 64 readable bytes, aligned to 64: two aligned halves.
        unsafe { [_mm256_load_si256(half), _mm256_load_si256(half.add(1))] }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn added(sum: __m256i) -> i32 {
        let mut parts = [0i32; 8];
        // SAFETY: `parts` is 32 writable bytes; storeu needs no alignment.
        unsafe { _mm256_storeu_si256(parts.as_mut_ptr().cast(), sum) };
        parts.iter().fold(0, |all, part| all.wrapping_add(*part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_leaves_no_byte_out() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let mut lines = vec![Line([7; 64]); 64];
            let before = (read(isa, &lines), multiply(isa, &lines));
            for at in 0..64 * 64 {
                lines[at / 64].0[at % 64] += 1;
                let after = (read(isa, &lines), multiply(isa, &lines));
                lines[at / 64].0[at % 64] -= 1;
                assert!(before.0 != after.0, "{isa:?} does not read byte {at}");
                assert!(before.1 != after.1, "{isa:?} does not multiply byte {at}");
            }
        }
    }
}
