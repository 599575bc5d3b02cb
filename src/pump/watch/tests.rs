//! The watch on sounds that are what they are called.

use assert_no_alloc::assert_no_alloc;

use super::*;
use crate::engine::uniform;

const RATE: usize = 16_000;
const CHUNK: usize = 320;

/// What the watch says chunk after chunk.
fn judgements(samples: &[f32]) -> Vec<Judgement> {
    let codes: Vec<u8> = samples.iter().map(|x| mulaw::encode(*x).unwrap()).collect();
    let mut watch = Watch::new(RATE as u32);
    let judge = |chunk: &[u8]| watch.hear(chunk, &mut |_| ());
    codes.chunks(CHUNK).map(judge).collect()
}

/// The first collapse, and when it is noticed, in seconds.
fn collapse(samples: &[f32]) -> Option<(Collapse, f64)> {
    let all = judgements(samples).into_iter().zip(1..);
    all.into_iter().find_map(|(judgement, n)| match judgement {
        Judgement::Collapsed(collapse) => Some((collapse, (n * CHUNK) as f64 / RATE as f64)),
        _ => None,
    })
}

/// White, of this level.
fn noise(seconds: f64, level_dbfs: f32) -> Vec<f32> {
    let peak = 3f32.sqrt() * 10f32.powf(level_dbfs / 20.0);
    let samples = 0..(seconds * RATE as f64) as u64;
    samples
        .map(|at| (2.0 * uniform(1, at) - 1.0) * peak)
        .collect()
}

fn sine(seconds: f64, hz: f32, peak: f32) -> Vec<f32> {
    let samples = 0..(seconds * RATE as f64) as u64;
    let turn = std::f32::consts::TAU * hz / RATE as f32;
    samples.map(|at| (turn * at as f32).sin() * peak).collect()
}

/// A chord, struck and let ring.
fn chord(seconds: f64) -> Vec<f32> {
    let partial = |hz: f32, h: f32| {
        let fade = move |t: f32| (1.0 - (-200.0 * t).exp()) * (-t * (0.3 + 0.4 * h)).exp() / h;
        let sine = sine(seconds, hz * h, 0.12).into_iter().enumerate();
        sine.map(move |(at, x)| x * fade(at as f32 / RATE as f32))
    };
    let mut all = vec![0.0; (seconds * RATE as f64) as usize];
    for hz in [220.0, 277.2, 329.6] {
        for h in 1..=8 {
            let partial = partial(hz, h as f32);
            all.iter_mut().zip(partial).for_each(|(sum, x)| *sum += x);
        }
    }
    all
}

/// The two quietest codes at random.
fn dither(seconds: f64) -> Vec<f32> {
    let samples = 0..(seconds * RATE as f64) as u64;
    let faintest = mulaw::decode(mulaw::SILENCE);
    samples
        .map(|at| {
            if uniform(2, at) < 0.5 {
                faintest
            } else {
                -faintest
            }
        })
        .collect()
}

#[test]
fn a_tone_and_a_chord_that_dies_away_are_good_to_the_last() {
    let good = [Judgement::Good];
    for sound in [
        sine(5.0, 440.0, 0.5),
        sine(5.0, 60.0, 0.01),
        sine(5.0, 3_000.0, 1.0),
    ] {
        assert!(judgements(&sound).iter().all(|j| good.contains(j)));
    }
    // Down to where there is nothing left but the codes' own rounding.
    assert!(judgements(&chord(11.0)).iter().all(|j| good.contains(j)));
}

#[test]
fn white_noise_of_any_level_that_is_heard_is_noticed_in_little_more_than_half_a_second() {
    for level_dbfs in [-6.0, -20.0, -40.0, -50.0, -59.0] {
        let mut sound = chord(3.0);
        sound.extend(noise(2.0, level_dbfs));
        let (what, at_s) = collapse(&sound).unwrap();
        assert_eq!(what, Collapse::Noise);
        assert!((3.3..=3.7).contains(&at_s), "{level_dbfs} dBFS: {at_s} s");
    }
}

#[test]
fn noise_from_the_very_beginning_is_noticed_as_well() {
    let (_, at_s) = collapse(&noise(3.0, -20.0)).unwrap();
    assert!(at_s < 1.1, "{at_s}");
}

