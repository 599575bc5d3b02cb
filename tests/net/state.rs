//! All that a station is, handed out: to whom, how often, and what it says of itself.

use crate::server::{Server, eventually};
use longwave::access::Tokens;
use longwave::control::{DrawParams, Snapshot};
use longwave::net::{Inquiry, STATES_MAX, Settings};
use longwave::state::{Asked, State};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const PATH: &str = "/v1/stations/piano/state";

/// Of a stream that nobody draws: what its bytes mean only an engine knows. More than a socket holds.
pub fn kept() -> State {
    State {
        model_sha256: "ab".repeat(32),
        asked: Asked::new(Some(7), DrawParams::default(), &[]),
        snapshot: Snapshot {
            position: 12_345,
            gain: 1.0,
            bytes: (0..3_000_000u32)
                .map(|at| at.wrapping_mul(at) as u8)
                .collect(),
            ..Snapshot::default()
        },
    }
}

/// One that answers who asks of its station, as the daemon would.
async fn answering(settings: Settings) -> (Server, JoinHandle<()>) {
    let mut server = Server::start(settings).await;
    let answering = answer(&mut server);
    (server, answering)
}

/// Answers as the daemon would whoever asks of the station that there is.
pub fn answer(server: &mut Server) -> JoinHandle<()> {
    let shown = Arc::new(kept());
    let mut inquiries = std::mem::replace(&mut server.inquiries, mpsc::channel(1).1);
    tokio::spawn(async move {
        while let Some(Inquiry { station, answer }) = inquiries.recv().await {
            assert_eq!(station, 0);
            // Who has gone meanwhile does not want to know.
            let _ = answer.send(shown.clone());
        }
    })
}

/// The head, in small letters, and the body.
async fn get(server: &Server, header: &str) -> (String, Vec<u8>) {
    get_by(server, PATH, header).await
}

async fn get_by(server: &Server, path: &str, header: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\n{header}\r\n",
        server.addr
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    (head.to_lowercase(), all[end + 4..].to_vec())
}

async fn status_of(server: &Server, path: &str, header: &str) -> u16 {
    let (head, _) = get_by(server, path, header).await;
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_state_comes_whole_and_says_of_what_and_of_when_it_is() {
    let (server, _answering) = answering(Settings::default()).await;
    // A GPU has failed since it came.
    server.roster.borrow()[0].desk.tell_isa("lasting");
    let (head, body) = get(&server, "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    for line in [
        "content-type: application/octet-stream",
        "cache-control: no-store",
        "longwave-position: 12345",
        "longwave-engine: lasting",
        &format!("longwave-model-sha256: {}", "ab".repeat(32)),
        &format!("content-length: {}", body.len()),
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("piano.state");
    std::fs::write(&file, body).unwrap();
    assert!(State::read(&file).unwrap() == Some(kept()));
}

#[tokio::test]
async fn only_who_controls_gets_to_know_what_will_be_played() {
    let (server, _answering) = answering(Settings::default()).await;
    for (header, status) in [
        // Without tokens: not through a proxy, and not as an image in another page, which names no origin.
        ("X-Forwarded-For: 192.0.2.1\r\n", 403),
        ("Sec-Fetch-Site: cross-site\r\n", 403),
        ("Sec-Fetch-Site: same-site\r\n", 403),
        ("Sec-Fetch-Site: same-origin\r\n", 200),
        ("Sec-Fetch-Site: none\r\n", 200),
    ] {
        assert_eq!(status_of(&server, PATH, header).await, status, "{header}");
    }
    let tokens =
        "listen hear-hear-hear-hear\nsession play-play-play-play\ncontrol turn-turn-turn-turn";
    let tokens = Tokens::parse(tokens, Path::new("tokens")).unwrap();
    let (guarded, _answering) = answering(Settings {
        tokens: tokens.clone(),
        ..Settings::default()
    })
    .await;
    for (token, status) in [
        ("", 401),
        ("Authorization: Bearer hear-hear-hear-hear\r\n", 403),
        ("Authorization: Bearer play-play-play-play\r\n", 403),
        ("Authorization: Bearer turn-turn-turn-turn\r\n", 200),
    ] {
        assert_eq!(status_of(&guarded, PATH, token).await, status, "{token}");
    }
    // A signed link is one to listen.
    let expires = u64::from(u32::MAX);
    let signature = tokens.sign(expires).unwrap();
    let link = format!("{PATH}?expires={expires}&signature={signature}");
    assert_eq!(status_of(&guarded, &link, "").await, 401);
}

#[tokio::test]
async fn no_more_than_a_few_are_under_way_and_who_leaves_gives_the_place_back() {
    let mut server = Server::start(Settings::default()).await;
    let mut asking = Vec::new();
    let mut asked = Vec::new();
    for _ in 0..STATES_MAX {
        asking.push(server.http("GET", PATH).await);
        asked.push(server.inquiries.recv().await.unwrap());
    }
    let (head, body) = get(&server, "").await;
    assert!(
        head.starts_with("http/1.1 503") && head.contains("retry-after"),
        "{head}"
    );
    let sentence = String::from_utf8(body).unwrap();
    assert_eq!(
        sentence,
        "other states are under way; try again in a few seconds\n"
    );
    // One leaves, the other is answered and does not read: that, too, takes a place.
    drop(asking.remove(0));
    let gone = asked.remove(0);
    eventually("it is known that nobody waits", || gone.answer.is_closed()).await;
    asked.remove(0).answer.send(Arc::new(kept())).unwrap();
    let mut second = server.http("GET", PATH).await;
    let waiting = server.inquiries.recv().await.unwrap();
    let (head, _) = get(&server, "").await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    // The daemon has nothing to say of a station that has just left.
    drop(waiting);
    let mut told = String::new();
    second.read_to_string(&mut told).await.unwrap();
    assert!(
        told.starts_with("HTTP/1.0 503") && told.contains("has just left"),
        "{told}"
    );
}
