//! The daemon as it runs: a real process, real sockets, the codes that `render` writes, and its end.
//!
//! Times only bound what must not hang; everything else is compared code for code.

#[cfg(feature = "playback")]
mod aloud;
mod changes;
mod daemon;
mod recording;
mod reload;
mod resume;
mod tls;
mod world;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use longwave::mulaw;
use longwave::protocol::close;
use tokio_tungstenite::tungstenite::Message;

use daemon::{Daemon, PATIENCE, SEED, codes_of, find, listen, listen_to, rendered, text};

#[test]
fn the_page_is_told_to_whoever_wants_no_log() {
    let mut daemon = Daemon::start(&["--no-card"], &[("RUST_LOG", "off")]);
    assert!(daemon.address.starts_with("127.0.0.1:"));
    daemon.signal("TERM");
    assert!(daemon.end().success());
    assert!(
        daemon.log.iter().next().is_none(),
        "more than the page was said"
    );
}

#[tokio::test]
async fn every_way_to_listen_carries_the_codes_that_render_writes() {
    let daemon = Daemon::start(&["--no-card"], &[]);
    let mut wav = BufReader::new(daemon.http("/v1/stations/piano/stream.wav"));
    let (hello, codes, _socket) = listen(&daemon, 50).await;
    assert_eq!(hello.facts.seed.to_string(), SEED);

    let mut head = String::new();
    while wav.read_line(&mut head).unwrap() > 2 {}
    let mut sound = vec![0; 44 + 2 * 16_000];
    wav.read_exact(&mut sound).unwrap();
    let samples = sound[44..]
        .chunks_exact(2)
        .map(|s| i16::from_le_bytes([s[0], s[1]]));
    let heard: Vec<u8> = samples
        .map(|sample| mulaw::encode(f32::from(sample) / 32_767.0).unwrap())
        .collect();

    let first = hello.position as usize;
    let written = rendered((first + codes.len() + 32_000) as u64);
    assert!(
        codes == written[first..first + codes.len()],
        "the WebSocket plays something else"
    );
    // The WAV stream does not say where it begins, but a second of music is found once.
    assert!(
        find(&written, &heard).is_some(),
        "stream.wav plays something else"
    );
}

#[test]
fn a_recording_holds_the_codes_that_render_writes() {
    let daemon = Daemon::start(&["--no-card"], &[]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recorded.wav");
    let status = Command::new(env!("CARGO_BIN_EXE_longwave"))
        .args(["listen", &format!("http://{}/", daemon.address)])
        .args([
            "--seconds",
            "0.5",
            "--format",
            "f32",
            "--output",
            text(&file),
        ])
        .status()
        .unwrap();
    assert!(status.success());
    let heard = codes_of(&file);
    assert_eq!(heard.len(), 8_000);
    // It came to listen within the first half minute.
    assert!(find(&rendered(30 * 16_000), &heard).is_some());
}

#[tokio::test]
async fn a_signal_ends_it_well_and_listeners_are_told() {
    for name in ["TERM", "INT"] {
        let mut daemon = Daemon::start(&["--no-card"], &[]);
        let (_, _, mut socket) = listen(&daemon, 5).await;
        daemon.log_line("ready after");
        assert_eq!(daemon.status_of("/readyz"), "200");
        daemon.signal(name);
        let mut code = None;
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Close(Some(frame)) = message {
                code = Some(u16::from(frame.code));
            }
        }
        assert_eq!(code, Some(close::GOING_AWAY));
        assert_eq!(daemon.end().code(), Some(0), "SIG{name}");
    }
}

#[test]
fn a_daemon_that_was_held_up_says_what_it_lost_and_is_not_ready() {
    let mut daemon = Daemon::start(&["--no-card"], &[]);
    daemon.log_line("ready after");
    daemon.signal("STOP");
    std::thread::sleep(Duration::from_millis(2_500));
    daemon.signal("CONT");
    let line = daemon.log_line("not ready any more");
    assert!(
        line.contains("s of sound were lost in the last 60 s"),
        "{line}"
    );
    let mut answer = String::new();
    daemon.http("/readyz").read_to_string(&mut answer).unwrap();
    let (head, why) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 503"), "{head}");
    assert!(
        why.ends_with("s of sound were lost in the last 60 s\n"),
        "{why}"
    );
}

#[test]
fn the_service_manager_hears_ready_status_watchdog_and_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut daemon = Daemon::start(&["--no-card"], &[("NOTIFY_SOCKET", text(&path))]);
    let wait_for = |wanted: &str| {
        let mut message = [0; 1_024];
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < PATIENCE, "{wanted} was not said");
            let n = manager.recv(&mut message).unwrap();
            if String::from_utf8_lossy(&message[..n]).contains(wanted) {
                break;
            }
        }
    };
    wait_for("READY=1");
    wait_for("WATCHDOG=1");
    wait_for("STATUS=piano on ");
    wait_for("x real time, no card, 0 listeners, 0 underruns");
    wait_for("WATCHDOG=1");
    daemon.signal("TERM");
    wait_for("STOPPING=1");
    assert_eq!(daemon.end().code(), Some(0));
}

