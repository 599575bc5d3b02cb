//! Files that are understood, and files that are refused by line and key.

use std::fs;

use super::*;
use crate::draw::{KEYS, PARAMETERS};

fn refusal(text: &str) -> String {
    Config::parse(text, Path::new("c.toml"))
        .unwrap_err()
        .to_string()
}

#[test]
fn an_empty_file_is_the_defaults() {
    let config = Config::parse("", Path::new("c.toml")).unwrap();
    assert_eq!(config, Config::default());
    config.check().unwrap();
}

#[test]
fn the_example_holds_every_key_and_its_default() {
    let text = include_str!("../../examples/longwave.toml");
    let path = Path::new("longwave.toml");
    assert_eq!(Config::parse(text, path).unwrap(), Config::default());
    // Keys without a default stand there as comments: all of them together parse as well.
    let full = text.replace("\n#? ", "\n");
    let config = Config::parse(&full, path).unwrap();
    let (station, card) = (&config.stations[0], &config.cards[0]);
    assert!(station.seed.is_some() && station.prompt.is_some() && station.model.is_some());
    assert!(station.record.as_ref().is_some_and(|r| r.keep.is_some()));
    assert!(config.isa.is_some() && config.threads.is_some() && config.pin.is_some());
    assert!(card.output_device.is_some() && card.station.is_some());
    // And what the program prints names no key that the example does not.
    for key in config
        .to_string()
        .lines()
        .filter_map(|l| l.split_once(" = "))
    {
        assert!(
            full.contains(&format!("\n{} = ", key.0)),
            "{} is missing",
            key.0
        );
    }
}

#[test]
fn a_station_is_drawn_as_its_model_unless_it_says_otherwise_key_by_key() {
    let station = |line: &str| {
        let config = Config::parse(&format!("[[station]]\n{line}"), Path::new("c.toml"));
        config.map(|config| config.stations[0].draw)
    };
    assert_eq!(station("").unwrap(), DrawPatch::default());
    for &key in KEYS {
        let expected = PARAMETERS.map(|parameter| (parameter.key == key).then_some(1.0));
        match station(&format!("{key} = 1.0")) {
            Ok(draw) => assert_eq!(draw, expected),
            // Some begin or end before.
            Err(why) => assert!(
                why.to_string().contains(&format!("line 2, `{key} = 1.0`")),
                "{why}"
            ),
        }
        let why = station(&format!("{key} = -1.0")).unwrap_err().to_string();
        assert!(
            why.contains(&format!("line 2, `{key} = -1.0`: must be ")),
            "{why}"
        );
    }
}

