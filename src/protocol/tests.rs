//! The wire format against its document, and against arbitrary bytes.

use super::fields::MAX_TEXT_LEN;
use super::*;
use proptest::prelude::*;

fn hello() -> Hello {
    Hello {
        protocol: VERSION,
        server: "longwave 0.1.0".into(),
        format: Format::Mulaw,
        sequence: 500,
        position: 176_000,
        jitter_buffer_ms: 200,
        session: None,
        facts: Facts {
            station: "piano".into(),
            model: ModelFacts {
                name: "piano-16k".into(),
                sha256: "2f0c".repeat(16),
            },
            seed: u64::MAX,
            draw: DrawParams {
                temperature: 0.95,
                max_entropy: 4.5,
                max_rise: 1.25,
                min_entropy: 0.75,
                leveling: 0.015625,
                max_click: 4.5,
                top_p: 1.0,
                min_p: 0.0,
            },
            since: 16_000,
            isa: "avx512-vnni".into(),
            sample_rate_hz: 16_000,
            packet_len: 320,
            first_position: 16_000,
            prompt_sha256: Some("5ea1".repeat(16)),
        },
    }
}

fn encoded(format: Format, sequence: u64, codes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Packet::encode(format, sequence, codes, &mut out);
    out
}

#[test]
fn every_code_survives_every_format() {
    let codes: Vec<u8> = (0..=255).collect();
    for format in Format::ALL {
        let message = encoded(format, u64::MAX, &codes);
        assert_eq!(message.len(), HEADER_LEN + 256 * format.sample_len());
        let packet = Packet::decode(&message).unwrap();
        assert_eq!((packet.sequence, packet.n_samples()), (u64::MAX, 256));
        assert!(packet.codes().eq(codes.iter().copied()), "{format:?}");
        assert_eq!(Format::from_name(format.name()), Some(format));
    }
}

/// The value of `name` in the "Worked example" of docs/protocol.md: ```` ```text name ````.
fn documented(name: &str) -> String {
    let text = include_str!("../../docs/protocol.md");
    let start = format!("```text {name}\n");
    let begin = text.find(&start).expect("the example is documented") + start.len();
    let end = begin + text[begin..].find("\n```").expect("the example ends");
    text[begin..end].to_owned()
}

fn hex(bytes: &[u8]) -> String {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.join(" ")
}

#[test]
fn the_packets_in_the_document_are_the_packets_on_the_wire() {
    let codes = [128, 0, 255, 100];
    for format in Format::ALL {
        let wire = hex(&encoded(format, 500, &codes));
        assert_eq!(documented(format.name()).replace('\n', " "), wire);
    }
}

#[test]
fn the_messages_in_the_document_are_the_messages_on_the_wire() {
    let events = [
        ("hello", Event::Hello(Box::new(hello()))),
        (
            "lost",
            Event::Lost {
                n_packets: 12,
                sequence: 510,
                position: 179_200,
            },
        ),
        (
            "changed",
            Event::Changed(Box::new(Changed {
                since: 180_000,
                seed: 7,
                draw: hello().facts.draw,
                prompt_sha256: None,
                volume_db: -6.0,
                mute: false,
            })),
        ),
        (
            "closing",
            Event::Closing {
                code: close::GOING_AWAY,
                reason: "the station shuts down".into(),
            },
        ),
    ];
    for (name, event) in events {
        assert_eq!(Event::from_json(&documented(name)).unwrap(), event);
        let spaces: String = documented(name).replace("\n", "").replace(": ", ":");
        let spaces = spaces.split("  ").collect::<String>().replace(", ", ",");
        assert_eq!(
            spaces.replace("{ ", "{").replace(" }", "}"),
            event.to_json()
        );
    }
    let report = Report {
        n_underruns: 1,
        buffered_ms: 180,
        jitter_buffer_ms: 200,
        latency_ms: 230,
    };
    let request = Request::from_json(&documented("report")).unwrap();
    assert_eq!(request, Request::Report(report));
    assert_eq!(Request::from_json(&request.to_json()).unwrap(), request);
}

#[test]
fn damaged_packets_are_refused_by_name() {
    let good = encoded(Format::S16, 7, &[1, 2, 3]);
    assert_eq!(Packet::decode(&good[..11]), Err(ProtocolError::Short(11)));
    let length = ProtocolError::Length {
        expected: 6,
        got: 5,
    };
    assert_eq!(Packet::decode(&good[..17]), Err(length));
    let mut bad = good.clone();
    bad[0] = 9;
    assert_eq!(Packet::decode(&bad), Err(ProtocolError::Kind(9)));
    bad[..2].copy_from_slice(&[1, 4]);
    assert_eq!(Packet::decode(&bad), Err(ProtocolError::Format(4)));
}

