//! SIGHUP: the configuration is read again while everything plays.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use longwave::mulaw;
use longwave::protocol::{Packet, close};
use tokio_tungstenite::tungstenite::Message;

use crate::changes::control;
use crate::daemon::{Daemon, SEED, Socket, listen, listen_to, rendered, text};

const STATION: &str = "model = \"tiny\"\n[[station]]\nname = \"piano\"\nwatch = false\n";

const READ: &str = "the configuration was read again";

fn reread(daemon: &mut Daemon, file: &Path, config: &str, answer: &str) {
    fs::write(file, config).unwrap();
    daemon.signal("HUP");
    daemon.log_line(answer);
}

#[tokio::test]
async fn a_changed_configuration_changes_what_plays_and_a_bad_one_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    fs::write(&file, format!("{STATION}seed = 3\n")).unwrap();
    let mut daemon = Daemon::start_bare(&["--no-card", "--config", text(&file)], &[]);
    let (before, ..) = listen(&daemon, 5).await;
    let new = format!("{STATION}seed = 4\ntemperature = 0.5\n");
    reread(&mut daemon, &file, &new, "station piano from position");
    let state = |daemon: &Daemon| control(daemon, &[]).1;
    assert!(state(&daemon).contains("seed=4 temperature=0.5"));
    // Nothing of a file that is wrong anywhere.
    let bad = format!("{STATION}seed = 5\ntemperature = -1\n");
    reread(&mut daemon, &file, &bad, "all stays as it was");
    let gone = format!("{STATION}seed = 5\nprompt = \"gone.wav\"\n");
    reread(&mut daemon, &file, &gone, "all stays as it was");
    let other = format!("{STATION}seed = 5\nmodel = \"no-such\"\n");
    reread(&mut daemon, &file, &other, "all stays as it was");
    assert!(state(&daemon).contains("seed=4 temperature=0.5"));
    // What cannot change while it plays is said.
    let waits = "[network]: changed in the configuration, and holds after a restart";
    reread(
        &mut daemon,
        &file,
        &format!("{new}[network]\njitter_ms = 300\n"),
        waits,
    );
    daemon.log_line(READ);
    let (after, ..) = listen(&daemon, 5).await;
    assert!(after.position > before.position);
}

#[test]
fn tokens_that_were_changed_hold_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (file, tokens) = (dir.path().join("c.toml"), dir.path().join("tokens"));
    let config = format!("{STATION}[network]\ntokens = \"tokens\"\n");
    fs::write(&file, &config).unwrap();
    fs::write(&tokens, "control steer-steer-steer-steer\n").unwrap();
    let mut daemon = Daemon::start_bare(&["--no-card", "--config", text(&file)], &[]);
    assert_eq!(daemon.status_of("/v1/stations"), "200");
    fs::write(&tokens, "listen hear-hear-hear-hear\n").unwrap();
    reread(&mut daemon, &file, &config, READ);
    assert_eq!(daemon.status_of("/v1/stations"), "401");
}

/// A directory with a configuration to come, and the tiny model at another rate.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fast = dir.path().join("fast");
        fs::create_dir(&fast).unwrap();
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
        let weights = "model.safetensors";
        fs::copy(tiny.join(weights), fast.join(weights)).unwrap();
        let config = fs::read_to_string(tiny.join("config.json")).unwrap();
        fs::write(fast.join("config.json"), config.replace("16000", "24000")).unwrap();
        Self { dir }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("c.toml")
    }

    /// How fast the machine of the test is does not matter here.
    fn write(&self, stations: &[&str]) {
        let head = "model = \"tiny\"\noverload = true\n";
        fs::write(self.file(), head.to_owned() + &stations.concat()).unwrap();
    }

    /// A daemon that keeps its stations, and plays these.
    fn start(&self, stations: &[&str]) -> Daemon {
        self.write(stations);
        let arguments = ["--no-card", "--resume", "--config", text(&self.file())].map(String::from);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let environment = [
            ("STATE_DIRECTORY", text(self.dir.path())),
            ("RUST_LOG", "longwave=debug"),
        ];
        Daemon::start_bare(&arguments, &environment)
    }

    /// Has it play these from now on; whether they do.
    fn reload(&self, daemon: &mut Daemon, stations: &[&str]) {
        self.write(stations);
        daemon.signal("HUP");
        daemon.log_line(READ);
    }
}

fn station(name: &str, more: &str) -> String {
    format!("[[station]]\nname = \"{name}\"\nseed = {SEED}\nwatch = false\n{more}\n")
}

