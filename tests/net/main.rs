//! The network as listeners meet it: an in-process server, a ring with known packets, real sockets.
//!
//! The writer runs ahead of a listener only as far as a test says, so that nothing here depends on
//! how fast this machine is.

mod access;
mod asyncapi;
mod change;
mod contract;
#[path = "../contract/mod.rs"]
mod document;
mod hostile;
mod listening;
mod monitoring;
mod radio;
mod server;
mod state;
mod tls;

use futures_util::SinkExt;
use longwave::net::Settings;
use longwave::protocol::{Format, Report, Request, close};
use server::{Listener, Met, N_SLOTS, PACKET_LEN, Server, codes, eventually, facts};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

#[tokio::test]
async fn websocket_and_wav_carry_the_same_codes_in_every_format() {
    let mut server = Server::start(Settings::default()).await;
    server.publish(30);
    for format in Format::ALL {
        let mut by_query = server.listen(&format!("?format={}", format.name())).await;
        assert_eq!(by_query.hello.as_ref().unwrap().format, format);
        let mut request = server.request("");
        let name = format.subprotocol().parse().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", name);
        let mut by_name = server.listen_by(request).await.unwrap();
        assert_eq!(by_name.hello.as_ref().unwrap().format, format);
        server.publish(20);
        for listener in [&mut by_query, &mut by_name] {
            assert_eq!(listener.hear_until(server.n_written).await, (30, 0));
        }
    }
    let mut wav = server.http("GET", "/v1/stations/piano/stream.wav").await;
    let begin = server.n_written - 10;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(wav.read_u8().await.unwrap());
    }
    server.publish(20);
    let mut bytes = vec![0; 44 + 30 * PACKET_LEN * 2];
    wav.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes[..4], b"RIFF");
    assert_eq!(
        u32::from_le_bytes(bytes[24..28].try_into().unwrap()),
        16_000
    );
    let mut expected = Vec::new();
    (begin..server.n_written).for_each(|n| Format::S16.encode(&codes(n), &mut expected));
    assert!(bytes[44..] == expected[..], "the WAV differs");
    let net = &server.telemetry.net;
    assert_eq!((net.packets_lost.get(), net.listeners_total.get()), (0, 7));
}

#[tokio::test]
async fn a_newcomer_is_told_the_facts_and_gets_the_recent_past_at_once() {
    let mut server = Server::start(Settings::default()).await;
    server.publish(100);
    let mut listener = server.listen("").await;
    let hello = listener.hello.clone().unwrap();
    assert_eq!(hello.facts, facts("piano"));
    assert_eq!((hello.protocol, hello.jitter_buffer_ms), (1, 200));
    assert_eq!((hello.sequence, hello.position), (90, 1_000 + 90 * 320));
    assert_eq!(listener.hear_until(100).await, (10, 0));
}

#[tokio::test]
async fn a_stalled_listener_delays_nobody_and_learns_its_exact_loss() {
    let mut server = Server::start(Settings {
        max_laps: u32::MAX,
        send_timeout: Duration::from_secs(600),
        ..Settings::default()
    })
    .await;
    let mut stalled = server.listen("?format=f32").await;
    let mut awake = server.listen("?format=f32").await;
    // The writer waits for the one that listens: if that one waited for the other, this would not
    // end. 2,000 packets are 2.6 MB, far more than the sockets between here and there hold.
    for _ in 0..200 {
        server.publish(10);
        assert_eq!(awake.hear_until(server.n_written).await, (10, 0));
    }
    let (received, lost) = stalled.hear_until(server.n_written).await;
    assert_eq!(received + lost, 2_000);
    assert!(lost > 1_000, "only {lost} lost: the server kept the rest");
    assert_eq!(server.telemetry.net.packets_lost.get(), lost);
}