/// Of the daemon with its real engine; what is heard meanwhile is tested where time can be told.
#[tokio::test]
async fn a_station_that_plays_noise_is_brought_back_and_it_is_told() {
    let stream = ["--model", "tiny", "--seed", SEED, "--no-card"];
    let mut daemon = Daemon::start_bare(&stream, &[]);
    // Packet after packet, whatever happens.
    let (hello, codes, _socket) = listen(&daemon, 150).await;
    assert_eq!(codes.len(), 150 * 320);
    let first = hello.position as usize;
    let written = rendered((first + codes.len()) as u64);
    assert!(codes != written[first..first + codes.len()]);
    daemon.log_line("collapses into noise, left");
    let mut metrics = String::new();
    daemon
        .http("/metrics")
        .read_to_string(&mut metrics)
        .unwrap();
    let n = |kind: &str| -> u64 {
        let name = format!("longwave_collapses_total{{kind=\"{kind}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap().parse().unwrap()
    };
    assert!(n("noise") > 0, "{metrics}");
    assert_eq!(n("dead"), 0);
}

#[test]
fn every_station_of_a_file_is_on_the_air() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("two.toml");
    let stations = "[[station]]\nname = \"one\"\n[[station]]\nname = \"two\"\ntop_p = 0.9\n";
    // How fast the machine of the test is does not matter here.
    std::fs::write(&file, format!("overload = true\n{stations}")).unwrap();
    let daemon = Daemon::start(&["--no-card", "--config", text(&file)], &[]);
    for (path, status) in [
        ("/v1/stations/one/stream.wav", "200"),
        ("/v1/stations/two/stream.wav", "200"),
        ("/v1/stations/piano/stream.wav", "404"),
        ("/healthz", "200"),
        ("/metrics", "200"),
        ("/", "200"),
    ] {
        assert_eq!(daemon.status_of(path), status, "{path}");
    }
}

/// The same weights under another name and at another rate: what they play is the same codes.
#[tokio::test]
async fn stations_of_different_models_each_play_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let fast = dir.path().join("fast");
    std::fs::create_dir(&fast).unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
    let weights = "model.safetensors";
    std::fs::copy(tiny.join(weights), fast.join(weights)).unwrap();
    let config = std::fs::read_to_string(tiny.join("config.json")).unwrap();
    let config = config.replace("16000", "24000");
    std::fs::write(fast.join("config.json"), config).unwrap();

    let file = dir.path().join("two.toml");
    let station = |name, rest| format!("[[station]]\nname = \"{name}\"\nseed = {SEED}\n{rest}");
    let stations = station("one", "") + &station("two", "model = \"./fast\"\n");
    let head = "model = \"tiny\"\noverload = true\n";
    std::fs::write(&file, format!("{head}{stations}")).unwrap();
    let daemon = Daemon::start_bare(&["--no-card", "--no-watch", "--config", text(&file)], &[]);
    let mut written = Vec::new();
    for (name, rate_hz, packet_len) in [("one", 16_000, 320), ("two", 24_000, 480)] {
        let (hello, codes, _socket) = listen_to(name, &daemon, 25).await;
        let facts = &hello.facts;
        assert_eq!(
            (facts.sample_rate_hz, facts.packet_len),
            (rate_hz, packet_len)
        );
        assert_eq!(
            facts.model.name,
            if name == "one" { "tiny" } else { "fast" }
        );
        let first = hello.position as usize;
        if written.len() < first + codes.len() {
            written = rendered((first + codes.len()) as u64);
        }
        assert!(codes == written[first..first + codes.len()], "{name}");
    }
}

#[test]
fn the_log_says_what_computes_and_why() {
    let environment = [("RUST_LOG", "info"), ("LONGWAVE_ISA", "portable")];
    let started = |arguments: &[&str]| {
        let arguments = [&["--no-card"], arguments].concat();
        let daemon = Daemon::start(&arguments, &environment);
        daemon.said.join("\n")
    };
    let said = started(&["--threads", "1"]);
    assert!(
        said.contains("portable: asked for by LONGWAVE_ISA"),
        "{said}"
    );
    assert!(
        said.contains("threads for tiny: 1 (as asked for), where the scheduler"),
        "{said}"
    );
    assert!(said.contains("1 station takes "), "{said}");
    let best = longwave::engine::Isa::best().name();
    let said = started(&["--isa", best]);
    assert!(
        said.contains(&format!("{best}: asked for by --isa")) || best == "portable",
        "{said}"
    );
}

#[test]
fn a_socket_that_is_handed_over_is_the_one_that_is_listened_on() {
    // A part of systemd, as the thing itself is: where there is none, nobody hands anything over.
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let address = format!("127.0.0.1:{port}");
    let longwave = env!("CARGO_BIN_EXE_longwave");
    let spawned = Command::new("systemd-socket-activate")
        .args(["--listen", &address, longwave, "serve", "--no-card"])
        .args(["--model", "tiny", "--listen", "127.0.0.1:1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .spawn();
    let Ok(mut child) = spawned else {
        eprintln!("no systemd-socket-activate here: not tested");
        return;
    };
    // The first connection starts it, and waits for it.
    let answer = (0..200).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let mut stream = std::net::TcpStream::connect(&address).ok()?;
        std::io::Write::write_all(&mut stream, b"GET /healthz HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    });
    let _ = child.kill();
    let _ = child.wait();
    assert!(answer.is_some_and(|answer| answer.starts_with("HTTP/1.0 200")));
}
