//! Recorders against a ring that the test writes: what their files hold, joined, is what was published.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use longwave::broadcast::{self, Source, Writer};
use longwave::mulaw;
use longwave::record::{Format, Order, Recorder};
use longwave::telemetry::Telemetry;
use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::formats::TrackType;
use symphonia::core::formats::probe::Hint;
use symphonia::core::io::MediaSourceStream;

const PACKET_LEN: usize = 320;
const N_SLOTS: usize = 400;
const FIRST_POSITION: u64 = 7_000;
/// Nothing here takes so long, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The code at a position of the stream, as good as random.
fn code(position: u64) -> u8 {
    (position.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

/// A station that the test plays, and its recorder.
struct Station {
    writer: Writer,
    source: Source,
    n_written: u64,
    telemetry: Arc<Telemetry>,
    order: Order,
    recorders: Vec<Recorder>,
}

impl Station {
    fn new(directory: &Path, format: Format) -> Self {
        let (writer, source) = broadcast::ring(N_SLOTS, PACKET_LEN);
        Self {
            writer,
            source,
            n_written: 0,
            telemetry: Arc::default(),
            order: Order {
                station: "piano".into(),
                directory: directory.into(),
                is_made: false,
                format,
                rate_hz: 16_000,
                first_position: FIRST_POSITION,
                rotate_samples: 57_600_000,
                rotate_bytes: u64::MAX,
                keep: None,
            },
            recorders: Vec::new(),
        }
    }

    fn record(&mut self) {
        let reader = self.source.subscribe(0);
        let recorder = Recorder::start(self.order.clone(), reader, self.telemetry.clone());
        self.recorders.push(recorder.unwrap());
    }

    /// Not so fast that the recorder is lapped.
    fn play(&mut self, n_packets: u64) {
        for n in 0..n_packets {
            if n % 100 == 99 {
                self.settle();
            }
            self.publish();
        }
    }

    fn publish(&mut self) {
        let begin = FIRST_POSITION + self.n_written * PACKET_LEN as u64;
        let codes: Vec<u8> = (begin..begin + PACKET_LEN as u64).map(code).collect();
        self.writer.publish(&codes);
        self.n_written += 1;
    }

    /// Waits for the recorder to look.
    fn settle(&self) {
        thread::sleep(Duration::from_millis(600));
    }

    fn finish(&mut self) {
        Recorder::finish(std::mem::take(&mut self.recorders));
    }

    /// Samples recorded, left out, in how many files, after how many failures.
    fn counts(&self) -> [u64; 4] {
        let record = &self.telemetry.record;
        [
            &record.samples,
            &record.lost,
            &record.files,
            &record.failures,
        ]
        .map(|c| c.get())
    }

    fn n_published(&self) -> u64 {
        self.n_written * PACKET_LEN as u64
    }
}

/// The files in a directory by their first positions, each with its samples; the names tell the truth.
fn recorded(directory: &Path) -> BTreeMap<u64, Vec<i16>> {
    let mut files = BTreeMap::new();
    for path in paths(directory) {
        let samples = samples_of(&path);
        let mut numbers = path.file_stem().unwrap().to_str().unwrap().rsplit('-');
        let mut number = || numbers.next().unwrap().parse::<u64>().unwrap();
        let (end, first) = (number(), number());
        assert_eq!(end - first, samples.len() as u64, "{}", path.display());
        for (at, sample) in (first..).zip(&samples) {
            assert_eq!(*sample, mulaw::decode_s16(code(at)), "position {at}");
        }
        assert!(files.insert(first, samples).is_none());
    }
    files
}

fn paths(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// By decoders of others, which refuse what is not whole.
fn samples_of(path: &Path) -> Vec<i16> {
    if path.extension().unwrap() == "wav" {
        let mut reader = hound::WavReader::open(path).unwrap();
        return reader.samples::<i16>().map(Result::unwrap).collect();
    }
    let stream = MediaSourceStream::new(Box::new(File::open(path).unwrap()), Default::default());
    let probe = symphonia::default::get_probe();
    let reader = probe.probe(&Hint::new(), stream, Default::default(), Default::default());
    let mut reader = reader.unwrap();
    let track = reader.default_track(TrackType::Audio).unwrap();
    let n_promised = track.num_frames.unwrap();
    let params = track.codec_params.as_ref().and_then(|codec| codec.audio());
    // With the digest, where there is one.
    let options = AudioDecoderOptions::default().verify(true);
    let codecs = symphonia::default::get_codecs();
    let mut decoder = codecs
        .make_audio_decoder(params.unwrap(), &options)
        .unwrap();
    let (mut samples, mut block) = (Vec::<i16>::new(), Vec::<i16>::new());
    while let Some(packet) = reader.next_packet().unwrap() {
        decoder
            .decode(&packet)
            .unwrap()
            .copy_to_vec_interleaved(&mut block);
        samples.extend(&block);
    }
    assert_ne!(
        decoder.finalize().verify_ok,
        Some(false),
        "{}",
        path.display()
    );
    assert_eq!(n_promised, samples.len() as u64);
    samples
}

/// The files follow each other without a gap from one position to another.
fn assert_joined(files: &BTreeMap<u64, Vec<i16>>, first: u64, end: u64) {
    let mut position = first;
    for (begin, samples) in files {
        assert_eq!(*begin, position);
        position += samples.len() as u64;
    }
    assert_eq!(position, end);
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn files_joined_are_the_stream_whatever_ends_a_file() {
    for format in [Format::Wav, Format::Flac] {
        for (rotate_samples, rotate_bytes) in [(32_000, u64::MAX), (u64::MAX, 50_000)] {
            let dir = tempfile::tempdir().unwrap();
            let mut station = Station::new(dir.path(), format);
            (station.order.rotate_samples, station.order.rotate_bytes) =
                (rotate_samples, rotate_bytes);
            station.record();
            station.play(333);
            station.finish();
            let files = recorded(dir.path());
            assert_joined(
                &files,
                FIRST_POSITION,
                FIRST_POSITION + station.n_published(),
            );
            let [samples, lost, n_files, failures] = station.counts();
            assert_eq!((samples, lost, failures), (station.n_published(), 0, 0));
            assert_eq!(n_files, files.len() as u64);
            assert!(n_files >= 3, "{format:?} has {n_files} files");
            assert!(
                files
                    .values()
                    .all(|samples| samples.len() as u64 <= rotate_samples)
            );
            for path in paths(dir.path()) {
                assert!(
                    fs::metadata(&path).unwrap().len() <= rotate_bytes,
                    "{path:?}"
                );
            }
        }
    }
}

#[test]
fn the_oldest_files_go_and_those_of_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    for other in [
        "notes.txt",
        "forte-20200101T000000Z-000000000000-000000000320.wav",
    ] {
        fs::write(dir.path().join(other), "").unwrap();
    }
    let mut station = Station::new(dir.path(), Format::Wav);
    (station.order.rotate_samples, station.order.keep) = (3_200, Some(2));
    station.record();
    station.play(95);
    station.finish();
    let mine = |path: &PathBuf| path.to_str().unwrap().contains("/piano-");
    let (mine, others): (Vec<_>, Vec<_>) = paths(dir.path()).into_iter().partition(mine);
    assert_eq!(others.len(), 2);
    let lens: Vec<usize> = mine.iter().map(|path| samples_of(path).len()).collect();
    assert_eq!(lens, [3_200, 1_600]);
}

#[test]
fn a_recorder_that_is_lapped_says_how_much_it_lost_and_goes_on_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut station = Station::new(dir.path(), Format::Flac);
    station.record();
    station.play(10);
    station.settle();
    // Faster than anybody looks.
    for _ in 0..10 * N_SLOTS {
        station.publish();
    }
    station.settle();
    station.play(10);
    station.finish();
    let files = recorded(dir.path());
    assert!(files.len() >= 2);
    let [samples, lost, ..] = station.counts();
    assert!(lost > 0);
    assert_eq!(samples + lost, station.n_published());
    let in_files: usize = files.values().map(Vec::len).sum();
    assert_eq!(in_files as u64, samples);
    let (last, rest) = files.last_key_value().unwrap();
    assert_eq!(
        last + rest.len() as u64,
        FIRST_POSITION + station.n_published()
    );
}

#[test]
fn a_directory_that_is_gone_stops_the_recording_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (here, away) = (dir.path().join("here"), dir.path().join("away"));
    fs::create_dir(&here).unwrap();
    let mut station = Station::new(&here, Format::Wav);
    station.order.rotate_samples = 3_200;
    station.record();
    station.play(10);
    station.settle();
    let telemetry = station.telemetry.clone();
    let is_stopped = || telemetry.record.stopped.get() == 1;
    assert!(!is_stopped());
    fs::rename(&here, &away).unwrap();
    wait_for("it does not stop", || {
        station.play(10);
        is_stopped()
    });
    fs::create_dir(&here).unwrap();
    wait_for("it does not go on", || {
        station.play(10);
        !is_stopped()
    });
    station.finish();
    let [samples, lost, _, failures] = station.counts();
    assert!(lost > 0 && failures > 0);
    // What it wrote to a file that went away is a whole file but for its name.
    let before = recorded(&here);
    assert_eq!(samples + lost, station.n_published());
    station.order.directory = away.clone();
    let n_before = station.n_published();
    station.record();
    station.play(10);
    station.finish();
    let after = recorded(&away);
    assert_eq!(
        station.counts()[0],
        samples + station.n_published() - n_before
    );
    assert!(after.keys().any(|first| *first == FIRST_POSITION));
    assert!(before.keys().all(|first| *first > FIRST_POSITION));
}

/// A directory as a process leaves it that was killed: it is copied while the recorder writes.
#[test]
fn what_a_crash_leaves_is_made_whole_or_removed() {
    for (format, block_len) in [(Format::Wav, 1), (Format::Flac, 4_096)] {
        let (dir, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut station = Station::new(dir.path(), format);
        station.record();
        station.play(150);
        station.settle();
        let [path] = &paths(dir.path())[..] else {
            panic!("more than one file");
        };
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name.ends_with(".partial"), "{name}");
        let bytes = fs::read(path).unwrap();
        station.finish();

        // Whole, cut within its last samples, cut within its head, and what is not even that.
        let lens = [bytes.len(), bytes.len() - 3, 50, 0];
        for (n, len) in lens.into_iter().enumerate() {
            let name = name.replace("piano", &format!("s{n}"));
            fs::write(crashed.path().join(&name), &bytes[..len]).unwrap();
            let mut station = Station::new(crashed.path(), format);
            station.order.station = format!("s{n}");
            station.record();
            station.play(1);
            station.finish();
        }
        let n_whole = 150 * PACKET_LEN / block_len * block_len;
        let n_cut = match format {
            Format::Wav => n_whole - 2,
            Format::Flac => n_whole - block_len,
        };
        for (station, lens) in [
            ("s0", &[PACKET_LEN, n_whole][..]),
            ("s1", &[PACKET_LEN, n_cut]),
            ("s3", &[PACKET_LEN]),
        ] {
            assert_eq!(lens_by(crashed.path(), station), lens, "{format:?}");
        }
        assert!(
            paths(crashed.path())
                .iter()
                .all(|p| p.extension().unwrap() != "partial")
        );
    }
}

/// How long the files of one station are, checked like all.
fn lens_by(directory: &Path, station: &str) -> Vec<usize> {
    let mut lens = Vec::new();
    for path in paths(directory) {
        let name = path.file_name().unwrap();
        if name.to_str().unwrap().starts_with(&format!("{station}-")) {
            let alone = tempfile::tempdir().unwrap();
            fs::copy(&path, alone.path().join(name)).unwrap();
            lens.extend(recorded(alone.path()).values().map(Vec::len));
        }
    }
    lens.sort();
    lens
}

#[test]
fn a_file_that_another_writes_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let mut station = Station::new(dir.path(), Format::Flac);
    station.record();
    station.play(50);
    station.settle();
    // Another daemon of the same station's name.
    let mut other = Station::new(dir.path(), Format::Flac);
    other.order.first_position = FIRST_POSITION + 1_000_000;
    other.record();
    other.play(10);
    other.settle();
    station.play(50);
    station.finish();
    let [samples, lost, files, failures] = station.counts();
    assert_eq!([lost, files, failures], [0, 1, 0]);
    assert_eq!(samples, station.n_published());
    other.finish();
    assert_eq!(paths(dir.path()).len(), 2);
}
