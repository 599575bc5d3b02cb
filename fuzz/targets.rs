//! What is done to untrusted bytes: each target takes any, and panics where a promise is broken.
//!
//! Shared by the fuzzer (`fuzz_targets/`) and by the test that goes through the kept corpora
//! (`tests/fuzz.rs`).

use std::path::Path;

use longwave::access::Tokens;
use longwave::config::Config;
use longwave::model::pattern::{Buckets, Hashed};
use longwave::model::{Head, ModelConfig, Pattern};
use longwave::protocol::{Event, Packet, Patch, Request};
use longwave::wav;

/// Whatever a listener or a client of HTTP may send, and a server to a listener: what is read can be
/// written, and reads the same.
pub fn protocol(data: &[u8]) {
    if let Ok(packet) = Packet::decode(data) {
        assert_eq!(packet.samples().count(), packet.n_samples());
        let codes: Vec<u8> = packet.codes().collect();
        let mut again = Vec::new();
        Packet::encode(packet.format, packet.sequence, &codes, &mut again);
        assert_eq!(again.len(), data.len());
        let codes_again: Vec<u8> = Packet::decode(&again)
            .expect("it was written")
            .codes()
            .collect();
        assert_eq!(codes, codes_again);
    }
    if let Ok(patch) = Patch::from_json(data) {
        let again = Patch::from_json(patch.to_json().as_bytes()).expect("it was written");
        assert_eq!(again.to_json(), patch.to_json());
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(event) = Event::from_json(text) {
        let again = Event::from_json(&event.to_json()).expect("it was written");
        assert_eq!(again.to_json(), event.to_json());
    }
    if let Ok(request) = Request::from_json(text) {
        let again = Request::from_json(&request.to_json()).expect("it was written");
        assert_eq!(again.to_json(), request.to_json());
    }
    // Tokens come out of a file, but of anybody's.
    let _ = Tokens::parse(text, Path::new("tokens"));
}

/// A configuration file: what is accepted prints as one that is accepted and means the same.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(config) = Config::parse(text, Path::new("longwave.toml")) {
        let printed = config.to_string();
        let again = Config::parse(&printed, Path::new("longwave.toml"));
        let again = again.unwrap_or_else(|error| panic!("{error}:\n{printed}"));
        assert_eq!(again.to_string(), printed);
    }
}

/// A model's `config.json`: every pattern that is accepted keeps to its slots.
pub fn model(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(config) = ModelConfig::parse(text) else {
        return;
    };
    let _ = (config.receptive_field(), config.cycle());
    for head in config.layers.iter().flat_map(|layer| layer.patterns()) {
        let far = head.reach().saturating_mul(3);
        let head = match head {
            Head::Placed(head) => head,
            Head::Hashed(head) => {
                keeps_to_its_slots(head, far);
                continue;
            }
        };
        for position in (0..40).chain(far..far + 40) {
            assert!(head.slot(position) < head.n_slots());
            let (mut n_runs, mut n_seen) = (0, 0);
            head.visible(position, &mut |run| {
                assert!(run.start < run.end && run.end <= head.n_slots());
                (n_runs, n_seen) = (n_runs + 1, n_seen + run.len());
            });
            assert!(n_runs >= 1 && n_runs <= head.max_runs() && n_seen <= head.max_visible());
            assert!(head.sees(position, position) && !head.sees(position, position + 1));
        }
    }
}

/// Rings that fill, and those of any age, whatever buckets positions fall into.
fn keeps_to_its_slots(head: &Hashed, far: u64) {
    let mut rings = head.rings();
    for position in (0..40).chain(far..far + 40) {
        let buckets: Buckets = std::array::from_fn(|round| (position >> round & 1) as u16);
        let (mut n_runs, mut n_seen) = (0, 0);
        head.visible(&rings, position, &buckets, &mut |run| {
            assert!(run.start < run.end && run.end <= head.n_slots());
            (n_runs, n_seen) = (n_runs + 1, n_seen + run.len());
        });
        assert!(n_runs <= head.max_runs() && n_seen <= head.max_visible());
        head.write(&mut rings, position, &buckets, &mut |slot| {
            assert!(slot < head.n_slots());
        });
    }
}

/// A prompt as a client sends it: a WAV file of any rate and width becomes numbers.
pub fn prompt(data: &[u8]) {
    const RATE_HZ: u32 = 16_000;
    const LAST_S: f64 = 0.25;
    if let Ok(samples) = wav::parse_mono(data.to_vec(), "the prompt", RATE_HZ, LAST_S) {
        assert!(
            !samples.is_empty() && samples.len() <= 4_001,
            "{}",
            samples.len()
        );
        assert!(samples.iter().all(|sample| sample.is_finite()));
    }
}
