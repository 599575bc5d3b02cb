//! A corpus from end to end: what is made of a folder, what a second run does, what is refused.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::*;

struct Bed {
    dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        Self { dir }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("in")
    }

    fn corpus(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn order(&self) -> Order {
        Order {
            folder: self.folder(),
            corpus: self.corpus(),
            options: Options {
                rate_hz: 16_000,
                level_dbfs: None,
                silence: Silence::Cut,
                shares: Shares::default(),
            },
        }
    }

    /// A tone whose pitch is the file's own, so that no two are alike.
    fn tone(&self, name: &str, rate_hz: u32, n_channels: u16, seconds: f64) {
        let hz = 200.0 + (split::hash(name) % 1_000) as f64;
        let n = (seconds * f64::from(rate_hz)) as usize;
        let step = hz * std::f64::consts::TAU / f64::from(rate_hz);
        let samples = (0..n).map(|i| 0.25 * (step * i as f64).sin());
        self.wav(name, rate_hz, n_channels, samples);
    }

    fn wav(&self, name: &str, rate_hz: u32, n_channels: u16, samples: impl Iterator<Item = f64>) {
        let path = self.folder().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let spec = hound::WavSpec {
            channels: n_channels,
            sample_rate: rate_hz,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(path, spec).unwrap();
        for sample in samples {
            for _ in 0..n_channels {
                writer.write_sample((sample * 32_767.0) as i16).unwrap();
            }
        }
        writer.finalize().unwrap();
    }

    fn tones(&self, n: usize) {
        for i in 0..n {
            self.tone(&format!("disc/{i:02}.wav"), 22_050, 2, 0.5);
        }
    }

    fn prepare(&self) -> Report {
        run(&self.order()).unwrap()
    }

    fn refusal(&self) -> String {
        let said = run(&self.order()).unwrap_err().to_string();
        assert!(!said.contains('\n'), "{said}");
        said
    }

    /// Every file of the corpus with its content and the moment it was made.
    fn content(&self) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
        let mut content = BTreeMap::new();
        for split in Split::ALL {
            for entry in fs::read_dir(self.corpus().join(split.name())).unwrap() {
                let path = entry.unwrap().path();
                let made = fs::metadata(&path).unwrap().modified().unwrap();
                content.insert(path.clone(), (fs::read(path).unwrap(), made));
            }
        }
        content
    }
}

fn run(order: &Order) -> Result<Report, CorpusError> {
    prepare(order, &|_| ControlFlow::Continue(()))
}

fn samples(path: &Path) -> Vec<f64> {
    let reader = hound::WavReader::open(path).unwrap();
    let spec = reader.spec();
    assert_eq!((spec.channels, spec.sample_rate), (1, 16_000));
    assert_eq!(spec.bits_per_sample, 16);
    let samples = reader.into_samples::<i16>();
    samples
        .map(|sample| f64::from(sample.unwrap()) / 32_768.0)
        .collect()
}

fn rms(samples: &[f64]) -> f64 {
    (samples.iter().map(|x| x * x).sum::<f64>() / samples.len() as f64).sqrt()
}

#[test]
fn every_rate_and_channel_count_becomes_mono_at_the_rate() {
    let bed = Bed::new();
    for (rate_hz, n_channels) in [
        (8_000, 1),
        (16_000, 1),
        (44_100, 2),
        (48_000, 6),
        (96_000, 1),
    ] {
        bed.tone(&format!("{rate_hz}.wav"), rate_hz, n_channels, 1.0);
    }
    let report = bed.prepare();
    assert_eq!((report.n_made, report.manifest.skipped.len()), (5, 0));
    assert!(report.manifest.is_complete);
    for entry in &report.manifest.files {
        let got = samples(&bed.corpus().join(&entry.output));
        assert_eq!(got.len(), 16_000, "{}", entry.source);
        assert!(
            (rms(&got) - 0.25 / 2f64.sqrt()).abs() < 2e-3,
            "{}",
            entry.source
        );
        assert!((entry.done.level_dbfs + 15.05).abs() < 0.1);
    }
    let totals = &report.manifest.totals;
    assert_eq!((totals.n_files, totals.seconds), (5, 5.0));
}

