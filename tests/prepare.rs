//! `longwave prepare` as a person or a script meets it: a folder in, a corpus out, one sentence
//! and an exit code where that cannot be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use longwave::corpus::{Manifest, Split, files};
use serde_json::Value;

const INTERNAL: i32 = 1;
const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const CONFIG: i32 = 78;

/// A folder of recordings beside the corpus made of it.
struct Bed(tempfile::TempDir);

impl Bed {
    fn new() -> Self {
        let bed = Self(tempfile::tempdir().unwrap());
        fs::create_dir(bed.folder()).unwrap();
        bed
    }

    fn folder(&self) -> PathBuf {
        self.0.path().join("recordings")
    }

    fn corpus(&self) -> PathBuf {
        self.0.path().join("corpus")
    }

    /// `n` files of a second of a tone each, at 22,050 Hz in stereo.
    fn tones(&self, n: u32) {
        for i in 0..n {
            self.tone(&format!("{i:02}.wav"), 200.0 + 50.0 * i as f32, 1);
        }
    }

    fn tone(&self, name: &str, hz: f32, seconds: u32) {
        let spec = hound::WavSpec {
            channels: 2,
            sample_rate: 22_050,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(self.folder().join(name), spec).unwrap();
        for frame in 0..22_050 * seconds {
            let sample = (frame as f32 * hz * std::f32::consts::TAU / 22_050.0).sin() * 8_000.0;
            for _ in 0..2 {
                writer.write_sample(sample as i16).unwrap();
            }
        }
        writer.finalize().unwrap();
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longwave"));
        command.arg("prepare").arg(self.folder());
        command.arg("--output").arg(self.corpus()).args(options);
        command.stdin(Stdio::null()).env_remove("RUST_LOG");
        command
    }

    fn prepare(&self, options: &[&str]) -> String {
        let output = self.command(options).output().unwrap();
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        said
    }

    /// Runs what must fail, and holds it to one sentence with `words` in it.
    fn refused(&self, code: i32, options: &[&str], words: &[&str]) {
        let output = self.command(options).output().unwrap();
        held_to_a_sentence(&output, code, words);
    }

    fn manifest(&self) -> Manifest {
        let text = fs::read_to_string(self.corpus().join("manifest.json")).unwrap();
        Manifest::parse(&text).unwrap()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn held_to_a_sentence(output: &Output, code: i32, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(
        said.starts_with("longwave: ") && said.lines().count() == 1,
        "{said}"
    );
    for word in words {
        assert!(said.contains(word), "{word} is missing: {said}");
    }
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

#[test]
fn every_kind_of_recording_comes_to_the_same_tone() {
    let bed = Bed::new();
    let kinds = ["flac", "mp3", "ogg", "m4a", "aac", "aiff"];
    for kind in kinds {
        let name = format!("tone.{kind}");
        fs::copy(data(&name), bed.folder().join(format!("{kind}.{kind}"))).unwrap();
    }
    fs::copy(data("opus.ogg"), bed.folder().join("opus.ogg")).unwrap();
    let said = bed.prepare(&["--rate", "16000", "--level", "-21"]);
    assert!(said.contains("skipped: opus.ogg holds Opus"), "{said}");
    let manifest = bed.manifest();
    assert_eq!(manifest.files.len(), kinds.len());
    for entry in &manifest.files {
        let reader = hound::WavReader::open(bed.corpus().join(&entry.output)).unwrap();
        assert_eq!(reader.spec().sample_rate, 16_000);
        let samples: Vec<i16> = reader.into_samples().map(Result::unwrap).collect();
        // AAC has a start of some silence that nothing in the file tells.
        assert!(
            (15_900..17_000).contains(&samples.len()),
            "{}: {}",
            entry.source,
            samples.len()
        );
        let middle = &samples[4_000..12_000];
        let crossings = middle.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0);
        let n = crossings.count();
        assert!(
            (219..=221).contains(&n),
            "{}: {n} periods in half a second",
            entry.source
        );
        assert!(
            (entry.done.level_dbfs + 21.0).abs() < 0.1,
            "{}",
            entry.source
        );
    }
}

#[test]
fn a_corpus_is_made_told_and_then_left_alone() {
    let bed = Bed::new();
    bed.tones(8);
    fs::write(bed.folder().join("bad.flac"), "fLaC and no more").unwrap();
    fs::write(bed.folder().join("cover.jpg"), "a picture").unwrap();
    let said = bed.prepare(&[]);
    assert!(said.contains("skipped: bad.flac"), "{said}");
    assert!(
        said.contains("8 recordings, 00:00:08 at 16000 Hz"),
        "{said}"
    );
    assert!(said.contains("8 converted now, 1 skipped"), "{said}");
    let n_files = Split::ALL.map(|split| files(&bed.corpus(), split).unwrap().len());
    assert_eq!(n_files.iter().sum::<usize>(), 8);

    let before = fs::read(bed.corpus().join("manifest.json")).unwrap();
    let said = bed.prepare(&[]);
    assert!(said.contains("0 converted now"), "{said}");
    assert_eq!(
        fs::read(bed.corpus().join("manifest.json")).unwrap(),
        before
    );
    let manifest: Value = serde_json::from_slice(&before).unwrap();
    assert_eq!(manifest["options"]["rate_hz"], 16_000);
    assert_eq!(manifest["files"][0]["source"], "00.wav");
    assert_eq!(manifest["skipped"][0]["source"], "bad.flac");
}

#[test]
fn the_same_folder_makes_the_same_corpus_anywhere() {
    let outputs = |bed: &Bed| -> BTreeMap<String, String> {
        let files = bed.manifest().files.into_iter();
        files
            .map(|entry| (entry.output, entry.output_sha256))
            .collect()
    };
    let (one, other) = (Bed::new(), Bed::new());
    for bed in [&one, &other] {
        bed.tones(5);
        bed.prepare(&["--rate", "24000"]);
    }
    assert_eq!(outputs(&one), outputs(&other));
}

#[test]
fn folders_without_recordings_are_refused() {
    let bed = Bed::new();
    bed.refused(CONFIG, &[], &["recordings", "empty", ".flac"]);
    fs::write(bed.folder().join("a.png"), "a picture").unwrap();
    bed.refused(CONFIG, &[], &["1 file of another kind", ".mp3"]);
    assert!(!bed.corpus().exists());
    fs::write(bed.folder().join("a.wav"), "no sound").unwrap();
    bed.refused(CONFIG, &[], &["none of the 1", "a.wav"]);
    fs::remove_dir_all(bed.folder()).unwrap();
    bed.refused(CONFIG, &[], &["No such file"]);
}

#[test]
fn what_stands_at_the_output_is_never_overwritten() {
    let bed = Bed::new();
    bed.tones(3);
    bed.prepare(&[]);
    bed.refused(
        USAGE,
        &["--rate", "24000"],
        &["--rate 16000", "another --output"],
    );
    bed.refused(USAGE, &["--level", "-21"], &["was prepared with"]);
    fs::remove_file(bed.corpus().join("manifest.json")).unwrap();
    bed.refused(USAGE, &[], &["is no corpus", "another --output"]);
    let inside = bed.folder().join("corpus");
    let mut command = bed.command(&[]);
    command.args(["--output", inside.to_str().unwrap()]);
    assert_eq!(command.output().unwrap().status.code(), Some(USAGE));
    assert!(!inside.exists());
}

#[test]
fn options_out_of_their_limits_are_usage_errors() {
    let bed = Bed::new();
    bed.tones(1);
    bed.refused(USAGE, &["--rate", "1"], &["at least 4000"]);
    bed.refused(USAGE, &["--level", "3"], &["-40..=-6"]);
    bed.refused(USAGE, &["--silence", "mute"], &["cut", "dither", "keep"]);
    bed.refused(USAGE, &["--split", "0,1,1"], &["train"]);
    assert!(!bed.corpus().exists());
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_run_goes_on_where_it_was() {
    let bed = Bed::new();
    bed.tones(4);
    for i in 0..6 {
        bed.tone(&format!("long{i}.wav"), 300.0 + 10.0 * i as f32, 240);
    }
    let mut child = bed.command(&[]).stderr(Stdio::piped()).spawn().unwrap();
    // The manifest is there before the first recording is, and a recording before all are.
    while fs::read_dir(bed.corpus().join("train")).map_or(0, Iterator::count) < 2 {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it was too fast to be interrupted"
        );
        std::thread::yield_now();
    }
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    held_to_a_sentence(&output, INTERNAL, &["interrupted", "run the same again"]);
    let n_done = bed.manifest().files.len();
    assert!(!bed.manifest().is_complete && n_done < 10, "{n_done}");

    let said = bed.prepare(&[]);
    assert!(
        said.contains(&format!("{} converted now", 10 - n_done)),
        "{said}"
    );
    assert!(bed.manifest().is_complete);
}

/// `ulimit -f` stands in for a full disk: both end a write in the middle of a file.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_takes_no_more_ends_in_a_sentence_and_leaves_what_is_done() {
    let bed = Bed::new();
    bed.tones(4);
    bed.tone("zz.wav", 333.0, 120);
    // 2 MiB: enough for a second, too little for two minutes. SIGXFSZ is ignored, EFBIG is not.
    let script = "trap '' XFSZ; ulimit -f 2048; exec \"$@\"";
    let inner = bed.command(&[]);
    let mut command = Command::new("bash");
    command
        .args(["-c", script, "bash"])
        .arg(inner.get_program())
        .args(inner.get_args());
    let output = command.stdin(Stdio::null()).output().unwrap();
    held_to_a_sentence(
        &output,
        UNAVAILABLE,
        &["cannot write", "zz.wav", "File too large"],
    );
    let partials = fs::read_dir(bed.corpus().join("train")).unwrap();
    let mut names = partials.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.all(|name| name.ends_with(".wav")));
    let n_done = bed.manifest().files.len();
    let said = bed.prepare(&[]);
    assert!(
        said.contains(&format!("{} converted now", 5 - n_done)),
        "{said}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_corpus_under_way_is_left_to_its_owner() {
    let bed = Bed::new();
    bed.tones(2);
    bed.prepare(&[]);
    let owner = fs::File::open(bed.corpus()).unwrap();
    owner.try_lock().unwrap();
    bed.refused(UNAVAILABLE, &[], &["another process"]);
}

#[test]
fn an_unreadable_recording_is_skipped_and_told() {
    let bed = Bed::new();
    bed.tones(3);
    // A link to nothing cannot be read, not even by an administrator.
    #[cfg(unix)]
    std::os::unix::fs::symlink("nowhere", bed.folder().join("gone.wav")).unwrap();
    let said = bed.prepare(&[]);
    #[cfg(unix)]
    assert!(
        said.contains("skipped: gone.wav cannot be read: "),
        "{said}"
    );
    assert!(said.contains("3 converted now"), "{said}");
}