/// The names of all that plays, in the order they are listed.
fn names(daemon: &Daemon) -> Vec<String> {
    let listings = body(daemon, "/v1/stations");
    let listings: Vec<serde_json::Value> = serde_json::from_str(&listings).unwrap();
    let names = listings.iter().map(|l| l["station"].as_str().unwrap());
    names.map(String::from).collect()
}

fn body(daemon: &Daemon, path: &str) -> String {
    let mut answer = String::new();
    daemon.http(path).read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Listens on, packet after packet, for `n` of them or to the end; with what code that comes.
async fn hear(socket: &mut Socket, mut sequence: u64, n: usize) -> (Vec<u8>, Option<u16>) {
    let (mut codes, mut n_heard) = (Vec::new(), 0);
    while n_heard < n {
        match socket.next().await {
            Some(Ok(Message::Binary(message))) => {
                let packet = Packet::decode(&message).unwrap();
                assert_eq!(packet.sequence, sequence, "a packet was lost");
                codes.extend(packet.codes());
                (sequence, n_heard) = (sequence + 1, n_heard + 1);
            }
            Some(Ok(Message::Close(Some(frame)))) => {
                assert_eq!(frame.reason.as_str(), "the station was taken off the air");
                return (codes, Some(frame.code.into()));
            }
            Some(Ok(_)) => {}
            end => panic!("the end without a word: {end:?}"),
        }
    }
    (codes, None)
}

fn assert_is_rendered(codes: &[u8], position: u64) {
    let first = position as usize;
    let written = rendered((first + codes.len()) as u64);
    assert!(codes == &written[first..], "something else plays");
}

#[tokio::test]
async fn a_station_of_a_model_not_loaded_so_far_joins_and_the_others_do_not_notice() {
    let desk = Desk::new();
    let piano = station("piano", "");
    let mut daemon = desk.start(&[&piano]);
    let (hello, mut heard, mut socket) = listen(&daemon, 10).await;
    let (fast, third) = (station("fast", "model = \"./fast\""), station("third", ""));
    desk.reload(&mut daemon, &[&fast, &piano, &third]);
    assert_eq!(names(&daemon), ["fast", "piano", "third"]);
    // The first of the file is what they get who name none.
    let playlist = body(&daemon, "/listen.m3u");
    assert!(playlist.contains("#EXTINF:-1,fast"), "{playlist}");
    let metrics = body(&daemon, "/metrics");
    for name in ["fast", "third"] {
        assert!(
            metrics.contains(&format!("station=\"{name}\"")),
            "{metrics}"
        );
        let (hello, codes, _socket) = listen_to(name, &daemon, 25).await;
        assert_eq!(hello.facts.sample_rate_hz == 24_000, name == "fast");
        assert_eq!(hello.facts.first_position, 0);
        assert_is_rendered(&codes, hello.position);
    }
    let sequence = hello.sequence + 10;
    heard.extend(hear(&mut socket, sequence, 25).await.0);
    assert_is_rendered(&heard, hello.position);
}

#[tokio::test]
async fn a_station_that_is_removed_fades_out_and_one_that_comes_back_goes_on() {
    let desk = Desk::new();
    let (piano, second) = (station("piano", ""), station("second", ""));
    let mut daemon = desk.start(&[&second, &piano]);
    let (hello, mut codes, mut socket) = listen_to("second", &daemon, 10).await;
    desk.reload(&mut daemon, &[&piano]);
    assert_eq!(daemon.status_of("/v1/stations/second"), "404");
    assert_eq!(names(&daemon), ["piano"]);
    let (rest, code) = hear(&mut socket, hello.sequence + 10, usize::MAX).await;
    assert_eq!(code, Some(close::OFF_AIR));
    codes.extend(rest);
    let n_faded = 13 * 320;
    let (clear, faded) = codes.split_at(codes.len() - n_faded);
    assert_is_rendered(clear, hello.position);
    let silent = faded[n_faded - 32..].iter();
    assert!(
        silent
            .map(|&code| mulaw::decode(code).abs())
            .all(|s| s < 0.02)
    );
    // And again, as often as that is wished.
    let mut position = hello.position + codes.len() as u64;
    for _ in 0..2 {
        desk.reload(&mut daemon, &[&piano, &second]);
        assert_eq!(names(&daemon), ["piano", "second"]);
        let (hello, codes, _socket) = listen_to("second", &daemon, 5).await;
        assert!(hello.facts.first_position >= position);
        assert_is_rendered(&codes, hello.position);
        position = hello.position;
        desk.reload(&mut daemon, &[&piano]);
    }
    daemon.signal("TERM");
    assert!(daemon.end().success());
}

#[tokio::test]
async fn a_station_whose_model_changes_leaves_and_comes_with_the_other() {
    let desk = Desk::new();
    let (piano, second) = (station("piano", ""), station("second", ""));
    let mut daemon = desk.start(&[&piano, &second]);
    let (hello, heard, mut piano_socket) = listen(&daemon, 5).await;
    let (second_hello, _, mut socket) = listen_to("second", &daemon, 5).await;
    let other = station("second", "model = \"./fast\"");
    desk.reload(&mut daemon, &[&piano, &other]);
    let sequence = second_hello.sequence + 5;
    let (_, code) = hear(&mut socket, sequence, usize::MAX).await;
    assert_eq!(code, Some(close::OFF_AIR));
    let (second_hello, codes, _socket) = listen_to("second", &daemon, 5).await;
    assert_eq!(second_hello.facts.sample_rate_hz, 24_000);
    assert_is_rendered(&codes, second_hello.position);
    let (more, _) = hear(&mut piano_socket, hello.sequence + 5, 10).await;
    assert_is_rendered(&[heard, more].concat(), hello.position);
}

#[tokio::test]
async fn more_stations_than_fit_are_refused_and_what_plays_goes_on() {
    let desk = Desk::new();
    desk.write(&[&station("piano", "")]);
    let file = desk.file();
    let arguments = ["--no-card", "--isa", "portable", "--config", text(&file)];
    let mut daemon = Daemon::start_bare(&arguments, &[]);
    // By the portable path no machine draws so many in time.
    let more = (0..50).map(|n| station(&format!("more-{n}"), ""));
    let stations = station("piano", "temperature = 0.5") + &more.collect::<String>();
    fs::write(&file, format!("model = \"tiny\"\n{stations}")).unwrap();
    daemon.signal("HUP");
    let line = daemon.log_line("all stays as it was");
    assert!(line.contains("51 stations take "), "{line}");
    assert!(
        line.contains("of the time there is and 0.90 may be used"),
        "{line}"
    );
    assert!(control(&daemon, &[]).1.contains("temperature=1 "));
    assert_eq!(names(&daemon), ["piano"]);
    let (hello, codes, _socket) = listen(&daemon, 10).await;
    assert_is_rendered(&codes, hello.position);
}

/// Bytes of its memory, and how many files it has open.
fn size_of(daemon: &Daemon) -> (u64, usize) {
    let process = PathBuf::from(format!("/proc/{}", daemon.child.id()));
    let status = fs::read_to_string(process.join("status")).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = rss.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    (kib << 10, fs::read_dir(process.join("fd")).unwrap().count())
}

#[tokio::test]
async fn twenty_reloads_leave_nothing_behind() {
    let desk = Desk::new();
    let (piano, second) = (station("piano", ""), station("second", ""));
    let other = station("second", "model = \"./fast\"");
    let mut daemon = desk.start(&[&piano]);
    let (hello, mut heard, mut socket) = listen(&daemon, 5).await;
    let mut before = (0, 0);
    for round in 0..10 {
        desk.reload(&mut daemon, &[&piano, [&second, &other][round % 2]]);
        desk.reload(&mut daemon, &[&piano]);
        // What is reused from then on has been taken once.
        if round == 3 {
            before = size_of(&daemon);
        }
    }
    let after = size_of(&daemon);
    assert!(after.1 <= before.1, "{before:?} then {after:?}");
    assert!(
        after.0 < before.0 + before.0 / 20,
        "{before:?} then {after:?}"
    );
    heard.extend(hear(&mut socket, hello.sequence + 5, 10).await.0);
    assert_is_rendered(&heard, hello.position);
}

#[test]
fn a_station_is_recorded_from_one_reload_to_another() {
    let desk = Desk::new();
    let piano = station("piano", "");
    let mut daemon = desk.start(&[&piano]);
    let record = station("piano", "record = { format = \"wav\" }");
    desk.reload(&mut daemon, &[&record]);
    std::thread::sleep(std::time::Duration::from_millis(700));
    desk.reload(&mut daemon, &[&piano]);
    daemon.signal("TERM");
    assert!(daemon.end().success());
    let files = crate::recording::recorded(&desk.dir.path().join("recordings"));
    assert_eq!(files.len(), 1);
    assert!(files[0].0 > 0 && files[0].1.len() > 3_200);
    crate::recording::assert_rendered(&files);
}