#[test]
fn what_is_printed_can_be_read() {
    let mut config = Config::default();
    config.stations[0].seed = Some(7);
    config.stations[0].record = Some(RecordConfig {
        rotate_bytes: Some(1_000_000),
        keep: Some(24),
        ..RecordConfig::default()
    });
    config.stations.push(StationConfig {
        name: "second".into(),
        draw: DrawPatch {
            temperature: Some(0.7),
            ..DrawPatch::default()
        },
        ..StationConfig::default()
    });
    config.cards[0].enabled = CardUse::Off;
    let again = Config::parse(&config.to_string(), Path::new("c.toml")).unwrap();
    assert_eq!(again, config);
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let text = include_str!("../../examples/broken.toml");
    let why = Config::parse(text, Path::new("broken.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        why.starts_with("broken.toml, line 9, `temprature = 0.9`: unknown key"),
        "{why}"
    );
    assert!(
        why.contains("`temperature`") && !why.contains('\n'),
        "{why}"
    );
}

#[test]
fn a_value_out_of_its_limits_is_named_with_its_line() {
    assert_eq!(
        refusal("[[station]]\n\n[[station]]\nname = \"b\"\ntop_p = 1.5"),
        "c.toml, line 5, `top_p = 1.5`: must be above 0 and at most 1, not 1.5"
    );
    assert_eq!(
        refusal("[card]\nlead_ms = 15"),
        "c.toml, line 2, `lead_ms = 15`: must be at least two periods of 20 ms, not 15"
    );
    assert!(refusal("[card]\nenabled = 3").contains("line 2, `enabled = 3`: must be \"auto\""));
    assert!(refusal("[network]\nlisten = \"8420\"").contains("HOST:PORT"));
    assert!(refusal("[[station]]\ntemperature = nan").contains("not NaN"));
    assert!(refusal("[[station]]\ntemperature = 1e-3").contains("must be 0, or at least 0.01"));
    assert!(refusal("[network]\njitter_ms = 3001").contains("at most 3000"));
    assert!(refusal("station = []").contains("there must be at least 1 and at most 64"));
    assert!(refusal("device = \"gpu\"").contains("auto, cpu or cuda:N"));
    assert!(refusal("isa = \"mmx\"").contains("must be one of avx512-vnni, avx-vnni"));
    assert!(refusal("threads = 0").contains("line 1, `threads = 0`: must be at least 1"));
}

#[test]
fn a_station_is_recorded_by_a_word_and_not_by_a_wrong_one() {
    let parse = |record: &str| {
        let text = format!("[[station]]\nrecord = {record}");
        let config = Config::parse(&text, Path::new("c.toml"));
        config.map_err(|error| error.to_string())
    };
    let config = parse("{}").unwrap();
    assert_eq!(config.stations[0].record, Some(RecordConfig::default()));
    assert!(parse("{ format = \"wav\", keep = 1, rotate_min = 1440 }").is_ok());
    for (wrong, word) in [
        ("{ format = \"mp3\" }", "`wav` or `flac`"),
        ("{ rotate_min = 0 }", "at least 1 and at most 1440"),
        ("{ rotate_bytes = 10 }", "at least 100000"),
        ("{ keep = 0 }", "at least 1"),
        ("{ minutes = 3 }", "unknown key"),
        ("true", "RecordConfig"),
    ] {
        let why = parse(wrong).unwrap_err();
        assert!(why.contains("line 2") && why.contains(word), "{why}");
    }
}

#[test]
fn more_stations_than_the_engine_serves_are_refused() {
    let stations = |n| {
        let tables = (0..n).map(|i| format!("\n[[station]]\nname = \"s{i}\"\n"));
        format!("model = \"tiny\"{}", tables.collect::<String>())
    };
    Config::parse(&stations(64), Path::new("c.toml")).unwrap();
    let why = refusal(&stations(65));
    assert!(
        why.starts_with("c.toml, line 2, `[[station]]`: there must be"),
        "{why}"
    );
}

#[test]
fn stations_are_told_apart() {
    let twice = "[[station]]\nname = \"a\"\n[[station]]\nname = \"a\"";
    assert!(refusal(twice).starts_with("c.toml, line 4"));
    assert!(refusal("[card]\nstation = \"b\"").contains("there is no station b, only piano"));
    assert!(refusal("[[station]]\nname = \"a/b\"").contains("letters"));
}

#[test]
fn proxies_are_addresses_or_nets() {
    let text = "[network]\ntrusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\", \"::1\"]";
    let config = Config::parse(text, Path::new("c.toml")).unwrap();
    let proxies = config.network.trusted_proxies();
    let named: Vec<String> = proxies.iter().map(ToString::to_string).collect();
    assert_eq!(named, ["127.0.0.1/32", "10.0.0.0/8", "::1/128"]);
    let why = refusal("[network]\ntrusted_proxies = [\n\"::1\", \"proxy.local\"]");
    assert!(why.starts_with("c.toml, line 2"), "{why}");
    assert!(
        why.contains("nets such as 10.0.0.0/8, not proxy.local"),
        "{why}"
    );
    assert!(refusal("[network]\nmax_per_token = 0").contains("line 2, `max_per_token = 0`"));
}

#[test]
fn broken_toml_is_one_sentence() {
    let why = refusal("[card\nlead_ms = 3");
    assert!(
        why.starts_with("c.toml, line 1, `[card`:") && !why.contains('\n'),
        "{why}"
    );
}

#[test]
fn a_file_without_an_end_is_refused() {
    let why = Config::read(Path::new("/dev/zero"))
        .unwrap_err()
        .to_string();
    assert!(why.contains("/dev/zero: it is longer than 1 MiB"), "{why}");
}

#[test]
fn paths_in_a_file_start_from_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    let record = "record = { directory = \"r\" }";
    let station = "[[station]]\nprompt = \"p.wav\"\n[[station]]\nname = \"b\"\nmodel = ";
    fs::write(&path, format!("model = \"m/x\"\n{station}\"y/\"\n{record}")).unwrap();
    let config = Config::read(&path).unwrap();
    let models = ["m/x", "y/"].map(|model| dir.path().join(model));
    assert!(config.models().eq(&models));
    assert_eq!(config.stations[0].prompt, Some(dir.path().join("p.wav")));
    let record = config.stations[1].record.as_ref().unwrap();
    assert_eq!(record.directory, Some(dir.path().join("r")));
    fs::write(&path, "model = \"x\"").unwrap();
    assert_eq!(Config::read(&path).unwrap().model, Path::new("x"));
}

