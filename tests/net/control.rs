//! Changing how a station plays, and who hears of it.

use crate::server::{SINCE, Server, facts};
use longwave::access::Tokens;
use longwave::net::Settings;
use longwave::protocol::{Changed, Event};
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const STEER: &str = "steer-steer-steer-steer";

/// The answer to a `PATCH` with such headers, of which `Host` is one.
async fn patch(server: &Server, headers: &str, body: &str) -> String {
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

#[tokio::test]
async fn a_change_is_answered_told_to_listeners_and_said_to_newcomers() {
    // Without packets, so that the next message is the event.
    let server = Server::start(Settings::default()).await;
    let mut listener = server.listen("").await;
    let body = r#"{"temperature": 0.5, "seed": "18446744073709551615"}"#;
    let answer = patch(&server, "Host: localhost", body).await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    let (_, json) = answer.split_once("\r\n\r\n").unwrap();
    let changed: Changed = serde_json::from_str(json).unwrap();
    assert_eq!((changed.since, changed.seed), (SINCE, u64::MAX));
    assert_eq!(changed.draw.temperature, 0.5);
    assert_eq!(changed.draw.top_p, facts("piano").draw.top_p);
    assert_eq!(listener.event().await, Some(Event::Changed(changed)));
    let newcomer = server.listen("").await;
    let told = &newcomer.hello.as_ref().unwrap().facts;
    assert_eq!((told.since, told.seed), (SINCE, u64::MAX));
    assert_eq!(told.draw, changed.draw);
}

#[tokio::test]
async fn what_is_no_change_is_refused_with_a_sentence() {
    let server = Server::start(Settings::default()).await;
    let long = format!(r#"{{"temperature": 0.5{}}}"#, " ".repeat(2_000));
    for (body, status, why) in [
        ("", 400, "EOF"),
        ("{}", 400, "nothing is asked for"),
        (r#"{"luck": 7}"#, 400, "unknown field"),
        (r#"{"seed": 7}"#, 400, "invalid type"),
        (r#"{"temperature": -1}"#, 400, "temperature is negative"),
        (long.as_str(), 413, ""),
    ] {
        let answer = patch(&server, "Host: localhost", body).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.0 {status}")),
            "{answer}"
        );
        assert!(answer.contains(why), "{answer}");
    }
}

#[tokio::test]
async fn without_a_token_only_this_machines_own_programs_may_control() {
    let server = Server::start(Settings::default()).await;
    let body = r#"{"temperature": 0.5}"#;
    for headers in [
        // A page's own name for this machine, a proxy's word for somebody else, another page.
        "Host: evil.example",
        "Host: localhost\r\nX-Forwarded-For: 10.0.0.1",
        "Host: localhost\r\nOrigin: https://evil.example",
    ] {
        let answer = patch(&server, headers, body).await;
        assert!(answer.starts_with("HTTP/1.0 403"), "{answer}");
    }
    let answer = patch(&server, "Host: 127.0.0.1:8420", body).await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

#[tokio::test]
async fn with_a_token_it_must_be_the_right_one() {
    let text = format!("listen hear-hear-hear-hear\ncontrol {STEER}");
    let settings = Settings {
        tokens: Tokens::parse(&text, Path::new("tokens")).unwrap(),
        ..Settings::default()
    };
    let server = Server::start(settings).await;
    let body = r#"{"temperature": 0.5}"#;
    for (token, status) in [
        ("", 401),
        ("Authorization: Bearer hear-hear-hear-hear\r\n", 403),
        ("Authorization: Basic x\r\n", 401),
        (&*format!("Authorization: bearer {STEER}\r\n"), 200),
    ] {
        let answer = patch(&server, &format!("{token}Host: localhost"), body).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.0 {status}")),
            "{answer}"
        );
    }
}
