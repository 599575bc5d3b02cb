//! Choosing a code from logits. The order of operations is `docs/model.md`, "Drawing": another
//! device that follows it draws the same codes.

use std::ops::RangeInclusive;

use crate::compute::{Plain, Sixteen, lanewise};
use crate::model::{DrawParams, V};
use crate::predictor::Predictor;

/// The distance of two uniforms. A code less likely than this share of the likeliest is never
/// drawn: the first code in order would be drawn whenever the uniform is 0, once in 17 minutes at
/// 16 kHz, and the first code is a click at full scale.
const RESOLUTION: f32 = 1.0 / (1 << 24) as f32;

/// How fast a stream forgets how uncertain it has been: it looks back over some 48 draws, 3 ms at
/// 16 kHz. The first of a note passes for a click if it is let go in a sample, and is kept down for good
/// if it takes tens of milliseconds.
const FORGETS: f32 = 1.0 / 48.0;
/// Bits that a draw may hold at any time, or no sound would begin.
const ALWAYS: f32 = 2.8;

/// How fast it forgets how uncertain it has been in the long run: it looks back over some 16,384 draws, a
/// second at 16 kHz. A tone that hangs is more certain than all that is drawn besides, but for rests.
const FORGETS_LONG: f32 = 1.0 / 16384.0;
/// By how many times itself the temperature grows for each bit that those draws lack.
const LIFT: f32 = 4.0;

/// How fast a stream forgets how loud it has been: it looks back over an eighth of a second at 16 kHz,
/// about what a note takes to begin and to be heard as loud.
const LOUDNESS_RATE: f32 = 1.0 / 2048.0;
/// The loudness at which the temperature is what it is said to be, in codes from the middle.
const MIDDLING: f32 = 64.0;
/// The loudest of all.
pub const MOST_LOUDNESS: f32 = 127.5;
/// Codes of an octave of magnitude, where mu-law is logarithmic.
const OCTAVE: f32 = 16.0;

/// What a stream remembers of its draws.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Recent {
    /// How uncertain they have been, for [`DrawParams::max_rise`].
    mean_bits: f32,
    /// The same in the long run, for [`DrawParams::min_entropy`].
    long_mean_bits: f32,
    /// How far from the middle they lay, in codes, for [`DrawParams::leveling`].
    loudness: f32,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            mean_bits: 0.0,
            // So that no stream begins hot.
            long_mean_bits: DrawParams::MAX_ENTROPY_BITS,
            loudness: MIDDLING,
        }
    }
}

impl Recent {
    /// That of the next draw.
    #[inline(always)]
    fn temperature(&self, params: &DrawParams) -> f32 {
        let octaves_down = (MIDDLING - self.loudness) / OCTAVE;
        let bits_lacking = (params.min_entropy - self.long_mean_bits).max(0.0);
        params.temperature * (1.0 + params.leveling * octaves_down + LIFT * bits_lacking)
    }

    /// What it can be, whoever wrote it; no number becomes 0, and fades.
    pub fn hold(&mut self) {
        let held = |mean: f32, most: f32| mean.max(0.0).min(most);
        self.mean_bits = held(self.mean_bits, DrawParams::MAX_ENTROPY_BITS);
        self.long_mean_bits = held(self.long_mean_bits, DrawParams::MAX_ENTROPY_BITS);
        self.loudness = held(self.loudness, MOST_LOUDNESS);
    }

    /// Takes in a code that was drawn.
    #[inline(always)]
    fn hear(&mut self, code: u8) {
        let distance = (f32::from(code) - 127.5).abs();
        self.loudness += LOUDNESS_RATE * (distance - self.loudness);
    }

    /// The bits that the next draw may hold.
    #[inline(always)]
    fn cap(&self, params: &DrawParams) -> f32 {
        let risen = (self.mean_bits + params.max_rise).max(ALWAYS);
        risen.min(params.max_entropy)
    }

    /// Takes in the bits of a draw, before it is narrowed.
    #[inline(always)]
    fn take_in(&mut self, bits: f32) {
        self.mean_bits += FORGETS * (bits - self.mean_bits);
        self.long_mean_bits += FORGETS_LONG * (bits - self.long_mean_bits);
    }
}