#[tokio::test]
async fn who_takes_nothing_is_cut_off_and_leaves_its_place() {
    let mut server = Server::start(Settings {
        send_timeout: Duration::from_millis(100),
        ..Settings::default()
    })
    .await;
    let _stalled = server.listen("?format=f32").await;
    let _stalled_wav = server.http("GET", "/v1/stations/piano/stream.wav").await;
    let telemetry = server.telemetry.clone();
    eventually("both are here", || telemetry.net.listeners.get() == 2).await;
    for _ in 0..3_000 {
        server.publish(10);
        tokio::time::sleep(Duration::from_millis(1)).await;
        if telemetry.net.listeners.get() == 0 {
            break;
        }
    }
    assert_eq!(telemetry.net.listeners.get(), 0);
    assert_eq!(telemetry.net.closed_slow.get(), 2);
}

#[tokio::test]
async fn who_is_lapped_again_and_again_learns_its_loss_and_is_closed_with_its_code() {
    let mut server = Server::start(Settings {
        max_laps: 1,
        ..Settings::default()
    })
    .await;
    let mut listener = server.listen("").await;
    // In one go, no task of the server gets between: the reader is lapped whatever happens.
    server.publish(3 * N_SLOTS as u64);
    let lost = 3 * N_SLOTS as u64 - N_SLOTS as u64 / 2;
    assert_eq!(listener.hear_until(lost).await, (0, lost));
    let code = Some(close::TOO_SLOW);
    assert_eq!(listener.hear_the_end().await, (code, code));
    assert_eq!(server.telemetry.net.closed_slow.get(), 1);
}

#[tokio::test]
async fn refusals_are_sentences_that_say_the_way_out() {
    let mut server = Server::start(Settings {
        max_listeners: 1,
        ..Settings::default()
    })
    .await;
    let refusal = async |request| match server.listen_by(request).await {
        Err(Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            (response.status().as_u16(), String::from_utf8(body).unwrap())
        }
        _ => panic!("not refused"),
    };
    let (status, sentence) = refusal(server.request("?format=mp3")).await;
    assert_eq!(status, 400);
    assert!(sentence.contains("mulaw, s16, f32"), "{sentence}");

    let url = format!("ws://{}/v1/stations/organ/stream", server.addr);
    let (status, sentence) = refusal(url.into_client_request().unwrap()).await;
    assert_eq!(status, 404);
    assert!(sentence.contains("piano"), "{sentence}");

    let mut foreign = server.request("");
    let origin = "https://elsewhere.example".parse().unwrap();
    foreign.headers_mut().insert("origin", origin);
    assert_eq!(refusal(foreign).await.0, 403);

    let plain = server.text("GET", "/v1/stations/piano/stream").await;
    assert!(plain.contains("this path speaks WebSocket"), "{plain}");

    let mut ours = server.request("");
    let origin = format!("http://{}", server.addr).parse().unwrap();
    ours.headers_mut().insert("origin", origin);
    let seated = server.listen_by(ours).await.unwrap();
    assert_eq!(refusal(server.request("")).await.0, 503);
    let wav = "/v1/stations/piano/stream.wav";
    let full = server.text("GET", wav).await.to_lowercase();
    assert!(full.starts_with("http/1.0 503") && full.contains("retry-after: 10"));
    assert_eq!(server.telemetry.net.refused.get(), 2);

    // Gone without a word, it leaves its place.
    drop(seated);
    let telemetry = server.telemetry.clone();
    for _ in 0..3_000 {
        server.publish(1);
        tokio::time::sleep(Duration::from_millis(1)).await;
        if telemetry.net.listeners.get() == 0 {
            break;
        }
    }
    server.listen("").await;
}

#[tokio::test]
async fn origins_that_the_settings_name_may_listen() {
    let server = Server::start(Settings {
        allowed_origins: vec!["https://friend.example".into()],
        ..Settings::default()
    })
    .await;
    let mut request = server.request("");
    let origin = "https://friend.example".parse().unwrap();
    request.headers_mut().insert("origin", origin);
    assert!(server.listen_by(request).await.is_ok());
}

/// By WebSocket and by HTTP, both seated.
async fn two_who_listen(server: &Server) -> (Listener, TcpStream) {
    let listener = server.listen("").await;
    let wav = server.http("GET", "/v1/stations/piano/stream.wav").await;
    let seated = || server.telemetry.net.listeners.get() == 2;
    eventually("both are here", seated).await;
    (listener, wav)
}

