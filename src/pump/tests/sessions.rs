//! Clients' own streams beside a station.

use std::sync::mpsc;

use super::*;
use crate::control::{Change, Receipt, Refusal, Whose};

const RING_LEN: usize = 10 * SHAPE.len;

/// A station in lane 0 of the tiny model's engine, and room for `n` sessions.
fn house(n: usize) -> Bench {
    let engine = Engine {
        decoder: engine::tiny(n + 2),
        chunk: SHAPE,
        sessions: (1..n + 2).collect(),
    };
    Bench::of(vec![engine], vec![opening(0, start_of(0))])
}

fn begin(seed: u64, prompt: usize) -> Change {
    let codes = (0..prompt).map(|at| (at * 5 % 256) as u8);
    Change {
        seed: Some(seed),
        draw: Some(DrawParams::default()),
        gain: None,
        prompt: (prompt > 0).then(|| codes.collect()),
    }
}

type Ring = rtrb::Consumer<u8>;

impl Bench {
    fn open(&self, number: u64, change: Change, branch_of: Option<u64>) -> (Ring, Receipt) {
        let asked = (change, branch_of);
        let opened = self.controls.open_session(number, 0, asked, RING_LEN);
        opened.unwrap()
    }

    /// Lets chunks play, and reads what comes.
    fn read(&mut self, ring: &mut Ring, n_codes: usize) -> Vec<u8> {
        let mut codes = Vec::new();
        for _ in 0..1_000 {
            self.settle();
            self.now += CHUNK;
            let n = ring.slots().min(n_codes - codes.len());
            codes.extend(ring.read_chunk(n).unwrap());
            if codes.len() == n_codes {
                return codes;
            }
        }
        panic!("it does not play");
    }
}

/// The same alone, with what it was changed by.
fn alone(start: &Change, changes: &[(u64, Change)], n_codes: usize) -> Vec<u8> {
    let mut decoder = engine::tiny(2);
    let start = Start {
        seed: start.seed.unwrap(),
        draw: start.draw.unwrap(),
        prompt: start.prompt.clone().unwrap_or_default().into(),
        kept: None,
    };
    let replay = Replay::open(&mut *decoder, [0, 1], &start, SHAPE, &mut hear);
    let mut replay = replay.unwrap();
    for (position, change) in changes {
        replay.expect(*position, change.clone()).unwrap();
    }
    let mut codes = Vec::new();
    while codes.len() < n_codes {
        codes.extend_from_slice(replay.next(&mut *decoder).unwrap());
    }
    codes.truncate(n_codes);
    codes
}

#[test]
fn a_session_is_drawn_as_it_is_alone_whatever_it_is_changed_by() {
    let mut bench = house(2);
    let start = begin(7, 1_000);
    let (mut ring, receipt) = bench.open(1, start.clone(), None);
    let mut codes = bench.read(&mut ring, 10 * 320);
    assert_eq!(receipt.read(), Some(Ok(1_000)));
    let mut changes = Vec::new();
    for change in [begin(8, 0), begin(8, 500), begin(9, 0)] {
        let receipt = bench.controls.change(Whose::Session(1), change.clone());
        let receipt = receipt.unwrap();
        codes.extend(bench.read(&mut ring, 20 * 320));
        changes.push((receipt.read().unwrap().unwrap(), change));
    }
    assert!(codes == alone(&start, &changes, codes.len()));
    let station = published(&bench.sources[0]);
    let of_station = Change {
        seed: Some(0),
        prompt: Some(start_of(0).prompt.into()),
        ..begin(0, 0)
    };
    assert!(station == alone(&of_station, &[], station.len()));
}

/// An engine that takes in a hundred codes of a prompt at a time, and tells how many come.
struct Tiled(Box<dyn Decoder>, mpsc::Sender<usize>);

impl Decoder for Tiled {
    fn n_lanes(&self) -> usize {
        self.0.n_lanes()
    }
    fn open(&mut self, lane: usize) {
        self.0.open(lane);
    }
    fn copy(&mut self, from: usize, to: usize) {
        self.0.copy(from, to);
    }
    fn position(&self, lane: usize) -> u64 {
        self.0.position(lane)
    }
    fn prime(&mut self, lane: usize, codes: &[u8]) {
        self.1.send(codes.len()).unwrap();
        self.0.prime(lane, codes);
    }
    fn prompt_tile(&self) -> usize {
        100
    }
    fn score(&mut self, lane: usize, codes: &[u8], see: &mut dyn FnMut(usize, &[f32])) {
        self.0.score(lane, codes, see);
    }
    fn generate(&mut self, turns: &mut [Turn<'_>]) {
        self.0.generate(turns);
    }
    fn age(&mut self, lane: usize, position: u64) {
        self.0.age(lane, position);
    }
    fn isa(&self) -> &'static str {
        "tiled"
    }
}

#[test]
fn a_prompt_is_taken_in_by_tiles_of_the_engines_size() {
    let (told, tiles) = mpsc::channel();
    let engine = Engine {
        decoder: Box::new(Tiled(fake(3), told)),
        chunk: SHAPE,
        sessions: vec![1, 2],
    };
    let mut bench = Bench::of(vec![engine], vec![opening(0, start_of(0))]);
    // One that a session begins with, and one that it is given while it plays.
    let (mut ring, _receipt) = bench.open(7, begin(5, 250), None);
    bench.read(&mut ring, 100);
    let _receipt = bench
        .controls
        .change(Whose::Session(7), begin(6, 130))
        .unwrap();
    bench.read(&mut ring, SHAPE.len * 20);
    let tiles: Vec<usize> = tiles.try_iter().collect();
    assert!(tiles.ends_with(&[100, 100, 50, 100, 30]), "{tiles:?}");
}

