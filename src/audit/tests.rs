//! Every feature on a signal that has it and on one that has not, every verdict on damaged sound.

use super::extract::Extractor;
use super::hear::entropy_bits;
use super::reference::quantile;
use super::*;
use crate::mulaw;

const RATE: usize = 16_000;

/// The seconds of a sound at 16 kHz.
fn seconds(samples: &[f32]) -> Vec<Second> {
    let codes: Vec<u8> = samples.iter().map(|x| mulaw::encode(*x).unwrap()).collect();
    let mut extractor = Extractor::new(RATE as u32);
    // Pieces of no round length, as files and models bring them.
    for piece in codes.chunks(1_237) {
        extractor.push(piece, &mut |_| ());
    }
    extractor.finish(&mut |_| ())
}

fn noise(n: usize, peak: f32) -> Vec<f32> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * peak
    };
    (0..n).map(next).collect()
}

fn sine(n: usize, hz: f32, peak: f32) -> Vec<f32> {
    let turn = std::f32::consts::TAU * hz / RATE as f32;
    (0..n).map(|i| (turn * i as f32).sin() * peak).collect()
}

/// Struck strings: every 0.37 s another note, each with harmonics that decay and beat.
fn music(n_seconds: usize) -> Vec<f32> {
    let mut samples = vec![0.0; n_seconds * RATE];
    let mut state = 7u32;
    for start in (0..samples.len()).step_by(RATE * 37 / 100) {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let hz = 110.0 * 2f32.powf((state >> 24) as f32 % 30.0 / 12.0);
        for harmonic in 1..=6 {
            let h = harmonic as f32;
            let turn = std::f32::consts::TAU * hz * h * (1.0 + 3e-4 * h * h) / RATE as f32;
            for (i, sample) in samples[start..].iter_mut().take(2 * RATE).enumerate() {
                let t = i as f32 / RATE as f32;
                let fade = (1.0 - (-t * 200.0).exp()) * (-t * (2.0 + h)).exp();
                *sample += 0.1 / h * fade * (turn * i as f32).sin();
            }
        }
    }
    samples
}

fn verdicts(samples: &[f32]) -> Vec<Vec<Verdict>> {
    Reference::builtin().thresholds.judge(&seconds(samples))
}

/// Which seconds have the verdict.
fn named(samples: &[f32], verdict: Verdict) -> Vec<usize> {
    let all = verdicts(samples).into_iter().enumerate();
    let named = all.filter(|(_, verdicts)| verdicts.contains(&verdict));
    named.map(|(i, _)| i).collect()
}

#[test]
fn a_sine_has_its_level_and_is_not_flat() {
    let second = &seconds(&sine(RATE, 1_000.0, 0.5))[0];
    assert!((second.level_dbfs + 9.03).abs() < 0.2, "{second:?}");
    assert!(second.flatness_db < -25.0, "{second:?}");
    assert!(second.treble_dbfs < -45.0, "{second:?}");
    assert_eq!((second.held_ms, second.waver_db), (0.0, None));
}

#[test]
fn white_noise_is_flat_and_full_of_treble_and_entropy() {
    let second = &seconds(&noise(RATE, 0.3))[0];
    // Uniform on ±0.3: 0.3 / sqrt(3).
    assert!((second.level_dbfs + 15.2).abs() < 0.2, "{second:?}");
    assert!(second.flatness_db > -1.5, "{second:?}");
    assert!(
        (second.treble_dbfs - second.level_dbfs + 3.0).abs() < 2.0,
        "{second:?}"
    );
    assert!(second.step_entropy_bits > 7.0, "{second:?}");
    assert!(second.repeat < 0.1, "{second:?}");
}

#[test]
fn silence_is_one_code_held_from_end_to_end() {
    let mut samples = sine(3 * RATE, 300.0, 0.2);
    samples[RATE - 1_600..2 * RATE + 1_600].fill(0.0);
    let seconds = seconds(&samples);
    // A tenth of a second of the run is not half of one.
    assert_eq!(seconds[0].held_ms, 0.0);
    assert!((seconds[1].held_ms - 1_200.0).abs() < 1.0);
    assert_eq!(seconds[1].step_entropy_bits, 0.0);
    assert!((seconds[1].level_dbfs + 81.3).abs() < 0.1);
}

