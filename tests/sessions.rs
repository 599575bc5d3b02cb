//! Sessions of a running daemon: their codes are those of `render`, and whatever a client does, the
//! station and the other sessions hear nothing of it.

#[path = "contract/mod.rs"]
mod document;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use document::Document;
use futures_util::{SinkExt, StreamExt};
use longwave::mulaw;
use longwave::protocol::{Changed, Event, Hello, Packet};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const MAX: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);

struct Daemon {
    child: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        let text = format!("model = \"tiny\"\noverload = true\n[sessions]\nmax = {MAX}\n");
        std::fs::write(&file, text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_longwave"))
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--no-card",
                "--no-watch",
            ])
            .args(["--seed", "20", "--config", file.to_str().unwrap()])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let page = lines.find_map(|line| {
            let line = line.unwrap();
            Some(
                line.split_once("page: http://")?
                    .1
                    .trim_end_matches('/')
                    .to_owned(),
            )
        });
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            address: page.unwrap(),
            _dir: dir,
        }
    }

    async fn connect(&self) -> Result<Client, Error> {
        let (socket, _) = connect_async(format!("ws://{}/v1/sessions", self.address)).await?;
        Ok(Client(socket))
    }

    async fn session(&self, start: &str, prompt: &[u8]) -> (Client, Hello) {
        let mut client = self.connect().await.unwrap();
        client.ask(start).await;
        for piece in prompt.chunks(5_000) {
            client
                .0
                .send(Message::binary(piece.to_vec()))
                .await
                .unwrap();
        }
        let Event::Hello(hello) = client.event().await else {
            panic!("no hello");
        };
        (client, *hello)
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n",
            self.address
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client(WebSocketStream<MaybeTlsStream<TcpStreamOfTokio>>);

type TcpStreamOfTokio = tokio::net::TcpStream;

impl Client {
    async fn ask(&mut self, request: &str) {
        self.0.send(Message::text(request)).await.unwrap();
    }

    async fn message(&mut self) -> Message {
        let message = timeout(PATIENCE, self.0.next()).await.unwrap();
        message.expect("it is open").unwrap()
    }

    /// The next event; packets before it are dropped.
    async fn event(&mut self) -> Event {
        loop {
            if let Message::Text(text) = self.message().await {
                return Event::from_json(&text).unwrap();
            }
        }
    }

    /// So many codes, and the changes that were told meanwhile.
    async fn hear(&mut self, n: usize) -> (Vec<u8>, Vec<Changed>) {
        let (mut codes, mut changes) = (Vec::new(), Vec::new());
        while codes.len() < n {
            match self.message().await {
                Message::Binary(bytes) => codes.extend(Packet::decode(&bytes).unwrap().codes()),
                Message::Text(text) => match Event::from_json(&text).unwrap() {
                    Event::Changed(changed) => changes.push(*changed),
                    other => panic!("{other:?}"),
                },
                _ => {}
            }
        }
        (codes, changes)
    }

    /// The code and the reason that it ends with.
    async fn end(&mut self) -> (u16, String) {
        loop {
            if let Event::Closing { code, reason } = self.event().await {
                return (code, reason);
            }
        }
    }
}

/// The first `n` codes of `render`.
fn rendered(seed: &str, more: &[&str], n: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.wav");
    let status = Command::new(env!("CARGO_BIN_EXE_longwave"))
        .args([
            "render", "--model", "tiny", "--format", "f32", "--seed", seed,
        ])
        .args(["--seconds", &(n as f64 / 16_000.0).to_string()])
        .args(["--output", file.to_str().unwrap()])
        .args(more)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let mut reader = hound::WavReader::open(&file).unwrap();
    let samples = reader.samples::<f32>().map(Result::unwrap);
    samples
        .map(|sample| mulaw::encode(sample).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_plays_what_render_writes() {
    let daemon = Daemon::start();
    // A prompt that was once a file: one second, in floats, at another rate.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompt.wav");
    let tone = |at: u32| (at as f32 * 0.05).sin() * 0.3;
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 24_000,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let mut writer = hound::WavWriter::create(&file, spec).unwrap();
    (0..24_000).for_each(|at| writer.write_sample(tone(at)).unwrap());
    writer.finalize().unwrap();
    let prompt: Vec<u8> = (0..24_000).flat_map(|at| tone(at).to_le_bytes()).collect();
    let start = r#"{"request":"start","seed":"7","draw":{"temperature":0.8},"format":"s16",
        "prompt":{"format":"f32","rate_hz":24000,"n_bytes":96000}}"#;
    let (mut client, hello) = daemon.session(start, &prompt).await;
    assert_eq!((hello.facts.seed, hello.sequence), (7, 0));
    assert_eq!(hello.facts.model.name, "tiny");
    assert!(hello.facts.prompt_sha256.is_some() && hello.session.is_some());
    let (codes, _) = client.hear(16_000).await;
    let more = ["--temperature", "0.8", "--prompt", file.to_str().unwrap()];
    assert!(codes == rendered("7", &more, codes.len()));

    // Paused it is silent, and goes on where it was.
    client.ask(r#"{"request":"pause"}"#).await;
    client
        .ask(r#"{"request":"change","temperature":1.1}"#)
        .await;
    let Event::Changed(changed) = client.event().await else {
        panic!("no change");
    };
    assert_eq!((changed.seed, changed.draw.temperature), (7, 1.1));
    let branch = format!(
        r#"{{"request":"start","branch_of":"{}","seed":8,"budget_s":0.5}}"#,
        hello.session.unwrap()
    );
    let (mut branch, branched) = daemon.session(&branch, &[]).await;
    assert!(branched.position >= changed.since);
    assert_eq!(branched.facts.draw.temperature, 1.1);
    assert_eq!(branched.facts.prompt_sha256, hello.facts.prompt_sha256);
    let (heard, _) = branch.hear(8_000).await;
    assert_eq!(heard.len(), 8_000);
    assert_eq!(branch.end().await.0, 1000);
    client.ask(r#"{"request":"stop"}"#).await;
    assert_eq!(client.end().await.0, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_cannot_be_is_refused_in_a_sentence() {
    let daemon = Daemon::start();
    for (request, word) in [
        ("hello", "not what docs/protocol.md says"),
        (r#"{"request":"pause"}"#, "start"),
        (
            r#"{"request":"start","model":"no-such"}"#,
            "the models are: tiny",
        ),
        (
            r#"{"request":"start","draw":{"temperature":-1}}"#,
            "temperature",
        ),
        (r#"{"request":"start","draw":{"mute":true}}"#, "no card"),
        (r#"{"request":"start","tempo":7}"#, "tempo"),
        (r#"{"request":"start","branch_of":"77"}"#, "plays no more"),
        (
            r#"{"request":"start","prompt":{"format":"s16","n_bytes":999999999}}"#,
            "what the model hears",
        ),
        (
            r#"{"request":"start","prompt":{"format":"s16","rate_hz":7,"n_bytes":4}}"#,
            "4000 to 48000",
        ),
    ] {
        let mut client = daemon.connect().await.unwrap();
        client.ask(request).await;
        let (code, reason) = client.end().await;
        assert_eq!(code, 1008, "{request}");
        assert!(reason.contains(word), "{request}: {reason}");
    }
    let mut clients = Vec::new();
    for _ in 0..MAX {
        clients.push(daemon.session(r#"{"request":"start"}"#, &[]).await);
    }
    let Err(Error::Http(refusal)) = daemon.connect().await else {
        panic!("one too many was let in");
    };
    assert_eq!(refusal.status(), 503);
    assert!(refusal.headers().contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_sessions_that_break_off_in_any_state_leak_no_lane_and_disturb_no_station() {
    let daemon = Daemon::start();
    let url = format!("ws://{}/v1/stations/piano/stream", daemon.address);
    let (socket, _) = connect_async(url).await.unwrap();
    let listener = tokio::spawn(async move {
        let mut client = Client(socket);
        let Event::Hello(hello) = client.event().await else {
            panic!("no hello");
        };
        let (codes, _) = client.hear(3 * 16_000).await;
        (hello.position as usize, codes)
    });
    let start = r#"{"request":"start","prompt":{"format":"mulaw","n_bytes":6000}}"#;
    let mut kept = Vec::new();
    for n in 0..50u64 {
        // As good as random, and the same every time.
        let dice = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        if kept.len() == MAX {
            drop(kept.swap_remove(dice as usize % MAX));
        }
        let mut client = loop {
            match daemon.connect().await {
                Ok(client) => break client,
                // Whoever was dropped is noticed soon.
                Err(Error::Http(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("{error}"),
            }
        };
        let state = dice % 6;
        if state > 0 {
            client.ask(start).await;
        }
        if state > 1 {
            client
                .0
                .send(Message::binary(vec![99; 3_000]))
                .await
                .unwrap();
        }
        if state > 2 {
            client
                .0
                .send(Message::binary(vec![99; 3_000]))
                .await
                .unwrap();
            assert!(matches!(client.event().await, Event::Hello(_)));
        }
        if state > 3 {
            client.hear(2_000).await;
            client.ask(r#"{"request":"pause"}"#).await;
        }
        if state > 4 {
            client
                .ask(r#"{"request":"prime","prompt":{"format":"mulaw","n_bytes":3000}}"#)
                .await;
            client
                .0
                .send(Message::binary(vec![50; 3_000]))
                .await
                .unwrap();
        }
        kept.push(client);
    }
    drop(kept);
    while !daemon.get("/metrics").contains("\nlongwave_sessions 0\n") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Every lane is there, and a new one is as good as the first.
    let mut clients = Vec::new();
    for seed in 1..=MAX {
        let start = format!(r#"{{"request":"start","seed":{seed}}}"#);
        clients.push(daemon.session(&start, &[]).await.0);
    }
    for (client, seed) in clients.iter_mut().zip(1..) {
        let (codes, _) = client.hear(3_200).await;
        assert!(codes == rendered(&i32::to_string(&seed), &[], codes.len()));
    }
    let (first, codes) = listener.await.unwrap();
    assert!(codes == rendered("20", &[], first + codes.len())[first..]);
}

/// Asks for what the document has, and holds what it is told against it.
struct ByTheBook {
    client: Client,
    document: Document,
    told: Vec<String>,
}

impl ByTheBook {
    async fn open(daemon: &Daemon) -> Self {
        Self {
            client: daemon.connect().await.unwrap(),
            document: Document::read(),
            told: Vec::new(),
        }
    }

    async fn ask(&mut self, name: &str, request: &str) {
        let json = serde_json::from_str(request).unwrap();
        self.document.allows(name, &json).unwrap();
        self.client.ask(request).await;
    }

    async fn piece(&mut self, len: usize) {
        let piece = Message::binary(vec![99; len]);
        self.client.0.send(piece).await.unwrap();
    }

    /// The next event.
    async fn event(&mut self) -> Event {
        loop {
            if let Message::Text(text) = self.client.message().await {
                let event = Event::from_json(&text).unwrap();
                let name = match event {
                    Event::Hello(_) => "sessionHello",
                    Event::Changed(_) => "changed",
                    Event::Closing { .. } => "sessionClosing",
                    _ => panic!("{text}"),
                };
                self.document.describes(name, &text);
                self.told.push(name.to_owned());
                return event;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_hears_and_says_is_in_the_document() {
    let daemon = Daemon::start();
    let mut session = ByTheBook::open(&daemon).await;
    let start = r#"{"request":"start","model":"tiny","seed":"7","draw":{"temperature":0.95},"format":"s16",
        "prompt":{"format":"f32","rate_hz":48000,"n_bytes":9600},"budget_s":60.0}"#;
    session.ask("start", start).await;
    session.piece(9_600).await;
    session.event().await;
    let change = r#"{"request":"change","seed":8,"temperature":1.02}"#;
    session.ask("change", change).await;
    session.event().await;
    let prime = r#"{"request":"prime","prompt":{"format":"mulaw","n_bytes":1600}}"#;
    session.ask("prime", prime).await;
    session.piece(1_600).await;
    let Event::Changed(changed) = session.event().await else {
        panic!("no change");
    };
    assert!(changed.prompt_sha256.is_some());
    session.ask("pause", r#"{"request":"pause"}"#).await;
    session.ask("resume", r#"{"request":"resume"}"#).await;
    session.ask("stop", r#"{"request":"stop"}"#).await;
    session.event().await;
    let told = ["sessionHello", "changed", "changed", "sessionClosing"];
    assert_eq!(session.told, told);
    // What the document does not allow is no request.
    let mut session = ByTheBook::open(&daemon).await;
    session.client.ask(r#"{"request":"start","tempo":7}"#).await;
    assert!(matches!(
        session.event().await,
        Event::Closing { code: 1008, .. }
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sessions_may_be_had_is_told() {
    let daemon = Daemon::start();
    let offer = |daemon: &Daemon| {
        let answer = daemon.get("/v1/sessions");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-type: application/json"), "{head}");
        serde_json::from_str::<serde_json::Value>(body).unwrap()
    };
    let told = offer(&daemon);
    assert_eq!((&told["max"], &told["free"]), (&MAX.into(), &MAX.into()));
    assert_eq!(told["may"], true);
    assert_eq!(told["models"][0]["name"], "tiny");
    let (_client, _) = daemon.session(r#"{"request":"start"}"#, &[]).await;
    assert_eq!(offer(&daemon)["free"], MAX - 1);
    let proxied = format!(
        "GET /v1/sessions HTTP/1.0\r\nHost: {}\r\nVia: 1.1 proxy\r\n\r\n",
        daemon.address
    );
    let mut stream = TcpStream::connect(&daemon.address).unwrap();
    stream.write_all(proxied.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"may\":false"), "{answer}");
}
