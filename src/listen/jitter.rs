//! The jitter buffer: packets in as the network brings them, samples out as a clock takes them.
//!
//! It starts to play when [`target`](JitterStats::target_ms) is gathered. Dry, it fades out, waits
//! and wants more than before; while there is plenty it wants a little less. Its fill steers the
//! reading speed by up to 0.3 %, so that the two clocks never drift apart. Where sound is missing
//! it fades; nothing clicks. `src/net/page/worklet.js` is the same for a browser.
//!
//! Plain arithmetic, for any thread; nothing allocates after [`Jitter::new`].

use std::f64::consts::PI;

/// Taps of the interpolation filter on either side.
const HALF: usize = 16;
const TAPS: usize = 2 * HALF;
const PHASES: usize = 256;
const FADE_MS: u32 = 5;
/// The target does not shrink below this.
const FLOOR_MS: u32 = 120;
/// Nor grow above this.
const CEILING_MS: u32 = 3_000;
/// More than this above the target is skipped.
const SURPLUS_MS: u32 = 1_000;
const CAPACITY_S: u32 = 8;
/// Within this of the target the speed is left alone: exact samples are worth more.
const DEAD_BAND_S: f64 = 0.03;
const MAX_CORRECTION: f64 = 0.003;
/// Correction for each second too much.
const CORRECTION_PER_S: f64 = 0.05;
const SMOOTHING_S: f64 = 2.0;
/// How long there must be plenty before the target shrinks.
const WINDOW_S: f64 = 10.0;

/// A ring of samples with a will of its own about its fill.
#[derive(Debug)]
pub struct Jitter {
    rate_hz: u32,
    table: Vec<f32>,
    ring: Vec<f32>,
    /// Samples ever written.
    written: u64,
    /// Where the next sample is read: a whole part and a share of 1.
    read: u64,
    share: f64,
    fade: f64,
    target: f64,
    gain: f64,
    /// Samples of the fade-in after a gap that are written.
    rise: f64,
    is_playing: bool,
    is_skipping: bool,
    is_ended: bool,
    correction: f64,
    smooth_fill: f64,
    low_fill: f64,
    n_window: u64,
    n_underruns: u64,
    n_skipped: u64,
}

/// How a jitter buffer fares.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct JitterStats {
    /// Times it ran dry.
    pub n_underruns: u64,
    /// Samples left out because there were far too many.
    pub n_skipped: u64,
    /// What waits in it.
    pub buffered_ms: u32,
    /// What it wants to hold.
    pub target_ms: u32,
    /// How much faster it reads than it would by its own clock, in millionths.
    pub correction_ppm: i32,
    /// Whether sound comes out.
    pub is_playing: bool,
}

impl Jitter {
    /// A buffer for a stream of `rate_hz` that plays once `target_ms` are gathered.
    pub fn new(rate_hz: u32, target_ms: u32) -> Self {
        let capacity = (rate_hz as usize * CAPACITY_S as usize).next_power_of_two();
        let fade = samples(rate_hz, FADE_MS);
        Self {
            rate_hz,
            table: filter_table(),
            ring: vec![0.0; capacity],
            written: 0,
            read: 0,
            share: 0.0,
            fade,
            target: samples(rate_hz, target_ms.clamp(1, CEILING_MS)),
            gain: 0.0,
            rise: fade,
            is_playing: false,
            is_skipping: false,
            is_ended: false,
            correction: 0.0,
            smooth_fill: 0.0,
            low_fill: f64::INFINITY,
            n_window: 0,
            n_underruns: 0,
            n_skipped: 0,
        }
    }

    /// Takes samples in. What does not fit, which is more than anybody should wait for, is left
    /// out and counted.
    pub fn push(&mut self, samples: impl IntoIterator<Item = f32>) {
        self.is_ended = false;
        for sample in samples {
            if self.written - self.read + TAPS as u64 >= self.ring.len() as u64 {
                self.n_skipped += 1;
                continue;
            }
            let gain = (self.rise / self.fade).min(1.0);
            self.rise += 1.0;
            let slot = self.slot(self.written);
            self.ring[slot] = sample * gain as f32;
            self.written += 1;
        }
    }