#[test]
fn a_client_that_does_not_read_loses_nothing_and_holds_up_nobody() {
    let mut bench = house(1);
    let start = begin(7, 0);
    let (mut ring, _) = bench.open(1, start.clone(), None);
    for _ in 0..100 {
        bench.settle();
        bench.now += CHUNK;
    }
    assert_eq!(ring.slots(), RING_LEN);
    assert!(bench.sources[0].n_written() >= 100);
    let codes = bench.read(&mut ring, 4 * RING_LEN);
    assert!(codes == alone(&start, &[], codes.len()));
}

#[test]
fn a_branch_has_the_same_past_and_another_seed() {
    let mut bench = house(2);
    let start = begin(7, 300);
    let (mut ring, _) = bench.open(1, start.clone(), None);
    let (mut early, receipt) = bench.open(2, begin(9, 0), Some(1));
    assert!(bench.body.obey());
    assert_eq!(
        receipt.read(),
        Some(Err(Refusal::Busy)),
        "it has heard nothing"
    );
    bench.read(&mut ring, 3_200);
    let (mut branch, receipt) = bench.open(3, begin(9, 0), Some(1));
    let codes = bench.read(&mut branch, 3_200);
    let position = receipt.read().unwrap().unwrap();
    let n_before = (position - 300) as usize;
    let whole = alone(&start, &[(position, begin(9, 0))], n_before + codes.len());
    assert!(codes == whole[n_before..]);
    assert!(early.pop().is_err());
    let (_ring, receipt) = bench.open(4, begin(9, 0), Some(99));
    assert!(bench.body.obey());
    assert_eq!(
        receipt.read(),
        Some(Err(Refusal::NoLane)),
        "the house is full"
    );
}

/// In every state there is: asked for, listening, playing, full, going over to a new prompt.
#[test]
fn sessions_that_end_in_any_state_give_their_lanes_back_and_nothing_is_allocated() {
    let mut bench = house(3);
    let mut number = 0;
    for round in 0..40u64 {
        let mut rings = Vec::new();
        for (at, age) in [round % 2, round % 5, round % 7].into_iter().enumerate() {
            number += 1;
            let prompt = [0, 100, 3_000][(round as usize + at) % 3];
            let (ring, receipt) = bench.open(number, begin(number, prompt), None);
            rings.push((ring, receipt));
            for step in 0..age {
                if step == 2 {
                    let change = begin(number, 200);
                    bench
                        .controls
                        .change(Whose::Session(number), change)
                        .unwrap();
                }
                assert!(bench.body.obey());
                bench.body.step(bench.now);
                bench.now += CHUNK;
            }
        }
        assert!(bench.body.obey());
        for (_, receipt) in &rings {
            assert!(
                receipt.read().unwrap().is_ok(),
                "round {round}: a lane is lost"
            );
        }
    }
    // What no prompt is taken in for allocates nothing.
    let (ring, _) = bench.open(1_000, begin(1, 0), None);
    assert_no_alloc(|| {
        assert!(bench.body.obey());
        for _ in 0..50 {
            while bench.body.step(bench.now).is_zero() {}
            bench.now += CHUNK;
        }
    });
    drop(ring);
    assert_no_alloc(|| bench.body.step(bench.now));
    let (mut ring, _) = bench.open(1_001, begin(5, 0), None);
    let codes = bench.read(&mut ring, 3_200);
    assert!(codes == alone(&begin(5, 0), &[], codes.len()));
    // The spare lane is there as well.
    let receipt = bench.controls.change(Whose::Session(1_001), begin(6, 10));
    bench.read(&mut ring, 3_200);
    assert!(receipt.unwrap().read().unwrap().is_ok());
}

#[test]
fn when_the_engine_fails_the_station_plays_on_and_sessions_end_with_a_reason() {
    let quiet = |n_left| {
        let engine = Engine {
            decoder: engine::fragile(3, 1, n_left),
            chunk: SHAPE,
            sessions: vec![1, 2],
        };
        let plain = DrawParams::default();
        let start = Start {
            draw: plain,
            ..start_of(0)
        };
        Bench::of(vec![engine], vec![opening(0, start)])
    };
    let (mut sound, mut failing) = (quiet(usize::MAX), quiet(40));
    let (heard, _) = sound.open(1, begin(7, 0), None);
    let (ring, receipt) = failing.open(1, begin(7, 0), None);
    let mut of_session = [Vec::new(), Vec::new()];
    let both = [(&mut sound, heard), (&mut failing, ring)];
    for ((bench, mut ring), codes) in both.into_iter().zip(&mut of_session) {
        for _ in 0..60 {
            bench.settle();
            bench.now += CHUNK;
            let chunk = ring.read_chunk(ring.slots()).unwrap();
            codes.extend(chunk);
        }
    }
    let (whole, with_a_fall) = (published(&sound.sources[0]), published(&failing.sources[0]));
    assert!(whole.len() >= 60 * SHAPE.len && whole == with_a_fall);
    assert_eq!(receipt.read(), Some(Err(Refusal::Shed)));
    // What was drawn for it came, and nothing else.
    let [whole, broken_off] = of_session;
    let n_chunks = [&whole, &broken_off].map(|codes| codes.len() / SHAPE.len);
    assert!(0 < n_chunks[1] && n_chunks[1] < n_chunks[0], "{n_chunks:?}");
    assert!(whole.starts_with(&broken_off));
    let (_ring, receipt) = failing.open(2, begin(8, 0), None);
    assert!(failing.body.obey());
    assert_eq!(receipt.read(), Some(Err(Refusal::Shed)));
}
