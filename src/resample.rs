//! Sample rate conversion of one mono stream, between two fixed rates, or between clocks that are only
//! nearly so ([`Resampler::steered`]).
//!
//! Between fixed rates a stream's output depends on its input and the two rates alone, never on how the input was cut
//! into chunks: rubato always gets whole blocks of one size, and what does not fill a block waits.
//! So a file rendered at a card's rate and the card itself get the same samples, bit for bit.
//! Frame 0 of the output is time 0 of the input: the filter's delay is taken off at the start and
//! given back by [`Resampler::flush`].
//!
//! Built anywhere; `process` and `flush` may run on the pump's thread: they neither allocate nor
//! wait. A stream is behind its input by at most one block and half a block of filter, 30 ms at
//! 16 kHz.

mod steered;

use num_integer::Integer;
use rubato::audioadapter_buffers::direct::SequentialSlice;
use rubato::{Fft, FixedSync, Resampler as _};

use steered::Steered;

pub use steered::STEER_MAX;

/// The fewest samples a block has at the lower of the two rates. The filter is one block long, so
/// this sets how much of the band it keeps (95 %) and how long it delays. 320 is a packet of
/// 20 ms at 16 kHz and a multiple of 160, the smallest block between 16 and 44.1 kHz.
const BLOCK_MIN: usize = 320;

/// Rates beyond this are a broken header, and would make blocks of any size.
const RATE_MAX_HZ: u32 = 768_000;

/// Why a resampler cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ResampleError {
    /// Fatal: no such rate.
    #[error("cannot convert {from_hz} Hz to {to_hz} Hz: a rate must lie in 1..={RATE_MAX_HZ} Hz")]
    Rate {
        /// The input's rate.
        from_hz: u32,
        /// The output's rate.
        to_hz: u32,
    },
    /// Fatal: rubato will not have these rates.
    #[error("cannot convert {from_hz} Hz to {to_hz} Hz: {reason}")]
    Refused {
        /// The input's rate.
        from_hz: u32,
        /// The output's rate.
        to_hz: u32,
        /// In rubato's words.
        reason: String,
    },
}

/// A mono stream on its way from one rate to another; equal rates pass through untouched.
#[derive(Debug)]
pub struct Resampler {
    from_hz: u32,
    to_hz: u32,
    chunk_len: usize,
    way: Way,
    /// Where the last call's output lies; no call makes more than its capacity.
    output: Vec<f32>,
}

#[derive(Debug)]
enum Way {
    /// The rates are equal.
    Through,
    Fixed(Box<Converter>),
    Steered(Box<Steered>),
}

#[derive(Debug)]
struct Converter {
    fft: Fft<f32>,
    /// Input waiting for the rest of its block.
    block: Vec<f32>,
    n_waiting: usize,
    out_block: Vec<f32>,
    /// Output frames still to be taken off as the filter's delay.
    n_skip: usize,
    n_in: u64,
    n_out: u64,
}

impl Resampler {
    /// A resampler for chunks of at most `chunk_len` samples.
    pub fn new(from_hz: u32, to_hz: u32, chunk_len: usize) -> Result<Self, ResampleError> {
        check_rates(from_hz, to_hz)?;
        let way = match from_hz == to_hz {
            true => Way::Through,
            false => Way::Fixed(Box::new(Converter::new(from_hz, to_hz)?)),
        };
        Ok(Self::by(way, (from_hz, to_hz), chunk_len))
    }

    /// A resampler for chunks of exactly `chunk_len` samples, whose ratio can be [steered](Self::steer).
    /// Its output begins with the filter's delay, and is never flushed.
    pub fn steered(from_hz: u32, to_hz: u32, chunk_len: usize) -> Result<Self, ResampleError> {
        check_rates(from_hz, to_hz)?;
        let way = Way::Steered(Box::new(Steered::new(from_hz, to_hz, chunk_len)?));
        Ok(Self::by(way, (from_hz, to_hz), chunk_len))
    }

