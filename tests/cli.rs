//! The program as a person or a script meets it: what is typed, what is said, how it ends.
//!
//! Whatever is wrong, the answer is one sentence that names the thing, the right exit code, and
//! no file that was not there before.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const CONFIG: i32 = 78;

fn longwave(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longwave"));
    command
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    longwave(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs what must fail, and holds it to one sentence with `words` in it.
fn refused(code: i32, arguments: &[&str], words: &[&str]) {
    let output = run(arguments);
    let said = said(&output);
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(last.starts_with("longwave: "), "{arguments:?}: {said}");
    let sentences = said.lines().filter(|line| line.starts_with("longwave: "));
    assert_eq!(sentences.count(), 1, "{arguments:?}: {said}");
    for word in words {
        assert!(last.contains(word), "{word} is missing: {last}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A copy of the tiny model, to be damaged.
fn tiny(dir: &Path) -> PathBuf {
    let copy = dir.join("model");
    fs::create_dir(&copy).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(Path::new("models/tiny").join(name), copy.join(name)).unwrap();
    }
    copy
}

fn edit_config(model: &Path, edit: impl FnOnce(&mut Value)) {
    let path = model.join("config.json");
    let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

/// A WAV file of one second of a tone in every channel.
fn wav(path: &Path, channels: u16, rate_hz: u32, n_frames: u32) {
    let spec = hound::WavSpec {
        channels,
        sample_rate: rate_hz,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for frame in 0..n_frames {
        let tone = (frame as f32 * 440.0 * std::f32::consts::TAU / rate_hz as f32).sin();
        for _ in 0..channels {
            writer.write_sample((tone * 8_000.0) as i16).unwrap();
        }
    }
    writer.finalize().unwrap();
}

/// Renders a tenth of a second with the model in `model` and must be refused, leaving nothing.
fn refused_to_render(model: &Path, words: &[&str]) {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("out.wav");
    let arguments = ["render", "-s", "0.1", "-m", text(model), "-o", text(&file)];
    refused(CONFIG, &arguments, words);
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [
        &["--help"][..],
        &["-V"],
        &["help", "serve"],
        &["render", "--help"],
    ] {
        let output = run(arguments);
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{arguments:?}"
        );
        assert!(!output.stdout.is_empty());
    }
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(USAGE));
    assert!(said(&output).contains("Usage: longwave"));
}

#[test]
fn what_cannot_be_understood_is_a_usage_error() {
    refused(USAGE, &["sing"], &["'sing'"]);
    refused(
        USAGE,
        &["serve", "--sed", "3"],
        &["'--sed'", "'--seed'", "longwave serve --help"],
    );
    refused(USAGE, &["render", "-o", "a.wav"], &["--seconds"]);
    refused(USAGE, &["render", "-o", "a.wav", "-s", "-1"], &["above 0"]);
    refused(USAGE, &["serve", "--temperature", "inf"], &["at most 10"]);
    refused(USAGE, &["serve", "--listen", "nowhere"], &["HOST:PORT"]);
    refused(USAGE, &["serve", "--device", "abacus"], &["abacus", "cpu"]);
    refused(USAGE, &["serve", "--isa", "abacus"], &["abacus", "avx2"]);
}

#[test]
fn a_model_that_is_not_there_or_no_model_is_refused() {
    refused_to_render(Path::new("no-such-model"), &["no-such-model", "--model"]);
    let dir = tempfile::tempdir().unwrap();
    refused_to_render(dir.path(), &["config.json"]);
}

#[test]
fn a_truncated_or_foreign_weight_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny(dir.path());
    let weights = model.join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    for n in [0, 4, 100, whole.len() - 1] {
        fs::write(&weights, &whole[..n]).unwrap();
        refused_to_render(&model, &["model.safetensors"]);
    }
    fs::write(
        &weights,
        b"RIFF of something else, long enough to have a header",
    )
    .unwrap();
    refused_to_render(&model, &["model.safetensors"]);
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny(dir.path());
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let n = bytes.len();
    bytes[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    refused_to_render(&model, &["model.safetensors", "NaN"]);
}

#[test]
fn a_configuration_that_does_not_fit_the_weights_is_refused() {
    type Edit = fn(&mut Value);
    let edits: [(&str, Edit); 4] = [
        ("d_model", |config| config["d_model"] = 64.into()),
        ("telepathic", |config| {
            config["pattern"][0] = "telepathic".into()
        }),
        ("opus", |config| config["codec"] = "opus".into()),
        ("extra", |config| config["extra"] = 1.into()),
    ];
    for (what, edit) in edits {
        let dir = tempfile::tempdir().unwrap();
        let model = tiny(dir.path());
        edit_config(&model, edit);
        let words = if what == "d_model" {
            &[][..]
        } else {
            &[what][..]
        };
        refused_to_render(&model, words);
    }
}

#[test]
fn a_prompt_that_cannot_be_heard_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (prompt, out) = (dir.path().join("prompt.wav"), dir.path().join("out.wav"));
    let refused_prompt = |word| {
        let arguments = ["render", "-s", "0.1", "-m", "tiny", "-o", text(&out)];
        let arguments = [&arguments[..], &["--prompt", text(&prompt)]].concat();
        refused(CONFIG, &arguments, &["prompt.wav", word]);
        assert!(!out.exists());
    };
    refused_prompt("cannot read");
    wav(&prompt, 1, 16_000, 0);
    refused_prompt("0 seconds");
    fs::write(&prompt, "not music").unwrap();
    refused_prompt("WAV");
}

#[test]
fn a_prompt_of_eight_channels_at_192_khz_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let (prompt, out) = (dir.path().join("prompt.wav"), dir.path().join("out.wav"));
    wav(&prompt, 8, 192_000, 19_200);
    let arguments = ["render", "-s", "0.1", "-m", "tiny", "-o", text(&out)];
    let output = run(&[&arguments[..], &["--prompt", text(&prompt)]].concat());
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(hound::WavReader::open(&out).unwrap().duration(), 1_600);
}

#[test]
fn render_writes_what_was_ordered_and_the_same_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let render = |name: &str, seed: &str, more: &[&str]| {
        let file = file(name);
        let arguments = [
            "render",
            "-s",
            "0.5",
            "-m",
            "tiny",
            "--seed",
            seed,
            "-o",
            text(&file),
        ];
        let output = run(&[&arguments[..], more].concat());
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains(&format!("seed {seed}")));
        fs::read(file).unwrap()
    };
    let first = render("a.wav", "7", &[]);
    assert_eq!(first, render("b.wav", "7", &[]));
    assert_ne!(first, render("c.wav", "8", &[]));
    render("d.wav", "7", &["--rate", "44100", "--format", "f32"]);
    let reader = hound::WavReader::open(file("d.wav")).unwrap();
    assert_eq!(
        (reader.spec().sample_rate, reader.duration()),
        (44_100, 22_050)
    );
    assert_eq!(reader.spec().sample_format, hound::SampleFormat::Float);
}

