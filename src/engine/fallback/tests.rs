//! An engine that fails at a call of the test's choice, against one that never does.

use std::path::Path;

use super::*;
use crate::engine::{self, DrawParams, Turn, uniform};
use crate::mulaw;

/// Codes of a prompt that the one that fails takes in at a time.
const TILE: usize = 500;
const WORDS: &str = "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered";

/// The CPU engine, until it has done so much.
struct Mortal {
    engine: Box<dyn Decoder>,
    n_left: usize,
}

impl Mortal {
    /// What fails may have begun.
    fn begin(&mut self, work: &mut Work<'_, '_>) {
        match work {
            Work::Generate(turns) => turns[0].codes.fill(77),
            Work::Score(lane, codes, see) => self.engine.score(*lane, &codes[..5], &mut **see),
            _ => {}
        }
    }
}

impl Fallible for Mortal {
    type Error = &'static str;

    fn attempt(&mut self, work: &mut Work<'_, '_>) -> Result<(), &'static str> {
        if self.n_left == 0 {
            self.begin(work);
            return Err(WORDS);
        }
        self.n_left -= 1;
        work.by(&mut *self.engine);
        Ok(())
    }

    fn n_lanes(&self) -> usize {
        self.engine.n_lanes()
    }

    fn state_len(&self) -> usize {
        self.engine.state_len()
    }

    fn position(&self, lane: usize) -> u64 {
        self.engine.position(lane)
    }

    fn prompt_tile(&self) -> usize {
        TILE
    }

    fn isa(&self) -> &'static str {
        "mortal"
    }
}

fn tiny() -> Arc<Model> {
    Arc::new(Model::load(Path::new("models/tiny")).unwrap())
}

/// The tiny model without its predictor, whose filters remember more than any window.
fn tiny_of_rings() -> Arc<Model> {
    let mut model = Model::load(Path::new("models/tiny")).unwrap();
    model.config.predictor.clear();
    model.weights.predictor.clear();
    Arc::new(model)
}

const N_LANES: usize = 4;

fn cpu(model: &Arc<Model>) -> Box<dyn Decoder> {
    engine::open(model, &Settings::default(), N_LANES).unwrap()
}

fn mortal(model: &Arc<Model>, n_left: usize) -> Fallback<Mortal> {
    let engine = cpu(model);
    lasting(engine, model, N_LANES, n_left)
}

fn lasting(
    engine: Box<dyn Decoder>,
    model: &Arc<Model>,
    n_lasting: usize,
    n_left: usize,
) -> Fallback<Mortal> {
    let mortal = Mortal { engine, n_left };
    Fallback::new(mortal, model, &Settings::default(), n_lasting)
}

/// An engine that fails at the call after so many, the first lanes of which last, for tests of those who know
/// no models: of any age, what plays on is what would have been heard.
pub(crate) fn fragile(n_lanes: usize, n_lasting: usize, n_left: usize) -> Box<dyn Decoder> {
    let model = tiny_of_rings();
    let engine = engine::open(&model, &Settings::default(), n_lanes).unwrap();
    Box::new(lasting(engine, &model, n_lasting, n_left))
}

fn draw(decoder: &mut dyn Decoder, lanes: &[usize], n: usize) -> Vec<Vec<u8>> {
    let uniforms = lanes.iter().map(|lane| {
        let start = decoder.position(*lane);
        let uniforms = (start..).take(n).map(|t| uniform(*lane as u64, t));
        uniforms.collect()
    });
    let uniforms: Vec<Vec<f32>> = uniforms.collect();
    let mut codes = vec![vec![0; n]; lanes.len()];
    let turns = lanes.iter().zip(&uniforms).zip(&mut codes);
    let turns = turns.map(|((&lane, uniforms), codes)| Turn {
        lane,
        // What drawing remembers of its draws has no part in it.
        draw: DrawParams::default(),
        uniforms,
        codes,
    });
    decoder.generate(&mut turns.collect::<Vec<_>>());
    codes
}

fn state_of(decoder: &mut dyn Decoder, lane: usize) -> Vec<u8> {
    let mut bytes = vec![0; decoder.state_len()];
    decoder.save(lane, &mut bytes);
    bytes
}

/// A life in all kinds of calls, shorter than the window, and the codes that came of it.
fn live(decoder: &mut dyn Decoder) -> Vec<u8> {
    let prompt: Vec<u8> = (0..40).map(|t| 100 + 3 * t % 40).collect();
    let mut all = Vec::new();
    let mut keep = |codes: Vec<Vec<u8>>| all.extend(codes.concat());
    decoder.prime(0, &prompt);
    keep(draw(decoder, &[0, 1], 5));
    decoder.copy(0, 2);
    keep(draw(decoder, &[2, 0], 5));
    decoder.age(3, 1_000_000);
    keep(draw(decoder, &[3, 1], 5));
    let state = state_of(decoder, 3);
    decoder.open(0);
    keep(draw(decoder, &[0], 5));
    decoder.restore(0, &state);
    decoder.score(1, &prompt[..9], &mut |_, _| ());
    keep(draw(decoder, &[1, 2, 3, 0], 5));
    let positions = (0..N_LANES).map(|lane| decoder.position(lane) as u8);
    keep(vec![positions.collect()]);
    all
}

