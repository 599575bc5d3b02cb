//! `docs/asyncapi.json` and the golden vectors against the protocol's code, and against what a listener is
//! really told. What sessions say is tried in `tests/sessions.rs`.

use crate::change::{obey, prime};
use crate::document::Document;
use crate::server::{N_SLOTS, Server};
use futures_util::StreamExt;
use longwave::net::Settings;
use longwave::protocol::{Event, Format, Packet, Request, Wish};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// The lines of an item of a source file.
fn body_of(file: &str, item: &str) -> Vec<String> {
    let source = fs::read_to_string(file).unwrap();
    let (_, body) = source.split_once(item).expect("the item is there");
    let lines = body.lines().take_while(|line| *line != "}");
    lines.map(str::to_owned).collect()
}

/// The variants of an enum, as they are tagged on the wire.
fn kinds(file: &str, item: &str) -> BTreeSet<String> {
    let lines = body_of(file, &format!("pub enum {item} {{"));
    let kinds = lines.iter().filter_map(|line| {
        let name = line.strip_prefix("    ")?;
        let end = name.find(|c: char| !c.is_alphanumeric())?;
        let is_name = name.starts_with(char::is_uppercase);
        is_name.then(|| name[..end].to_lowercase())
    });
    // What a later version says is in no document of this one.
    kinds.filter(|kind| kind != "unknown").collect()
}

/// The tags of all that is said in these operations.
fn documented(document: &Document, tag: &str, operations: &[&str]) -> BTreeSet<String> {
    let names = operations.iter().flat_map(|o| document.said_in(o));
    let tags = names.filter_map(|name| {
        let path = document.message(name)["payload"]["$ref"].as_str()?;
        let schema = document.0.pointer(path.strip_prefix('#').unwrap()).unwrap();
        Some(schema["properties"][tag]["const"].as_str()?.to_owned())
    });
    tags.collect()
}

#[test]
fn the_document_has_the_messages_of_the_protocol_and_no_others() {
    let document = Document::read();
    assert_eq!(
        documented(&document, "event", &["playStation", "playSession"]),
        kinds("src/protocol.rs", "Event")
    );
    assert_eq!(
        documented(&document, "request", &["hearListener"]),
        kinds("src/protocol.rs", "Request")
    );
    assert_eq!(
        documented(&document, "request", &["hearClient"]),
        kinds("src/protocol/session.rs", "Wish")
    );
    let said: BTreeSet<&str> = ["playStation", "hearListener", "playSession", "hearClient"]
        .into_iter()
        .flat_map(|operation| document.said_in(operation))
        .collect();
    let messages = document.0["components"]["messages"].as_object().unwrap();
    let messages: BTreeSet<&str> = messages.keys().map(String::as_str).collect();
    assert_eq!(said, messages);
}

#[test]
fn the_document_has_the_close_codes_of_the_protocol_and_no_others() {
    let document = Document::read();
    let mut all = BTreeSet::new();
    for (channel, closing) in [("station", "StationClosing"), ("session", "SessionClosing")] {
        let told = document.0["channels"][channel]["x-close-codes"].as_object();
        let told: BTreeSet<u64> = told.unwrap().keys().map(|c| c.parse().unwrap()).collect();
        let code = &document.0["components"]["schemas"][closing]["properties"]["code"];
        let codes = code["enum"].as_array().unwrap().iter();
        let codes: BTreeSet<u64> = codes.map(|code| code.as_u64().unwrap()).collect();
        assert_eq!(told, codes);
        all.extend(told);
    }
    let lines = body_of("src/protocol.rs", "pub mod close {");
    let codes = lines.iter().filter_map(|line| {
        let (_, code) = line.split_once(": u16 = ")?;
        code.trim_end_matches(';').parse().ok()
    });
    assert_eq!(all, codes.collect::<BTreeSet<u64>>());
}

#[test]
fn the_examples_are_what_they_are_examples_of() {
    let document = Document::read();
    for (name, message) in document.0["components"]["messages"].as_object().unwrap() {
        for example in message["examples"].as_array().into_iter().flatten() {
            let text = example["payload"].to_string();
            document.describes(name, &text);
            if text.contains("\"event\"") {
                let event = Event::from_json(&text).unwrap();
                assert_eq!(event.to_json(), text, "{name}");
            } else if name == "report" {
                assert_eq!(Request::from_json(&text).unwrap().to_json(), text);
            } else {
                Wish::from_json(&text).unwrap();
            }
        }
    }
}

