//! `longwave audit` as a person or a script meets it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const CONFIG: i32 = 78;
const USAGE: i32 = 64;
const RATE: u32 = 16_000;

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longwave"));
    command
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn refused(code: i32, arguments: &[&str], words: &[&str]) {
    let output = run(arguments);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    let sentence = said.lines().last().unwrap_or_default();
    for word in words {
        assert!(sentence.contains(word), "{word} is missing: {said}");
    }
}

/// Notes that swell and fade, three seconds each; noise from `noise_from` on.
fn wav(path: &Path, n_seconds: u32, noise_from: u32) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: RATE,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    let mut state = 1u32;
    for frame in 0..n_seconds * RATE {
        let t = frame as f32 / RATE as f32;
        let fade = (1.0 - (t / 3.0).fract()) * (t / 3.0).fract() * 4.0;
        let note = 220.0 * 2f32.powf((t / 3.0).floor() * 5.0 % 12.0 / 12.0);
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let hiss = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
        let sample = match frame < noise_from * RATE {
            true => 0.2 * fade * (t * note * std::f32::consts::TAU).sin(),
            false => 0.25 * hiss,
        };
        writer.write_sample((sample * 32_767.0) as i16).unwrap();
    }
    writer.finalize().unwrap();
}

#[test]
fn a_recording_is_judged_and_strictness_is_an_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("long.wav");
    wav(&file, 12, 9);
    let output = run(&["audit", text(&file)]);
    assert!(output.status.success(), "{}", said(&output));
    let page = String::from_utf8(output.stdout).unwrap();
    for words in [
        "0:00:09 - 0:00:12",
        "noise",
        "stepped in once",
        "flatness_db",
        "piano",
    ] {
        assert!(page.contains(words), "{words} is missing: {page}");
    }
    let report = dir.path().join("long.audit/report.json");
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(report["format"], "longwave-audit");
    assert_eq!(report["summary"]["n_of"]["noise"], 3);
    assert_eq!(report["alarms"].as_array().unwrap().len(), 1);
    assert_eq!(report["alarms"][0]["collapse"], "noise");
    let noticed_at = report["alarms"][0]["at_s"].as_f64().unwrap();
    assert!(noticed_at > 9.3 && noticed_at < 9.7, "{noticed_at}");
    for name in ["timeline.svg", "spectrogram.png"] {
        assert!(dir.path().join("long.audit").join(name).is_file(), "{name}");
    }

    let strict = ["audit", text(&file), "--strict", "--json"];
    let output = run(&strict);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("of 12 seconds are named"));
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, report);
}

#[test]
fn a_corpus_is_measured_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        wav(&dir.path().join(format!("corpus/valid/{name}.wav")), 20, 99);
    }
    let (corpus, kept) = (dir.path().join("corpus"), dir.path().join("kept.json"));
    let output = run(&[
        "audit",
        "--corpus",
        text(&corpus),
        "--calibrate",
        text(&kept),
    ]);
    assert!(output.status.success(), "{}", said(&output));
    let file = corpus.join("valid/a.wav");
    let out = dir.path().join("out");
    let output = run(&[
        "audit",
        text(&file),
        "--reference",
        text(&kept),
        "--output",
        text(&out),
        "--strict",
    ]);
    assert!(output.status.success(), "{}", said(&output));
    let report: Value =
        serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(report["reference"]["n_seconds"], 40);
    assert_eq!(report["summary"]["n_flagged"], 0);
    let level = &report["distributions"][0];
    assert_eq!(level["quantiles"][4], level["reference"][4]);
}

#[test]
fn a_model_is_judged_while_it_draws() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = [
        "audit",
        "-m",
        "models/tiny",
        "--minutes",
        "0.05",
        "--seed",
        "3",
    ];
    let out = dir.path().join("out");
    let output = run(&[&arguments[..], &["--output", text(&out), "--json"]].concat());
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("seed 3"), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["summary"]["n_seconds"], 3);
    assert_eq!(report["source"]["model"]["seed"], 3);
    for second in report["seconds"].as_array().unwrap() {
        let bits = second["draw_entropy_bits"].as_f64().unwrap();
        assert!((0.0..=8.0).contains(&bits), "{bits}");
    }

    // What was drawn is what `render` writes with the same seed.
    let file = dir.path().join("same.wav");
    let render = [
        "render",
        "-m",
        "models/tiny",
        "-s",
        "3",
        "--seed",
        "3",
        "-o",
        text(&file),
    ];
    assert!(run(&render).status.success());
    let output = run(&["audit", text(&file), "--json"]);
    let mut other: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (second, drawn) in other["seconds"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .zip(report["seconds"].as_array().unwrap())
    {
        second["draw_entropy_bits"] = drawn["draw_entropy_bits"].clone();
        assert_eq!(second, drawn);
    }
}

