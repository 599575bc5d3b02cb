//! The daemon as it runs: a real process, real sockets, the codes that `render` writes, and its end.
//!
//! Times only bound what must not hang; everything else is compared code for code.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use longwave::mulaw;
use longwave::protocol::{Event, Hello, Packet, close};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// Nothing here takes so long, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

const SEED: &str = "20";

/// A running `longwave serve` with the tiny model, killed if a test gives up on it.
struct Daemon {
    child: Child,
    log: Receiver<String>,
    /// The lines that [`log_line`](Self::log_line) has read.
    said: Vec<String>,
    /// `127.0.0.1:PORT`
    address: String,
}

impl Daemon {
    /// Unwatched: what the tiny model draws is noise, and what it draws is compared.
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let all = [
            &["--model", "tiny", "--seed", SEED, "--no-watch"],
            arguments,
        ];
        Self::start_bare(&all.concat(), environment)
    }

    /// With nothing said of the streams.
    fn start_bare(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_longwave"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .env_remove("RUST_LOG")
            .env_remove("LONGWAVE_ISA")
            .envs(environment.iter().copied())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, log) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // A test that has seen enough no longer listens.
                let _ = sender.send(line);
            }
        });
        let mut daemon = Self {
            child,
            log,
            said: Vec::new(),
            address: String::new(),
        };
        let line = daemon.log_line("http://");
        let address = line.split("http://").nth(1).unwrap();
        daemon.address = address.trim_end_matches('/').to_owned();
        daemon
    }

    /// Reads the log on to a line that holds `word`.
    fn log_line(&mut self, word: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no line with {word} in the log"));
            self.said.push(line.clone());
            if line.contains(word) {
                return line;
            }
        }
    }

    fn http(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n",
            self.address
        )
        .unwrap();
        stream
    }

    fn status_of(&self, path: &str) -> String {
        let mut line = String::new();
        BufReader::new(self.http(path))
            .read_line(&mut line)
            .unwrap();
        line.split(' ').nth(1).unwrap().to_owned()
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
    }

    fn end(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Socket =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// Listens until `n` packets have come: the hello, and all their codes.
async fn listen(daemon: &Daemon, n: u64) -> (Hello, Vec<u8>, Socket) {
    listen_to("piano", daemon, n).await
}

async fn listen_to(station: &str, daemon: &Daemon, n: u64) -> (Hello, Vec<u8>, Socket) {
    let url = format!("ws://{}/v1/stations/{station}/stream", daemon.address);
    let (mut socket, _) = connect_async(url).await.unwrap();
    let hello = match socket.next().await.unwrap().unwrap() {
        Message::Text(text) => Event::from_json(&text).unwrap(),
        other => panic!("{other:?} is no hello"),
    };
    let Event::Hello(hello) = hello else {
        panic!("{hello:?} is no hello");
    };
    let mut codes = Vec::new();
    let mut expected = hello.sequence;
    while expected < hello.sequence + n {
        if let Message::Binary(message) = socket.next().await.unwrap().unwrap() {
            let packet = Packet::decode(&message).unwrap();
            assert_eq!(packet.sequence, expected, "a packet was lost");
            codes.extend(packet.codes());
            expected += 1;
        }
    }
    (*hello, codes, socket)
}

/// What `render` makes of the same seed: its first `n` codes.
fn rendered(n: u64) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.wav");
    render(&file, n as f64 / 16_000.0, "16000");
    codes_of(&file)
}

