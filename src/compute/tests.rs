//! Every backend against the portable twin, on random inputs of every awkward size: equal, to the
//! last bit.

use proptest::prelude::*;

use super::lanewise::Peak;
use super::*;

/// Runs a check on every backend of this CPU.
macro_rules! on_every_isa {
    ($ops:ident => $check:expr) => {
        #[cfg(target_arch = "x86_64")]
        if let Some($ops) = Avx2::detect() {
            $check;
        }
        #[cfg(target_arch = "x86_64")]
        if let Some($ops) = AvxVnni::detect() {
            $check;
        }
        #[cfg(target_arch = "x86_64")]
        if let Some($ops) = Avx512Vnni::detect() {
            $check;
        }
        #[cfg(target_arch = "aarch64")]
        if let Some($ops) = Neon::detect() {
            $check;
        }
    };
}

/// Numbers in (-1, 1), now and then 0, tiny or large: what breaks a kernel.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..n)
        .map(|_| {
            let x = (next() >> 40) as f32 / (1 << 23) as f32 - 1.0;
            match next() % 32 {
                0 => 0.0,
                1 => -0.0,
                2 => x * 1e-40,
                3 => x * 1e4,
                _ => x,
            }
        })
        .collect()
}

fn activations(n_rows: usize, len: usize, seed: u64) -> Activations {
    let mut all = Activations::new(n_rows, len);
    for (row, x) in numbers(n_rows * len, seed).chunks(len).enumerate() {
        let (bytes, scale) = all.row_mut(row);
        *scale = lanewise::quantize_range::<Plain>(x, bytes);
    }
    all
}

fn queries(n_heads: usize, head_size: usize, seed: u64) -> Queries {
    let mut all = Queries::new(n_heads, head_size);
    for (head, x) in numbers(n_heads * head_size, seed)
        .chunks(head_size)
        .enumerate()
    {
        let (bytes, scale) = all.head_mut(head);
        *scale = lanewise::quantize::<Plain>(x, bytes);
    }
    all
}

fn cache(n_slots: usize, head_size: usize, seed: u64) -> HeadCache {
    let mut cache = HeadCache::new(n_slots, head_size);
    let (mut key, mut value) = (vec![0; head_size], vec![0; head_size]);
    for slot in 0..n_slots {
        let x = numbers(2 * head_size, seed + slot as u64);
        let key_scale = lanewise::quantize::<Plain>(&x[..head_size], &mut key);
        let value_scale = lanewise::quantize::<Plain>(&x[head_size..], &mut value);
        cache.write(slot, (&key, key_scale), (&value, value_scale));
    }
    cache
}

fn product(ops: impl Ops, matrix: &Matrix, x: &Activations, n: usize) -> Vec<u32> {
    let mut y = vec![0.0; n * matrix.n_out()];
    // By shares, as several workers compute it.
    for rank in 0..3 {
        ops.matmul(&matrix.share(rank, 3), x, &mut y);
    }
    y.iter().map(|y| y.to_bits()).collect()
}

/// The bits of the scores and of the mixed values.
fn attended(ops: impl Ops, slots: &Slots<'_>, q: &Queries) -> [Vec<u32>; 2] {
    let n_heads = q.n_heads();
    let n_slots = slots.n_blocks() * SLOTS_PER_BLOCK;
    let mut scores = vec![0.0; n_heads * n_slots];
    ops.scores(slots, q, &mut scores);
    let bits = scores.iter().map(|score| score.to_bits()).collect();
    let (mut scales, mut weights) = (vec![0.0; n_slots], vec![0; n_heads * n_slots]);
    slots.copy_value_scales(&mut scales);
    let mut units = vec![0.0; n_heads];
    ops.run(Softmax(ops, &mut scores, &scales, &mut weights, &mut units));
    let mut out = vec![0.0; n_heads * q.head(0).0.len()];
    ops.mix(slots, &weights, &units, &mut out);
    [bits, out.iter().map(|out| out.to_bits()).collect()]
}

struct Softmax<'a, O>(O, &'a mut [f32], &'a [f32], &'a mut [u8], &'a mut [f32]);

