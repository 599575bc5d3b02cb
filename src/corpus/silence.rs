//! Silence, which a model must not learn to love.
//!
//! Once its whole context is silence, a model draws silence for ever. Below about 1.7e-4 every
//! sample has one of the two middle mu-law codes, so what counts here is not only the digital
//! zero: a pause of a few 16-bit steps is the same codes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The loudest sample that is silence: 5 steps of 16 bits, inside the two middle codes.
pub const FLOOR: f32 = 1.5e-4;

/// A pause this long still sounds like one; more of it teaches nothing.
const KEPT_S: f64 = 0.5;

/// So long a sound may stay this close to zero by itself.
const SETTLE_S: f64 = 0.01;

/// What is done with silence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Silence {
    /// Pauses are cut to half a second, and that is dithered.
    #[default]
    Cut,
    /// Pauses keep their length and are dithered.
    Dither,
    /// Nothing.
    Keep,
}

impl Silence {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cut, Self::Dither, Self::Keep];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Dither => "dither",
            Self::Keep => "keep",
        }
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Silence {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|silence| silence.name() == name)
            .ok_or_else(|| format!("no treatment `{name}`: choose cut, dither or keep"))
    }
}

/// Treats the silence of one recording, block by block; the blocks' length makes no difference.
#[derive(Debug)]
pub struct Silencer {
    silence: Silence,
    n_kept_max: u64,
    n_settle: u64,
    /// Silent samples just before the next.
    n_run: u64,
    noise: u64,
    /// Samples taken away.
    pub n_cut: u64,
    /// Samples that got noise.
    pub n_dithered: u64,
}

impl Silencer {
    /// For sound at `rate_hz`; `seed` makes the noise.
    pub fn new(silence: Silence, rate_hz: u32, seed: u64) -> Self {
        let n = |seconds: f64| (seconds * f64::from(rate_hz)) as u64;
        Self {
            silence,
            n_kept_max: n(KEPT_S),
            n_settle: n(SETTLE_S),
            n_run: 0,
            noise: seed,
            n_cut: 0,
            n_dithered: 0,
        }
    }

    /// Takes from `block` what is too much silence and dithers what is left of it.
    pub fn process(&mut self, block: &mut Vec<f32>) {
        if self.silence != Silence::Keep {
            block.retain_mut(|sample| self.treat(sample));
        }
    }

    fn treat(&mut self, sample: &mut f32) -> bool {
        if sample.abs() > FLOOR {
            self.n_run = 0;
            return true;
        }
        self.n_run += 1;
        if self.silence == Silence::Cut && self.n_run > self.n_kept_max {
            self.n_cut += 1;
            return false;
        }
        if self.n_run > self.n_settle {
            *sample += self.draw();
            self.n_dithered += 1;
        }
        true
    }

    /// Uniform between -FLOOR and FLOOR, by splitmix64: the same for ever, and with it the files'
    /// hashes, which a library's generator does not promise.
    fn draw(&mut self) -> f32 {
        self.noise = self.noise.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.noise;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let unit = (z >> 40) as f32 / (1u64 << 24) as f32;
        (2.0 * unit - 1.0) * FLOOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE_HZ: u32 = 16_000;

    /// A second of sound, `n` of silence, a second of sound.
    fn pause(n: usize) -> Vec<f32> {
        let mut samples = vec![0.5; 16_000];
        samples.resize(16_000 + n, 0.0);
        samples.resize(32_000 + n, -0.5);
        samples
    }

    fn treat(silence: Silence, samples: &[f32], block_len: usize) -> (Vec<f32>, Silencer) {
        let mut silencer = Silencer::new(silence, RATE_HZ, 7);
        let mut output = Vec::new();
        for block in samples.chunks(block_len) {
            let mut block = block.to_vec();
            silencer.process(&mut block);
            output.extend(block);
        }
        (output, silencer)
    }

    /// The longest run of one sign, and so of one code, in what is left of the pause.
    fn longest_run(pause: &[f32]) -> usize {
        let runs = pause.chunk_by(|a, b| (a < &0.0) == (b < &0.0));
        runs.map(<[f32]>::len).max().unwrap_or(0)
    }

    #[test]
    fn a_long_pause_is_cut_to_half_a_second_and_dithered() {
        let (output, silencer) = treat(Silence::Cut, &pause(80_000), 1_000);
        assert_eq!(output.len(), 32_000 + 8_000);
        assert_eq!((silencer.n_cut, silencer.n_dithered), (72_000, 8_000 - 160));
        assert!(longest_run(&output[16_000..24_000]) < 200);
        assert!(
            output[16_000..24_000]
                .iter()
                .all(|x| x.abs() <= 2.0 * FLOOR)
        );
    }

    #[test]
    fn dithering_keeps_the_length_and_keeping_keeps_all() {
        let samples = pause(80_000);
        let (output, _) = treat(Silence::Dither, &samples, 1_000);
        assert_eq!(output.len(), samples.len());
        assert!(longest_run(&output[16_000..96_000]) < 200);
        assert!(treat(Silence::Keep, &samples, 1_000).0 == samples);
    }

    #[test]
    fn a_crossing_of_zero_is_no_pause() {
        let samples = pause(160);
        let (output, silencer) = treat(Silence::Cut, &samples, 1_000);
        assert!(output == samples);
        assert_eq!((silencer.n_cut, silencer.n_dithered), (0, 0));
    }

    #[test]
    fn the_blocks_length_makes_no_difference() {
        let samples = pause(80_000);
        let (whole, _) = treat(Silence::Cut, &samples, samples.len());
        for block_len in [1, 7, 4_096] {
            assert!(treat(Silence::Cut, &samples, block_len).0 == whole);
        }
    }

    #[test]
    fn a_treatment_is_known_by_its_name_alone() {
        for silence in Silence::ALL {
            assert_eq!(silence.to_string().parse(), Ok(silence));
        }
        assert!("mute".parse::<Silence>().is_err());
    }
}
