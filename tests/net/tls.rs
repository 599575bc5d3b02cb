//! Encrypted connections: the same answers to those who agree on how, and nobody kept out by others.

use crate::server::Server;
use longwave::listen::{Item, ListenError, Wire};
use longwave::net::Settings;
use longwave::tls::{Identity, Trust};
use rcgen::CertifiedKey;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A throwaway certificate for this machine, and its file, which a client may believe.
struct Papers {
    dir: TempDir,
    identity: Identity,
}

impl Papers {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let names = ["localhost", "127.0.0.1"].map(String::from);
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
        let [file, key] = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
        fs::write(&file, cert.pem()).unwrap();
        fs::write(&key, signing_key.serialize_pem()).unwrap();
        let identity = Identity::read(&file, &key).unwrap();
        Self { dir, identity }
    }

    fn cert(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    fn settings(&self) -> Settings {
        Settings {
            identity: Some(self.identity.clone()),
            ..Settings::default()
        }
    }
}

async fn healthy(server: &Server, papers: &Papers) -> String {
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let trust = Trust::File(papers.cert());
    let mut stream = trust.connect("localhost", stream).await.unwrap();
    let request = b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_station_is_heard_by_those_who_believe_its_certificate_and_by_no_others() {
    let papers = Papers::new();
    let mut server = Server::start(papers.settings()).await;
    let answer = healthy(&server, &papers).await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    let url = format!("https://{}/", server.addr);
    let mut wire = Wire::open(&url, &Trust::File(papers.cert())).await.unwrap();
    server.publish(3);
    let mut codes = Vec::new();
    for sequence in 0..3 {
        assert_eq!(wire.next(&mut codes).await.unwrap(), Item::Packet);
        assert_eq!(codes, crate::server::codes(sequence));
    }
    let stranger = Papers::new();
    for trust in [Trust::File(stranger.cert()), Trust::System] {
        let error = Wire::open(&url, &trust).await.unwrap_err();
        let is_it = matches!(error, ListenError::Handshake { .. });
        assert!(is_it && error.to_string().contains("--ca"), "{error}");
    }
    // Who speaks without encryption hears nothing that was meant for others.
    let plain = Wire::open(&format!("http://{}/", server.addr), &Trust::System).await;
    assert!(plain.is_err());
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_newcomers_and_breaks_no_connection() {
    let (old, new) = (Papers::new(), Papers::new());
    let mut server = Server::start(old.settings()).await;
    let url = format!("wss://{}/v1/stations/piano/stream", server.addr);
    let mut wire = Wire::open(&url, &Trust::File(old.cert())).await.unwrap();
    old.identity.adopt(&new.identity);
    assert!(healthy(&server, &new).await.starts_with("HTTP/1.0 200"));
    assert!(Wire::open(&url, &Trust::File(old.cert())).await.is_err());
    server.publish(1);
    assert_eq!(wire.next(&mut Vec::new()).await.unwrap(), Item::Packet);
}

#[tokio::test]
async fn handshakes_that_do_not_end_keep_nobody_out() {
    let papers = Papers::new();
    let settings = Settings {
        max_listeners: 4,
        handshake_timeout: Duration::from_secs(600),
        ..papers.settings()
    };
    let server = Server::start(settings).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        // The beginning of a client's hello, whose rest never comes.
        let _ = stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc]).await;
        silent.push(stream);
    }
    let answer = healthy(&server, &papers).await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert!(server.telemetry.net.pushed_out.get() >= 100);
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_given_up() {
    let papers = Papers::new();
    let settings = Settings {
        handshake_timeout: Duration::from_millis(50),
        ..papers.settings()
    };
    let server = Server::start(settings).await;
    let mut slow = TcpStream::connect(server.addr).await.unwrap();
    slow.write_all(&[0x16, 3, 1]).await.unwrap();
    let mut answer = [0; 16];
    let ended = tokio::time::timeout(Duration::from_secs(10), slow.read(&mut answer)).await;
    assert_eq!(ended.expect("it is given up").unwrap_or(0), 0);
}

#[tokio::test]
async fn who_takes_nothing_is_cut_off_there_too() {
    let papers = Papers::new();
    let mut server = Server::start(Settings {
        send_timeout: Duration::from_millis(100),
        ..papers.settings()
    })
    .await;
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let trust = Trust::File(papers.cert());
    let mut stalled = trust.connect("localhost", stream).await.unwrap();
    let request = b"GET /stream.wav HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stalled.write_all(request).await.unwrap();
    let telemetry = server.telemetry.clone();
    crate::server::eventually("it listens", || telemetry.net.listeners.get() == 1).await;
    for _ in 0..5_000 {
        server.publish(10);
        tokio::time::sleep(Duration::from_millis(1)).await;
        if telemetry.net.listeners.get() == 0 {
            break;
        }
    }
    assert_eq!(telemetry.net.listeners.get(), 0);
    assert_eq!(telemetry.net.closed_slow.get(), 1);
}
