//! Whether a stream still is what a listener stays for: looks at the codes as they are drawn.
//!
//! A network that draws its own past can fall out of it: into noise, from which it never finds
//! back, or into silence. The watch measures the last half second every tenth of one, as the audit
//! measures a second, and needs neither a model nor the future. It is lenient: what it calls a
//! collapse has lasted, and no sound of a corpus of piano or of speech is like it. Called by the
//! pump on each chunk that it delivers, and by the audit, which tells when it would have been.
//!
//! Allocates when it is made, and never again.

use serde::{Deserialize, Serialize};

use crate::mulaw;
use crate::sound::{self, N_STEPS, Scratch, Spectrum, db};

/// What is looked at together: long enough for what is short, a hiss of speech or a stroke, to be
/// outnumbered in the median of its spectra.
const WINDOW_S: f64 = 0.5;

/// From one look to the next.
const LOOK_S: f64 = 0.1;

/// Evidence that makes a collapse: four looks in a row that are certain, or twelve that are not. With
/// the quarter of a second that noise needs to become the most of a window, it has then sounded for
/// little more than half a second, or for one and a half. The sharpest hiss of 23 minutes of speech
/// comes to five (to ten, where its sentences follow each other without a breath), 17 hours of piano
/// to none.
const EVIDENCE: u32 = 12;

/// A look that is certain speaks for noise so many times as loudly as one that is not.
const CERTAIN: u32 = 3;

/// A spectrum whiter than this is noise: white noise has -0.3 dB, the sharpest hiss of speech
/// hardly reaches -2 dB, and the piano corpus stays below -13 dB.
const WHITE_DB: f32 = -1.5;

/// A spectrum whiter than this may be noise, or a hiss.
const WHITISH_DB: f32 = -7.0;

/// More treble than this is noise, if the steps are as uncertain as those of noise and the spectrum
/// is not that of tones: a model that has lost itself has -31 dBFS, 7.2 bits and -5 dB; piano at its
/// loudest -45 dBFS, at its densest 7.0 bits, at its whitest -13 dB.
const TREBLE_MAX_DBFS: f32 = -38.0;
const STEP_ENTROPY_BITS: f32 = 6.5;
const TONAL_DB: f32 = -12.0;

/// Quieter treble than this is the codes' own rounding, which is white under whatever fades away.
const TREBLE_MIN_DBFS: f32 = -68.0;

/// Silence until it is a collapse: rests of music last up to four seconds.
const DEAD_S: f64 = 6.0;

/// A rest that is so long begins to be suspicious.
const REST_S: f64 = 2.0;

/// What is fainter is silence, a held code of any value or the faintest dither (-81 dBFS).
const FAINT_DBFS: f32 = -78.0;

/// What became of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Collapse {
    /// It rushes.
    Noise,
    /// It is silent.
    Dead,
}

/// How a stream sounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing is wrong with it.
    Good,
    /// What it does now it should not do for long.
    Suspicious,
    /// It did so for too long.
    Collapsed(Collapse),
}

/// What is measured of a window.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// Root mean square about the mean: a held code has none, whichever it is.
    pub level_dbfs: f32,
    /// See [`Spectrum::treble_dbfs`], of the median spectrum.
    pub treble_dbfs: f32,
    /// See [`Spectrum::flatness_db`], of the median spectrum.
    pub flatness_db: f32,
    /// Of the steps from one code to the next.
    pub step_entropy_bits: f32,
}

/// What was heard last, and how it looked.
#[derive(Debug)]
pub struct Watch {
    spectrum: Spectrum,
    scratch: Scratch,
    samples_of_codes: Box<[f32; 256]>,
    /// The window, hop after hop, the newest in the place of the oldest. A hop is half a frame.
    codes: Box<[u8]>,
    /// Codes in it that are newer than the last hop.
    n_waiting: usize,
    /// Hops heard, all in all.
    n_hops: u64,
    /// The samples of the last two hops.
    frame: Box<[f32]>,
    /// `[hops, bins]`, each of the frame that ends with it.
    powers: Box<[f32]>,
    /// What the medians are found with.
    column: Box<[f32]>,
    median: Box<[f32]>,
    counts: Box<[u32; N_STEPS]>,
    hops_per_look: u64,
    looks_per_s: f64,
    /// How much in the last looks speaks for noise.
    evidence: u32,
    /// Looks in a row at silence.
    n_faint: u32,
}