impl<O: Ops> Stage for Softmax<'_, O> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self(_, scores, scales, weights, units) = self;
        let mut peaks = vec![Peak::default(); units.len()];
        lanewise::softmax::<O::F>(scores, scales, weights, &mut peaks, units);
    }
}

/// All float stages, one after another, as bits.
struct FloatStages<'a, O>(O, &'a [f32], &'a [f32]);

impl<O: Ops> Stage for FloatStages<'_, O> {
    type Out = Vec<u32>;

    #[inline(always)]
    fn run(self) -> Vec<u32> {
        float_stages::<O::F>(self.1, self.2)
    }
}

#[inline(always)]
fn float_stages<F: Sixteen>(x: &[f32], y: &[f32]) -> Vec<u32> {
    let n = x.len();
    let mut out = vec![0.0; 7 * n];
    let parts: Vec<&mut [f32]> = out.chunks_mut(n).collect();
    let [norm, product, sum, gelu, exp, turned, scores] = parts.try_into().unwrap();
    lanewise::rms_norm::<F>(x, y, 1e-5, norm);
    lanewise::convolve::<F>(x, product, |_| y);
    sum.copy_from_slice(y);
    lanewise::add::<F>(x, sum);
    gelu.copy_from_slice(x);
    lanewise::gelu::<F>(gelu);
    lanewise::exp::<F>(x, 0.5, exp);
    let (total, products) = lanewise::sum_and_product::<F>(x, y);
    let power = lanewise::exp2_of::<F>(products);
    turned.copy_from_slice(x);
    lanewise::rotate::<F>(&mut turned[..n / 2 * 2], &y[..n / 2], &y[n - n / 2..]);
    scores.copy_from_slice(x);
    let whole = n / 16 * 16;
    let (mut weights, mut units) = (vec![0u8; whole], [0.0]);
    let scales: Vec<f32> = y[..whole].iter().map(|y| y.abs()).collect();
    if whole > 0 {
        let peaks = &mut [Peak::default()];
        lanewise::softmax::<F>(
            &mut scores[..whole],
            &scales,
            &mut weights,
            peaks,
            &mut units,
        );
    }
    let (mut signed, mut ranged) = (vec![0i8; n], vec![0u8; n]);
    let scale = lanewise::quantize::<F>(x, &mut signed);
    let (step, zero) = lanewise::quantize_range::<F>(y, &mut ranged);
    let mut bits: Vec<u32> = out.iter().map(|out| out.to_bits()).collect();
    let numbers = [units[0], scale, step, total, products, power];
    bits.extend(numbers.map(f32::to_bits));
    bits.push(zero as u32);
    bits.extend(weights.iter().map(|weight| u32::from(*weight)));
    bits.extend(signed.iter().map(|byte| *byte as u32));
    bits.extend(ranged.iter().map(|byte| u32::from(*byte)));
    bits
}

#[test]
fn mixed_values_match_portable_where_their_sums_outgrow_32_bits() {
    for head_size in [4, 20, 32] {
        mixed_values_match_portable(70_016, head_size);
    }
}

fn mixed_values_match_portable(n_slots: usize, head_size: usize) {
    let mut cache = HeadCache::new(n_slots, head_size);
    let value = [127, -127, 1, 0].repeat(head_size / 4);
    for slot in 0..n_slots {
        cache.write(slot, (&vec![0; head_size], 1.0), (&value, 1.0));
    }
    let runs = [0..n_slots / 2, n_slots / 2..n_slots];
    let (weights, units) = (vec![255; 3 * n_slots], [1.0; 3]);
    let slots = cache.slots(&runs);
    let mut expected = vec![0.0; 3 * head_size];
    Portable.mix(&slots, &weights, &units, &mut expected);
    assert!(expected[0] > i32::MAX as f32);
    on_every_isa!(ops => {
        let mut out = vec![0.0; 3 * head_size];
        ops.mix(&slots, &weights, &units, &mut out);
        assert_eq!(out, expected);
    });
}