/// Draws a code. `logits` `[V]` are finite, `uniform` lies in [0, 1).
pub fn draw(logits: &[f32], params: &DrawParams, uniform: f32) -> u8 {
    draw_by::<Plain>(logits, &WHOLE, params, &mut Recent::default(), uniform)
}

/// The codes that a stream may go on with: all, unless the model has a predictor.
#[inline(always)]
pub(super) fn within_reach<F: Sixteen>(
    predictor: Option<&Predictor>,
    params: &DrawParams,
) -> RangeInclusive<u8> {
    // Not by `map_or`: a closure is a function without the instructions.
    match predictor {
        Some(of) => of.within_reach::<F>(params.may_leap(), params.click_limit()),
        None => WHOLE,
    }
}

/// All codes.
const WHOLE: RangeInclusive<u8> = 0..=255;

/// The same of the codes `within` a range, in vectors of some instruction set.
#[inline(always)]
pub(super) fn draw_by<F: Sixteen>(
    logits: &[f32],
    within: &RangeInclusive<u8>,
    params: &DrawParams,
    recent: &mut Recent,
    uniform: f32,
) -> u8 {
    let code = choose::<F>(logits, within, params, recent, uniform);
    recent.hear(code);
    code
}

#[inline(always)]
fn choose<F: Sixteen>(
    logits: &[f32],
    within: &RangeInclusive<u8>,
    params: &DrawParams,
    recent: &mut Recent,
    uniform: f32,
) -> u8 {
    let range = usize::from(*within.start())..=usize::from(*within.end());
    if params.temperature == 0.0 {
        return within.start() + likeliest(&logits[range]);
    }
    let (logits, mut shares) = (&logits[range], [0.0; V]);
    let shares = &mut shares[..logits.len()];
    shares_of::<F>(logits, params, recent, shares);
    keep_min_p(shares, params.min_p.max(RESOLUTION));
    keep_top_p(shares, params.top_p);
    let target = uniform * shares.iter().sum::<f32>();
    let mut sum = 0.0;
    let mut last_kept = None;
    for (code, share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
        sum += share;
        last_kept = Some(within.start() + code as u8);
        if sum > target {
            break;
        }
    }
    // Of logits that are no numbers none is kept: a model that has gone wrong is no reason to click.
    last_kept.unwrap_or_else(|| within.start() + likeliest(logits))
}

/// What each code's probability is to that of the likeliest, which so becomes 1.
#[inline(always)]
fn shares_of<F: Sixteen>(
    logits: &[f32],
    params: &DrawParams,
    recent: &mut Recent,
    shares: &mut [f32],
) {
    let mut powers = [0.0; V];
    let powers = &mut powers[..logits.len()];
    let temperature = recent.temperature(params);
    for (power, logit) in powers.iter_mut().zip(logits) {
        *power = logit / temperature;
    }
    let top = powers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    powers.iter_mut().for_each(|power| *power -= top);
    lanewise::exp::<F>(powers, 1.0, shares);
    if !params.asks_for_bits() {
        return;
    }
    // With S the sum of the shares e^powers and m the mean of the powers, the perplexity is S / e^m, and
    // its logarithm the entropy. A temperature multiplied with the square of the perplexity wanted over
    // the one found is exact for a bell, whose width and so whose perplexity grow with the root of the
    // temperature.
    let (sum, weighted) = lanewise::sum_and_product::<F>(shares, powers);
    let mean = weighted / sum * std::f32::consts::LOG2_E;
    let cap = recent.cap(params);
    let cooling = lanewise::exp2_of::<F>(2.0 * (cap + mean)) / (sum * sum);
    // Of logits that are no numbers none of these is one.
    if cooling < 1.0 {
        lanewise::exp::<F>(powers, 1.0 / cooling, shares);
    }
    if mean.is_finite() {
        recent.take_in(straight_log2(sum) - mean);
    }
}