    /// The stream jumps here: what is not yet played ends softly, what follows begins softly.
    pub fn gap(&mut self) {
        let n = self.left().clamp(0.0, self.fade) as u64;
        for back in 0..n {
            let slot = self.slot(self.written - 1 - back);
            self.ring[slot] *= back as f32 / n as f32;
        }
        self.rise = 0.0;
    }

    /// Nothing comes any more until it does: to run dry now is no underrun.
    pub fn end(&mut self) {
        self.is_ended = true;
    }

    /// Fills `out`, with silence where there is nothing to play.
    pub fn pull(&mut self, out: &mut [f32]) {
        if !self.is_playing && self.fill() >= self.target {
            self.is_playing = true;
            self.smooth_fill = self.fill();
        }
        for sample in &mut *out {
            *sample = if self.is_playing { self.next() } else { 0.0 };
        }
        self.steer(out.len());
    }

    /// How it fares.
    pub fn stats(&self) -> JitterStats {
        let ms = |samples: f64| (samples * 1_000.0 / f64::from(self.rate_hz)).round() as u32;
        JitterStats {
            n_underruns: self.n_underruns,
            n_skipped: self.n_skipped,
            buffered_ms: ms(self.fill()),
            target_ms: ms(self.target),
            correction_ppm: (self.correction * 1e6).round() as i32,
            is_playing: self.is_playing,
        }
    }

    fn slot(&self, index: u64) -> usize {
        (index & (self.ring.len() as u64 - 1)) as usize
    }

    fn fill(&self) -> f64 {
        (self.written - self.read) as f64 - self.share
    }

    /// What can still be played: the filter needs some to look ahead.
    fn left(&self) -> f64 {
        self.fill() - HALF as f64
    }

    fn next(&mut self) -> f32 {
        let left = self.left();
        if left <= 0.0 {
            self.starve();
            return 0.0;
        }
        let goal = match self.is_skipping {
            true => 0.0,
            false => (left / self.fade).min(1.0),
        };
        let slope = 1.0 / self.fade;
        self.gain += (goal - self.gain).clamp(-slope, slope);
        if self.is_skipping && self.gain <= slope {
            self.skip();
        }
        let sample = self.interpolate() * self.gain as f32;
        self.share += 1.0 + self.correction;
        self.read += self.share as u64;
        self.share = self.share.fract();
        sample
    }

    fn interpolate(&self) -> f32 {
        if self.share == 0.0 {
            return self.ring[self.slot(self.read)];
        }
        let phase = self.share * PHASES as f64;
        let between = phase.fract() as f32;
        let rows = &self.table[phase as usize * TAPS..][..2 * TAPS];
        let (low, high) = rows.split_at(TAPS);
        let begin = self.read.wrapping_sub(HALF as u64 - 1);
        let taps = low.iter().zip(high).enumerate();
        taps.map(|(tap, (low, high))| {
            let sample = self.ring[self.slot(begin.wrapping_add(tap as u64))];
            sample * (low + (high - low) * between)
        })
        .sum()
    }

    /// Dry. The fade-out is behind us; wait for more than last time.
    fn starve(&mut self) {
        self.is_playing = false;
        self.gain = 0.0;
        self.restart_window();
        if self.is_ended {
            return;
        }
        self.n_underruns += 1;
        let more = self.target * 1.3 + samples(self.rate_hz, 20);
        self.target = more.min(samples(self.rate_hz, CEILING_MS));
    }

    /// Far too much, after a stall for example: leave the oldest out.
    fn skip(&mut self) {
        let surplus = (self.fill() - self.target).max(0.0) as u64;
        self.read += surplus;
        self.n_skipped += surplus;
        self.is_skipping = false;
        self.smooth_fill = self.fill();
    }

