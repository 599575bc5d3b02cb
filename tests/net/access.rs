//! Who may listen, and how many from one place.

use crate::server::{Server, eventually};
use longwave::access::Tokens;
use longwave::net::{Sessions, Settings};
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;

const HEAR: &str = "hear-hear-hear-hear";

async fn guarded() -> (Server, Tokens) {
    let tokens = Tokens::parse(&format!("listen {HEAR}"), Path::new("tokens")).unwrap();
    let settings = Settings {
        tokens: tokens.clone(),
        ..Settings::default()
    };
    (Server::start(settings).await, tokens)
}

#[tokio::test]
async fn where_a_token_is_wanted_nothing_sounds_without_it() {
    let (mut server, _) = guarded().await;
    server.publish(30);
    for path in ["/v1/stations", "/v1/stations/piano/stream.wav"] {
        let answer = server.text("GET", path).await;
        assert!(answer.starts_with("HTTP/1.0 401"), "{answer}");
        assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
        assert!(answer.contains("a token to listen is wanted"), "{answer}");
    }
    let Err(Error::Http(refusal)) = server.listen_by(server.request("")).await else {
        panic!("it was let in");
    };
    assert_eq!(refusal.status(), 401);
    assert_eq!(server.telemetry.net.unauthorized.get(), 3);
    let mut wrong = server.request("");
    let value = "Bearer guess-guess-guess".parse().unwrap();
    wrong.headers_mut().insert("authorization", value);
    assert!(server.listen_by(wrong).await.is_err());
    // The page itself holds no secret, and watchers of the daemon need no token.
    for path in ["/", "/healthz", "/metrics"] {
        let answer = server.text("GET", path).await;
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }
}

#[tokio::test]
async fn a_token_or_a_signed_link_opens_the_door() {
    let (mut server, tokens) = guarded().await;
    server.publish(30);
    let mut request = server.request("");
    let value = format!("Bearer {HEAR}").parse().unwrap();
    request.headers_mut().insert("authorization", value);
    let mut by_token = server.listen_by(request).await.unwrap();
    let expires = u64::from(u32::MAX);
    let link = format!(
        "?expires={expires}&signature={}",
        tokens.sign(expires).unwrap()
    );
    let mut by_link = server.listen(&link).await;
    server.publish(20);
    for listener in [&mut by_token, &mut by_link] {
        assert_eq!(listener.hear_until(server.n_written).await, (30, 0));
    }
    let answer = server.text("GET", &format!("/v1/stations{link}")).await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    let expired = format!("?expires=7&signature={}", tokens.sign(7).unwrap());
    let answer = server.text("GET", &format!("/v1/stations{expired}")).await;
    assert!(answer.starts_with("HTTP/1.0 401"), "{answer}");
}

/// The first line of an answer to who asks for a stream with these headers, and the connection.
async fn ask(server: &Server, path: &str, headers: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await.unwrap());
    }
    (String::from_utf8(line).unwrap(), stream)
}

#[tokio::test]
async fn a_token_has_its_share_of_the_places_and_so_have_the_links_that_it_signed() {
    let text = format!("listen {HEAR}\nlisten other-other-other-other");
    let tokens = Tokens::parse(&text, Path::new("tokens")).unwrap();
    let settings = Settings {
        tokens: tokens.clone(),
        max_per_token: 2,
        ..Settings::default()
    };
    let mut server = Server::start(settings).await;
    server.publish(30);
    let [ours, other] =
        [HEAR, "other-other-other-other"].map(|token| format!("Authorization: Bearer {token}\r\n"));
    let link = |expires: u64| {
        let signature = tokens.sign(expires).unwrap();
        format!("/stream.wav?expires={expires}&signature={signature}")
    };
    let far = u64::from(u32::MAX);
    let (first, held) = ask(&server, "/stream.wav", &ours).await;
    let (second, _also) = ask(&server, &link(far), "").await;
    assert!(
        first.contains("200") && second.contains("200"),
        "{first}{second}"
    );
    // Another link of the same token is no way around it.
    for (path, headers) in [("/stream.wav".into(), &*ours), (link(far + 1), "")] {
        let (answer, mut rest) = ask(&server, &path, headers).await;
        assert!(answer.contains("503"), "{answer}");
        let mut text = String::new();
        rest.read_to_string(&mut text).await.unwrap();
        assert!(
            text.contains("all 2 places of one token are taken"),
            "{text}"
        );
    }
    let (answer, _theirs) = ask(&server, "/stream.wav", &other).await;
    assert!(answer.contains("200"), "{answer}");
    drop(held);
    let telemetry = server.telemetry.clone();
    server.publish(30);
    eventually("one has left", || telemetry.net.listeners.get() == 2).await;
    let (answer, _again) = ask(&server, "/stream.wav", &ours).await;
    assert!(answer.contains("200"), "{answer}");
}