/// The logarithm of a positive number, straight between powers of two: a float's bits, read as a
/// number. Up to 0.09 too low, and the same everywhere.
fn straight_log2(x: f32) -> f32 {
    x.to_bits() as f32 / (1u32 << 23) as f32 - 127.0
}

/// The first of the likeliest codes.
fn likeliest(logits: &[f32]) -> u8 {
    let mut best = 0;
    for (code, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = code;
        }
    }
    best as u8
}

fn keep_min_p(shares: &mut [f32], min_p: f32) {
    for share in shares {
        if *share < min_p {
            *share = 0.0;
        }
    }
}

/// Keeps the likeliest codes, the lower code first among equals, until they reach the sum.
fn keep_top_p(shares: &mut [f32], top_p: f32) {
    if top_p >= 1.0 {
        return;
    }
    // The bits of positive floats order as the floats do; one integer sorts share and code.
    let mut order = [0u64; V];
    let mut n_kept = 0;
    for (code, share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
        order[n_kept] = u64::from(share.to_bits()) << 8 | (V - 1 - code) as u64;
        n_kept += 1;
    }
    let order = &mut order[..n_kept];
    order.sort_unstable_by(|a, b| b.cmp(a));
    let enough = top_p * shares.iter().sum::<f32>();
    let mut sum = 0.0;
    for key in order {
        let code = V - 1 - (*key & 0xff) as usize;
        if sum >= enough {
            shares[code] = 0.0;
        } else {
            sum += shares[code];
        }
    }
}