    fn by(way: Way, (from_hz, to_hz): (u32, u32), chunk_len: usize) -> Self {
        let output_len = match &way {
            Way::Through => chunk_len,
            Way::Fixed(converter) => converter.output_len_max(chunk_len),
            Way::Steered(steered) => steered.output_len_max(),
        };
        Self {
            from_hz,
            to_hz,
            chunk_len,
            way,
            output: Vec::with_capacity(output_len),
        }
    }

    /// Makes `ratio` times as many frames of a sample as the two rates say, from the next chunk on: 1 and
    /// at most [`STEER_MAX`] more or less. One of fixed rates stays as it is.
    pub fn steer(&mut self, ratio: f64) {
        if let Way::Steered(steered) = &mut self.way {
            steered.steer(ratio);
        }
    }

    /// The output's rate.
    pub fn to_hz(&self) -> u32 {
        self.to_hz
    }

    /// Takes the stream's next samples, `chunk_len` at most, and gives the frames that are now
    /// ready: none, or several blocks' worth.
    ///
    /// # Panics
    /// If the chunk is longer.
    pub fn process(&mut self, chunk: &[f32]) -> &[f32] {
        assert!(chunk.len() <= self.chunk_len, "chunk length");
        self.output.clear();
        match &mut self.way {
            Way::Through => self.output.extend_from_slice(chunk),
            Way::Fixed(converter) => converter.feed(chunk, &mut self.output),
            Way::Steered(steered) => steered.feed(chunk, &mut self.output),
        }
        &self.output
    }

    /// Ends the stream and gives its tail, so that n samples have become round(n * to / from)
    /// frames. The next `process` starts a new stream.
    pub fn flush(&mut self) -> &[f32] {
        self.output.clear();
        if let Way::Fixed(converter) = &mut self.way {
            let n_total = frames_for(converter.n_in, self.from_hz, self.to_hz);
            converter.drain(n_total, &mut self.output);
        }
        &self.output
    }

    /// What the last call of `process` or `flush` gave.
    pub fn output(&self) -> &[f32] {
        &self.output
    }

    /// The same, to be changed before it goes on.
    pub fn output_mut(&mut self) -> &mut [f32] {
        &mut self.output
    }
}

fn check_rates(from_hz: u32, to_hz: u32) -> Result<(), ResampleError> {
    let is_sane = |hz| (1..=RATE_MAX_HZ).contains(&hz);
    match is_sane(from_hz) && is_sane(to_hz) {
        true => Ok(()),
        false => Err(ResampleError::Rate { from_hz, to_hz }),
    }
}

/// How many frames `n_in` samples become: round(n * to / from).
pub fn frames_for(n_in: u64, from_hz: u32, to_hz: u32) -> u64 {
    let (from, to) = (u128::from(from_hz), u128::from(to_hz));
    ((u128::from(n_in) * to * 2 + from) / (from * 2)) as u64
}

impl Converter {
    fn new(from_hz: u32, to_hz: u32) -> Result<Self, ResampleError> {
        let in_len = block_len(from_hz, to_hz);
        let fft = Fft::new_custom(
            from_hz as usize,
            to_hz as usize,
            in_len,
            1,
            1,
            rubato::WindowFunction::BlackmanHarris2,
            FixedSync::Both,
        )
        .map_err(|error| ResampleError::Refused {
            from_hz,
            to_hz,
            reason: error.to_string(),
        })?;
        Ok(Self {
            block: vec![0.0; fft.fft_size_in()],
            out_block: vec![0.0; fft.fft_size_out()],
            n_skip: fft.output_delay(),
            fft,
            n_waiting: 0,
            n_in: 0,
            n_out: 0,
        })
    }

    /// The most frames one call can give: `flush` ends at most two blocks, see `drain`.
    fn output_len_max(&self, chunk_len: usize) -> usize {
        // One sample short of a block may be waiting already.
        let n_blocks = chunk_len.div_ceil(self.block.len());
        n_blocks.max(2) * self.out_block.len()
    }

