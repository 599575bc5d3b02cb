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
}

/// Sixteen numbers of a vector, or what is left over at its end.
pub trait Part {
    /// Reads them; lanes that there are no numbers for become 0.
    fn read<F: Sixteen>(&self) -> F;
    /// Writes as many as there is room for.
    fn write<F: Sixteen>(&mut self, x: F);
}

impl Part for [f32; LANES] {
    #[inline(always)]
    fn read<F: Sixteen>(&self) -> F {
        F::load(self)
    }

    #[inline(always)]
    fn write<F: Sixteen>(&mut self, x: F) {
        x.store(self);
    }
}

/// Fewer than sixteen.
impl Part for [f32] {
    #[inline(always)]
    fn read<F: Sixteen>(&self) -> F {
        let mut whole = [0.0; LANES];
        whole[..self.len()].copy_from_slice(self);
        F::load(&whole)
    }

    #[inline(always)]
    fn write<F: Sixteen>(&mut self, x: F) {
        let mut whole = [0.0; LANES];
        x.store(&mut whole);
        self.copy_from_slice(&whole[..self.len()]);
    }
}

/// The same for bytes, which are only written.
pub trait BytePart {
    /// Writes as many as there is room for.
    fn write_bytes(&mut self, bytes: [u8; LANES]);
}

impl BytePart for [u8; LANES] {
    #[inline(always)]
    fn write_bytes(&mut self, bytes: [u8; LANES]) {
        *self = bytes;
    }
}

impl BytePart for [u8] {
    #[inline(always)]
    fn write_bytes(&mut self, bytes: [u8; LANES]) {
        self.copy_from_slice(&bytes[..self.len()]);
    }
}

/// A vector as sixteens, and what is left over.
pub trait Sixteens {
    /// The sixteens.
    type Whole: IntoIterator;
    /// What is left over: fewer than sixteen.
    type Rest;
    /// Both.
    fn sixteens(self) -> (Self::Whole, Self::Rest);
}

impl<'a, T> Sixteens for &'a [T] {
    type Whole = &'a [[T; LANES]];
    type Rest = &'a [T];

    #[inline(always)]
    fn sixteens(self) -> (Self::Whole, Self::Rest) {
        self.as_chunks()
    }
}

impl<'a, T> Sixteens for &'a mut [T] {
    type Whole = &'a mut [[T; LANES]];
    type Rest = &'a mut [T];

    #[inline(always)]
    fn sixteens(self) -> (Self::Whole, Self::Rest) {
        self.as_chunks_mut()
    }
}

/// Runs a body for every sixteen of some vectors of one length, each named by the [`Part`] in place of
/// the vector, and once more for what is left over. The body stands in the code twice: where all
/// lengths are known nothing has to ask for them.
macro_rules! for_sixteens {
    (($first:ident $(, $more:ident)*) $body:block) => {{
        use $crate::compute::sixteen::Sixteens;
        let $first = $first.sixteens();
        $(let $more = $more.sixteens();)*
        for_sixteens!(@loop [$first] [$first.0.into_iter()] $($more)* $body);
        let $first = $first.1;
        $(let $more = $more.1;)*
        if !$first.is_empty() $body
    }};
    (@loop [$names:pat] [$values:expr] $body:block) => {
        for $names in $values $body
    };
    (@loop [$names:pat] [$values:expr] $next:ident $($more:ident)* $body:block) => {
        for_sixteens!(@loop [($names, $next)] [$values.zip($next.0)] $($more)* $body)
    };
}

pub(super) use for_sixteens;

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