    fn steer(&mut self, n: usize) {
        if !self.is_playing {
            return;
        }
        let rate_hz = f64::from(self.rate_hz);
        let weight = 1.0 - (-(n as f64) / rate_hz / SMOOTHING_S).exp();
        self.smooth_fill += (self.fill() - self.smooth_fill) * weight;
        let error_s = (self.smooth_fill - self.target) / rate_hz;
        let beyond = error_s - error_s.clamp(-DEAD_BAND_S, DEAD_BAND_S);
        self.correction = (beyond * CORRECTION_PER_S).clamp(-MAX_CORRECTION, MAX_CORRECTION);
        self.is_skipping |= self.fill() > self.target + samples(self.rate_hz, SURPLUS_MS);
        self.low_fill = self.low_fill.min(self.fill());
        self.n_window += n as u64;
        if self.n_window as f64 > WINDOW_S * rate_hz {
            self.shrink();
            self.restart_window();
        }
    }

    fn shrink(&mut self) {
        let floor = samples(self.rate_hz, FLOOR_MS);
        let spare = self.low_fill - floor / 2.0;
        if spare > 0.0 {
            self.target = (self.target - spare / 10.0).max(floor.min(self.target));
        }
    }

    fn restart_window(&mut self) {
        self.low_fill = f64::INFINITY;
        self.n_window = 0;
    }
}

fn samples(rate_hz: u32, ms: u32) -> f64 {
    f64::from(rate_hz) * f64::from(ms) / 1_000.0
}

