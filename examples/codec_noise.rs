//! What a codec is heard to cost: the noise of its round trip, plain and A-weighted, over a split of
//! a corpus and in its quietest seconds, beside what its codes cost a step of the model.
//!
//! ```sh
//! cargo run --release --example codec_noise -- CORPUS test
//! ```
//!
//! Levels are root mean squares, 0 dBFS that of a square wave at full scale. A second is a frame under
//! half a sine, by halves over the next, so that every sample counts once.

use std::path::PathBuf;
use std::sync::Arc;

use longwave::corpus::{self, Split};
use longwave::predictor::{self, FilterPlan};
use longwave::{mulaw, wav};
use rayon::prelude::*;
use realfft::{RealFftPlanner, RealToComplex};

/// A second at 16 kHz: bins are 1 Hz apart.
const FRAME: usize = 16_000;
/// What one thread takes at a time; filters begin anew with it.
const PIECE: usize = 60 * FRAME;
const EMPHASIS: f64 = 0.85;
/// Of the preset `piano-16k`: its filters, its width, and the weights that a step reads besides the
/// head (1,131,136 parameters without the tables of embeddings and of the head; a byte each in int8).
const TAPS: [usize; 5] = [1024, 1024, 512, 128, 16];
const RATES: [f32; 5] = [0.05, 0.05, 0.1, 0.1, 0.05];
const D: usize = 128;
const BODY: usize = 1_131_136 - 2 * 256 * D;

/// That of `src/mulaw.rs`, and checked against it.
const MULAW8: fn(f64) -> f64 = compand::<255, 256>;
/// Name, draws a sample, codes of each, and there and back.
type Codec = (&'static str, usize, usize, fn(&[f64]) -> Vec<f64>);
const CODECS: [Codec; 7] = [
    ("mulaw8", 1, 256, |x| each(x, MULAW8)),
    ("the same, expected side", 1, 256, expected_side),
    ("mulaw8, emphasis", 1, 256, emphasis_open),
    ("mulaw8, emphasis in loop", 1, 256, emphasis_in_loop),
    ("mulaw10", 1, 1024, |x| each(x, compand::<255, 1024>)),
    ("with mu 1023", 1, 1024, |x| each(x, compand::<1023, 1024>)),
    ("linear, 8 + 8 bits", 2, 256, |x| each(x, linear16)),
];
/// A mean square, plain and A-weighted.
type Power = [f64; 2];
/// Of a frame: the sound, it with emphasis, the noise before de-emphasis, and that of each codec.
type Powers = [Power; 3 + CODECS.len()];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "give a corpus, a split and, if not 10, how many per cent of the seconds are quiet";
    let corpus = PathBuf::from(args.next().ok_or(usage)?);
    let split: Split = args.next().ok_or(usage)?.parse()?;
    let percent: usize = args.next().map_or(Ok(10), |percent| percent.parse())?;
    let meter = Meter::new();
    check(&meter);
    let mut sound: Vec<f64> = Vec::new();
    for path in corpus::files(&corpus, split)? {
        wav::each_block(&path, FRAME as u32, &mut |block| {
            sound.extend(block.iter().map(|&x| f64::from(x)));
        })?;
    }
    let pieces = sound.par_chunks(PIECE).map(|piece| powers(&meter, piece));
    let frames: Vec<Powers> = pieces.flatten_iter().collect();
    // Exact silence is no place between notes.
    let mut quiet = frames.clone();
    quiet.retain(|frame| frame[0][0] > 0.0);
    let n_dead = frames.len() - quiet.len();
    quiet.sort_by(|a, b| a[0][0].total_cmp(&b[0][0]));
    quiet.truncate((quiet.len() * percent / 100).max(1));
    let (all, calm) = (|i| mean(&frames, i), |i| mean(&quiet, i));
    let (n, n_quiet) = (frames.len(), quiet.len());
    println!("{n} frames, {n_quiet} quiet ones, {n_dead} of dead silence, which are not quiet");
    println!("dB (and dBA):   all          the quiet");
    println!("sound           {} {}", show(all(0)), show(calm(0)));
    println!("with emphasis   {} {}", show(all(1)), show(calm(1)));
    let beyond = emphasise(&sound).iter().filter(|y| y.abs() > 1.0).count();
    println!("and beyond full scale: {beyond} of {} samples", sound.len());
    let click = &mut [0.0; FRAME];
    click[FRAME / 2] = 1.0;
    let response = show(over(meter.power(&deemphasise(click)), meter.power(click)));
    let [at_all, at_calm] = [over(all(5), all(2)), over(calm(5), calm(2))].map(show);
    println!("de-emphasis adds {at_all} {at_calm} to the noise of codes");
    println!("                 {response} to white noise, by its response\n");
    println!("| codec | SNR | A | quiet: noise | A | SNR | A | draws | head | of a step |");
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (i, (name, draws, codes, _)) in CODECS.iter().enumerate() {
        let noise = calm(3 + i);
        let levels = [over(all(0), all(3 + i)), noise, over(calm(0), noise)];
        let levels = levels.map(|power| power.map(db).join(" | ")).join(" | ");
        let head = draws * codes * D;
        let (kib, share) = (head / 1024, 100.0 * head as f64 / (BODY + head) as f64);
        println!("| {name} | {levels} | {draws} of {codes} | {kib} KiB | {share:.1} % |");
    }
    println!("\nShares are arithmetic. Bits per sample of different codecs cannot be compared.");
    Ok(())
}

