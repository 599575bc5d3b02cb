//! What a machine does to a daemon that runs on it: its clock jumps, `/proc` is not there, its disk is full
//! or read-only, and others want all of its processors. Each is what `docs/operating.md` says of it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, PATIENCE, SEED, listen, rendered, text};

const LONGWAVE: &str = env!("CARGO_BIN_EXE_longwave");

fn body(daemon: &Daemon, path: &str) -> (String, String) {
    let mut answer = String::new();
    daemon.http(path).read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

fn metric(daemon: &Daemon, name: &str) -> f64 {
    let (_, text) = body(daemon, "/metrics");
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
        .parse()
        .unwrap()
}

/// Hears the station for a while: without a gap, what `render` writes.
async fn assert_plays_on(daemon: &Daemon, n_packets: u64) {
    let (hello, codes, _socket) = listen(daemon, n_packets).await;
    let first = hello.position as usize;
    let written = rendered((first + codes.len()) as u64);
    assert!(codes == written[first..], "something else plays");
}

/// A wall clock that can be set, for whoever has it preloaded.
struct Clock {
    dir: tempfile::TempDir,
}

impl Clock {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O", "-Wall", "-Werror", "-o"])
            .arg(dir.path().join("clock.so"))
            .arg("tests/clock/clock.c")
            .arg("-ldl")
            .status();
        assert!(built.unwrap().success(), "cc could not build the clock");
        let clock = Self { dir };
        clock.step_to(0);
        clock
    }

    /// Seconds away from the machine's own.
    fn step_to(&self, offset_s: i64) {
        let file = self.dir.path().join("offset");
        let new = self.dir.path().join("new");
        fs::write(&new, offset_s.to_string()).unwrap();
        fs::rename(new, file).unwrap();
    }

    fn start(&self, arguments: &[&str]) -> Daemon {
        let (library, offset) = (
            self.dir.path().join("clock.so"),
            self.dir.path().join("offset"),
        );
        let environment = [
            ("LD_PRELOAD", text(&library)),
            ("LONGWAVE_TEST_CLOCK", text(&offset)),
            ("STATE_DIRECTORY", text(self.dir.path())),
        ];
        Daemon::start(arguments, &environment)
    }
}

#[test]
fn when_the_clock_jumps_links_live_by_it_and_nothing_else_does() {
    const HOUR_S: i64 = 3_600;
    let clock = Clock::new();
    let tokens = clock.dir.path().join("tokens");
    fs::write(&tokens, "listen hear-hear-hear-hear\n").unwrap();
    let link = Command::new(LONGWAVE)
        .args(["link", "--tokens", text(&tokens), "--hours", "0.5"])
        .output()
        .unwrap();
    let link = String::from_utf8(link.stdout).unwrap();
    let (_, query) = link.trim().split_once('?').unwrap();
    let file = clock.dir.path().join("c.toml");
    let config = "[[station]]\nrecord = { format = \"wav\" }\n[network]\ntokens = \"tokens\"\n";
    fs::write(&file, config).unwrap();
    let mut daemon = clock.start(&["--no-card", "--resume", "--config", text(&file)]);
    daemon.log_line("ready after");
    let n_codes = |daemon: &Daemon| metric(daemon, "longwave_codes_total");
    let (begin, at_first) = (Instant::now(), n_codes(&daemon));
    for (offset_s, status) in [(0, "200"), (HOUR_S, "401"), (-HOUR_S, "200"), (0, "200")] {
        clock.step_to(offset_s);
        // The clock has jumped: who lives by it does.
        assert_eq!(daemon.status_of(&format!("/v1/stations?{query}")), status);
        let before = n_codes(&daemon);
        while n_codes(&daemon) < before + 16_000.0 {
            assert!(begin.elapsed() < PATIENCE, "it draws no more");
            thread::sleep(Duration::from_millis(20));
        }
    }
    // An hour was neither skipped nor made up for.
    let drawn_s = (n_codes(&daemon) - at_first) / 16_000.0;
    assert!(drawn_s < begin.elapsed().as_secs_f64() + 1.0, "{drawn_s}");
    daemon.signal("TERM");
    assert!(daemon.end().success());
    let files = crate::recording::recorded(&clock.dir.path().join("recordings"));
    assert_eq!(files.len(), 1, "one file, without a gap");
    crate::recording::assert_rendered(&files);
    let mut daemon = clock.start(&["--no-card", "--resume"]);
    assert!(daemon.has_said("goes on from position"));
}

