//! A daemon as it runs, and what is needed to compare what it plays with what `render` writes.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use longwave::mulaw;
use longwave::protocol::{Event, Hello, Packet};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// Nothing here takes so long, on any machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const SEED: &str = "20";

/// A running `longwave serve` with the tiny model, killed if a test gives up on it.
pub struct Daemon {
    pub child: Child,
    pub log: Receiver<String>,
    /// The lines that [`log_line`](Self::log_line) has read.
    pub said: Vec<String>,
    /// `127.0.0.1:PORT`
    pub address: String,
}

impl Daemon {
    /// Unwatched: what the tiny model draws is noise, and what it draws is compared.
    pub fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let all = [
            &["--model", "tiny", "--seed", SEED, "--no-watch"],
            arguments,
        ];
        Self::start_bare(&all.concat(), environment)
    }

    /// With nothing said of the streams.
    pub fn start_bare(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longwave"));
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .env_remove("RUST_LOG")
            .env_remove("LONGWAVE_ISA")
            .envs(environment.iter().copied());
        Self::start_by(command)
    }

    /// By a command that becomes the daemon.
    pub fn start_by(mut command: Command) -> Self {
        let mut child = command
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
        let line = daemon.log_line("://");
        let address = line.split("://").nth(1).unwrap();
        daemon.address = address.trim_end_matches('/').to_owned();
        daemon
    }

    /// Reads the log on to a line that holds `word`.
    pub fn log_line(&mut self, word: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no line with {word} in the log"));
            self.said.push(line.clone());
            if line.contains(word) {
                return line;
            }
        }
    }

    /// Whether the log up to the page's address holds `words`.
    pub fn has_said(&mut self, words: &str) -> bool {
        self.said.iter().any(|line| line.contains(words))
    }

    pub fn http(&self, path: &str) -> TcpStream {
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

    pub fn status_of(&self, path: &str) -> String {
        let mut line = String::new();
        BufReader::new(self.http(path))
            .read_line(&mut line)
            .unwrap();
        line.split(' ').nth(1).unwrap().to_owned()
    }

    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
    }

    pub fn end(&mut self) -> ExitStatus {
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

pub type Socket =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// Listens until `n` packets have come: the hello, and all their codes.
pub async fn listen(daemon: &Daemon, n: u64) -> (Hello, Vec<u8>, Socket) {
    listen_to("piano", daemon, n).await
}

pub async fn listen_to(station: &str, daemon: &Daemon, n: u64) -> (Hello, Vec<u8>, Socket) {
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
pub fn rendered(n: u64) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.wav");
    render(&file, n as f64 / 16_000.0, "16000");
    codes_of(&file)
}

pub fn render(file: &Path, seconds: f64, rate_hz: &str) {
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
pub fn codes_of(file: &Path) -> Vec<u8> {
    let samples = samples_of(file).into_iter();
    samples
        .map(|sample| mulaw::encode(sample).unwrap())
        .collect()
}

pub fn samples_of(file: &Path) -> Vec<f32> {
    let mut reader = hound::WavReader::open(file).unwrap();
    reader.samples::<f32>().map(Result::unwrap).collect()
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