/// Of every frame of a piece.
fn powers(meter: &Meter, piece: &[f64]) -> Vec<Powers> {
    let noise = |got: &[f64], of: &[f64]| got.iter().zip(of).map(|(got, x)| got - x).collect();
    let emphasised = emphasise(piece);
    let before = noise(&each(&emphasised, MULAW8), &emphasised);
    let mut rows: Vec<Vec<f64>> = vec![piece.to_vec(), emphasised, before];
    rows.extend(CODECS.map(|(_, _, _, round_trip)| noise(&round_trip(piece), piece)));
    let starts = (0..(piece.len() + 1).saturating_sub(FRAME)).step_by(FRAME / 2);
    let frame = |start| std::array::from_fn(|i| meter.power(&rows[i][start..][..FRAME]));
    starts.map(frame).collect()
}

fn mean(frames: &[Powers], i: usize) -> Power {
    [0, 1].map(|j| frames.iter().map(|frame| frame[i][j]).sum::<f64>() / frames.len() as f64)
}

fn over(a: Power, b: Power) -> Power {
    [a[0] / b[0], a[1] / b[1]]
}

fn db(ratio: f64) -> String {
    format!("{:.1}", 10.0 * ratio.log10())
}

fn show(power: Power) -> String {
    format!("{} ({})", db(power[0]), db(power[1]))
}

fn each(x: &[f64], mut codec: impl FnMut(f64) -> f64) -> Vec<f64> {
    x.iter().map(|&x| codec(x)).collect()
}

/// Mu-law there and back, of any mu and number of codes.
fn compand<const MU: u32, const CODES: u32>(x: f64) -> f64 {
    let (x, mu, last) = (x.clamp(-1.0, 1.0), f64::from(MU), f64::from(CODES - 1));
    let y = (1.0 + mu * x.abs()).ln().copysign(x) / (1.0 + mu).ln();
    let y = ((y + 1.0) / 2.0 * last + 0.5).floor() / last * 2.0 - 1.0;
    ((1.0 + mu).powf(y.abs()) - 1.0).copysign(y) / mu
}

fn linear16(x: f64) -> f64 {
    (x * 32_768.0).round().clamp(-32_768.0, 32_767.0) / 32_768.0
}

fn emphasise(x: &[f64]) -> Vec<f64> {
    let mut before = 0.0;
    each(x, |x| x - EMPHASIS * std::mem::replace(&mut before, x))
}

fn deemphasise(y: &[f64]) -> Vec<f64> {
    let mut back = 0.0;
    each(y, |y| {
        back = y + EMPHASIS * back;
        back
    })
}

fn emphasis_open(x: &[f64]) -> Vec<f64> {
    deemphasise(&each(&emphasise(x), MULAW8))
}

/// The same decoder, but the encoder takes off what the decoder will put on, not what it ought to:
/// the noise is then that of the codes alone.
fn emphasis_in_loop(x: &[f64]) -> Vec<f64> {
    let mut back = 0.0;
    each(x, |x| {
        back = MULAW8(x - EMPHASIS * back) + EMPHASIS * back;
        back
    })
}