/// A windowed sinc, [PHASES + 1, TAPS], each row of sum 1.
fn filter_table() -> Vec<f32> {
    let tap = |phase: usize, tap: usize| {
        let x = tap as f64 - (HALF - 1) as f64 - phase as f64 / PHASES as f64;
        let sinc = if x == 0.0 {
            1.0
        } else {
            (PI * x).sin() / (PI * x)
        };
        let angle = PI * x / HALF as f64;
        let window = 0.42 + 0.5 * angle.cos() + 0.08 * (2.0 * angle).cos();
        if x.abs() < HALF as f64 {
            sinc * window
        } else {
            0.0
        }
    };
    let rows = (0..=PHASES).flat_map(|phase| {
        let row: [f64; TAPS] = std::array::from_fn(|i| tap(phase, i));
        let sum: f64 = row.iter().sum();
        row.map(|value| (value / sum) as f32)
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE_HZ: u32 = 16_000;
    const PACKET: usize = 320;

    fn tone(begin: usize, n: usize) -> impl Iterator<Item = f32> {
        (begin..begin + n).map(|i| (i as f64 * 0.11).sin() as f32 * 0.5)
    }

    /// The largest step from one sample to the next; the tone alone steps by 0.055.
    fn largest_step(samples: &[f32]) -> f32 {
        let steps = samples.windows(2).map(|pair| (pair[1] - pair[0]).abs());
        steps.fold(0.0, f32::max)
    }

    #[test]
    fn between_equal_clocks_samples_pass_untouched() {
        let mut jitter = Jitter::new(RATE_HZ, 200);
        jitter.push(tone(0, 10 * PACKET));
        let mut heard = Vec::new();
        for n in 10..500 {
            jitter.push(tone(n * PACKET, PACKET));
            let mut out = [0.0; PACKET];
            jitter.pull(&mut out);
            heard.extend(out);
        }
        let fade_in = 80;
        assert!(
            heard[fade_in..]
                .iter()
                .copied()
                .eq(tone(fade_in, heard.len() - fade_in))
        );
        assert_eq!(jitter.stats().n_underruns, 0);
    }

    #[test]
    fn it_waits_for_its_target_and_says_silence_meanwhile() {
        let mut jitter = Jitter::new(RATE_HZ, 200);
        let mut out = [1.0; PACKET];
        jitter.push(tone(0, 9 * PACKET));
        jitter.pull(&mut out);
        assert_eq!(out, [0.0; PACKET]);
        jitter.push(tone(9 * PACKET, PACKET));
        jitter.pull(&mut out);
        assert!(jitter.stats().is_playing && out != [0.0; PACKET]);
    }

    #[test]
    fn a_drought_fades_counts_once_and_wants_more_next_time() {
        let mut jitter = Jitter::new(RATE_HZ, 200);
        jitter.push(tone(0, 10 * PACKET));
        let mut heard = vec![0.0; 20 * PACKET];
        jitter.pull(&mut heard);
        let stats = jitter.stats();
        assert_eq!((stats.n_underruns, stats.is_playing), (1, false));
        assert_eq!(stats.target_ms, 280);
        jitter.push(tone(10 * PACKET, 20 * PACKET));
        let begin = heard.len();
        heard.resize(begin + 10 * PACKET, 0.0);
        jitter.pull(&mut heard[begin..]);
        assert!(jitter.stats().is_playing);
        assert!(largest_step(&heard) < 0.07, "{}", largest_step(&heard));
    }

    #[test]
    fn the_end_of_a_connection_is_no_underrun() {
        let mut jitter = Jitter::new(RATE_HZ, 200);
        jitter.push(tone(0, 10 * PACKET));
        jitter.end();
        jitter.pull(&mut [0.0; 20 * PACKET]);
        let stats = jitter.stats();
        assert_eq!((stats.n_underruns, stats.target_ms), (0, 200));
    }

    #[test]
    fn a_gap_in_the_stream_does_not_click() {
        let mut jitter = Jitter::new(RATE_HZ, 200);
        jitter.push(tone(0, 10 * PACKET));
        jitter.gap();
        jitter.push(std::iter::repeat_n(0.5, 10 * PACKET));
        let mut heard = vec![0.0; 19 * PACKET];
        jitter.pull(&mut heard);
        assert!(largest_step(&heard) < 0.07, "{}", largest_step(&heard));
        assert!(heard.iter().filter(|&&sample| sample == 0.5).count() > 8 * PACKET);
    }

    #[test]
    fn a_sender_with_a_faster_clock_is_followed_without_loss() {
        let mut jitter = Jitter::new(RATE_HZ, 200);
        jitter.push(tone(0, 10 * PACKET));
        let (mut begin, mut heard) = (10 * PACKET, Vec::new());
        // 1,000 ppm for five minutes are 300 ms, more than the buffer ever holds back.
        for n in 0..15_000 {
            let len = PACKET + usize::from(n % 25 < 8);
            jitter.push(tone(begin, len));
            begin += len;
            let mut out = [0.0; PACKET];
            jitter.pull(&mut out);
            heard.extend(out);
        }
        let stats = jitter.stats();
        assert_eq!((stats.n_underruns, stats.n_skipped), (0, 0));
        assert!((900..1_100).contains(&stats.correction_ppm), "{stats:?}");
        assert!(stats.buffered_ms < 300, "{stats:?}");
        assert!(largest_step(&heard) < 0.06, "{}", largest_step(&heard));
    }

    #[test]
    fn far_too_much_is_skipped_softly() {
        let mut jitter = Jitter::new(RATE_HZ, 200);
        jitter.push(tone(0, 100 * PACKET));
        let mut heard = vec![0.0; 2 * PACKET];
        heard.chunks_mut(80).for_each(|out| jitter.pull(out));
        let stats = jitter.stats();
        assert!((160..=200).contains(&stats.buffered_ms), "{stats:?}");
        assert!(stats.n_skipped > 80 * PACKET as u64);
        assert!(largest_step(&heard) < 0.07, "{}", largest_step(&heard));
        jitter.push(tone(0, 1_000 * PACKET));
        assert!(jitter.stats().buffered_ms < 9_000);
    }

    #[test]
    fn with_plenty_to_spare_the_target_shrinks_to_its_floor() {
        let mut jitter = Jitter::new(RATE_HZ, 200);
        jitter.push(tone(0, 10 * PACKET));
        let mut out = [0.0; PACKET];
        for n in 0..60_000 {
            jitter.push(tone(n * PACKET, PACKET));
            jitter.pull(&mut out);
        }
        let stats = jitter.stats();
        assert_eq!((stats.n_underruns, stats.target_ms), (0, FLOOR_MS));
    }
}