#[test]
fn the_manifest_on_the_disk_is_the_reports_and_the_splits_can_be_read() {
    let bed = Bed::new();
    bed.tones(12);
    let report = bed.prepare();
    let text = fs::read_to_string(bed.corpus().join(MANIFEST)).unwrap();
    assert_eq!(Manifest::parse(&text), Ok(report.manifest.clone()));
    for split in Split::ALL {
        let mut want: Vec<PathBuf> = report
            .manifest
            .files
            .iter()
            .filter(|entry| entry.split == split)
            .map(|entry| bed.corpus().join(&entry.output))
            .collect();
        want.sort();
        assert_eq!(files(&bed.corpus(), split).unwrap(), want);
    }
}

#[test]
fn a_second_run_does_nothing_twice() {
    let bed = Bed::new();
    bed.tones(6);
    fs::write(bed.folder().join("bad.mp3"), "no sound").unwrap();
    let first = bed.prepare();
    let content = bed.content();
    let second = bed.prepare();
    assert_eq!((first.n_made, second.n_made), (6, 0));
    assert_eq!(first.manifest, second.manifest);
    assert!(content == bed.content());
}

#[test]
fn only_what_is_missing_or_changed_is_made_again() {
    let bed = Bed::new();
    bed.tones(6);
    let first = bed.prepare();
    let outputs: Vec<PathBuf> = first
        .manifest
        .files
        .iter()
        .map(|entry| bed.corpus().join(&entry.output))
        .collect();
    let content = bed.content();
    fs::remove_file(&outputs[0]).unwrap();
    fs::write(&outputs[1], "damaged").unwrap();
    bed.tone("disc/02.wav", 22_050, 2, 0.75);
    bed.tone("disc/06.wav", 22_050, 2, 0.5);
    let second = bed.prepare();
    assert_eq!(second.n_made, 4);
    let now = bed.content();
    for output in &outputs[..2] {
        assert!(now[output].0 == content[output].0);
    }
    assert!(now[&outputs[2]].0 != content[&outputs[2]].0);
    for output in &outputs[3..] {
        assert!(now[output] == content[output]);
    }
}

#[test]
fn a_recording_that_is_gone_or_spoilt_leaves_the_corpus() {
    let bed = Bed::new();
    bed.tones(6);
    bed.prepare();
    fs::remove_file(bed.folder().join("disc/05.wav")).unwrap();
    fs::write(bed.folder().join("disc/04.wav"), "RIFF").unwrap();
    let report = bed.prepare();
    assert_eq!((report.n_removed, report.n_made), (1, 0));
    assert_eq!(report.manifest.skipped[0].source, "disc/04.wav");
    assert_eq!(bed.content().len(), 4);
}