#[tokio::test]
async fn at_the_end_every_listener_is_told() {
    let mut server = Server::start(Settings::default()).await;
    server.publish(20);
    let (mut listener, mut wav) = two_who_listen(&server).await;
    let telemetry = server.telemetry.clone();
    let stopped = tokio::spawn(server.stop());
    let code = Some(close::GOING_AWAY);
    assert_eq!(listener.hear_the_end().await, (code, code));
    let mut rest = Vec::new();
    wav.read_to_end(&mut rest).await.unwrap();
    stopped.await.unwrap();
    assert_eq!(telemetry.net.listeners.get(), 0);
}

#[tokio::test]
async fn a_station_that_comes_is_served_and_one_that_goes_is_heard_to_its_end() {
    let mut server = Server::start(Settings::default()).await;
    server.publish(20);
    let (mut listener, mut wav) = two_who_listen(&server).await;
    let violin = server.station("violin");
    let writer = std::mem::replace(&mut server.writer, violin.1);
    server.roster.send_replace(vec![violin.0]);
    for _ in 0..3_000 {
        let served = server.text("GET", "/v1/stations").await;
        if served.contains("violin") {
            assert!(!served.contains("piano"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let first = server.text("GET", "/listen.m3u").await;
    assert!(first.contains("violin"), "{first}");
    let gone = server.text("GET", "/v1/stations/piano/listen.m3u").await;
    assert!(gone.contains("the stations are: violin"), "{gone}");
    // Who listens hears what is still to come, and then the end.
    let mut writer = writer;
    (20..30).for_each(|sequence| writer.publish(&codes(sequence)));
    while listener.expected < 30 {
        assert_eq!(listener.meet().await, Met::Packet);
    }
    drop(writer);
    let code = Some(close::OFF_AIR);
    assert_eq!(listener.hear_the_end().await, (code, code));
    let mut rest = Vec::new();
    wav.read_to_end(&mut rest).await.unwrap();
    eventually("both are gone", || {
        server.telemetry.net.listeners.get() == 0
    })
    .await;
}

#[tokio::test]
async fn reports_are_counted_and_nonsense_is_ignored() {
    let mut server = Server::start(Settings::default()).await;
    let mut listener = server.listen("").await;
    let report = |n_underruns| {
        let report = Report {
            n_underruns,
            ..Report::default()
        };
        Message::text(Request::Report(report).to_json())
    };
    let messages = [
        report(3),
        Message::text("nonsense"),
        Message::text(r#"{"request":"dance"}"#),
        Message::binary(vec![1, 2, 3]),
        report(1_000_000),
        report(2),
    ];
    for message in messages {
        listener.socket.send(message).await.unwrap();
    }
    let telemetry = server.telemetry.clone();
    eventually("5 underruns are counted", || {
        telemetry.net.listener_underruns.get() == 5
    })
    .await;
    server.publish(1);
    assert_eq!(listener.hear_until(1).await, (1, 0));
}

#[tokio::test]
async fn floods_and_oversized_messages_end_the_connection() {
    let server = Server::start(Settings::default()).await;
    let mut flood = server.listen("").await;
    for _ in 0..200 {
        if flood.socket.feed(Message::text("{}")).await.is_err() {
            break;
        }
    }
    let _ = flood.socket.flush().await;
    assert_eq!(flood.hear_the_end().await.0, Some(close::POLICY));

    let mut wide = server.listen("").await;
    let _ = wide.socket.send(Message::text("x".repeat(100_000))).await;
    assert_eq!(wide.hear_the_end().await.0, None);
    let telemetry = server.telemetry.clone();
    eventually("both left", || telemetry.net.listeners.get() == 0).await;
}

#[tokio::test]
async fn who_never_answers_a_ping_is_closed_as_idle() {
    let server = Server::start(Settings {
        ping_interval: Duration::from_millis(20),
        idle_timeout: Duration::from_millis(200),
        ..Settings::default()
    })
    .await;
    let mut silent = server.listen("").await;
    // Read past the WebSocket, which would answer the pings.
    let mut bytes = Vec::new();
    let read = silent.socket.get_mut().read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains(r#""event":"closing","code":4001"#), "{text}");
    assert_eq!(read.unwrap(), bytes.len());
}

#[tokio::test]
async fn the_house_answers_for_itself() {
    let server = Server::start(Settings::default()).await;
    assert!(
        server
            .text("GET", "/healthz")
            .await
            .starts_with("HTTP/1.0 200")
    );
    let not_yet = server.text("GET", "/readyz").await;
    assert!(not_yet.starts_with("HTTP/1.0 503"), "{not_yet}");
    assert!(not_yet.ends_with("\r\n\r\nnothing has been played yet\n"));
    server.readiness.tell(None);
    let ready = server.text("GET", "/readyz").await;
    assert!(ready.starts_with("HTTP/1.0 200"), "{ready}");
    server.readiness.tell(Some("it stutters".into()));
    let lost = server.text("GET", "/readyz").await;
    assert!(lost.starts_with("HTTP/1.0 503") && lost.ends_with("\r\n\r\nit stutters\n"));
    let metrics = server.text("GET", "/metrics").await;
    assert!(metrics.contains("\nlongwave_listeners 0\n"), "{metrics}");
    let list = server.text("GET", "/v1/stations").await;
    let (_, json) = list.split_once("\r\n\r\n").unwrap();
    let list: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(list[0]["station"], "piano");
    assert_eq!(list[0]["wav"], "/v1/stations/piano/stream.wav");
    let opus = cfg!(feature = "opus").then_some("/v1/stations/piano/stream.opus");
    assert_eq!(list[0]["opus"].as_str(), opus);
    let nowhere = server.text("GET", "/index.php").await;
    assert!(nowhere.starts_with("HTTP/1.0 404") && nowhere.contains("/v1/stations"));
}

#[tokio::test]
async fn the_page_comes_from_here_alone() {
    let server = Server::start(Settings::default()).await;
    for (path, kind) in [
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/panel.js", "text/javascript"),
        ("/prompt.js", "text/javascript"),
        ("/radio.js", "text/javascript"),
        ("/receiver.js", "text/javascript"),
        ("/scope.js", "text/javascript"),
        ("/session.js", "text/javascript"),
        ("/words.js", "text/javascript"),
        ("/worklet.js", "text/javascript"),
        ("/style.css", "text/css"),
    ] {
        let answer = server.text("GET", path).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(kind) && head.contains("default-src 'none'"),
            "{head}"
        );
        let is_foreign = body.contains("http://") || body.contains("https://");
        assert!(!is_foreign, "{path} names another host");
    }
}

#[tokio::test]
async fn a_playlist_names_the_streams_and_what_plays_and_hands_a_link_on() {
    let mut server = Server::start(Settings::default()).await;
    for path in ["/listen.m3u", "/v1/stations/piano/listen.m3u"] {
        let answer = server
            .text("GET", &format!("{path}?expires=7&signature=ab"))
            .await;
        assert!(answer.contains("content-type: audio/x-mpegurl"), "{answer}");
        let mut list = "#EXTM3U\n#EXTINF:-1,piano (tiny, seed 7), WAV\n\
                        stream.wav?expires=7&signature=ab\n"
            .to_owned();
        if cfg!(feature = "opus") {
            list += "#EXTINF:-1,piano (tiny, seed 7), Opus\nstream.opus?expires=7&signature=ab\n";
        }
        assert!(answer.ends_with(&format!("\r\n\r\n{list}")), "{answer}");
    }
    let answer = server.text("GET", "/v1/stations/nobody/listen.m3u").await;
    assert!(answer.starts_with("HTTP/1.0 404"), "{answer}");
    server.publish(30);
    let mut wav = server.http("GET", "/stream.wav").await;
    let mut head = [0; 15];
    wav.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.0 200 OK");
}

#[tokio::test]
async fn asking_for_the_head_of_the_wav_takes_no_place() {
    let server = Server::start(Settings::default()).await;
    let head = server.text("HEAD", "/v1/stations/piano/stream.wav").await;
    let head = head.to_lowercase();
    assert!(head.starts_with("http/1.0 200") && head.contains("content-type: audio/wav"));
    assert!(head.contains("cache-control: no-store") && !head.contains("content-length"));
    assert_eq!(server.telemetry.net.listeners_total.get(), 0);
}
