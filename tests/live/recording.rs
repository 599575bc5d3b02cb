//! Recording: the files of a daemon, joined, are what `render` writes, whatever its disk does meanwhile.

use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use longwave::mulaw;

use crate::daemon::{Daemon, PATIENCE, SEED, rendered, text};

/// Three seconds and a bit of WAV.
const RECORD: &str = "format = \"wav\", rotate_bytes = 100_000";

fn config(directory: &Path, record: &str) -> PathBuf {
    let path = directory.join("c.toml");
    let state = format!("[state]\ndirectory = \"{}\"\n", directory.display());
    let station = format!("[[station]]\nseed = {SEED}\nwatch = false\nrecord = {{ {record} }}\n");
    fs::write(&path, format!("model = \"tiny\"\n{state}{station}")).unwrap();
    path
}

/// The WAV files there, in their order: where each begins, and its samples.
pub fn recorded(directory: &Path) -> Vec<(u64, Vec<i16>)> {
    let entries = fs::read_dir(directory).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().unwrap() == "wav");
    let file = |path: PathBuf| {
        let mut reader = hound::WavReader::open(&path).unwrap();
        let samples: Vec<i16> = reader.samples::<i16>().map(Result::unwrap).collect();
        let mut numbers = path.file_stem().unwrap().to_str().unwrap().rsplit('-');
        let mut number = || numbers.next().unwrap().parse::<u64>().unwrap();
        let (end, first) = (number(), number());
        assert_eq!(end, first + samples.len() as u64);
        (first, samples)
    };
    let mut files: Vec<_> = paths.into_iter().map(file).collect();
    files.sort();
    files
}

/// Each file holds the samples of its positions.
pub fn assert_rendered(files: &[(u64, Vec<i16>)]) {
    let (first, last) = files.last().unwrap();
    let written = rendered(first + last.len() as u64);
    let written: Vec<i16> = written.into_iter().map(mulaw::decode_s16).collect();
    for (first, samples) in files {
        let first = *first as usize;
        assert!(
            written[first..][..samples.len()] == samples[..],
            "from {first} on"
        );
    }
}

fn metric(daemon: &Daemon, name: &str) -> u64 {
    let mut text = String::new();
    BufReader::new(daemon.http("/metrics"))
        .read_to_string(&mut text)
        .unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap().parse().unwrap()
}

#[test]
fn files_joined_are_what_render_writes_and_a_restart_leaves_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path(), RECORD);
    // Where nothing is said it is where the states are.
    let recordings = dir.path().join("recordings");
    for n_files in [2, 3] {
        let arguments = ["--no-card", "--resume", "--config", text(&file)];
        let mut daemon = Daemon::start_bare(&arguments, &[]);
        let begin = Instant::now();
        while !recordings.is_dir() || recorded(&recordings).len() < n_files {
            assert!(begin.elapsed() < PATIENCE, "no files");
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(metric(&daemon, "longwave_recordings_stopped"), 0);
        assert_eq!(metric(&daemon, "longwave_unrecorded_samples_total"), 0);
        daemon.signal("TERM");
        assert!(daemon.end().success());
        // None is left unfinished.
        let entries = fs::read_dir(&recordings).unwrap();
        let mut names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(names.all(|name| name.ends_with(".wav")));
    }
    let files = recorded(&recordings);
    let mut position = 0;
    for (first, samples) in &files {
        assert_eq!(*first, position);
        position += samples.len() as u64;
    }
    assert!(files.len() >= 4);
    assert_rendered(&files);
}

/// A small disk of the daemon's own, which changes when the test says so.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// `None` where this machine lets nobody mount anything.
    fn new() -> Option<Self> {
        let mount = [
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "mount",
            "-t",
            "tmpfs",
            "none",
            "/mnt",
        ];
        let mut can = Command::new(mount[0]);
        can.args(&mount[1..]).stderr(Stdio::null());
        let can = can.status().is_ok_and(|status| status.success());
        if !can {
            eprintln!("NOT TESTED: no file system can be mounted here");
        }
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("disk")).unwrap();
        can.then_some(Self { dir })
    }

    fn start(&self, options: &str, remount: &str) -> Daemon {
        let dir = text(self.dir.path());
        let record = format!("{RECORD}, directory = \"disk\"");
        let config = config(self.dir.path(), &record);
        let script = format!(
            "mount -t tmpfs -o {options} none {dir}/disk
            {{ until [ -e {dir}/go ]; do sleep 0.05; done; mount -o remount,{remount} {dir}/disk; }} &
            exec {} serve --listen 127.0.0.1:0 --no-card --config {}",
            env!("CARGO_BIN_EXE_longwave"),
            text(&config)
        );
        let mut command = Command::new("unshare");
        command.env_remove("RUST_LOG").args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-ec",
            &script,
        ]);
        Daemon::start_by(command)
    }

    /// Lets it change.
    fn go(&self) {
        fs::write(self.dir.path().join("go"), "").unwrap();
    }

    /// As the daemon sees it.
    fn recorded(&self, daemon: &Daemon) -> Vec<(u64, Vec<i16>)> {
        let root = format!(
            "/proc/{}/root{}/disk",
            daemon.child.id(),
            text(self.dir.path())
        );
        recorded(Path::new(&root))
    }
}

/// What is said and shown while the recording stops, and after.
fn assert_plays_on_and_is_recorded_again(disk: &Disk, daemon: &mut Daemon, why: &str) {
    let line = daemon.log_line("station piano is not recorded");
    assert!(line.contains(why), "{line}");
    assert_eq!(metric(daemon, "longwave_recordings_stopped"), 1);
    let codes = metric(daemon, "longwave_codes_total");
    // Long enough for another try.
    thread::sleep(Duration::from_millis(2_500));
    assert!(metric(daemon, "longwave_codes_total") > codes + 16_000);
    assert!(metric(daemon, "longwave_unrecorded_samples_total") > 0);
    disk.go();
    daemon.log_line("station piano is recorded again");
    let n_said = daemon
        .said
        .iter()
        .filter(|line| line.contains("is not recorded"))
        .count();
    assert_eq!(n_said, 1, "it is said once");
    assert_eq!(metric(daemon, "longwave_recordings_stopped"), 0);
}

#[test]
fn a_full_disk_stops_the_recording_and_not_the_music() {
    let Some(disk) = Disk::new() else {
        return;
    };
    let mut daemon = disk.start("size=256k", "size=4m");
    let why = "No space left on device";
    assert_plays_on_and_is_recorded_again(&disk, &mut daemon, why);
    let files = disk.recorded(&daemon);
    // Two, one that was cut where the disk was full, and what came after the gap.
    assert!(files.len() >= 4);
    assert_eq!(files[1].0, files[0].1.len() as u64);
    let end = files[2].0 + files[2].1.len() as u64;
    assert!(!files[2].1.is_empty() && files[2].1.len() < files[0].1.len());
    assert!(files[3].0 > end);
    assert_rendered(&files);
}

#[test]
fn a_disk_that_is_read_only_stops_the_recording_and_not_the_music() {
    let Some(disk) = Disk::new() else {
        return;
    };
    let mut daemon = disk.start("ro", "rw");
    let why = "Read-only file system";
    assert_plays_on_and_is_recorded_again(&disk, &mut daemon, why);
    assert_rendered(&disk.recorded(&daemon));
}