fn render(file: &Path, seconds: f64, rate_hz: &str) {
    let status = Command::new(env!("CARGO_BIN_EXE_longwave"))
        .args([
            "render", "--model", "tiny", "--seed", SEED, "--format", "f32",
        ])
        .args(["--seconds", &seconds.to_string(), "--rate", rate_hz])
        .args(["--output", text(file)])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

/// The codes that became the samples of an f32 file.
fn codes_of(file: &Path) -> Vec<u8> {
    let samples = samples_of(file).into_iter();
    samples
        .map(|sample| mulaw::encode(sample).unwrap())
        .collect()
}

fn samples_of(file: &Path) -> Vec<f32> {
    let mut reader = hound::WavReader::open(file).unwrap();
    reader.samples::<f32>().map(Result::unwrap).collect()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

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

/// What the daemon's station answers to `longwave control`, and whether it said yes.
fn control(daemon: &Daemon, changes: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_longwave"))
        .args(["control", "piano", "--url"])
        .arg(format!("http://{}/", daemon.address))
        .args(changes)
        .env_remove("LONGWAVE_TOKEN")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn a_station_is_changed_from_the_position_that_all_are_told() {
    let daemon = Daemon::start(&["--no-card"], &[]);
    let (hello, before, mut socket) = listen(&daemon, 10).await;
    let (is_done, said) = control(&daemon, &["temperature=0"]);
    assert!(is_done, "{said}");
    let mut codes = before;
    let since = loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(message) => codes.extend(Packet::decode(&message).unwrap().codes()),
            Message::Text(text) => {
                let Event::Changed(changed) = Event::from_json(&text).unwrap() else {
                    panic!("{text} is no change");
                };
                assert_eq!(changed.draw.temperature, 0.0);
                break changed.since;
            }
            _ => {}
        }
    };
    assert!(
        said.contains(&format!("from position {since} seed={SEED} temperature=0")),
        "{said}"
    );
    let n_before = (since - hello.position) as usize;
    while codes.len() < n_before + 3_200 {
        if let Message::Binary(message) = socket.next().await.unwrap().unwrap() {
            codes.extend(Packet::decode(&message).unwrap().codes());
        }
    }
    let written = rendered(hello.position + codes.len() as u64);
    let written = &written[hello.position as usize..];
    assert!(
        codes[..n_before] == written[..n_before],
        "changed too early"
    );
    assert!(codes[n_before..] != written[n_before..], "not changed");

    assert_eq!(control(&daemon, &[]), (true, said));
    let (is_done, said) = control(&daemon, &["temperature=-1"]);
    assert!(
        !is_done && said.contains("the daemon answers 400"),
        "{said}"
    );
}

/// A card made of software (`tests/fakecard`): what it played lies in a file.
#[cfg(feature = "playback")]
struct FakeCard {
    dir: tempfile::TempDir,
}

#[cfg(feature = "playback")]
impl FakeCard {
    const RATE_HZ: usize = 48_000;
    const FADE_LEN: usize = Self::RATE_HZ / 20;

    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new("tests/fakecard/fakecard.sh")
            .args(["make", text(dir.path())])
            .output()
            .unwrap();
        assert!(made.status.success(), "the fake card could not be built");
        Self { dir }
    }

    /// For the environment of who shall play on it.
    fn alsa_config(&self) -> std::path::PathBuf {
        self.dir.path().join("asound.conf")
    }

    /// The left channel from the first sound on.
    fn played(&self) -> Vec<f32> {
        // Until it is opened there is no file.
        let bytes = std::fs::read(self.dir.path().join("played.raw")).unwrap_or_default();
        let frames = bytes.chunks_exact(8);
        let samples = frames.map(|f| f32::from_le_bytes([f[0], f[1], f[2], f[3]]));
        samples.skip_while(|&sample| sample == 0.0).collect()
    }
}

/// The machine may be too busy for real time: what is sure to be played without a gap is the half
/// lead that is gathered before the first frame.
#[cfg(feature = "playback")]
#[test]
fn the_card_plays_the_samples_that_render_writes() {
    const RATE_HZ: usize = FakeCard::RATE_HZ;
    let card = FakeCard::new();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("c.toml");
    std::fs::write(
        &config,
        "[card]\nenabled = true\nlead_ms = 4000\nperiod_ms = 100\n",
    )
    .unwrap();
    let alsa = card.alsa_config();
    let environment = [("ALSA_CONFIG_PATH", text(&alsa))];
    let mut daemon = Daemon::start(&["--config", text(&config)], &environment);
    let begin = Instant::now();
    while card.played().len() < 3 * RATE_HZ {
        assert!(begin.elapsed() < PATIENCE, "the card does not play");
        thread::sleep(Duration::from_millis(100));
    }
    daemon.signal("TERM");
    assert_eq!(daemon.end().code(), Some(0));

    let played = card.played();
    let file = dir.path().join("out.wav");
    render(
        &file,
        (played.len() / RATE_HZ + 1) as f64,
        &RATE_HZ.to_string(),
    );
    let written = samples_of(&file);
    let pairs = played.iter().zip(&written).skip(FakeCard::FADE_LEN);
    let n_equal = pairs
        .take_while(|(played, written)| played == written)
        .count();
    assert!(
        n_equal >= 2 * RATE_HZ - FakeCard::FADE_LEN,
        "only {n_equal} frames are those of the file"
    );
}