#[test]
fn a_wide_address_wants_tokens_or_the_word_open() {
    let parse = |network: &str| {
        let text = format!("[network]\n{network}");
        Config::parse(&text, Path::new("c.toml")).map_err(|error| error.to_string())
    };
    for own in ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.8.0.1:1"] {
        assert!(parse(&format!("listen = \"{own}\"")).is_ok(), "{own}");
    }
    for wide in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "radio.example:1"] {
        let listen = format!("listen = \"{wide}\"");
        let error = parse(&listen).unwrap_err();
        assert!(error.contains("name a file of tokens"), "{error}");
        assert!(parse(&format!("{listen}\nopen = true")).is_ok());
        assert!(parse(&format!("{listen}\ntokens = \"t\"")).is_ok());
    }
}

#[test]
fn a_card_is_a_table_and_several_are_a_list_of_them() {
    let parse = |text: &str| Config::parse(text, Path::new("c.toml"));
    let config = parse("[card]\nlead_ms = 300").unwrap();
    assert_eq!((config.cards.len(), config.cards[0].lead_ms), (1, 300));
    let text = "[[card]]\noutput_device = \"a\"\n[[card]]\noutput_device = \"b\"\nvolume_db = -6\n\
                channels = [1, 2]\nstation = \"two\"\n[[station]]\nname = \"one\"\n[[station]]\nname = \"two\"";
    let config = parse(text).unwrap();
    let [a, b] = &config.cards[..] else {
        panic!("{:?}", config.cards);
    };
    assert_eq!((config.station_of(a), config.station_of(b)), (0, 1));
    assert_eq!((a.volume(), &*b.channels), (1.0, &[1, 2][..]));
    assert!((b.volume() - 0.501).abs() < 1e-3);
    assert_eq!(parse(&config.to_string()).unwrap(), config);
}

#[test]
fn a_card_that_cannot_be_is_named_with_its_line() {
    for (text, why) in [
        (
            "[[card]]\nperiod_ms = 10\n[[card]]\noutput_device = \"b\"\nlead_ms = 5",
            "line 5, `lead_ms = 5`: must be at least 10",
        ),
        (
            "[[card]]\n[[card]]\nlead_ms = 300",
            "line 2, `[[card]]`: is the second card named default",
        ),
        (
            "[[card]]\noutput_device = \"a\"\n[[card]]\noutput_device = \"a\"",
            "line 4, `output_device = \"a\"`: is the second card named a",
        ),
        (
            "[[card]]\nperiod_ms = 50\n[[card]]\noutput_device = \"b\"\nlead_ms = 100",
            "line 5, `lead_ms = 100`: must be at least 120, not 100: another card plays this station",
        ),
        (
            "[[card]]\nvolume_db = 3",
            "line 2, `volume_db = 3`: must be",
        ),
        (
            "[card]\nchannels = [0]",
            "line 2, `channels = [0]`: must be",
        ),
        ("[[card]]\nled_ms = 3", "line 2, `led_ms = 3`: unknown key"),
        ("card = []", "there must be at least 1 and at most 16 cards"),
        ("card = 3", "a table [card], or several [[card]]"),
    ] {
        let refusal = refusal(text);
        assert!(refusal.contains(why), "{refusal}");
    }
}