#[test]
fn products_of_the_largest_bytes_match_portable() {
    for n_in in [4, 32, 36, 64, 200] {
        let mut x = Activations::new(2, n_in);
        for row in 0..2 {
            let (bytes, scale) = x.row_mut(row);
            bytes.fill(255);
            *scale = (1.0, 0);
        }
        for weight in [1.0, -1.0] {
            let matrix = Matrix::pack(&vec![weight; 40 * n_in], n_in, &[]);
            let expected = product(Portable, &matrix, &x, 2);
            on_every_isa!(ops => assert_eq!(product(ops, &matrix, &x, 2), expected));
        }
    }
}

#[test]
fn scores_of_the_largest_bytes_match_portable() {
    for head_size in [4, 16, 32, 36, 80] {
        for (key, query) in [(127, 127), (127, -127), (-127, 127), (-127, -127)] {
            let mut cache = HeadCache::new(48, head_size);
            for slot in 0..48 {
                let bytes = vec![key; head_size];
                cache.write(slot, (&bytes, 1.0), (&bytes, 1.0));
            }
            let mut q = Queries::new(2, head_size);
            for head in 0..2 {
                let (bytes, scale) = q.head_mut(head);
                bytes.fill(query);
                *scale = 1.0;
            }
            let runs = [0..20, 20..48];
            let slots = cache.slots(&runs);
            let expected = attended(Portable, &slots, &q);
            on_every_isa!(ops => assert_eq!(attended(ops, &slots, &q), expected));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn matmul_matches_portable_at_all_sizes(
        n_out in 1usize..200, n_in in 1usize..150, n_lanes in 1usize..10, seed: u64,
    ) {
        let bias = numbers(n_out, seed ^ 1);
        let matrix = Matrix::pack(&numbers(n_out * n_in, seed), n_in, &bias);
        let x = activations(n_lanes, n_in, seed ^ 2);
        let expected = product(Portable, &matrix, &x, n_lanes);
        on_every_isa!(ops => prop_assert_eq!(&product(ops, &matrix, &x, n_lanes), &expected));
    }

    #[test]
    fn attention_matches_portable_at_all_sizes(
        n_slots in 1usize..1200, pairs in 1usize..40, n_heads in 1usize..5, seed: u64,
    ) {
        let head_size = 2 * pairs;
        let cache = cache(n_slots, head_size, seed >> 1);
        let q = queries(n_heads, head_size, seed ^ 3);
        let cut = (seed as usize) % n_slots;
        let runs = [0..cut, cut..n_slots];
        let slots = cache.slots(&runs);
        let expected = attended(Portable, &slots, &q);
        on_every_isa!(ops => prop_assert_eq!(&attended(ops, &slots, &q), &expected));
    }

    #[test]
    fn float_stages_match_portable_at_all_sizes(n in 1usize..300, seed: u64) {
        let (x, y) = (numbers(n, seed), numbers(n, seed ^ 4));
        let expected = Portable.run(FloatStages(Portable, &x, &y));
        on_every_isa!(ops => prop_assert_eq!(&ops.run(FloatStages(ops, &x, &y)), &expected));
    }

    #[test]
    fn a_product_is_that_of_its_quantised_numbers(n_in in 1usize..100, seed: u64) {
        let weights: Vec<f32> = numbers(3 * n_in, seed).iter().map(|x| x.clamp(-1.0, 1.0)).collect();
        let x: Vec<f32> = numbers(n_in, seed ^ 5).iter().map(|x| x.clamp(-1.0, 1.0)).collect();
        let matrix = Matrix::pack(&weights, n_in, &[]);
        let mut quantised = Activations::new(1, n_in);
        let (bytes, scale) = quantised.row_mut(0);
        *scale = lanewise::quantize_range::<Plain>(&x, bytes);
        let mut y = [0.0; 3];
        Portable.matmul(&matrix.panels(), &quantised, &mut y);
        for (y, row) in y.iter().zip(weights.chunks(n_in)) {
            let exact: f32 = row.iter().zip(&x).map(|(w, x)| w * x).sum();
            // Each factor errs by at most a step: 1/127 of a weight, 2/255 of an activation.
            let bound = n_in as f32 * (0.5 / 127.0 + 1.0 * 2.0 / 255.0) + 1e-3;
            prop_assert!((y - exact).abs() <= bound, "{} for {}", y, exact);
        }
    }
}