#[test]
fn whatever_the_call_that_fails_what_is_heard_is_what_would_have_been() {
    for model in [tiny(), tiny_of_rings()] {
        let expected = live(&mut *cpu(&model));
        for n_left in 0..20 {
            let mut decoder = mortal(&model, n_left);
            assert!(live(&mut decoder) == expected, "failed at call {n_left}");
        }
    }
}

#[test]
fn lanes_that_shall_not_last_are_silent_and_those_that_do_are_all_that_is_made() {
    let model = tiny_of_rings();
    let (mut sure, mut decoder) = (cpu(&model), lasting(cpu(&model), &model, 2, 2));
    let (expected, heard) = (
        draw(&mut *sure, &[3, 0, 1], 50),
        draw(&mut decoder, &[3, 0, 1], 50),
    );
    assert!(expected == heard);
    // A session goes on from a station, and fails with the engine.
    decoder.copy(0, 2);
    let heard = draw(&mut decoder, &[3, 1, 2, 0], 50);
    let expected = draw(&mut *sure, &[1, 0], 50);
    assert_eq!((&heard[1], &heard[3]), (&expected[0], &expected[1]));
    for lost in [&heard[0], &heard[2]] {
        assert!(lost.iter().all(|&code| code == mulaw::SILENCE));
    }
    let Playing::Second(second, _) = &decoder.playing else {
        panic!("it did not fail");
    };
    assert_eq!((second.n_lanes(), Decoder::n_lanes(&decoder)), (2, N_LANES));
    // Whatever it is asked for of them, nothing comes of it, and nothing of it comes to the others.
    let state = vec![0; Decoder::state_len(&decoder)];
    assert!(state_of(&mut decoder, 2) == state);
    decoder.restore(3, &state);
    decoder.prime(3, &[1, 2, 3]);
    decoder.copy(2, 0);
    decoder.copy(1, 3);
    assert_eq!(Decoder::position(&decoder, 3), 0);
    assert!(draw(&mut decoder, &[2, 3], 5).concat() == [mulaw::SILENCE; 10]);
    assert!(draw(&mut decoder, &[0, 1], 50) == draw(&mut *sure, &[0, 1], 50));
}

#[test]
fn logits_that_were_shown_before_it_failed_are_not_shown_again() {
    let model = tiny();
    let mut decoder = mortal(&model, 0);
    let mut shown = Vec::new();
    decoder.score(1, &[100; 9], &mut |index, _| shown.push(index));
    assert_eq!(shown, (0..9).collect::<Vec<_>>());
    assert_ne!(Decoder::isa(&decoder), "mortal");
}

#[test]
fn who_waits_for_an_omen_reads_why_and_what_plays_on_and_no_second_one() {
    let model = tiny();
    let mut decoder = mortal(&model, 1);
    let omen = Decoder::omen(&decoder).unwrap();
    draw(&mut decoder, &[0], 5);
    assert_eq!((omen.get(), Decoder::isa(&decoder)), (None, "mortal"));
    assert_eq!(Decoder::prompt_tile(&decoder), TILE);
    draw(&mut decoder, &[0], 5);
    let isa = cpu(&model).isa();
    let fall = Fall {
        why: WORDS.into(),
        isa,
    };
    assert_eq!((omen.get(), Decoder::isa(&decoder)), (Some(&fall), isa));
    assert_eq!(Decoder::prompt_tile(&decoder), STEPPED_MAX);
    draw(&mut decoder, &[0, 1], 5);
    assert_eq!(omen.get(), Some(&fall));
    assert_eq!(cpu(&model).omen(), None);
}

#[test]
fn a_lane_older_than_its_window_goes_on_from_the_window_alone() {
    let model = tiny_of_rings();
    let window = model.config.receptive_field() as usize;
    let (mut sure, mut decoder) = (cpu(&model), mortal(&model, 7));
    // A chunk is longer than the window, others end inside of it.
    for n in [window / 2, 2 * window + 3, 1, 50, window - 60, 30, 400] {
        let expected = draw(&mut *sure, &[1, 2], n);
        assert!(draw(&mut decoder, &[1, 2], n) == expected);
    }
    // This one fails.
    assert!(draw(&mut decoder, &[2, 1], 300) == draw(&mut *sure, &[2, 1], 300));
    assert_ne!(Decoder::isa(&decoder), "mortal");
}

#[test]
fn filters_that_have_heard_the_window_alone_go_on_at_the_same_position() {
    let model = tiny();
    let window = model.config.receptive_field() as usize;
    let mut decoder = mortal(&model, 1);
    draw(&mut decoder, &[0], 3 * window);
    draw(&mut decoder, &[0], 10);
    assert_eq!(Decoder::position(&decoder, 0), 3 * window as u64 + 10);
}

#[test]
fn a_lane_that_was_restored_is_restored_again() {
    let model = tiny();
    let window = model.config.receptive_field() as usize;
    let mut sure = cpu(&model);
    draw(&mut *sure, &[0], 3 * window);
    let state = state_of(&mut *sure, 0);
    // Of which one draws.
    let mut decoder = mortal(&model, 2);
    decoder.restore(0, &state);
    for _ in 0..3 {
        assert!(draw(&mut decoder, &[0], 20) == draw(&mut *sure, &[0], 20));
    }
    assert_ne!(Decoder::isa(&decoder), "mortal");
}
