//! `longwave train` and `longwave eval` as a person meets them: a corpus of tones, a very small
//! model, and everything that stands in a run's directory afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const RATE_HZ: u32 = 8_000;
const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const CONFIG: i32 = 78;

/// A directory with a corpus of tones and the shapes of a small model.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (split, seconds) in [("train", 4), ("valid", 9)] {
        let folder = dir.path().join("corpus").join(split);
        fs::create_dir_all(&folder).unwrap();
        wav(&folder.join("tone.wav"), RATE_HZ, seconds);
    }
    let config = json!({
        "d_model": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "mlp_ratio": 2,
        "conv_width": 3, "stride": 4, "context": 16, "pattern": ["local", "strided"],
        "rope_period": 32, "rope_harmonics": [7, 3, 2, 1], "sample_rate": RATE_HZ,
        "codec": "mulaw8", "norm_eps": 1e-5
    });
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

fn wav(path: &Path, rate_hz: u32, seconds: u32) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: rate_hz,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for frame in 0..seconds * rate_hz {
        let tone = (frame as f32 * 440.0 * std::f32::consts::TAU / rate_hz as f32).sin();
        writer.write_sample((tone * 8_000.0) as i16).unwrap();
    }
    writer.finalize().unwrap();
}

fn longwave(dir: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longwave"));
    command
        .args(line.split(' '))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(dir: &Path, line: &str) -> Output {
    longwave(dir, line).output().unwrap()
}

fn succeed(dir: &Path, line: &str) -> Output {
    let output = run(dir, line);
    assert!(output.status.success(), "{line}: {}", said(&output));
    output
}

fn refused(dir: &Path, code: i32, line: &str, words: &[&str]) {
    ends(longwave(dir, line), code, line, words);
}

/// Holds a command to its exit code and to one last sentence with `words` in it.
fn ends(mut command: Command, code: i32, line: &str, words: &[&str]) {
    let output = command.output().unwrap();
    let said = said(&output);
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(code), "{line}: {said}");
    assert!(last.starts_with("longwave: "), "{line}: {said}");
    for word in words {
        assert!(last.contains(word), "{word} is missing: {last}");
    }
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The options of a training that takes a second or two.
const QUICK: &str = "--config config.json --window 300 --batch 2 --lr 0.01 --warmup 10 \
                     --render-seconds 0.2 --device cpu";

fn quick(rest: &str) -> String {
    format!("train corpus --output run {QUICK} {rest}")
}

fn metrics(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("run/metrics.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn bits(metrics: &[Value]) -> Vec<f64> {
    metrics.iter().filter_map(|m| m["bits"].as_f64()).collect()
}

fn samples(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("run/samples")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_training_leaves_a_model_that_plays_and_can_be_measured() {
    let place = place();
    let dir = place.path();
    let output = succeed(dir, &quick("--samples 80000"));
    let words = said(&output);
    assert!(words.contains("longwave play -m run/model"), "{words}");
    let bits = bits(&metrics(dir));
    assert!(bits[0] > bits[bits.len() - 1] + 1.0, "{bits:?}");
    let svg = fs::read_to_string(dir.join("run/curves.svg")).unwrap();
    roxmltree::Document::parse(&svg).unwrap();
    let [sample] = &samples(dir)[..] else {
        panic!("one sample at the end");
    };
    let length = hound::WavReader::open(sample).unwrap().duration();
    assert_eq!(length, RATE_HZ / 5);

    succeed(dir, "render -m run/model -s 0.2 -o out.wav --seed 1");
    assert!(dir.join("out.wav").exists());
    let output = succeed(
        dir,
        "eval run/model corpus --windows 2 --context --plot plots --json",
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let measured = report["bits"][0]["bits_per_sample"].as_f64().unwrap();
    assert!((0.0..7.0).contains(&measured), "{report}");
    assert_eq!(report["bits"][0]["split"], "valid");
    assert_eq!(report["context"]["points"][1]["context"], 1_024);
    assert!(dir.join("plots/context.svg").exists());
    let output = succeed(dir, "eval run/model corpus --windows 1");
    let words = said(&output);
    assert!(words.contains("--device auto: the "), "{words}");
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(
        page.starts_with("valid ") && page.contains("bits per sample"),
        "{page}"
    );
}

#[test]
fn ctrl_c_saves_and_resume_goes_on_to_what_it_would_have_been() {
    let place = place();
    let dir = place.path();
    let line = quick("--samples 300000 --render-every 0");
    let child = longwave(dir, &line).spawn().unwrap();
    wait_for_metrics(dir);
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("--resume"), "{}", said(&output));
    let last = metrics(dir).pop().unwrap()["iteration"].as_u64().unwrap();
    let all = 300_000_u64.div_ceil(600);
    assert!((1..all).contains(&last), "{last}");

    succeed(dir, "train --output run --resume");
    let last = metrics(dir).pop().unwrap()["iteration"].as_u64().unwrap();
    assert_eq!(last, all);
    let resumed = fs::read(dir.join("run/model/model.safetensors")).unwrap();
    let whole = line.replace("--output run", "--output whole");
    succeed(dir, &whole);
    let whole = fs::read(dir.join("whole/model/model.safetensors")).unwrap();
    assert!(resumed == whole, "the interruption is heard");
}

fn wait_for_metrics(dir: &Path) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let has_begun = || {
        let text = fs::read_to_string(dir.join("run/metrics.jsonl"));
        text.is_ok_and(|text| text.contains("\"bits\""))
    };
    while !has_begun() {
        assert!(Instant::now() < deadline, "no iteration in a minute");
        thread::sleep(Duration::from_millis(5));
    }
}

fn interrupt(child: &Child) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn what_cannot_be_trained_is_refused_in_one_sentence() {
    let place = place();
    let dir = place.path();
    let train = |options: &str| format!("train corpus --output run {options}");
    refused(dir, USAGE, &train("--minutes 1 --batch 0"), &["batch is 0"]);
    refused(dir, USAGE, &train("--config config.json"), &["--minutes"]);
    let tiny = train("--preset tiny --device cpu");
    refused(
        dir,
        CONFIG,
        &tiny,
        &["8000 Hz", "longwave prepare --rate 16000"],
    );
    let none = tiny.replace("corpus", "no-such-corpus");
    refused(dir, CONFIG, &none, &["no-such-corpus", "longwave prepare"]);
    let long = quick("--samples 1000").replace("--window 300", "--window 99999");
    refused(dir, CONFIG, &long, &["fewer than a window"]);
    let resume = "train --output run --resume";
    refused(dir, USAGE, resume, &["without --resume"]);
    assert!(!dir.join("run").exists());
    if cfg!(not(feature = "train-cuda")) {
        let cuda = train("--device cuda:0 --minutes 1");
        refused(dir, USAGE, &cuda, &["--features train-cuda"]);
    }

    succeed(dir, &quick("--samples 1000 --render-every 0"));
    refused(
        dir,
        USAGE,
        &quick("--samples 1000"),
        &["--resume", "--output"],
    );
    let other = "train --output run --resume --preset tiny";
    refused(dir, CONFIG, other, &["another architecture", "d_model"]);
    refused(dir, CONFIG, "eval run/model corpus --split test", &["test"]);
    fs::write(dir.join("run/checkpoint/state.safetensors"), "torn").unwrap();
    refused(dir, CONFIG, resume, &["state.safetensors is damaged"]);
}

/// `ulimit -f` stands in for a full disk: both end a write in the middle of a file.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_takes_no_more_ends_in_a_sentence_and_the_code_to_try_again() {
    let place = place();
    let dir = place.path();
    // 8 KiB: SIGXFSZ is ignored, EFBIG is not.
    let cramped = |line: &str, words: &[&str]| {
        let inner = longwave(dir, line);
        let mut command = Command::new("bash");
        command
            .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "bash"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .current_dir(dir)
            .stdin(Stdio::null());
        ends(command, UNAVAILABLE, line, words);
    };
    let line = quick("--samples 1000 --render-every 0");
    cramped(&line, &["state.safetensors", "File too large", "--resume"]);
    succeed(dir, &line);
    let more = "train --output run --resume --samples 3000";
    cramped(more, &["state.safetensors", "File too large", "--resume"]);
    succeed(dir, more);
    cramped("render -m run/model -s 9 -o out.wav", &["out.wav"]);
    let names = fs::read_dir(dir).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(!names.into_iter().any(|name| name.starts_with("out.wav")));
    cramped(
        "audit --corpus corpus --calibrate new.json corpus/valid/tone.wav",
        &["File too large"],
    );
}

/// A decay of 10 at a learning rate of 1 makes every matrix nine times as large, again and again.
const ABSURD: &str = "--lr 1 --decay 10";

#[test]
fn a_loss_that_is_no_number_ends_in_a_sentence_and_leaves_what_was_good() {
    let place = place();
    let dir = place.path();
    succeed(dir, &quick("--samples 6000 --render-every 0"));
    let state = || fs::read(dir.join("run/checkpoint/state.safetensors")).unwrap();
    let model = || fs::read(dir.join("run/model/model.safetensors")).unwrap();
    let good = (state(), model());
    refused(
        dir,
        CONFIG,
        &format!("train --output run --resume --samples 600000 {ABSURD}"),
        &[
            "no longer a finite number",
            "iteration 10 is kept",
            "lower --lr (it was 1)",
            "--resume",
        ],
    );
    assert!((state(), model()) == good);
    succeed(dir, "render -m run/model -s 0.1 -o out.wav");

    succeed(
        dir,
        "train --output run --resume --samples 60000 --lr 0.01 --decay 0.05",
    );
    let metrics = metrics(dir);
    assert_eq!(metrics[metrics.len() - 1]["iteration"], 100);
    let bits = bits(&metrics);
    assert!(bits[bits.len() - 1] < bits[0], "{bits:?}");
    // At once, too, there is a checkpoint to go on from.
    let fresh = quick("--samples 600000 --decay 10 --render-every 0");
    let fresh = fresh
        .replace("--lr 0.01", "--lr 1")
        .replace("--output run", "--output fresh");
    refused(dir, CONFIG, &fresh, &["iteration 0 is kept"]);
}

#[test]
fn what_cannot_be_rendered_is_a_warning() {
    let place = place();
    let dir = place.path();
    succeed(dir, &quick("--samples 1000 --render-every 0"));
    fs::write(dir.join("run/samples"), "in the way").unwrap();
    let output = succeed(
        dir,
        "train --output run --resume --samples 2000 --render-every 1",
    );
    let words = said(&output);
    assert!(words.contains("nothing to listen to"), "{words}");
    assert!(words.contains("longwave play -m run/model"), "{words}");
}

#[test]
fn ctrl_c_does_without_the_last_rendering() {
    let place = place();
    let dir = place.path();
    let line = quick("--samples 1000").replace("--render-seconds 0.2", "--render-seconds 40000");
    let mut child = longwave(dir, &line).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let has_begun = || fs::read_dir(dir.join("run/samples")).is_ok_and(|all| all.count() == 1);
    while !has_begun() {
        assert!(child.try_wait().unwrap().is_none(), "it did not wait");
        assert!(Instant::now() < deadline, "nothing rendered in a minute");
        thread::sleep(Duration::from_millis(5));
    }
    let begin = Instant::now();
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5));
    let words = said(&output);
    assert!(output.status.success(), "{words}");
    assert!(words.contains("longwave play -m run/model"), "{words}");
    assert_eq!(samples(dir), Vec::<PathBuf>::new());
}
