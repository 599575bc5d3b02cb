//! Changes while it plays: when they hold, and that what was heard can be drawn again.

use super::*;
use crate::control::{Change, Receipt, Refusal, Whose};

fn seed(seed: u64) -> Change {
    Change {
        seed: Some(seed),
        ..Change::default()
    }
}

fn prompt(len: usize) -> Change {
    let codes = (0..len).map(|at| (at * 7 % 251) as u8);
    Change {
        prompt: Some(codes.collect()),
        ..Change::default()
    }
}

fn temperature(temperature: f32) -> Change {
    let draw = DrawParams {
        temperature,
        ..DrawParams::default()
    };
    Change {
        draw: Some(draw),
        ..Change::default()
    }
}

/// One watched station.
fn watched(decoder: Box<dyn Decoder>) -> Bench {
    let engine = Engine {
        decoder,
        chunk: SHAPE,
        sessions: Vec::new(),
    };
    let (mut opening, source) = opening(0, start_of(0));
    opening.spares = Some([1, 2]);
    Bench::of(vec![engine], vec![(opening, source)])
}

impl Bench {
    /// Lets so many chunks play; nothing is allocated for them.
    fn play(&mut self, n_chunks: usize) {
        for _ in 0..n_chunks {
            self.now += CHUNK;
            assert_no_alloc(|| {
                assert!(self.body.obey());
                while self.body.step(self.now).is_zero() {}
            });
        }
    }
}

fn at(receipt: &Receipt) -> u64 {
    receipt.read().expect("it was answered").unwrap()
}

/// What comes of these changes, told where they were made.
fn replayed(decoder: &mut dyn Decoder, changes: &[(u64, Change)], n_codes: usize) -> Vec<u8> {
    // Chunks of another length than those that were played.
    let chunk = ChunkShape { len: 133, ..SHAPE };
    let replay = Replay::open(decoder, [0, 1], &start_of(0), chunk, &mut hear);
    let mut replay = replay.unwrap();
    for (position, change) in changes {
        replay.expect(*position, change.clone()).unwrap();
    }
    let mut codes = Vec::new();
    while codes.len() < n_codes {
        codes.extend_from_slice(replay.next(decoder).unwrap());
    }
    codes.truncate(n_codes);
    codes
}

#[test]
fn a_change_holds_from_the_position_that_is_told_and_for_nobody_else() {
    let mut bench = Bench::new(2);
    bench.play(3);
    let receipt = bench.controls.change(Whose::Station(0), seed(99)).unwrap();
    assert_eq!(receipt.read(), None);
    bench.play(3);
    let position = at(&receipt);
    // The prompt of 7, and whole chunks.
    assert_eq!((position - 7) % 320, 0);
    let heard = published(&bench.sources[0]);
    let border = (position - 7) as usize;
    let unchanged = rendered(0, heard.len() / 320);
    assert_eq!(heard[..border], unchanged[..border]);
    assert_ne!(heard[border..border + 320], unchanged[border..border + 320]);
    let changes = [(position, seed(99))];
    assert!(heard == replayed(&mut *fake(2), &changes, heard.len()));
    let other = published(&bench.sources[1]);
    assert!(other == rendered(1, other.len() / 320));
}

#[test]
fn what_was_heard_is_drawn_again_from_the_changes_and_their_positions() {
    let mut bench = watched(engine::tiny(3));
    let mut changes = Vec::new();
    // A prompt of several tiles, and changes before, in and after its fade.
    let wanted = [
        seed(5),
        temperature(0.7),
        prompt(700),
        temperature(1.1),
        seed(6),
    ];
    bench.settle();
    for change in wanted {
        let receipt = bench
            .controls
            .change(Whose::Station(0), change.clone())
            .unwrap();
        bench.play(3);
        changes.push((at(&receipt), change));
    }
    bench.play(15);
    let told = &bench.telemetry.pump;
    assert_eq!(told.noise_collapses.get(), 0, "its return is not replayed");
    let heard = published(&bench.sources[0]);
    assert!(heard.len() > 25 * 320);
    assert!(heard == replayed(&mut *engine::tiny(2), &changes, heard.len()));
    assert!(heard != rendered_by(&mut *engine::tiny(1), heard.len()));
}