/// What a namespace of its own shows a daemon of its directory, or of `/proc`.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// `None` where this machine lets nobody mount anything.
    fn new() -> Option<Self> {
        let can = unshare("mount -t tmpfs none /mnt")
            .stderr(Stdio::null())
            .status();
        let can = can.is_ok_and(|status| status.success());
        if !can {
            eprintln!("NOT TESTED: no file system can be mounted here");
        }
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        can.then_some(Self { dir })
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A daemon that keeps its station, after `mounts` were made.
    fn start(&self, mounts: &str) -> Daemon {
        let state = self.state();
        let mut command = unshare(&format!(
            "{mounts}
            exec {LONGWAVE} serve --listen 127.0.0.1:0 --no-card --model tiny --seed {SEED} --no-watch --resume"
        ));
        command
            .env("STATE_DIRECTORY", &state)
            .env("RUST_LOG", "longwave=debug");
        Daemon::start_by(command)
    }
}

/// A shell that is root, of its own world.
fn unshare(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", script]);
    command
}

#[tokio::test]
async fn without_proc_it_plays() {
    let Some(world) = World::new() else { return };
    let mut daemon = world.start("mount -t tmpfs none /proc");
    daemon.log_line("ready after");
    assert_plays_on(&daemon, 10).await;
    assert_eq!(body(&daemon, "/readyz").0, "200");
    assert!(metric(&daemon, "longwave_codes_total") > 0.0);
    daemon.signal("TERM");
    assert!(daemon.end().success());
}

#[tokio::test]
async fn where_the_state_is_read_only_it_goes_on_from_it_and_plays_without_keeping_more() {
    let Some(world) = World::new() else { return };
    let mut daemon = world.start("true");
    daemon.log_line("is kept at position");
    daemon.signal("TERM");
    assert!(daemon.end().success());
    let kept = fs::read(world.state().join("piano.state")).unwrap();
    let state = world.state();
    let state = text(&state);
    let mounts = format!("mount --bind {state} {state}\nmount -o remount,bind,ro {state}");
    let mut daemon = world.start(&mounts);
    assert!(daemon.has_said("goes on from position"));
    let line = daemon.log_line("cannot keep station piano in");
    assert!(line.contains("Read-only file system"), "{line}");
    assert_plays_on(&daemon, 10).await;
    assert_eq!(metric(&daemon, "longwave_state_failures_total"), 1.0);
    daemon.signal("TERM");
    assert!(daemon.end().success());
    assert_eq!(fs::read(world.state().join("piano.state")).unwrap(), kept);
}

#[tokio::test]
async fn where_the_disk_is_full_it_keeps_nothing_until_there_is_room() {
    let Some(world) = World::new() else { return };
    let state = world.state();
    let mut daemon = world.start(&format!("mount -t tmpfs -o size=4k none {}", text(&state)));
    let line = daemon.log_line("cannot keep station piano in");
    assert!(line.contains("No space left on device"), "{line}");
    assert_plays_on(&daemon, 10).await;
    // As the daemon sees it: nothing half written is left.
    let root = format!("/proc/{}/root", daemon.child.id());
    let seen = Path::new(&root).join(state.strip_prefix("/").unwrap());
    assert_eq!(fs::read_dir(&seen).unwrap().count(), 0);
    assert_eq!(body(&daemon, "/readyz").0, "200");
    daemon.signal("TERM");
    assert!(daemon.end().success(), "it ends well all the same");
}

/// Loops that want every processor, as urgently as the generation thread is; gone when dropped.
struct Hogs(Vec<Child>);

impl Hogs {
    fn new() -> Self {
        let n = thread::available_parallelism().unwrap().get();
        let hog = |_| {
            // The generator asks for that, too, and gets it where this does.
            let mut hog = Command::new("nice");
            hog.args(["-n", "-10", "sh", "-c", "while :; do :; done"]);
            hog.stderr(Stdio::null()).spawn().unwrap()
        };
        Self((0..2 * n).map(hog).collect())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }
}

#[tokio::test]
async fn when_others_want_every_processor_what_is_lost_is_counted_and_it_comes_back() {
    let daemon = Daemon::start(&["--no-card"], &[]);
    let lost_s = |daemon: &Daemon| metric(daemon, "longwave_lost_seconds_total");
    let hogs = Hogs::new();
    // Packet after packet, whenever they come.
    assert_plays_on(&daemon, 150).await;
    // Who asks whether it plays in time hears what the count says: looked at once a second, of all that
    // was lost so far, for it is not a minute old.
    let before_s = lost_s(&daemon);
    thread::sleep(Duration::from_millis(2_500));
    let (status, why) = body(&daemon, "/readyz");
    let after_s = lost_s(&daemon);
    println!("under load: {before_s} to {after_s} s lost, /readyz {status}: {why}");
    match status.as_str() {
        "200" => assert!(before_s < 1.0),
        _ => assert!(
            after_s >= 1.0 || why.starts_with("nothing was drawn"),
            "{why}"
        ),
    }
    drop(hogs);
    // Nothing is made up for that nobody can hear any more, and nothing more is lost.
    assert_plays_on(&daemon, 50).await;
    let begin = Instant::now();
    while body(&daemon, "/readyz").0 != "200" {
        assert!(begin.elapsed() < 2 * PATIENCE, "it does not come back");
        thread::sleep(Duration::from_millis(200));
    }
}