#[tokio::test]
async fn a_session_is_one_of_its_tokens_places() {
    let text = "session draw-draw-draw-draw";
    let settings = Settings {
        tokens: Tokens::parse(text, Path::new("tokens")).unwrap(),
        max_per_token: 1,
        ..Settings::default()
    };
    let sessions = Sessions {
        max: 4,
        models: Vec::new(),
    };
    let (mut server, _inbox) = Server::start_with(settings, sessions).await;
    server.publish(30);
    let token = "Authorization: Bearer draw-draw-draw-draw\r\n";
    let upgrade = format!(
        "{token}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    let (answer, session) = ask(&server, "/v1/sessions", &upgrade).await;
    assert!(answer.contains("101"), "{answer}");
    for (path, headers) in [("/v1/sessions", &*upgrade), ("/stream.wav", token)] {
        let (answer, _) = ask(&server, path, headers).await;
        assert!(answer.contains("503"), "{path}: {answer}");
    }
    let telemetry = server.telemetry.clone();
    eventually("it has begun", || telemetry.net.sessions.get() == 1).await;
    drop(session);
    eventually("it has ended", || telemetry.net.sessions.get() == 0).await;
    let (answer, _listener) = ask(&server, "/stream.wav", token).await;
    assert!(answer.contains("200"), "{answer}");
}

#[tokio::test]
async fn behind_a_proxy_places_are_counted_by_whom_it_asks_for_and_by_nobodys_own_word() {
    let settings = |proxy: &str| Settings {
        trusted_proxies: vec![proxy.parse().unwrap()],
        max_per_address: 1,
        ..Settings::default()
    };
    let mut server = Server::start(settings("127.0.0.0/8")).await;
    server.publish(30);
    let mut listeners = Vec::new();
    for (forwarded, status) in [
        ("203.0.113.7", "200"),
        ("203.0.113.7", "503"),
        // Written by the client: the proxy has added the last.
        ("198.51.100.1, 203.0.113.7", "503"),
        ("127.0.0.1, 203.0.113.7", "503"),
        ("203.0.113.7, 198.51.100.1", "200"),
        // It comes from here, the client says, and the proxy that asks for it is believed: counted like all.
        ("127.0.0.1", "200"),
        ("127.0.0.1", "503"),
    ] {
        let header = format!("X-Forwarded-For: {forwarded}\r\n");
        let (answer, stream) = ask(&server, "/stream.wav", &header).await;
        assert!(answer.contains(status), "{forwarded}: {answer}");
        listeners.push(stream);
    }
    // Whoever is no such proxy speaks for itself, here for this machine, which has no limit of its own.
    let mut server = Server::start(settings("10.0.0.1/32")).await;
    server.publish(30);
    for _ in 0..3 {
        let header = "X-Forwarded-For: 203.0.113.7\r\n";
        let (answer, stream) = ask(&server, "/stream.wav", header).await;
        assert!(answer.contains("200"), "{answer}");
        listeners.push(stream);
    }
}

#[tokio::test]
async fn a_trusted_proxys_word_makes_nobody_a_program_of_this_machine() {
    let settings = Settings {
        trusted_proxies: vec!["127.0.0.1/32".parse().unwrap()],
        ..Settings::default()
    };
    let server = Server::start(settings).await;
    let header = "X-Forwarded-For: 127.0.0.1\r\nUpgrade: websocket\r\n";
    let (answer, _) = ask(&server, "/v1/sessions", header).await;
    assert!(answer.contains("403"), "{answer}");
}