/// A message, and what it may become by somebody's mistake.
fn mistakes(message: &Value) -> Vec<Value> {
    let mut wrong = Vec::new();
    let fields = message.as_object().unwrap();
    for (key, value) in fields {
        if key == "request" {
            continue;
        }
        let mut without = fields.clone();
        without.shift_remove(key);
        wrong.push(Value::Object(without));
        let others = [json!("x"), json!(true), json!({}), json!(1.5)];
        let deeper = value.is_object().then(|| mistakes(value));
        for other in others.into_iter().chain(deeper.into_iter().flatten()) {
            let mut with = fields.clone();
            with[key] = other;
            wrong.push(Value::Object(with));
        }
    }
    let mut more = fields.clone();
    more.insert("tempo".into(), json!(1));
    wrong.push(Value::Object(more));
    wrong
}

#[test]
fn the_schemas_allow_what_the_server_understands_and_nothing_else() {
    let document = Document::read();
    let mut n_refused = 0;
    for name in document.said_in("hearClient") {
        let Some(examples) = document.message(name)["examples"].as_array() else {
            continue;
        };
        for wrong in mistakes(&examples[0]["payload"]) {
            let understood = Wish::from_json(&wrong.to_string());
            let allowed = document.allows(name, &wrong);
            n_refused += usize::from(allowed.is_err());
            assert_eq!(
                allowed.is_ok(),
                understood.is_ok(),
                "{wrong}: {allowed:?}, {understood:?}"
            );
        }
    }
    assert!(n_refused > 20, "{n_refused}");
}

#[tokio::test]
async fn what_a_listener_is_told_is_in_the_document() {
    let settings = Settings {
        max_laps: 1,
        ..Settings::default()
    };
    let (mut server, inbox) = Server::start_idle(settings).await;
    let (mut socket, _) = connect_async(server.request("")).await.unwrap();
    let obeyed = obey(inbox, vec![Ok(())]);
    assert!(
        prime(&server, "application/octet-stream", &[1, 2, 3])
            .await
            .contains(" 200 ")
    );
    obeyed.await.unwrap();
    let (document, mut told) = (Document::read(), Vec::new());
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else {
            continue;
        };
        let name = match Event::from_json(&text).unwrap() {
            Event::Hello(_) => "hello",
            Event::Changed(_) => {
                // In one go: the reader is lapped whatever happens, and given up.
                server.publish(3 * N_SLOTS as u64);
                "changed"
            }
            Event::Lost { .. } => "lost",
            Event::Closing { .. } => "stationClosing",
            Event::Unknown => panic!("{text}"),
        };
        document.describes(name, &text);
        told.push(name);
    }
    assert_eq!(told, ["hello", "changed", "lost", "stationClosing"]);
}

fn bytes(hex: &Value) -> Vec<u8> {
    let digits = hex.as_str().unwrap();
    let pairs = (0..digits.len()).step_by(2).map(|at| &digits[at..at + 2]);
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

/// Made by `tests/vectors/generate.py` from the documents alone.
#[test]
fn the_golden_vectors_are_the_bytes_on_the_wire() {
    let vectors = fs::read_to_string("tests/vectors/packets.json").unwrap();
    let vectors: Value = serde_json::from_str(&vectors).unwrap();
    let packets = vectors["packets"].as_array().unwrap();
    assert!(packets.len() >= 12);
    for vector in packets {
        let format = Format::from_name(vector["format"].as_str().unwrap()).unwrap();
        let sequence: u64 = vector["sequence"].as_str().unwrap().parse().unwrap();
        let (codes, message) = (bytes(&vector["codes"]), bytes(&vector["message"]));
        let mut wire = Vec::new();
        Packet::encode(format, sequence, &codes, &mut wire);
        assert!(wire == message, "{format:?} {sequence}");
        let packet = Packet::decode(&message).unwrap();
        assert_eq!((packet.format, packet.sequence), (format, sequence));
        assert!(packet.codes().eq(codes));
    }
    for vector in vectors["refused"].as_array().unwrap() {
        let message = bytes(&vector["message"]);
        let decoded = Packet::decode(&message);
        assert!(decoded.is_err(), "{vector}: {decoded:?}");
    }
}
