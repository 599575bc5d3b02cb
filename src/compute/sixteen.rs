//! Sixteen f32 side by side, whatever the CPU's own width: what the float stages are written in.

/// How many there are.
pub const LANES: usize = 16;

/// A vector of sixteen f32. Every operation is done to each lane by itself and rounds once, and the
/// lanes are folded in one fixed tree: all implementations are equal to the last bit. NaN does not
/// occur. All methods are `inline(always)`.
pub trait Sixteen: Copy {
    /// The same number in every lane.
    fn splat(x: f32) -> Self;
    /// Reads sixteen numbers.
    fn load(x: &[f32; LANES]) -> Self;
    /// Writes sixteen numbers.
    fn store(self, out: &mut [f32; LANES]);
    /// The sum.
    fn add(self, other: Self) -> Self;
    /// The difference.
    fn sub(self, other: Self) -> Self;
    /// The product.
    fn mul(self, other: Self) -> Self;
    /// The quotient.
    fn div(self, other: Self) -> Self;
    /// `self · factor + term`, rounded once.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The larger.
    fn max(self, other: Self) -> Self;
    /// The smaller.
    fn min(self, other: Self) -> Self;
    /// The number without its sign.
    fn abs(self) -> Self;
    /// Adds the lowest bits of `power` to the exponent.
    fn scale_by_low_bits(self, power: Self) -> Self;
    /// The lowest byte of each lane's bits.
    fn low_bytes(self) -> [u8; LANES];
    /// All lanes added: i and i + 8, then i + 4, i + 2, i + 1.
    fn sum(self) -> f32;
    /// The largest lane.
    fn largest(self) -> f32;
    /// The smallest lane.
    fn smallest(self) -> f32;

    /// Reads at most sixteen numbers; the other lanes become 0.
    #[inline(always)]
    fn load_part(x: &[f32]) -> Self {
        match x.first_chunk() {
            Some(x) => Self::load(x),
            None => {
                let mut whole = [0.0; LANES];
                whole[..x.len()].copy_from_slice(x);
                Self::load(&whole)
            }
        }
    }

    /// Writes as many numbers as `out` holds, at most sixteen.
    #[inline(always)]
    fn store_part(self, out: &mut [f32]) {
        match out.first_chunk_mut() {
            Some(out) => self.store(out),
            None => {
                let mut whole = [0.0; LANES];
                self.store(&mut whole);
                out.copy_from_slice(&whole[..out.len()]);
            }
        }
    }
}

/// Plain numbers: the twin of all others.
#[derive(Clone, Copy, Debug)]
pub struct Plain([f32; LANES]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, operation: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| operation(self.0[i], other.0[i])))
    }

    #[inline(always)]
    fn fold(self, operation: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = self.0;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] = operation(lanes[i], lanes[i + half]);
            }
        }
        lanes[0]
    }
}

/// `a` if it is larger; as the CPUs' own instructions do it.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

impl Sixteen for Plain {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Self {
        Self(*x)
    }

    #[inline(always)]
    fn store(self, out: &mut [f32; LANES]) {
        *out = self.0;
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        Self(std::array::from_fn(|i| {
            self.0[i].mul_add(factor.0[i], term.0[i])
        }))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, larger)
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, smaller)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.map(f32::abs))
    }

    #[inline(always)]
    fn scale_by_low_bits(self, power: Self) -> Self {
        self.zip(power, |x, power| {
            f32::from_bits(x.to_bits().wrapping_add(power.to_bits() << 23))
        })
    }

    #[inline(always)]
    fn low_bytes(self) -> [u8; LANES] {
        self.0.map(|x| x.to_bits() as u8)
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        self.fold(|a, b| a + b)
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        self.fold(larger)
    }

    #[inline(always)]
    fn smallest(self) -> f32 {
        self.fold(smaller)
    }
}