    fn feed(&mut self, mut chunk: &[f32], output: &mut Vec<f32>) {
        self.n_in += chunk.len() as u64;
        while !chunk.is_empty() {
            let n = chunk.len().min(self.block.len() - self.n_waiting);
            let (now, later) = chunk.split_at(n);
            self.block[self.n_waiting..][..n].copy_from_slice(now);
            self.n_waiting += n;
            chunk = later;
            if self.n_waiting == self.block.len() {
                self.convert(output);
            }
        }
    }

    /// Pads with silence until all `n_total` frames are out. A block's worth is waiting at most
    /// and the delay is half a block: two blocks always do.
    fn drain(&mut self, n_total: u64, output: &mut Vec<f32>) {
        let n_before = self.n_out;
        while self.n_out < n_total {
            self.block[self.n_waiting..].fill(0.0);
            self.convert(output);
        }
        output.truncate((n_total - n_before) as usize);
        self.fft.reset();
        self.n_skip = self.fft.output_delay();
        (self.n_waiting, self.n_in, self.n_out) = (0, 0, 0);
    }

    fn convert(&mut self, output: &mut Vec<f32>) {
        let (in_len, out_len) = (self.block.len(), self.out_block.len());
        let input = SequentialSlice::new(&self.block, 1, in_len).expect("one channel fills it");
        let mut out = SequentialSlice::new_mut(&mut self.out_block, 1, out_len)
            .expect("one channel fills it");
        self.fft
            .process_into_buffer(&input, &mut out, None)
            .expect("both blocks have the size rubato named");
        self.n_waiting = 0;
        let n_skip = self.n_skip.min(out_len);
        self.n_skip -= n_skip;
        output.extend_from_slice(&self.out_block[n_skip..]);
        self.n_out += (out_len - n_skip) as u64;
    }
}