/// The number in [0, 1) for the code at `position` of the stream seeded with `seed`: 24 bits of
/// Philox4x32-10 (Salmon et al. 2011), position as counter, seed as key. A function of its
/// arguments alone, so neither lanes, chunks nor threads change what a seed plays.
pub fn uniform(seed: u64, position: u64) -> f32 {
    let counter = [position as u32, (position >> 32) as u32, 0, 0];
    let [word, ..] = philox(counter, [seed as u32, (seed >> 32) as u32]);
    (word >> 8) as f32 * RESOLUTION
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let multiply = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    for _ in 0..10 {
        let (high0, low0) = multiply(0xD251_1F53, counter[0]);
        let (high1, low1) = multiply(0xCD9E_8D57, counter[2]);
        counter = [
            high1 ^ counter[1] ^ key[0],
            low1,
            high0 ^ counter[3] ^ key[1],
            low0,
        ];
        key = [
            key[0].wrapping_add(0x9E37_79B9),
            key[1].wrapping_add(0xBB67_AE85),
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits_of(probs: &[(usize, f32)]) -> [f32; V] {
        let mut logits = [-60.0; V];
        for (code, p) in probs {
            logits[*code] = p.ln();
        }
        logits
    }

    const ALL: DrawParams = DrawParams::NEUTRAL;

    #[test]
    fn philox_gives_the_known_answers_of_its_authors() {
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn uniforms_lie_in_the_unit_interval_and_are_spread() {
        let all: Vec<f32> = (0..10_000).map(|t| uniform(7, t)).collect();
        assert!(all.iter().all(|u| (0.0..1.0).contains(u)));
        for tenth in 0..10 {
            let low = tenth as f32 / 10.0;
            let n = all.iter().filter(|u| (low..low + 0.1).contains(*u)).count();
            assert!((850..1150).contains(&n), "{n} of 10000 in a tenth");
        }
    }

    #[test]
    fn the_uniform_walks_the_codes_in_order() {
        let logits = logits_of(&[(10, 0.5), (20, 0.25), (30, 0.25)]);
        let at = |u| draw(&logits, &ALL, u);
        assert_eq!(
            [at(0.0), at(0.49), at(0.51), at(0.74), at(0.76)],
            [10, 10, 20, 20, 30]
        );
        assert_eq!(at(1.0 - f32::EPSILON / 2.0), 30);
    }

    #[test]
    fn min_p_and_top_p_keep_what_they_say() {
        let logits = logits_of(&[(1, 0.5), (2, 0.3), (3, 0.15), (4, 0.05)]);
        let drawn = |params: &DrawParams| -> Vec<u8> {
            let mut codes: Vec<u8> = (0..1000)
                .map(|i| draw(&logits, params, i as f32 / 1000.0))
                .collect();
            codes.dedup();
            codes
        };
        assert_eq!(drawn(&ALL), [1, 2, 3, 4]);
        assert_eq!(drawn(&DrawParams { min_p: 0.25, ..ALL }), [1, 2, 3]);
        assert_eq!(drawn(&DrawParams { top_p: 0.6, ..ALL }), [1, 2]);
        assert_eq!(drawn(&DrawParams { top_p: 0.01, ..ALL }), [1]);
        assert_eq!(
            drawn(&DrawParams {
                temperature: 0.0,
                ..ALL
            }),
            [1]
        );
        assert_eq!(
            drawn(&DrawParams {
                temperature: 1e-3,
                ..ALL
            }),
            [1]
        );
    }

    /// Shannon's entropy of what is drawn, in bits.
    fn entropy(logits: &[f32], params: &DrawParams) -> f64 {
        entropy_after(&mut Recent::default(), logits, params)
    }

    fn entropy_after(recent: &mut Recent, logits: &[f32], params: &DrawParams) -> f64 {
        let mut shares = [0.0; V];
        shares_of::<Plain>(logits, params, recent, &mut shares);
        let sum: f64 = shares.iter().map(|share| f64::from(*share)).sum();
        let parts = shares.iter().map(|share| f64::from(*share) / sum);
        parts.filter(|p| *p > 0.0).map(|p| -p * p.log2()).sum()
    }

    fn bell(width: f32) -> [f32; V] {
        std::array::from_fn(|code| -0.5 * ((code as f32 - 120.3) / width).powi(2))
    }

    #[test]
    fn a_bell_is_narrowed_to_the_entropy_that_is_allowed_and_the_certain_is_left_alone() {
        for (width, temperature) in [(1.5, 1.0), (4.0, 1.0), (10.0, 1.1), (25.0, 1.0)] {
            let free = DrawParams { temperature, ..ALL };
            let held = DrawParams {
                max_entropy: 4.0,
                ..free
            };
            let (before, after) = (entropy(&bell(width), &free), entropy(&bell(width), &held));
            assert!(
                (after - before.min(4.0)).abs() < 0.01,
                "{before} became {after}"
            );
        }
    }

    #[test]
    fn a_sudden_doubt_is_narrowed_and_one_that_lasts_is_not() {
        let held = DrawParams {
            max_rise: 1.0,
            ..ALL
        };
        let (sure, unsure) = (bell(2.0), bell(10.0));
        let (calm, wide) = (entropy(&sure, &ALL), entropy(&unsure, &ALL));
        assert!((3.0..3.1).contains(&calm) && wide > 5.3);
        let mut recent = Recent::default();
        for _ in 0..500 {
            entropy_after(&mut recent, &sure, &held);
        }
        let of_sure = entropy_after(&mut recent, &sure, &held);
        assert!((of_sure - calm).abs() < 1e-6, "{of_sure}");
        let sudden = entropy_after(&mut recent, &unsure, &held);
        // Straight logarithms are up to 0.09 too low.
        assert!((calm + 0.9..calm + 1.01).contains(&sudden), "{sudden}");
        for _ in 0..500 {
            entropy_after(&mut recent, &unsure, &held);
        }
        let lasting = entropy_after(&mut recent, &unsure, &held);
        assert!((lasting - wide).abs() < 1e-6, "{lasting}");
    }

    #[test]
    fn a_stream_that_is_too_quiet_is_drawn_hotter_and_one_that_is_too_loud_colder() {
        let leveled = DrawParams {
            leveling: 0.01,
            ..ALL
        };
        let mut recent = Recent::default();
        assert_eq!(recent.temperature(&leveled), 1.0);
        for _ in 0..20_000 {
            recent.hear(128);
        }
        let quiet = recent.temperature(&leveled);
        assert!((quiet - 1.04).abs() < 1e-3, "{quiet}");
        assert_eq!(recent.temperature(&ALL), 1.0);
        for _ in 0..20_000 {
            recent.hear(255);
            recent.hear(0);
        }
        let loud = recent.temperature(&leveled);
        assert!((loud - 0.96).abs() < 1e-3, "{loud}");
        let calm = bell(4.0);
        let wide = entropy_after(&mut Recent::default(), &calm, &leveled);
        let narrow = entropy_after(&mut recent, &calm, &leveled);
        assert!(narrow < wide - 0.02, "{narrow} of {wide}");
    }

    #[test]
    fn a_stream_that_has_been_too_certain_for_long_is_drawn_hotter() {
        let held = DrawParams {
            min_entropy: 1.5,
            ..ALL
        };
        let mut recent = Recent::default();
        let mut after = |n: usize, bits: f32| {
            (0..n).for_each(|_| recent.take_in(bits));
            assert_eq!(recent.temperature(&ALL), 1.0);
            recent.temperature(&held)
        };
        // For the first second and a quarter of a stream, whatever it holds.
        assert_eq!(after(20_000, 0.0), 1.0);
        assert_eq!(after(200_000, 3.0), 1.0);
        // Two thirds of a second of silence.
        assert_eq!(after(11_000, 0.0), 1.0);
        let hot = 1.0 + 4.0 * (1.5 - 3.0 / std::f32::consts::E);
        let found = after(16_384 - 11_000, 0.0);
        assert!((found - hot).abs() < 0.01, "{found}, not {hot}");
        // And no longer than it is too certain.
        assert_eq!(after(16_384, 3.0), 1.0);
    }

    #[test]
    fn a_hotter_stream_is_less_certain() {
        let held = DrawParams {
            min_entropy: 1.5,
            ..ALL
        };
        let tone = logits_of(&[(128, 0.9), (129, 0.1)]);
        let cool = entropy_after(&mut Recent::default(), &tone, &held);
        let mut recent = Recent::default();
        (0..100_000).for_each(|_| recent.take_in(0.5));
        let before = recent.long_mean_bits;
        let hot = entropy_after(&mut recent, &tone, &held);
        assert!(hot > cool + 0.1, "{hot} of {cool}");
        assert_ne!(recent.long_mean_bits, before, "its bits are not counted");
    }

    #[test]
    fn out_of_silence_a_sound_can_begin() {
        let held = DrawParams {
            max_rise: 0.0,
            ..ALL
        };
        let mut recent = Recent::default();
        for _ in 0..500 {
            entropy_after(&mut recent, &logits_of(&[(128, 1.0)]), &held);
        }
        let first = entropy_after(&mut recent, &bell(10.0), &held);
        assert!((first - f64::from(ALWAYS)).abs() < 0.01, "{first}");
    }

    #[test]
    fn whatever_the_shape_what_is_too_uncertain_becomes_less_so() {
        for seed in 0..200 {
            let spread = 1.0 + seed as f32 / 20.0;
            let logits: [f32; V] = std::array::from_fn(|c| spread * uniform(seed, c as u64));
            let held = DrawParams {
                max_entropy: 3.0,
                ..ALL
            };
            let (before, after) = (entropy(&logits, &ALL), entropy(&logits, &held));
            assert!(before > 3.0 && after < before, "{before} became {after}");
        }
    }

    #[test]
    fn an_absurd_temperature_takes_the_likeliest() {
        let logits = logits_of(&[(9, 0.3), (77, 0.6)]);
        assert_eq!(
            draw(
                &logits,
                &DrawParams {
                    temperature: 1e-38,
                    ..ALL
                },
                0.5
            ),
            77
        );
    }

    #[test]
    fn among_equals_the_lower_code_is_kept() {
        let flat = [0.0; V];
        assert_eq!(draw(&flat, &DrawParams { top_p: 1e-6, ..ALL }, 0.999), 0);
        assert_eq!(
            draw(
                &flat,
                &DrawParams {
                    temperature: 0.0,
                    ..ALL
                },
                0.5
            ),
            0
        );
    }
}