#[test]
fn a_run_over_the_edge_of_a_batch_is_one_run() {
    let mut samples = sine(50 * RATE, 300.0, 0.2);
    samples[30 * RATE..44 * RATE].fill(0.0);
    let seconds = seconds(&samples);
    assert_eq!(seconds.len(), 50);
    for (i, second) in seconds.iter().enumerate() {
        let is_held = (30..44).contains(&i);
        assert_eq!(second.held_ms > 13_999.0, is_held, "{i}: {second:?}");
    }
}

#[test]
fn an_impulse_is_a_click_where_it_is_and_an_onset_is_none() {
    let mut samples = music(3);
    assert!(seconds(&samples).iter().all(|s| s.click_ratio < 6.0));
    samples[RATE + 4_000] += 0.1;
    let seconds = seconds(&samples);
    assert!(seconds[1].click_ratio > 10.0, "{:?}", seconds[1]);
    assert!((seconds[1].click_at_ms - 250.0).abs() < 0.1);
    assert!(seconds[0].click_ratio < 6.0 && seconds[2].click_ratio < 6.0);
}

#[test]
fn a_click_on_the_edge_of_a_second_is_heard_once() {
    let mut samples = music(3);
    samples[RATE] += 0.1;
    let seconds = seconds(&samples);
    assert!(seconds[0].click_ratio < 6.0, "{:?}", seconds[0]);
    assert!(seconds[1].click_ratio > 10.0, "{:?}", seconds[1]);
}

#[test]
fn a_loop_is_like_itself_at_its_length() {
    let mut samples = music(6);
    let piece = samples[2 * RATE..2 * RATE + 12_345].to_vec();
    for (sample, looped) in samples[2 * RATE..].iter_mut().zip(piece.iter().cycle()) {
        *sample = *looped;
    }
    let seconds = seconds(&samples);
    assert!(seconds[1].repeat < 0.9, "{:?}", seconds[1]);
    assert!(seconds[4].repeat > 0.999, "{:?}", seconds[4]);
    let n_loops = seconds[4].repeat_lag_ms / (12_345.0 / 16.0);
    assert!((n_loops - n_loops.round()).abs() < 1e-3 && n_loops > 0.5);
}

#[test]
fn a_held_tone_does_not_waver_and_a_struck_one_does() {
    let held = seconds(&sine(6 * RATE, 700.0, 0.1));
    assert!(held[4].waver_db.unwrap() < 0.5, "{:?}", held[4]);
    assert!((held[4].waver_hz.unwrap() - 700.0).abs() < 16.0);
    let struck = seconds(&music(6));
    assert!(struck[4].waver_db.unwrap() > 1.0, "{:?}", struck[4]);
}

#[test]
fn clean_sound_has_no_verdict() {
    let verdicts = verdicts(&music(40));
    assert!(verdicts.iter().all(Vec::is_empty), "{verdicts:?}");
}

#[test]
fn damage_is_named_where_it_is_and_for_what_it_is() {
    let mut samples = music(60);
    let at = |s: usize| s * RATE;
    samples[at(5)..at(9)].copy_from_slice(&noise(4 * RATE, 0.25));
    samples[at(15)..at(18)].fill(0.0);
    // Silence but for the last bit.
    samples[at(11)..at(13)].copy_from_slice(&noise(2 * RATE, 1e-4));
    for (place, tone) in samples[at(25)..at(35)]
        .iter_mut()
        .zip(sine(10 * RATE, 1_931.0, 0.05))
    {
        *place += tone;
    }
    let piece = samples[at(40)..at(40) + RATE / 2].to_vec();
    for (place, looped) in samples[at(40)..at(47)].iter_mut().zip(piece.iter().cycle()) {
        *place = *looped;
    }
    for (i, second) in [50, 52, 55].into_iter().enumerate() {
        samples[at(second) + 5_000 * i + 77] = [0.8, -0.3, 0.5][i];
    }
    assert_eq!(named(&samples, Verdict::Noise), [5, 6, 7, 8]);
    assert_eq!(named(&samples, Verdict::Dead), [11, 12, 15, 16, 17]);
    // Where sound is spliced, it may click as well.
    let mut clicks = named(&samples, Verdict::Clicks);
    clicks.retain(|s| *s > 47);
    assert_eq!(clicks, [50, 52, 55]);
    let stuck = named(&samples, Verdict::Stuck);
    assert!(
        (25..35).chain(41..47).all(|s| stuck.contains(&s)),
        "{stuck:?}"
    );
    assert!(
        stuck
            .iter()
            .all(|s| (24..36).contains(s) || (40..48).contains(s))
    );
}