#[test]
fn an_interrupted_run_loses_nothing_and_ends_like_one_that_was_not() {
    let bed = Bed::new();
    bed.tones(8);
    let n_looks = AtomicU64::new(0);
    let error = prepare(&bed.order(), &|progress| {
        let n = n_looks.fetch_add(u64::from(!progress.is_looking), Ordering::Relaxed);
        if n < 40 {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    let said = error.unwrap_err().to_string();
    assert!(said.contains("interrupted"), "{said}");
    let content = bed.content();
    let names = content.keys().map(|path| path.extension().unwrap());
    assert!(names.into_iter().all(|suffix| suffix == "wav"));
    let text = fs::read_to_string(bed.corpus().join(MANIFEST)).unwrap();
    let manifest = Manifest::parse(&text).unwrap();
    assert!(!manifest.is_complete);
    assert_eq!(manifest.files.len(), content.len());
    assert!((1..8).contains(&content.len()), "{}", content.len());

    let report = bed.prepare();
    assert_eq!(report.n_made, 8 - content.len());
    let whole = Bed::new();
    whole.tones(8);
    assert_eq!(whole.prepare().manifest, report.manifest);
}

#[test]
fn what_is_broken_silent_or_twice_there_is_told_and_the_rest_goes_on() {
    let bed = Bed::new();
    bed.tones(4);
    let whole = fs::read(bed.folder().join("disc/00.wav")).unwrap();
    fs::write(bed.folder().join("cut.wav"), &whole[..whole.len() / 2]).unwrap();
    fs::write(bed.folder().join("twin.wav"), &whole).unwrap();
    fs::write(bed.folder().join("empty.flac"), "").unwrap();
    fs::write(
        bed.folder().join("text.ogg"),
        "a text that is no sound".repeat(99),
    )
    .unwrap();
    bed.wav("mute.wav", 16_000, 1, std::iter::repeat_n(0.0, 48_000));
    bed.wav("none.wav", 16_000, 1, std::iter::empty());
    let report = bed.prepare();
    assert_eq!(report.n_made, 4);
    let reasons: BTreeMap<&str, &str> = report
        .manifest
        .skipped
        .iter()
        .map(|skipped| (skipped.source.as_str(), skipped.reason.as_str()))
        .collect();
    for (source, words) in [
        ("cut.wav", "truncated"),
        ("twin.wav", "same recording as disc/00.wav"),
        ("empty.flac", "no sound"),
        ("text.ogg", "no sound"),
        ("mute.wav", "nearly silent"),
        ("none.wav", "0 seconds"),
    ] {
        assert!(
            reasons[source].contains(words),
            "{source}: {}",
            reasons[source]
        );
    }
}

#[test]
fn a_long_silence_is_cut() {
    let bed = Bed::new();
    let pause = |i: usize| {
        if (16_000..64_000).contains(&i) {
            0.0
        } else {
            0.2 * (i as f64).sin()
        }
    };
    bed.wav("a.wav", 16_000, 1, (0..80_000).map(pause));
    let report = bed.prepare();
    let done = &report.manifest.files[0].done;
    assert!((done.silence_cut_s - 2.5).abs() < 0.01 && (done.seconds - 2.5).abs() < 0.01);
    let got = samples(&bed.corpus().join(&report.manifest.files[0].output));
    let codes = got[16_200..24_000]
        .iter()
        .map(|sample| *sample < 0.0)
        .collect::<Vec<_>>();
    let run = codes
        .chunk_by(|a, b| a == b)
        .map(<[bool]>::len)
        .max()
        .unwrap();
    assert!(run < 30, "{run}");
}

#[test]
fn a_level_is_reached_on_every_recording() {
    let bed = Bed::new();
    for (name, height) in [("loud.wav", 0.9), ("soft.wav", 0.02)] {
        bed.wav(
            name,
            44_100,
            2,
            (0..44_100).map(|i| height * (i as f64 * 0.05).sin()),
        );
    }
    let mut order = bed.order();
    order.options.level_dbfs = Some(-21);
    for entry in run(&order).unwrap().manifest.files {
        let level = 20.0 * rms(&samples(&bed.corpus().join(&entry.output))).log10();
        assert!((level + 21.0).abs() < 0.05, "{}: {level}", entry.source);
        assert!((entry.done.level_dbfs + 21.0).abs() < 0.05);
        assert!(entry.done.gain_db.unwrap().abs() > 1.0);
    }
}

#[test]
fn splits_left_empty_by_broken_recordings_are_filled() {
    let bed = Bed::new();
    bed.tones(12);
    let first = bed.prepare().manifest;
    let of = |split: Split| first.files.iter().filter(move |entry| entry.split == split);
    assert!(Split::ALL.iter().all(|split| of(*split).count() > 0));
    for entry in of(Split::Test) {
        fs::write(bed.folder().join(&entry.source), "RIFF").unwrap();
    }
    let second = bed.prepare().manifest;
    assert!(second.totals.splits[&Split::Test].n_files > 0);
    for entry in &second.files {
        assert!(bed.corpus().join(&entry.output).exists());
        assert!(entry.output.starts_with(entry.split.name()));
    }
}

#[test]
fn a_folder_that_is_split_keeps_its_split() {
    let bed = Bed::new();
    for name in ["train/a.wav", "train/b.wav", "valid/a2.wav", "test/x/c.wav"] {
        bed.tone(name, 16_000, 1, 0.3);
    }
    let manifest = bed.prepare().manifest;
    let outputs: Vec<&str> = manifest
        .files
        .iter()
        .map(|entry| entry.output.as_str())
        .collect();
    assert_eq!(
        outputs,
        [
            "test/x__c.wav",
            "train/a.wav",
            "train/b.wav",
            "valid/a2.wav"
        ]
    );
}

#[test]
fn other_options_another_folder_and_other_peoples_files_are_refused() {
    let bed = Bed::new();
    bed.tones(3);
    bed.prepare();
    let mut order = bed.order();
    order.options.rate_hz = 24_000;
    let said = run(&order).unwrap_err().to_string();
    assert!(
        said.contains("--rate 16000") && said.contains("--output"),
        "{said}"
    );

    fs::remove_dir_all(bed.folder().join("disc")).unwrap();
    bed.tone("other.wav", 16_000, 1, 0.3);
    assert!(bed.refusal().contains("other recordings"));

    fs::write(bed.corpus().join(MANIFEST), "{").unwrap();
    assert!(bed.refusal().contains("manifest.json is damaged"));
    fs::remove_file(bed.corpus().join(MANIFEST)).unwrap();
    assert!(bed.refusal().contains("is no corpus"));
    fs::remove_dir_all(bed.corpus()).unwrap();
    fs::write(bed.corpus(), "a file").unwrap();
    assert!(bed.refusal().contains("is no corpus"));
    assert_eq!(fs::read_to_string(bed.corpus()).unwrap(), "a file");
}

#[test]
fn an_output_inside_the_folder_is_refused_before_anything_is_made() {
    let bed = Bed::new();
    bed.tones(1);
    for corpus in [
        bed.folder(),
        bed.folder().join("disc/new"),
        bed.folder().join("../in/corpus"),
        bed.dir.path().to_owned(),
    ] {
        let order = Order {
            corpus,
            ..bed.order()
        };
        let said = run(&order).unwrap_err().to_string();
        assert!(said.contains("choose another --output"), "{said}");
    }
    assert_eq!(fs::read_dir(bed.folder()).unwrap().count(), 1);
}

#[test]
fn a_corpus_has_one_owner_and_a_killed_runs_remains_are_swept() {
    let bed = Bed::new();
    bed.tones(2);
    let report = bed.prepare();
    let remains = bed.corpus().join("train/x.wav.1-0.partial");
    fs::write(&remains, "half").unwrap();
    let (owner, _) = store::Store::open(&bed.corpus(), &report.manifest.options).unwrap();
    assert!(!remains.exists());
    assert!(bed.refusal().contains("another process"));
    drop(owner);
    bed.prepare();
}

#[test]
fn nothing_usable_is_an_error_that_names_the_first() {
    let bed = Bed::new();
    fs::write(bed.folder().join("a.mp3"), "no").unwrap();
    fs::write(bed.folder().join("b\u{1b}.mp3"), "nothing").unwrap();
    let said = bed.refusal();
    assert!(
        said.contains("none of the 2") && said.contains("a.mp3, holds no sound"),
        "{said}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_in_a_sentence_that_helps() {
    let full = io::Error::from(io::ErrorKind::StorageFull);
    let error = CorpusError::of_wav(WavError::Write {
        path: PathBuf::from("out/a.wav"),
        source: full,
    });
    assert!(
        error
            .to_string()
            .contains("make room and run the same again")
    );
}

#[test]
fn random_damage_never_ends_the_run() {
    let bed = Bed::new();
    bed.tone("good.wav", 16_000, 1, 0.3);
    bed.tone("x.wav", 16_000, 1, 0.1);
    let good = fs::read(bed.folder().join("x.wav")).unwrap();
    let mut state = 1u32;
    for i in 0..300 {
        let mut bytes = good.clone();
        for _ in 0..4 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes[(state >> 8) as usize % 48] = (state >> 24) as u8;
        }
        fs::write(bed.folder().join(format!("bad{i}.wav")), bytes).unwrap();
    }
    // In debug builds some of these make a decoder panic.
    hush_decoders();
    let report = bed.prepare();
    let mut files = report.manifest.files.iter();
    assert!(files.any(|entry| entry.source == "good.wav"));
    assert_eq!(
        report.manifest.totals.n_files + report.manifest.skipped.len(),
        302
    );
}

#[test]
fn a_plain_directory_is_a_corpus_and_is_read_in_the_order_of_names() {
    let dir = tempfile::tempdir().unwrap();
    let train = dir.path().join("train");
    fs::create_dir(&train).unwrap();
    for name in [
        "b.wav",
        "a.WAV",
        "._b.wav",
        "c.wav.1-0.partial",
        "notes.txt",
    ] {
        fs::write(train.join(name), "").unwrap();
    }
    fs::create_dir(train.join("d.wav")).unwrap();
    let got = files(dir.path(), Split::Train).unwrap();
    assert_eq!(got, [train.join("a.WAV"), train.join("b.wav")]);
}

#[test]
fn what_is_no_corpus_is_told_by_name() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("valid")).unwrap();
    for (path, split) in [
        (dir.path().join("none"), Split::Train),
        (dir.path().to_owned(), Split::Valid),
    ] {
        let said = files(&path, split).unwrap_err().to_string();
        let name = path.display().to_string();
        assert!(
            said.contains(&name) && said.contains(split.name()),
            "{said}"
        );
        assert!(said.contains("longwave prepare"), "{said}");
    }
}