/// How many samples rubato takes at a time: whole periods of the ratio, an even number on both
/// sides (the delay, half a block, is then a whole number of frames).
fn block_len(from_hz: u32, to_hz: u32) -> usize {
    let divisor = from_hz.gcd(&to_hz);
    let (from, to) = ((from_hz / divisor) as usize, (to_hz / divisor) as usize);
    let n_periods = BLOCK_MIN.div_ceil(from.min(to));
    let is_odd = from % 2 == 1 || to % 2 == 1;
    from * if is_odd {
        n_periods.next_multiple_of(2)
    } else {
        n_periods
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use assert_no_alloc::assert_no_alloc;
    use std::f64::consts::TAU;

    fn sine(hz: f64, rate_hz: u32, n: usize) -> Vec<f32> {
        let step = TAU * hz / f64::from(rate_hz);
        (0..n)
            .map(|i| (0.8 * (step * i as f64).sin()) as f32)
            .collect()
    }

    fn noise(n: usize) -> Vec<f32> {
        let mut state = 0x2545_f491u32;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 * 2.0 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn convert(input: &[f32], from_hz: u32, to_hz: u32, chunk_len: usize) -> Vec<f32> {
        let mut resampler = Resampler::new(from_hz, to_hz, chunk_len).unwrap();
        let mut output = Vec::new();
        for chunk in input.chunks(chunk_len) {
            output.extend_from_slice(resampler.process(chunk));
        }
        output.extend_from_slice(resampler.flush());
        output
    }

    /// Signal to noise of the middle of `got`, in dB; the ends ring, as any filter's do.
    fn snr_db(got: &[f32], want: &[f32], margin: usize) -> f64 {
        let (mut signal, mut error) = (0.0f64, 1e-30f64);
        for (g, w) in got.iter().zip(want).take(got.len() - margin).skip(margin) {
            signal += f64::from(*w).powi(2);
            error += f64::from(g - w).powi(2);
        }
        10.0 * (signal / error).log10()
    }

    const PAIRS: [(u32, u32); 10] = [
        (16_000, 44_100),
        (16_000, 48_000),
        (16_000, 96_000),
        (16_000, 192_000),
        (8_000, 48_000),
        (24_000, 44_100),
        (22_050, 16_000),
        (44_100, 16_000),
        (48_000, 16_000),
        (192_000, 16_000),
    ];

    #[test]
    fn a_sine_stays_the_same_sine_in_time_with_its_input() {
        for (from, to) in PAIRS {
            for hz in [100.0, 997.0, 0.4 * f64::from(from.min(to))] {
                let got = convert(&sine(hz, from, from as usize / 2), from, to, 320);
                let want = sine(hz, to, got.len());
                let snr = snr_db(&got, &want, to as usize / 20);
                assert!(snr > 100.0, "{from} -> {to} at {hz} Hz: {snr:.1} dB");
            }
        }
    }

    #[test]
    fn what_the_lower_rate_cannot_hold_is_gone() {
        for (from, to) in [(48_000, 16_000), (44_100, 16_000), (192_000, 16_000)] {
            let got = convert(&sine(8_100.0, from, from as usize / 2), from, to, 320);
            let middle = &got[1_000..got.len() - 1_000];
            let peak = middle.iter().fold(0.0f32, |peak, x| peak.max(x.abs()));
            assert!(peak < 1e-4, "{from} -> {to}: alias of {peak}");
        }
    }

    #[test]
    fn the_output_does_not_depend_on_the_chunk_length() {
        let input = noise(7_001);
        for (from, to) in PAIRS {
            let whole = convert(&input, from, to, 7_001);
            for chunk_len in [1, 16, 319, 320, 321, 1_024] {
                let got = convert(&input, from, to, chunk_len);
                assert!(got == whole, "{from} -> {to} in chunks of {chunk_len}");
            }
        }
    }

    #[test]
    fn n_samples_become_the_rounded_number_of_frames() {
        for (from, to) in PAIRS {
            for n in [0, 1, 2, 159, 160, 320, 321, 480, 960, 12_345] {
                let got = convert(&noise(n), from, to, 320).len() as f64;
                let want = (n as f64 * f64::from(to) / f64::from(from)).round();
                assert_eq!(got, want, "{n} samples, {from} -> {to}");
            }
        }
    }

    #[test]
    fn equal_rates_pass_through_bit_for_bit() {
        let input = noise(1_000);
        assert_eq!(convert(&input, 16_000, 16_000, 320), input);
    }

    #[test]
    fn a_flushed_resampler_starts_anew() {
        let mut resampler = Resampler::new(16_000, 44_100, 1_000).unwrap();
        let input = noise(1_000);
        let mut run = || {
            let mut output = resampler.process(&input).to_vec();
            output.extend_from_slice(resampler.flush());
            output
        };
        assert_eq!(run(), run());
    }

    #[test]
    fn nothing_is_allocated_after_construction() {
        for (from, to) in PAIRS {
            for chunk_len in [1, 320, 5_000] {
                let mut resampler = Resampler::new(from, to, chunk_len).unwrap();
                let chunk = noise(chunk_len);
                assert_no_alloc(|| {
                    for _ in 0..200 {
                        resampler.process(&chunk);
                    }
                    resampler.flush();
                });
            }
        }
    }

    #[test]
    fn rates_that_cannot_be_are_refused_by_name() {
        let error = Resampler::new(16_000, 0, 320).unwrap_err().to_string();
        assert!(error.contains("16000 Hz to 0 Hz"), "{error}");
        assert!(Resampler::new(4_000_000, 16_000, 320).is_err());
    }

    #[test]
    fn an_awkward_ratio_still_converts() {
        let got = convert(&sine(440.0, 44_099, 88_198), 44_099, 16_000, 4_096);
        let snr = snr_db(&got, &sine(440.0, 16_000, got.len()), 3_200);
        assert!(snr > 80.0, "{snr:.1} dB");
    }
}