#[test]
fn seconds_in_a_row_become_one_stretch() {
    use Verdict::{Clicks, Noise};
    let verdicts = [vec![Noise], vec![Noise, Clicks], vec![], vec![Noise]];
    let of = |verdict, from_s, to_s| Stretch {
        verdict,
        from_s,
        to_s,
    };
    let expected = [of(Noise, 0, 2), of(Clicks, 1, 2), of(Noise, 3, 4)];
    assert_eq!(stretches(&verdicts), expected);
}

#[test]
fn entropy_is_that_of_the_shares() {
    assert!((entropy_bits(&[0.0; 256], 1.0) - 8.0).abs() < 1e-4);
    assert!(entropy_bits(&[0.0, -50.0, -50.0], 1.0) < 1e-6);
    let halves = [0.0, 0.0, -60.0, -60.0];
    assert!((entropy_bits(&halves, 0.95) - 1.0).abs() < 1e-4);
    // Twice as warm is half the logits.
    let warm = entropy_bits(&[1.0, 0.0, -2.0], 2.0);
    assert!((warm - entropy_bits(&[0.5, 0.0, -1.0], 1.0)).abs() < 1e-6);
    assert_eq!(entropy_bits(&[1.0, 0.0], 0.0), 0.0);
}

#[test]
fn quantiles_lie_between_values() {
    assert_eq!(quantile(&[], 0.5), 0.0);
    assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.5), 2.0);
    assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
    assert_eq!(quantile(&[1.0, 2.0, 4.0], 1.0), 4.0);
}

#[test]
fn the_builtin_reference_is_whole_and_not_looser_than_what_the_model_does() {
    let reference = Reference::builtin();
    assert_eq!(reference.rate_hz, 16_000);
    assert!(reference.n_seconds > 50_000);
    // All but the entropy of draws, which a recording has not.
    assert_eq!(reference.distributions.len(), Feature::ALL.len() - 1);
    for distribution in &reference.distributions {
        let q = distribution.quantiles;
        assert!(q.is_sorted(), "{distribution:?}");
    }
    let Thresholds {
        treble_dbfs,
        held_ms,
        waver_db,
        ..
    } = reference.thresholds;
    // What piano-16k does: noise of -33 dBFS of treble, holes of 2 s, a hung tone that wavers 0.5 dB.
    assert!(treble_dbfs < -35.0 && held_ms < 2_000.0 && waver_db > 0.6);
}

#[test]
fn what_is_faint_is_dead_unless_the_corpus_has_rests_like_it() {
    let mut samples = music(40);
    samples[20 * RATE..23 * RATE].copy_from_slice(&noise(3 * RATE, 1e-3));
    let dead = |reference: &Reference| {
        let verdicts = reference.thresholds.judge(&seconds(&samples));
        verdicts
            .iter()
            .filter(|all| all.contains(&Verdict::Dead))
            .count()
    };
    let reference = |samples: &[f32]| Reference::new(&[seconds(samples)], 16_000, "a test".into());
    assert_eq!(dead(&reference(&music(40))), 3);
    assert_eq!(dead(&reference(&samples)), 0);
    // Rests that are silent to the last bit say nothing of what is merely faint.
    let mut silent = music(40);
    silent[20 * RATE..23 * RATE].fill(0.0);
    assert_eq!(dead(&reference(&silent)), 3);
}

#[test]
fn a_reference_survives_its_file_and_a_foreign_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.json");
    let reference = Reference::new(&[seconds(&music(12))], 16_000, "a test".to_owned());
    // Of so little sound nothing is known that would loosen a threshold but its own clicks.
    let (own, strictest) = (reference.thresholds, Thresholds::STRICTEST);
    assert_eq!(own.held_ms, strictest.held_ms);
    assert_eq!(own.level_dbfs, strictest.level_dbfs);
    reference.write(&path).unwrap();
    assert_eq!(Reference::read(&path).unwrap(), reference);
    for text in ["", "{}", "[1]"] {
        fs::write(&path, text).unwrap();
        let said = Reference::read(&path).unwrap_err().to_string();
        assert!(
            said.contains("r.json") && said.contains("--calibrate"),
            "{said}"
        );
    }
    let mut later = reference;
    later.version += 1;
    later.write(&path).unwrap();
    let said = Reference::read(&path).unwrap_err().to_string();
    assert!(said.contains("version 2"), "{said}");
}