#[test]
fn a_stream_is_kept_once_its_fade_is_over_and_goes_on_from_there_to_the_bit() {
    let mut bench = watched(engine::tiny(3));
    bench.settle();
    let len = engine::tiny(1).state_len();
    let order = (prompt(300), Whose::Station(0));
    let receipt = bench.controls.change(order.1, order.0).unwrap();
    bench.play(2);
    let faded_at = at(&receipt);
    bench.controls.keep(0, || vec![0xff; len]).unwrap();
    bench.play(3);
    assert!(bench.controls.kept().is_none(), "it fades");
    bench.play(20);
    let snapshot = bench.controls.kept().expect("the fade is over");
    assert!(snapshot.position >= faded_at + u64::from(SHAPE.rate_hz / 4));
    let heard = published(&bench.sources[0]);
    // The prompt of 7 is not heard.
    let heard = &heard[snapshot.position as usize - 7..];
    let on = Start {
        kept: Some(Arc::from(snapshot)),
        prompt: Vec::new(),
        ..start_of(0)
    };
    let mut decoder = engine::tiny(1);
    let mut on = Stream::open(&mut *decoder, 0, &on, heard.len(), &mut hear).unwrap();
    assert!(on.next(&mut *decoder) == heard);
}

fn rendered_by(decoder: &mut dyn Decoder, n_codes: usize) -> Vec<u8> {
    replayed_unchanged(decoder, n_codes)
}

fn replayed_unchanged(decoder: &mut dyn Decoder, n_codes: usize) -> Vec<u8> {
    let mut stream = Stream::open(decoder, 0, &start_of(0), n_codes, &mut hear).unwrap();
    stream.next(decoder).to_vec()
}

#[test]
fn a_prompt_is_taken_in_while_nothing_is_due_and_then_faded_to() {
    let mut bench = watched(fake(3));
    bench.settle();
    let receipt = bench
        .controls
        .change(Whose::Station(0), prompt(1_000))
        .unwrap();
    let second = bench
        .controls
        .change(Whose::Station(0), prompt(10))
        .unwrap();
    bench.play(1);
    assert_eq!(second.read(), Some(Err(Refusal::Busy)));
    bench.play(1);
    let position = at(&receipt);
    bench.play(30);
    let heard = published(&bench.sources[0]);
    // The lane of the prompt, from its first code on, with the uniforms of the stream's position.
    let new = |n: u64| {
        let hash = (1_000 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        (hash as u8).wrapping_add((engine::uniform(0, position + n) * 256.0) as u8)
    };
    let after: Vec<u8> = (4_000..6_000).map(new).collect();
    let border = (position - 7) as usize;
    assert_eq!(heard[border + 4_000..border + 6_000], after);
    assert_eq!(heard[..border], rendered(0, border / 320));
    let stream = &bench.body.ensembles[0].stations[0].voice.stream;
    assert_eq!(stream.position(), 7 + heard.len() as u64);
}

#[test]
fn an_unwatched_station_has_no_lane_for_a_prompt_and_says_so() {
    let mut bench = Bench::new(1);
    let receipt = bench
        .controls
        .change(Whose::Station(0), prompt(10))
        .unwrap();
    bench.play(1);
    assert_eq!(receipt.read(), Some(Err(Refusal::NoLane)));
}

#[test]
fn the_card_grows_louder_and_quieter_without_a_step_and_listeners_hear_nothing_of_it() {
    let loud = |gain: Option<f32>| {
        let mut bench = Bench::new(1);
        let mut ring = bench.attach_card(48_000);
        let mut played = Vec::new();
        for chunk in 0..20 {
            if chunk == 5 {
                let gain = Change {
                    gain,
                    ..Change::default()
                };
                bench.controls.change(Whose::Station(0), gain).unwrap();
            }
            bench.settle();
            played.extend(drain(&mut ring, usize::MAX));
        }
        (played, published(&bench.sources[0]))
    };
    let (full, codes) = loud(None);
    let (silent, same) = loud(Some(0.0));
    let n = codes.len().min(same.len());
    assert_eq!(codes[..n], same[..n]);
    let n = full.len().min(silent.len());
    let last = silent.iter().rposition(|sample| *sample != 0.0).unwrap();
    let first = (0..n).find(|&at| full[at] != silent[at]).unwrap();
    // A chunk of 20 ms, and what the resampler smears.
    assert!((900..3_000).contains(&(last - first)), "{first}..{last}");
    assert!(silent.len() > last + 4_800);
}
