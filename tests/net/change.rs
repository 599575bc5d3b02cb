//! Stations that are changed while they play. Orders are obeyed here, where nothing plays.

use longwave::access::Tokens;
use longwave::control::{Change, Command, Inbox, Refusal};
use longwave::mulaw;
use longwave::net::Settings;
use longwave::protocol::{Changed, Event};
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::server::{FIRST_POSITION, HEARS, Listener, Server};

/// Obeys orders at positions 1,000, 2,000, ... and ends with all that was asked.
pub fn obey(inbox: Inbox, answers: Vec<Result<(), Refusal>>) -> JoinHandle<Vec<Change>> {
    tokio::task::spawn_blocking(move || {
        let mut seen = Vec::new();
        for answer in answers {
            let order = loop {
                match inbox.take() {
                    Some(Command::Change(order)) => break order,
                    Some(Command::Stop) => return seen,
                    _ => std::thread::sleep(std::time::Duration::from_millis(1)),
                }
            };
            seen.push(order.change.clone());
            order.answer(answer.map(|()| 1_000 * seen.len() as u64));
        }
        seen
    })
}

async fn send(server: &Server, method: &str, path: &str, kind: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        server.addr,
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // Who refuses need not read on.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn patch(server: &Server, body: &str) -> String {
    let path = "/v1/stations/piano";
    send(server, "PATCH", path, "application/json", body.as_bytes()).await
}

pub async fn prime(server: &Server, kind: &str, body: &[u8]) -> String {
    send(server, "POST", "/v1/stations/piano/prime", kind, body).await
}