/// A minute of sound, its first seconds noise, as a file.
fn heard(dir: &Path) -> Heard {
    let path = dir.join("x.wav");
    let mut samples = music(20);
    samples[..2 * RATE].copy_from_slice(&noise(2 * RATE, 0.25));
    let format = crate::wav::WavFormat::S16;
    let mut file = crate::wav::WavWriter::create(&path, RATE as u32, format, None).unwrap();
    file.write(&samples).unwrap();
    file.finish().unwrap();
    file_of(&path)
}

fn file_of(path: &Path) -> Heard {
    file(path, 16_000).unwrap()
}

#[test]
fn a_report_holds_what_its_documentation_says() {
    let dir = tempfile::tempdir().unwrap();
    let report = Report::new(&heard(dir.path()), &Reference::builtin());
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(
        (&json["format"], &json["version"]),
        (&"longwave-audit".into(), &1.into())
    );
    assert_eq!(json["rate_hz"], 16_000);
    assert_eq!(json["summary"]["n_seconds"], 20);
    assert_eq!(json["summary"]["n_flagged"], 2);
    assert_eq!(json["summary"]["n_of"]["noise"], 2);
    let stretch = &json["stretches"][0];
    assert_eq!(
        (&stretch["from_s"], &stretch["to_s"]),
        (&0.into(), &2.into())
    );
    let second = &json["seconds"][0];
    assert_eq!(second["verdicts"], serde_json::json!(["noise"]));
    for feature in Feature::ALL {
        let is_absent = matches!(feature, Feature::DrawEntropyBits | Feature::WaverDb);
        assert_eq!(
            second[feature.name()].is_number(),
            !is_absent,
            "{feature:?}"
        );
    }
    assert!(json["seconds"][19]["waver_db"].is_number());
    let beside = &json["distributions"][0];
    assert_eq!(beside["feature"], "level_dbfs");
    assert_eq!(beside["quantiles"].as_array().unwrap().len(), 9);
    assert!(beside["inside"].as_f64().unwrap() <= 1.0);
    let back: Report = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(back.stretches, report.stretches);
}

#[test]
fn what_is_written_is_a_report_an_svg_and_a_png() {
    let dir = tempfile::tempdir().unwrap();
    let heard = heard(dir.path());
    let report = Report::new(&heard, &Reference::builtin());
    let out = dir.path().join("a/b");
    let written = write(&out, &heard, &report).unwrap();
    assert_eq!(written.len(), 3);
    let svg = fs::read_to_string(out.join("timeline.svg")).unwrap();
    let svg = roxmltree::Document::parse(&svg).unwrap();
    let texts: String = svg.descendants().filter_map(|node| node.text()).collect();
    for word in [
        "x.wav",
        "noise: 2 s",
        "level [dBFS]",
        "flatness [dB]",
        "entropy [bits]",
    ] {
        assert!(texts.contains(word), "{word} is missing: {texts}");
    }
    let png = fs::File::open(out.join("spectrogram.png")).unwrap();
    let mut reader = png::Decoder::new(io::BufReader::new(png))
        .read_info()
        .unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert!((640..=1_600).contains(&info.width), "{info:?}");
    // The strip above the first second has the colour of noise, that above the last none.
    assert_eq!(pixels[..3], [213, 94, 0]);
    let last = 3 * (info.width as usize - 1);
    assert_eq!(pixels[last..last + 3], [235; 3]);
}

#[test]
fn pictures_of_long_sound_stay_small() {
    let dir = tempfile::tempdir().unwrap();
    let mut heard = heard(dir.path());
    let seconds = heard.seconds.clone();
    heard.seconds = seconds.into_iter().cycle().take(20_000).collect();
    let report = Report::new(&heard, &Reference::builtin());
    let svg = plot::timeline(&report).unwrap();
    assert!(svg.len() < 600_000, "{} bytes", svg.len());
}

#[test]
fn what_cannot_be_judged_is_told_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("short.wav");
    let format = crate::wav::WavFormat::S16;
    let mut wav = crate::wav::WavWriter::create(&path, 16_000, format, None).unwrap();
    wav.write(&[0.1; 8_000]).unwrap();
    wav.finish().unwrap();
    let said = file(&path, 16_000).unwrap_err().to_string();
    assert!(said.contains("shorter than a second"), "{said}");
    let said = file(&path, 24_000).unwrap_err().to_string();
    assert!(
        said.contains("16000 Hz") && said.contains("24000 Hz"),
        "{said}"
    );
    assert!(said.contains("--corpus"), "{said}");
    let said = Reference::measure(dir.path(), crate::corpus::Split::Valid).unwrap_err();
    assert!(said.to_string().contains("no corpus"), "{said}");
}