#[test]
fn later_versions_are_skipped_and_wild_figures_refused() {
    let event = Event::from_json(r#"{"event":"weather","sky":"blue"}"#);
    assert_eq!(event, Ok(Event::Unknown));
    let request = Request::from_json(r#"{"request":"dance"}"#);
    assert_eq!(request, Ok(Request::Unknown));
    for wild in [r#""n_underruns":1001"#, r#""latency_ms":600001"#] {
        let fine = r#"{"request":"report","n_underruns":1,"buffered_ms":1,"jitter_buffer_ms":1,"latency_ms":1}"#;
        let (key, _) = wild.split_once(':').unwrap();
        let text = fine.replace(&format!("{key}:1"), wild);
        assert!(Request::from_json(&text).is_err(), "{text}");
    }
    let mut wild = hello();
    wild.facts.packet_len = 0;
    assert!(Event::from_json(&Event::Hello(Box::new(wild)).to_json()).is_err());
}

#[test]
fn no_word_of_a_station_commands_a_terminal() {
    let evil = format!(
        "\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}\r\n{}",
        "x".repeat(1_000)
    );
    let tame = plain(&evil);
    assert!(!tame.contains(char::is_control) && !tame.contains('\u{202e}'));
    assert!(tame.contains("]0;owned"), "{tame}");
    assert!(tame.chars().count() <= MAX_TEXT_LEN);
    assert_eq!(
        plain("there is no station \"ü\"\n"),
        "there is no station \"ü\""
    );

    let mut facts = hello();
    facts.server = evil.clone();
    facts.facts.station = evil.clone();
    facts.facts.model.name = evil.clone();
    facts.facts.model.sha256 = evil.clone();
    facts.facts.isa = evil.clone();
    let closing = Event::Closing {
        code: close::POLICY,
        reason: evil,
    };
    for event in [Event::Hello(Box::new(facts)), closing] {
        let heard = Event::from_json(&event.to_json()).unwrap();
        assert!(!format!("{heard:?}").contains("\\u{1b}"), "{heard:?}");
        assert!(!heard.to_json().contains("\\u001b"), "{heard:?}");
    }
    let error = Event::from_json("{\"event\":\"hello\",\"format\":\"\\u001b[2J\"}");
    assert!(!error.unwrap_err().to_string().contains('\u{1b}'));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(packet) = Packet::decode(&bytes) {
            prop_assert_eq!(packet.codes().count(), packet.n_samples());
        }
        let text = String::from_utf8_lossy(&bytes);
        let _ = (Event::from_json(&text), Request::from_json(&text));
    }

    #[test]
    fn a_damaged_header_never_panics(
        header in prop::array::uniform12(any::<u8>()),
        kind in 0u8..3,
        format in 0u8..5,
        payload in prop::collection::vec(any::<u8>(), 0..32),
    ) {
        let mut message = header.to_vec();
        message[..4].copy_from_slice(&[kind, format, payload.len() as u8, 0]);
        message.extend(&payload);
        if let Ok(packet) = Packet::decode(&message) {
            prop_assert_eq!(packet.samples().count(), packet.n_samples());
        }
    }

    #[test]
    fn what_is_encoded_is_decoded(
        codes in prop::collection::vec(any::<u8>(), 0..400),
        sequence in any::<u64>(),
        format in 0usize..3,
    ) {
        let message = encoded(Format::ALL[format], sequence, &codes);
        let packet = Packet::decode(&message).unwrap();
        prop_assert_eq!(packet.sequence, sequence);
        prop_assert!(packet.codes().eq(codes));
    }
}

#[test]
fn the_start_of_a_session_in_the_document_is_understood() {
    let Wish::Start(start) = Wish::from_json(&documented("start")).unwrap() else {
        panic!("it is no start");
    };
    assert_eq!(
        (start.seed, start.patch.draw.temperature),
        (Some(7), Some(0.95))
    );
    let prompt = start.prompt.unwrap();
    assert_eq!((prompt.rate_hz, prompt.n_bytes), (Some(48_000), 384_000));
    assert_eq!((start.budget_s, start.branch_of), (Some(60.0), None));
    let bare = Wish::from_json(r#"{"request":"start"}"#).unwrap();
    assert!(matches!(bare, Wish::Start(start) if start.format == Format::Mulaw));
    assert_eq!(
        Wish::from_json(r#"{"request":"pause"}"#).unwrap(),
        Wish::Pause
    );
    for unknown in [
        r#"{"request":"dance"}"#,
        r#"{"request":"change","tempo":1}"#,
        "[]",
    ] {
        assert!(Wish::from_json(unknown).is_err(), "{unknown}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_a_session_panic(text in any::<String>()) {
        let _ = Wish::from_json(&text);
    }
}

#[test]
fn numbers_beyond_all_bounds_are_refused_wherever_they_stand() {
    let huge = "9".repeat(60);
    let changed = r#"{"event": "changed", "since": 1, "seed": "7", "draw": {"temperature": 1.0, "max_entropy": 8.0,
        "max_rise": 8.0, "min_entropy": 0.0, "leveling": 0.0, "max_click": 100.0, "top_p": 1.0, "min_p": 0.0}, "volume_db": -1.0, "mute": false}"#;
    assert!(Event::from_json(changed).is_ok());
    for number in ["8.0", "-1.0"] {
        let error = Event::from_json(&changed.replace(number, &huge)).unwrap_err();
        assert!(error.to_string().contains("beyond all bounds"), "{error}");
    }
    let patch = format!("{{\"temperature\": {huge}}}");
    assert!(Patch::from_json(patch.as_bytes()).is_err());
}