/// mulaw8, each sample on the side of its step where filters that heard the codes before expect it:
/// r₀ of `docs/model.md`, *Prediction*, before it is held.
fn expected_side(x: &[f64]) -> Vec<f64> {
    let plan = TAPS.into_iter().zip(RATES);
    let plan = plan.map(|(taps, rate)| FilterPlan {
        taps,
        rate,
        leak: 0.0,
    });
    let code = |x: &f64| mulaw::encode(*x as f32).expect("finite, as `wav` gives them");
    let codes: Vec<u8> = x.iter().map(code).collect();
    let inputs = [&[mulaw::SILENCE], &codes[..codes.len() - 1]].concat();
    let places = predictor::places(&plan.collect::<Vec<_>>(), &inputs);
    let sample = |(&code, places): (&u8, &[f32])| {
        let (place, off) = (places[TAPS.len() - 1], places[TAPS.len()]);
        // From ⌊log2 s⌋ + s / 2^⌊log2 s⌋ − 1 back to s.
        let octaves = off * 16.0 - 4.0;
        let s = (1.0 + octaves.rem_euclid(1.0)) * octaves.floor().exp2();
        let shift = (place * 256.0 - f32::from(code)).clamp(-0.5, 0.5) / (1.0 + 4.0 * s * s);
        let neighbour = code.saturating_add_signed(shift.signum() as i8);
        let [own, neighbour] = [code, neighbour].map(|code| f64::from(mulaw::decode(code)));
        own + f64::from(shift.abs()) * (neighbour - own)
    };
    let places = places.chunks_exact(TAPS.len() + 1);
    codes.iter().zip(places).map(sample).collect()
}

/// Weighs spectra: a digital filter would bend near half the rate, a table of bins does not.
struct Meter {
    fft: Arc<dyn RealToComplex<f64>>,
    window: Vec<f64>,
    /// What the square of a bin counts for, plain and A-weighted.
    weights: Vec<Power>,
}

impl Meter {
    fn new() -> Self {
        let turn = |i: usize| (i as f64 + 0.5) * std::f64::consts::PI / FRAME as f64;
        // The window halves the power, and every bin but the first and the last stands for two.
        let weight = |bin: usize| {
            let sides = 2 - usize::from(bin.is_multiple_of(FRAME / 2));
            let plain = (2 * sides) as f64 / (FRAME * FRAME) as f64;
            [plain, plain * a_curve(bin as f64) / a_curve(1000.0)]
        };
        Self {
            fft: RealFftPlanner::new().plan_fft_forward(FRAME),
            window: (0..FRAME).map(|i| turn(i).sin()).collect(),
            weights: (0..=FRAME / 2).map(weight).collect(),
        }
    }

    fn power(&self, x: &[f64]) -> Power {
        let mut x: Vec<f64> = x.iter().zip(&self.window).map(|(x, w)| x * w).collect();
        let mut bins = self.fft.make_output_vec();
        self.fft.process(&mut x, &mut bins).expect("as planned");
        let bins = || bins.iter().zip(&self.weights);
        [0, 1].map(|j| bins().map(|(bin, weight)| bin.norm_sqr() * weight[j]).sum())
    }
}

/// The square of the A curve at a frequency, of any scale (IEC 61672-1, annex E).
fn a_curve(hz: f64) -> f64 {
    let [f1, f2, f3, f4] = [20.6, 107.7, 737.9, 12_194.0].map(|pole: f64| hz * hz + pole * pole);
    hz.powi(8) / (f1 * f1 * f2 * f3 * f4 * f4)
}

/// Tones must weigh what IEC 61672-1 says, and mu-law of any size be the model's where it has its size.
fn check(meter: &Meter) {
    let hz = [31.62, 100.0, 251.2, 501.2, 1e3, 1995.3, 3981.1, 7943.3];
    let weights = [-39.4, -19.1, -8.6, -3.2, 0.0, 1.2, 1.0, -1.1];
    for (hz, expected) in hz.iter().zip(weights) {
        let tone = (0..FRAME).map(|i| (std::f64::consts::TAU * hz * i as f64 / FRAME as f64).sin());
        let [plain, a] = meter.power(&tone.collect::<Vec<_>>());
        let got = 10.0 * (a / plain).log10();
        assert!((got - expected).abs() < 0.06, "A at {hz} Hz is {got} dB");
        assert!((plain - 0.5).abs() < 1e-3, "a tone of {hz} Hz has {plain}");
    }
    for x in (-999..=999).map(|i| f64::from(i as f32 / 900.0)) {
        let model = mulaw::encode(x as f32).map(mulaw::decode).map(f64::from);
        let off = MULAW8(x) - model.expect("a finite number");
        assert!(off.abs() < 1e-7, "mu-law of {x} is off by {off}");
    }
}