async fn changed(listener: &mut Listener) -> Changed {
    match listener.event().await {
        Some(Event::Changed(changed)) => *changed,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_answered_with_its_position_and_told_to_all_who_listen() {
    let (server, inbox) = Server::start_idle(Settings::default()).await;
    let obeying = obey(inbox, vec![Ok(()), Ok(())]);
    let mut listener = server.listen("").await;
    assert_eq!(listener.hello.as_ref().unwrap().facts.since, FIRST_POSITION);
    let answer = patch(
        &server,
        r#"{"seed":"18446744073709551615","temperature":0.5}"#,
    )
    .await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert!(answer.contains(r#""since":1000"#), "{answer}");
    let told = changed(&mut listener).await;
    assert_eq!(
        (told.since, told.seed, told.draw.temperature),
        (1_000, u64::MAX, 0.5)
    );
    patch(&server, r#"{"seed":8,"volume_db":-20,"mute":false}"#).await;
    let told = changed(&mut listener).await;
    // What was not asked for stays as it is, not as it was at first.
    assert_eq!(
        (told.seed, told.draw.temperature, told.volume_db),
        (8, 0.5, -20.0)
    );

    let late = server.listen("").await.hello.unwrap();
    assert_eq!((late.facts.seed, late.facts.since), (8, 2_000));
    let portrait = server.text("GET", "/v1/stations/piano").await;
    assert!(portrait.contains(r#""n_changes":2"#), "{portrait}");
    assert_eq!(portrait.matches("{\"since\"").count(), 2);
    let asked = obeying.await.unwrap();
    assert_eq!(asked[0].gain, Some(1.0));
    let gain = asked[1].gain.unwrap();
    assert!((gain - 0.1).abs() < 1e-6, "{gain}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_change_is_refused_in_a_sentence_and_goes_nowhere() {
    let (server, inbox) = Server::start_idle(Settings::default()).await;
    for (body, status, word) in [
        (r#"{"tempo":1}"#, "400", "tempo"),
        (r#"{"temperature":-1}"#, "400", "temperature"),
        (r#"{"top_p":"x"}"#, "400", "not what docs/protocol.md says"),
        (r#"{"seed":-1}"#, "400", "seed"),
        (r#"{"volume_db":3}"#, "400", "volume_db"),
        ("{}", "400", "nothing is asked for"),
        ("{", "400", "not what docs/protocol.md says"),
        (&" ".repeat(5_000), "413", "longer than 4096"),
    ] {
        let answer = patch(&server, body).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.0 {status}")),
            "{body}: {answer}"
        );
        assert!(answer.contains(word), "{body}: {answer}");
    }
    for (kind, body, status, word) in [
        ("audio/wav", &b"no WAV"[..], "400", "the prompt"),
        ("application/octet-stream", b"", "400", "empty"),
        ("audio/wav", &vec![0; 17 << 20], "413", "longer than"),
    ] {
        let answer = prime(&server, kind, body).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.0 {status}")),
            "{answer}"
        );
        assert!(answer.contains(word), "{answer}");
    }
    let nowhere = send(&server, "PATCH", "/v1/stations/jazz", "", b"{}").await;
    assert!(nowhere.starts_with("HTTP/1.0 404"), "{nowhere}");
    assert!(inbox.take().is_none());
    drop(inbox);
    let answer = patch(&server, r#"{"seed":1}"#).await;
    assert!(answer.starts_with("HTTP/1.0 503"), "{answer}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_goes_to_the_pump_as_codes_as_far_back_as_the_model_hears() {
    let (server, inbox) = Server::start_idle(Settings::default()).await;
    let obeying = obey(inbox, vec![Ok(()), Ok(()), Err(Refusal::NoLane)]);
    let mut listener = server.listen("").await;
    let codes: Vec<u8> = (0..=255).cycle().take(HEARS + 500).collect();
    let answer = prime(&server, "application/octet-stream", &codes).await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    let told = changed(&mut listener).await;
    assert_eq!(told.prompt_sha256.as_ref().map(String::len), Some(64));

    // The same as a WAV file, in floats.
    let mut wav = std::io::Cursor::new(Vec::new());
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let mut writer = hound::WavWriter::new(&mut wav, spec).unwrap();
    for code in &codes {
        writer.write_sample(mulaw::decode(*code)).unwrap();
    }
    writer.finalize().unwrap();
    prime(&server, "audio/wav", wav.get_ref()).await;
    assert_eq!(
        changed(&mut listener).await.prompt_sha256,
        told.prompt_sha256
    );

    let answer = prime(&server, "application/octet-stream", b"abc").await;
    assert!(answer.starts_with("HTTP/1.0 409"), "{answer}");
    assert!(answer.contains("watch = true"), "{answer}");
    let asked = obeying.await.unwrap();
    for change in &asked[..2] {
        assert!(change.prompt.as_deref() == Some(&codes[500..]));
    }
    server.stop().await;
}

/// The answer to a `PATCH` with such headers, of which `Host` is one.
async fn patch_as(server: &Server, headers: &str) -> String {
    let body = r#"{"temperature": 0.5}"#;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = format!(
        "PATCH /v1/stations/piano HTTP/1.0\r\n{headers}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_only_this_machines_own_programs_may_control() {
    let (server, inbox) = Server::start_idle(Settings {
        allowed_origins: vec!["https://friend.example".into()],
        ..Settings::default()
    })
    .await;
    let obeying = obey(inbox, vec![Ok(())]);
    for headers in [
        // A page's own name for this machine, a proxy's word for somebody else, another page, even one that may
        // listen.
        "Host: evil.example",
        "Host: localhost\r\nX-Forwarded-For: 10.0.0.1",
        "Host: localhost\r\nOrigin: https://evil.example",
        "Host: localhost\r\nOrigin: https://friend.example",
        "Host: localhost\r\nSec-Fetch-Site: cross-site",
    ] {
        let answer = patch_as(&server, headers).await;
        assert!(answer.starts_with("HTTP/1.0 403"), "{answer}");
    }
    let answer = patch_as(&server, "Host: 127.0.0.1:8420").await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert_eq!(obeying.await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_it_must_be_the_right_one() {
    let text = "listen hear-hear-hear-hear\nsession draw-draw-draw-draw\n\
                control steer-steer-steer-steer";
    let settings = Settings {
        tokens: Tokens::parse(text, Path::new("tokens")).unwrap(),
        ..Settings::default()
    };
    let (server, inbox) = Server::start_idle(settings).await;
    let obeying = obey(inbox, vec![Ok(())]);
    for (token, status) in [
        ("", 401),
        ("Authorization: Bearer hear-hear-hear-hear\r\n", 403),
        ("Authorization: Bearer draw-draw-draw-draw\r\n", 403),
        ("Authorization: Basic x\r\n", 401),
        ("Authorization: bearer steer-steer-steer-steer\r\n", 200),
    ] {
        let answer = patch_as(&server, &format!("{token}Host: localhost")).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.0 {status}")),
            "{answer}"
        );
    }
    obeying.await.unwrap();
    // A session is for those who may have one, and here there are none.
    for (token, status) in [("hear", 403), ("draw", 404), ("steer", 404)] {
        let token = format!("{token}-{token}-{token}-{token}");
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let head = "GET /v1/sessions HTTP/1.0\r\nHost: localhost\r\nUpgrade: websocket\r\n";
        let head = format!("{head}Authorization: Bearer {token}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.0 {status}")),
            "{token}: {answer}"
        );
    }
}
