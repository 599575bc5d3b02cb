//! From codes to seconds. Memory is bounded: a batch of seconds and what they look back on.

use rayon::prelude::*;

use super::clicks::{self, Click};
use super::features::Second;
use super::repeat::{Match, REACH_S, Repeat};
use super::steady::{self, Steady};
use crate::mulaw;
use crate::sound::{self, Frames, Spectrum, db};

/// Seconds measured at a time, by all threads that rayon has.
const BATCH_S: usize = 32;

/// A shorter run of one code is a crest or a rest of the wave itself.
const RUN_MIN_S: f64 = 0.01;

/// Measures a stream second by second; what is left over at its end is not judged.
#[derive(Debug)]
pub struct Extractor {
    rate_hz: usize,
    spectrum: Spectrum,
    repeat: Repeat,
    samples_of_codes: [f32; 256],
    /// Up to `REACH_S` seconds already measured, then the codes of those that wait.
    codes: Vec<u8>,
    n_measured: usize,
    steady: Steady,
    run: Run,
    seconds: Vec<Second>,
}

/// The code held now.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    code: u8,
    begin: u64,
    end: u64,
}

/// What can be said of a second by itself and what it looks back on.
struct Measured {
    second: Second,
    frames: Frames,
    sums: Vec<(f32, f32)>,
}

/// Sees the spectra of every second, in order: frames of powers, `[n_frames, n_bins]`.
pub(super) type OnFrames<'a> = &'a mut dyn FnMut(&Frames);

impl Extractor {
    /// For sound at `rate_hz`.
    pub fn new(rate_hz: u32) -> Self {
        Self {
            rate_hz: rate_hz as usize,
            spectrum: Spectrum::new(rate_hz),
            repeat: Repeat::new(rate_hz),
            samples_of_codes: std::array::from_fn(|code| mulaw::decode(code as u8)),
            codes: Vec::new(),
            n_measured: 0,
            steady: Steady::default(),
            run: Run::default(),
            seconds: Vec::new(),
        }
    }

    pub(super) fn rate_hz(&self) -> u32 {
        self.rate_hz as u32
    }

    pub(super) fn spectrum(&self) -> &Spectrum {
        &self.spectrum
    }

    /// Takes in the next codes.
    pub(super) fn push(&mut self, codes: &[u8], on_frames: OnFrames<'_>) {
        let mut rest = codes;
        while !rest.is_empty() {
            let room = (REACH_S + BATCH_S) * self.rate_hz + clicks::MARGIN - self.codes.len();
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.codes.extend_from_slice(now);
            rest = later;
            if now.len() == room {
                self.measure(on_frames);
            }
        }
    }

    /// Measures what is left, and gives every second of the stream.
    pub(super) fn finish(mut self, on_frames: OnFrames<'_>) -> Vec<Second> {
        self.measure(on_frames);
        self.end_run();
        self.seconds
    }

    /// Measures all whole seconds that wait.
    fn measure(&mut self, on_frames: OnFrames<'_>) {
        let rate = self.rate_hz;
        let sample = |code: &u8| self.samples_of_codes[usize::from(*code)];
        let samples: Vec<f32> = self.codes.iter().map(sample).collect();
        let n_whole = self.codes.len() / rate;
        let this = &*self;
        let measured: Vec<Measured> = (self.n_measured..n_whole)
            .into_par_iter()
            .map(|i| this.second(&samples, i * rate))
            .collect();
        for measured in measured {
            on_frames(&measured.frames);
            self.add(measured);
        }
        let begin = self.n_measured * rate;
        for at in begin..n_whole * rate {
            self.hold(self.codes[at]);
        }
        let n_kept = n_whole.min(REACH_S);
        self.codes.drain(..(n_whole - n_kept) * rate);
        self.n_measured = n_kept;
    }

    /// Measures the second of `samples` that begins at `start`.
    fn second(&self, samples: &[f32], start: usize) -> Measured {
        let end = start + self.rate_hz;
        let ms = |n: usize| n as f32 * 1e3 / self.rate_hz as f32;
        let own = &samples[start..end];
        let frames = self.spectrum.frames(own);
        let powers = frames.median();
        let Match { likeness, lag } = self
            .repeat
            .best(&samples[start.saturating_sub(REACH_S * self.rate_hz)..end]);
        let Click { ratio, at } = clicks::loudest(&with_margins(samples, start, end));
        let squares: f32 = own.iter().map(|x| x * x).sum();
        let second = Second {
            level_dbfs: db(squares / self.rate_hz as f32),
            treble_dbfs: self.spectrum.treble_dbfs(&powers),
            flatness_db: self.spectrum.flatness_db(&powers),
            step_entropy_bits: step_entropy_bits(&self.codes[start..end]),
            click_ratio: ratio,
            click_at_ms: ms(at),
            repeat: likeness,
            repeat_lag_ms: ms(lag),
            ..Second::default()
        };
        let sums = steady::sums(&frames);
        Measured {
            second,
            frames,
            sums,
        }
    }

    fn add(&mut self, measured: Measured) {
        let n_frames = self.spectrum.frames_per_second();
        let mut second = measured.second;
        if let Some((db, bin)) = self.steady.push(measured.sums, n_frames) {
            second.waver_db = Some(db);
            second.waver_hz = Some(bin as f32 * self.spectrum.bin_hz());
        }
        self.seconds.push(second);
    }

    fn hold(&mut self, code: u8) {
        if code != self.run.code {
            self.end_run();
            let at = self.run.end;
            self.run = Run {
                code,
                begin: at,
                end: at,
            };
        }
        self.run.end += 1;
    }

    /// Notes the run that ends here in the seconds that it touches.
    fn end_run(&mut self) {
        let Run { begin, end, .. } = self.run;
        let rate = self.rate_hz as u64;
        if end - begin < (RUN_MIN_S * rate as f64) as u64 {
            return;
        }
        // A second that it only brushes is not a second of it.
        let part = (end - begin).min(rate) / 2;
        let ms = (end - begin) as f32 * 1e3 / rate as f32;
        for i in begin / rate..end.div_ceil(rate) {
            let inside = end.min((i + 1) * rate) - begin.max(i * rate);
            if inside >= part {
                let held = &mut self.seconds[i as usize].held_ms;
                *held = held.max(ms);
            }
        }
    }
}

/// A stretch and the margin on either side that clicks are judged by; beyond the stream's ends the
/// sound goes on turned about its outermost sample, which is smooth.
fn with_margins(samples: &[f32], start: usize, end: usize) -> Vec<f32> {
    let margin = clicks::MARGIN;
    let turned = |at: usize, other: usize| 2.0 * samples[at] - samples[other];
    let (from, to) = (
        start.saturating_sub(margin),
        (end + margin).min(samples.len()),
    );
    let (n_before, n_behind) = (margin + from - start, end + margin - to);
    let last = samples.len() - 1;
    let mut all = Vec::with_capacity(end - start + 2 * margin);
    all.extend((1..=n_before).rev().map(|i| turned(0, i)));
    all.extend_from_slice(&samples[from..to]);
    all.extend((1..=n_behind).map(|i| turned(last, last - i)));
    all
}

/// Shannon's entropy of the steps from code to code.
fn step_entropy_bits(codes: &[u8]) -> f32 {
    let mut counts = [0; sound::N_STEPS];
    for pair in codes.windows(2) {
        counts[sound::step(pair[0], pair[1])] += 1;
    }
    sound::entropy_bits(&counts, codes.len() as u32 - 1)
}