impl Watch {
    /// For codes of sound at `rate_hz`.
    pub fn new(rate_hz: u32) -> Self {
        let spectrum = Spectrum::new(rate_hz);
        let (frame_len, n_bins) = (spectrum.frame_len(), spectrum.n_bins());
        let hop_len = frame_len / 2;
        let hops = |s: f64| (s * f64::from(rate_hz) / hop_len as f64).round().max(1.0);
        let (n_hops, hops_per_look) = (hops(WINDOW_S) as usize, hops(LOOK_S));
        let samples = std::array::from_fn(|code| mulaw::decode(code as u8));
        Self {
            scratch: spectrum.scratch(),
            spectrum,
            samples_of_codes: Box::new(samples),
            codes: vec![mulaw::SILENCE; n_hops * hop_len].into(),
            n_waiting: 0,
            n_hops: 0,
            frame: vec![0.0; frame_len].into(),
            powers: vec![0.0; n_hops * n_bins].into(),
            column: vec![0.0; n_hops].into(),
            median: vec![0.0; n_bins].into(),
            counts: Box::new([0; N_STEPS]),
            hops_per_look: hops_per_look as u64,
            looks_per_s: f64::from(rate_hz) / (hops_per_look * hop_len as f64),
            evidence: 0,
            n_faint: 0,
        }
    }

    /// Forgets what it has heard: what comes next is of another stream.
    pub fn reset(&mut self) {
        (self.n_waiting, self.n_hops) = (0, 0);
        (self.evidence, self.n_faint) = (0, 0);
    }

    /// Takes in what was drawn, and says how the stream sounds; `look` sees every look at it.
    pub fn hear(&mut self, codes: &[u8], look: &mut dyn FnMut(&Look)) -> Judgement {
        let hop_len = self.frame.len() / 2;
        let n_window = self.codes.len() / hop_len;
        let mut rest = codes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(hop_len - self.n_waiting));
            let start = (self.n_hops as usize % n_window) * hop_len + self.n_waiting;
            self.codes[start..start + now.len()].copy_from_slice(now);
            self.n_waiting += now.len();
            if self.n_waiting == hop_len {
                self.end_hop(look);
            }
            rest = later;
        }
        self.judgement()
    }

    fn end_hop(&mut self, see: &mut dyn FnMut(&Look)) {
        let hop_len = self.n_waiting;
        let n_window = self.codes.len() / hop_len;
        let at = self.n_hops as usize % n_window;
        self.frame.copy_within(hop_len.., 0);
        let codes = &self.codes[at * hop_len..][..hop_len];
        for (sample, code) in self.frame[hop_len..].iter_mut().zip(codes) {
            *sample = self.samples_of_codes[usize::from(*code)];
        }
        let n_bins = self.median.len();
        let powers = self.spectrum.powers(&self.frame, &mut self.scratch);
        for (place, power) in self.powers[at * n_bins..].iter_mut().zip(powers) {
            *place = power;
        }
        self.n_waiting = 0;
        self.n_hops += 1;
        // The first frame of all is half of what was before it.
        if self.n_hops > n_window as u64 && self.n_hops.is_multiple_of(self.hops_per_look) {
            let look = self.look();
            see(&look);
            self.evidence = match look.evidence() {
                0 => 0,
                n => self.evidence.saturating_add(n),
            };
            self.n_faint = match look.level_dbfs < FAINT_DBFS {
                true => self.n_faint.saturating_add(1),
                false => 0,
            };
        }
    }

    fn look(&mut self) -> Look {
        sound::median(&self.powers, &mut self.column, &mut self.median);
        self.counts.fill(0);
        let (mut sum, mut squares) = (0.0f64, 0.0f64);
        let mut last = self.codes[0];
        // In the order of memory: one step, at the seam, never was.
        for &code in &*self.codes {
            self.counts[sound::step(last, code)] += 1;
            last = code;
            let sample = f64::from(self.samples_of_codes[usize::from(code)]);
            sum += sample;
            squares += sample * sample;
        }
        let n = self.codes.len() as f64;
        Look {
            level_dbfs: db((squares / n - (sum / n).powi(2)) as f32),
            treble_dbfs: self.spectrum.treble_dbfs(&self.median),
            flatness_db: self.spectrum.flatness_db(&self.median),
            step_entropy_bits: sound::entropy_bits(&*self.counts, self.codes.len() as u32),
        }
    }

    fn judgement(&self) -> Judgement {
        let looks = |s: f64| ((s - WINDOW_S) * self.looks_per_s) as u32;
        if self.evidence >= EVIDENCE {
            Judgement::Collapsed(Collapse::Noise)
        } else if self.n_faint > looks(DEAD_S) {
            Judgement::Collapsed(Collapse::Dead)
        } else if self.evidence > 0 || self.n_faint > looks(REST_S) {
            Judgement::Suspicious
        } else {
            Judgement::Good
        }
    }
}

impl Look {
    /// How much it speaks for noise.
    fn evidence(&self) -> u32 {
        let is_heard = self.treble_dbfs > TREBLE_MIN_DBFS;
        let is_loud = self.treble_dbfs > TREBLE_MAX_DBFS;
        let rushes = self.step_entropy_bits > STEP_ENTROPY_BITS && self.flatness_db > TONAL_DB;
        if (is_heard && self.flatness_db > WHITE_DB) || (is_loud && rushes) {
            CERTAIN
        } else if is_heard && self.flatness_db > WHITISH_DB {
            1
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests;