#[test]
fn a_file_that_cannot_be_written_is_told_and_an_old_one_survives() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("no/such/dir/out.wav");
    refused(
        1,
        &["render", "-s", "1", "-m", "tiny", "-o", text(&nowhere)],
        &["out.wav"],
    );
    let long = dir.path().join("long.wav");
    fs::write(&long, "old").unwrap();
    let arguments = [
        "render",
        "-s",
        "86400",
        "-m",
        "tiny",
        "-r",
        "384000",
        "-o",
        text(&long),
    ];
    refused(USAGE, &arguments, &["long.wav"]);
    assert_eq!(fs::read(&long).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn what_is_no_regular_file_keeps_its_name() {
    use std::os::unix::fs::FileTypeExt;
    for name in ["/dev/null", "src"] {
        let arguments = ["render", "-s", "1", "-m", "tiny", "-o", name];
        refused(USAGE, &arguments, &[name, "not a regular file"]);
    }
    let device = fs::metadata("/dev/null").unwrap().file_type();
    assert!(device.is_char_device());
}

#[test]
fn an_interrupted_render_leaves_the_old_file_as_it_was() {
    // The second signal may come before the first is answered, or too late: the end is the same.
    for (kill, word) in [
        ("kill -INT $0", "interrupted"),
        ("kill -INT $0; kill -TERM $0", ""),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("old.wav");
        fs::write(&file, "old").unwrap();
        let mut child = longwave(&["render", "-s", "3600", "-m", "tiny", "-o", text(&file)])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while fs::read_dir(dir.path()).unwrap().count() < 2 {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let pid = child.id().to_string();
        // The second may find nobody left.
        let _ = Command::new("sh")
            .args(["-c", kill, &pid])
            .output()
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(word), "{}", said(&output));
        assert_eq!(fs::read(&file).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_port_in_use_is_unavailable() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let arguments = ["serve", "-m", "tiny", "--no-card", "--listen", &address];
    refused(UNAVAILABLE, &arguments, &[&address, "--listen"]);
}

#[test]
fn a_station_that_cannot_be_reached_is_told() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    refused(
        UNAVAILABLE,
        &["listen", &format!("http://{free}/")],
        &["is longwave running"],
    );
    refused(USAGE, &["listen", "gopher://there"], &["gopher://there"]);
}

#[cfg(feature = "playback")]
#[test]
fn an_unknown_sound_card_is_unavailable() {
    let card = ["--output-device", "no-such-card"];
    let play = [&["play", "-m", "tiny"], &card[..]].concat();
    refused(UNAVAILABLE, &play, &["no-such-card"]);
    let serve = [
        &["serve", "-m", "tiny", "--listen", "127.0.0.1:0"],
        &card[..],
    ]
    .concat();
    refused(UNAVAILABLE, &serve, &["no-such-card"]);
}

/// ALSA's own library would print its complaints over ours.
#[cfg(feature = "playback")]
#[test]
fn without_a_sound_card_one_sentence_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let alsa = dir.path().join("asound.conf");
    fs::write(&alsa, "# no cards\n").unwrap();
    for arguments in [&["play", "-m", "tiny"][..], &["devices"]] {
        let output = longwave(arguments)
            .env("ALSA_CONFIG_PATH", &alsa)
            .env("RUST_LOG", "warn")
            .output()
            .unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(UNAVAILABLE), "{said}");
        assert!(said.starts_with("longwave: no sound card found"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_wrong_configuration_is_refused_by_line_and_key() {
    let broken = "examples/broken.toml";
    let words = [broken, "line 9", "`temprature`", "`temperature`"];
    refused(CONFIG, &["check-config", broken], &words);
    refused(CONFIG, &["serve", "--config", broken], &words);
    refused(CONFIG, &["check-config", "no-such.toml"], &["no-such.toml"]);
}

#[test]
fn a_right_configuration_is_printed_as_it_comes_to() {
    let output = run(&["check-config", "examples/longwave.toml"]);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        said(&output)
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.contains("model = \"models/piano-16k\""),
        "{printed}"
    );
    assert!(
        printed.contains("[[station]]") && printed.contains("lead_ms = 100"),
        "{printed}"
    );
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    for arguments in [&["completions", "bash"][..], &["man"], &["--help"]] {
        let mut child = longwave(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert!(
            child.wait().unwrap().success() && said.is_empty(),
            "{arguments:?}: {said}"
        );
    }
}

#[test]
fn pages_and_completions_come_from_the_command_line_itself() {
    let dir = tempfile::tempdir().unwrap();
    assert!(run(&["man", "--output", text(dir.path())]).status.success());
    let page = fs::read_to_string(dir.path().join("longwave-serve.1")).unwrap();
    assert!(page.contains("listen") && dir.path().join("longwave.1").exists());
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(
            script.contains("check-config") && script.contains("temperature"),
            "{shell}"
        );
    }
}

/// A bench of a few milliseconds on the tiny model.
fn bench(more: &[&str]) -> Output {
    let arguments = ["bench", "-m", "tiny", "--seconds", "0.005"];
    run(&[&arguments[..], more].concat())
}

#[test]
fn a_bench_is_recorded_drawn_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let (file, pictures) = (dir.path().join("bench.json"), dir.path().join("pictures"));
    let output = bench(&["--json", "--plot", text(&pictures)]);
    assert!(output.status.success(), "{}", said(&output));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["model"], "tiny");
    assert!(record["date"].is_string() && record["machine"]["cpu"].is_string());
    let of_case = |case: &str| {
        let results = record["results"].as_array().unwrap();
        results.iter().find(|r| r["case"] == case).unwrap().clone()
    };
    for case in [
        "one-lane",
        "eight-lanes",
        "two-threads",
        "one-kv-head",
        "context-512",
        "dense-32",
    ] {
        assert!(
            of_case(case)["floor"]["read_gb_s"].as_f64().unwrap() > 0.0,
            "{case}"
        );
        assert!(of_case(case)["step_ns_p50"].as_u64().unwrap() > 0, "{case}");
    }
    assert!(record["prefill"][0]["seconds"].as_f64().unwrap() > 0.0);
    let chunks = ["chunks", "card-pacing", "card-following"];
    for (i, case) in chunks.into_iter().enumerate() {
        assert_eq!(record["chunks"][i]["case"], case);
        assert_eq!(record["chunks"][i]["deadline_ns"], 20_000_000);
    }
    for name in ["steps.svg", "context.svg"] {
        let svg = fs::read_to_string(pictures.join(name)).unwrap();
        assert!(
            svg.starts_with("<svg") && said(&output).contains(name),
            "{name}"
        );
    }

    fs::write(&file, &output.stdout).unwrap();
    let output = bench(&[
        "--case",
        "one-lane",
        "--case",
        "chunks",
        "--compare",
        text(&file),
    ]);
    let table = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{}", said(&output));
    for word in [
        "floor us",
        "to record",
        "\ntiny: ",
        "Against the record of ",
    ] {
        assert!(table.contains(word), "{word} is missing: {table}");
    }
    assert!(!table.contains("dense-"), "{table}");
}

#[test]
fn a_command_runs_beside_the_chunks_and_no_longer() {
    let output = bench(&["--case", "chunks", "--beside", "sleep 3600"]);
    let table = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(table.contains("beside sleep 3600"), "{table}");
    assert!(table.contains("beside other work"), "{table}");
}

#[test]
fn what_is_no_record_or_no_case_is_refused() {
    for name in [
        "no-such-record.json",
        "Cargo.toml",
        "models/tiny/config.json",
    ] {
        refused(CONFIG, &["bench", "--compare", name], &[name, "--json"]);
    }
    refused(
        USAGE,
        &["bench", "--case", "nine-lanes"],
        &["nine-lanes", "one-lane"],
    );
    let plot = ["bench", "-m", "tiny", "-s", "0.001", "--case", "one-lane"];
    let plot = [&plot[..], &["--plot", "Cargo.toml/pictures"]].concat();
    refused(1, &plot, &["Cargo.toml/pictures", "--plot"]);
}