/// Many at once are what each is alone.
#[test]
fn streams_drawn_side_by_side_are_judged_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    wav(&path("a.wav"), 1, 1);
    wav(&path("b.wav"), 2, 1);
    let (a, b, all) = (path("a.wav"), path("b.wav"), path("all"));
    let drawn = ["audit", "-m", "models/tiny", "--minutes", "0.05"];
    let many = [
        "--seed",
        "3",
        "--seeds",
        "2",
        "--prompts",
        text(&a),
        text(&b),
        "-o",
        text(&all),
    ];
    let output = run(&[&drawn[..], &many].concat());
    assert!(output.status.success(), "{}", said(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    let row = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap();
    let seconds = |name| row(name).split_whitespace().nth(1).unwrap();
    assert_eq!(["a-3", "a-4", "b-3", "b-4"].map(seconds), ["3"; 4]);
    assert_eq!(seconds("all"), "12");

    let one = path("one");
    let alone = ["--seed", "4", "--prompt", text(&b), "-o", text(&one)];
    assert!(run(&[&drawn[..], &alone].concat()).status.success());
    let report = |dir: &Path| -> Value {
        let mut report: Value =
            serde_json::from_slice(&fs::read(dir.join("report.json")).unwrap()).unwrap();
        let seconds = report["seconds"].as_array_mut().unwrap();
        // Told of a stream alone.
        for second in seconds {
            second.as_object_mut().unwrap().remove("draw_entropy_bits");
        }
        report
    };
    let (beside, alone) = (report(&all.join("b-4")), report(&one));
    assert_eq!(beside["source"], alone["source"]);
    assert_eq!(beside["seconds"], alone["seconds"]);
}

#[test]
fn what_cannot_be_judged_is_refused_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(
        path("notes.wav"),
        "no sound, though long enough for a header of WAV",
    )
    .unwrap();
    refused(
        CONFIG,
        &["audit", text(&path("notes.wav"))],
        &["not a WAV file"],
    );
    refused(
        CONFIG,
        &["audit", text(&path("none.wav"))],
        &["none.wav", "No such file"],
    );
    wav(&path("empty.wav"), 0, 0);
    refused(
        CONFIG,
        &["audit", text(&path("empty.wav"))],
        &["shorter than a second"],
    );
    wav(&path("good.wav"), 2, 9);
    let good = text(&path("good.wav")).to_owned();
    let none = text(&path("none")).to_owned();
    refused(
        CONFIG,
        &["audit", &good, "--corpus", &none],
        &["is no corpus", "prepare"],
    );
    refused(
        CONFIG,
        &["audit", &good, "--reference", &good],
        &["no reference", "--calibrate"],
    );
    let mut other = fs::read(path("good.wav")).unwrap();
    other[24..28].copy_from_slice(&48_000u32.to_le_bytes());
    fs::write(path("other.wav"), other).unwrap();
    let other = text(&path("other.wav")).to_owned();
    refused(
        CONFIG,
        &["audit", &other],
        &["48000 Hz", "16000 Hz", "--corpus"],
    );
    // Nothing was made for any of them.
    assert!(!path("other.audit").exists() && !path("notes.audit").exists());
}

#[test]
fn what_is_asked_for_must_make_sense() {
    refused(USAGE, &["audit"], &["required"]);
    refused(
        USAGE,
        &["audit", "a.wav", "--minutes", "1"],
        &["cannot be used with"],
    );
    refused(
        USAGE,
        &["audit", "a.wav", "--model", "tiny"],
        &["cannot be used with"],
    );
    refused(USAGE, &["audit", "--minutes", "0"], &["above 0"]);
    refused(USAGE, &["audit", "a.wav", "--split", "test"], &["--corpus"]);
    refused(USAGE, &["audit", "--calibrate", "r.json"], &["--corpus"]);
    refused(
        USAGE,
        &["audit", "a.wav", "--prompts", "b.wav"],
        &["cannot be used with"],
    );
    refused(
        USAGE,
        &["audit", "--minutes", "1", "--seeds", "0"],
        &["1..=256"],
    );
    refused(
        CONFIG,
        &["audit", "--minutes", "1", "--prompts", "a/x.wav", "b/x.wav"],
        &["a/x.wav and b/x.wav have one name", "rename one"],
    );
    let many = ["--seeds", "129", "--prompts", "a.wav", "b.wav"];
    refused(
        CONFIG,
        &[&["audit", "--minutes", "1"], &many[..]].concat(),
        &["258 streams", "256 are drawn at most"],
    );
}