/// The listener's clock is not the station's, and where the two part it bends the pace by up to
/// 0.3 %: so its sound is followed block by block. A busy machine may spoil a second, not all.
#[cfg(feature = "playback")]
#[test]
fn a_station_is_heard_aloud_as_render_writes_it() {
    const RATE_HZ: usize = FakeCard::RATE_HZ;
    let card = FakeCard::new();
    let begin = Instant::now();
    let daemon = Daemon::start(&["--no-card"], &[]);
    let output = Command::new(env!("CARGO_BIN_EXE_longwave"))
        .args(["listen", &format!("http://{}/", daemon.address)])
        .args(["--seconds", "6"])
        .env("ALSA_CONFIG_PATH", card.alsa_config())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains(", 0 lost, 0 reconnects"), "{said}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.wav");
    let seconds = begin.elapsed().as_secs_f64() + 1.0;
    render(&file, seconds, &RATE_HZ.to_string());
    let (heard, written) = (card.played(), samples_of(&file));
    let mut whole_seconds = heard.chunks_exact(RATE_HZ);
    assert!(
        whole_seconds.any(|second| is_followed(second, &written)),
        "of {} frames no second is of the file",
        heard.len()
    );
}

/// Whether `heard` is a part of `written`, played a little faster or slower.
#[cfg(feature = "playback")]
fn is_followed(heard: &[f32], written: &[f32]) -> bool {
    const BLOCK_LEN: usize = 256;
    let search = |block: &[f32], from: usize, to: usize| {
        let to = to.min(written.len() - BLOCK_LEN);
        let places = (from..=to).map(|at| (likeness(block, &written[at..][..BLOCK_LEN]), at));
        places.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
    };
    let mut blocks = heard.chunks_exact(BLOCK_LEN);
    let (_, mut at) = search(blocks.next().unwrap(), 0, written.len());
    blocks.all(|block| {
        let due = at + BLOCK_LEN;
        let (likeness, found) = search(block, due.saturating_sub(2), due + 2);
        at = found;
        likeness > 0.8
    })
}

/// 1 for the same sound at any volume, about 0 for another.
#[cfg(feature = "playback")]
fn likeness(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1e-9)
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
fn the_service_manager_hears_ready_status_watchdog_and_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut daemon = Daemon::start(&["--no-card"], &[("NOTIFY_SOCKET", text(&path))]);
    let wait_for = |wanted: &str| {
        let mut message = [0; 1_024];
        loop {
            let n = manager.recv(&mut message).unwrap();
            if String::from_utf8_lossy(&message[..n]).contains(wanted) {
                break;
            }
        }
    };
    wait_for("READY=1");
    wait_for("WATCHDOG=1");
    wait_for("STATUS=no card, 0 listeners");
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

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_station_that_was_changed_is_drawn_again_from_what_it_says_of_itself() {
    let daemon = Daemon::start(&["--no-card"], &[]);
    let (before, mut codes, mut socket) = listen(&daemon, 10).await;
    let (_, said) = control(&daemon, &["seed=77", "temperature=0.6", "mute=true"]);
    assert!(
        said.contains("seed=77") && said.contains("mute=true"),
        "{said}"
    );
    control(&daemon, &["temperature=1.2"]);
    let mut told = Vec::new();
    let mut n_after = 0;
    while n_after < 25 {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(message) => {
                codes.extend(Packet::decode(&message).unwrap().codes());
                n_after += u32::from(told.len() == 2);
            }
            Message::Text(text) => match Event::from_json(&text).unwrap() {
                Event::Changed(changed) => told.push(changed),
                other => panic!("{other:?}"),
            },
            _ => {}
        }
    }
    assert_eq!((told[0].seed, told[1].seed), (77, 77));
    // Both may have come before the same chunk.
    assert!(told[0].since <= told[1].since);

    let mut answer = String::new();
    daemon
        .http("/v1/stations/piano")
        .read_to_string(&mut answer)
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (changes, file) = (dir.path().join("changes.json"), dir.path().join("out.wav"));
    std::fs::write(&changes, answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let first = before.position as usize;
    let n_codes = first + codes.len();
    let again = |more: &[&str]| {
        let seconds = (n_codes as f64 / 16_000.0).to_string();
        let command = [
            "render", "--model", "tiny", "--seed", SEED, "--format", "f32",
        ];
        let status = Command::new(env!("CARGO_BIN_EXE_longwave"))
            .args(command)
            .args(["--seconds", &seconds, "--output", text(&file)])
            .args(more)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        codes_of(&file)
    };
    assert!(codes == again(&["--changes", text(&changes)])[first..n_codes]);
    assert!(codes != again(&[])[first..n_codes], "nothing was changed");
}