#[test]
fn a_hiss_is_no_collapse_however_often() {
    let mut speech = Vec::new();
    for at in 0..20 {
        speech.extend(sine(0.25, 150.0 + 10.0 * at as f32, 0.2));
        speech.extend(noise(0.2, -20.0));
    }
    assert_eq!(collapse(&speech), None);
}

#[test]
fn clicks_are_no_collapse() {
    let mut sound = chord(10.0);
    sound.iter_mut().step_by(4_000).for_each(|x| *x = 0.9);
    assert_eq!(collapse(&sound), None);
    let mut clicks = dither(5.0);
    clicks.iter_mut().step_by(4_000).for_each(|x| *x = 0.5);
    assert_eq!(collapse(&clicks), None);
}

#[test]
fn a_rest_is_none_and_silence_without_an_end_is_one_whatever_it_is_made_of() {
    let held = |seconds: f64, sample| vec![sample; (seconds * RATE as f64) as usize];
    let silences = [dither as fn(f64) -> Vec<f32>, |s| {
        vec![0.0; (s * RATE as f64) as usize]
    }];
    for silence in silences {
        let rest = [chord(2.0), silence(4.0), chord(2.0)].concat();
        assert_eq!(collapse(&rest), None);
    }
    let long = [dither(8.0), held(8.0, 0.0), held(8.0, 0.7), held(8.0, -1.0)];
    for silence in long {
        let (what, at_s) = collapse(&[chord(2.0), silence].concat()).unwrap();
        assert_eq!(what, Collapse::Dead);
        assert!((7.9..8.4).contains(&at_s), "{at_s}");
    }
}

#[test]
fn what_may_become_a_collapse_is_suspicious_before() {
    let at = |seconds: f64| (seconds * RATE as f64) as usize / CHUNK;
    let all = judgements(&[chord(2.0), dither(5.0), chord(2.0)].concat());
    assert!(all[..at(3.9)].iter().all(|j| *j == Judgement::Good));
    assert!(
        all[at(4.3)..at(6.9)]
            .iter()
            .all(|j| *j == Judgement::Suspicious)
    );
    assert!(all[at(7.3)..].iter().all(|j| *j == Judgement::Good));
    let all = judgements(&[chord(2.0), noise(0.4, -20.0), chord(2.0)].concat());
    assert!(all[at(2.0)..at(3.0)].contains(&Judgement::Suspicious));
    assert_eq!(all.last(), Some(&Judgement::Good));
}

#[test]
fn a_watch_that_was_reset_has_heard_nothing() {
    let mut watch = Watch::new(RATE as u32);
    let encoded = |samples: Vec<f32>| -> Vec<u8> {
        samples.iter().map(|x| mulaw::encode(*x).unwrap()).collect()
    };
    let noise = encoded(noise(1.5, -10.0));
    let collapsed = Judgement::Collapsed(Collapse::Noise);
    assert_eq!(watch.hear(&noise, &mut |_| ()), collapsed);
    watch.reset();
    let mut n_looks = 0;
    assert_no_alloc(|| {
        assert_eq!(
            watch.hear(&noise[..8_000], &mut |_| n_looks += 1),
            Judgement::Good
        );
    });
    assert_eq!(n_looks, 0);
    let chord = encoded(chord(3.0));
    assert_eq!(watch.hear(&chord, &mut |_| n_looks += 1), Judgement::Good);
    assert!((20..40).contains(&n_looks), "{n_looks}");
}

#[test]
fn other_rates_are_watched_alike() {
    for rate_hz in [8_000, 24_000, 44_100, 48_000] {
        let mut watch = Watch::new(rate_hz);
        let codes = (0..u64::from(rate_hz) * 2).map(|at| (uniform(3, at) * 256.0) as u8);
        let codes: Vec<u8> = codes.collect();
        let mut chunks = codes.chunks(rate_hz as usize / 50).enumerate();
        let noticed = chunks.find(|(_, chunk)| watch.hear(chunk, &mut |_| ()) != Judgement::Good);
        let at_s = noticed.unwrap().0 as f64 / 50.0;
        assert!((0.4..0.8).contains(&at_s), "{rate_hz} Hz: {at_s}");
    }
}
