//! Streams that collapse on cue, and what their listeners and their card get to hear of it.

use std::sync::atomic::{AtomicU8, Ordering};

use super::*;

const RATE: usize = 16_000;
const GOOD: u8 = 0;
const NOISE: u8 = 1;
const DEAD: u8 = 2;

/// A tone by the position of its lane, until the cue comes: then noise or one held code. What became
/// of a lane is copied with it.
struct Falling {
    lanes: Vec<(u64, u8)>,
    cue: Arc<AtomicU8>,
    /// Whether the uniforms have a say in the tone, a small one.
    wavers: bool,
}

impl Decoder for Falling {
    fn n_lanes(&self) -> usize {
        self.lanes.len()
    }
    fn open(&mut self, lane: usize) {
        self.lanes[lane] = (0, GOOD);
    }
    fn copy(&mut self, from: usize, to: usize) {
        self.lanes[to] = self.lanes[from];
    }
    fn position(&self, lane: usize) -> u64 {
        self.lanes[lane].0
    }
    fn prime(&mut self, lane: usize, codes: &[u8]) {
        self.lanes[lane].0 += codes.len() as u64;
    }
    fn score(&mut self, _: usize, _: &[u8], _: &mut dyn FnMut(usize, &[f32])) {}
    fn generate(&mut self, turns: &mut [Turn<'_>]) {
        let cue = self.cue.swap(GOOD, Ordering::Relaxed);
        // The first station's.
        if cue != GOOD {
            self.lanes[turns[0].lane].1 = cue;
        }
        for turn in turns {
            let (position, fate) = &mut self.lanes[turn.lane];
            for (code, uniform) in turn.codes.iter_mut().zip(turn.uniforms) {
                *code = match *fate {
                    NOISE => (uniform * 256.0) as u8,
                    DEAD => 190,
                    _ => tone(*position) ^ u8::from(self.wavers && *uniform < 0.5),
                };
                *position += 1;
            }
        }
    }
    fn age(&mut self, _lane: usize, _position: u64) {}

    fn isa(&self) -> &'static str {
        "falling"
    }
}

/// A note every half second, each of its own pitch.
fn tone(position: u64) -> u8 {
    let (note, at) = (position / 8_000, (position % 8_000) as f32 / RATE as f32);
    let hz = 220.0 + 5.0 * (note % 151) as f32;
    let fade = (1.0 - (-300.0 * at).exp()) * (-4.0 * at).exp();
    mulaw::encode(0.2 * fade * (std::f32::consts::TAU * hz * at).sin()).unwrap()
}

fn tones(from: u64, n: usize) -> Vec<u8> {
    (from..from + n as u64).map(tone).collect()
}

struct Stage {
    bench: Bench,
    cue: Arc<AtomicU8>,
}

impl Stage {
    fn new(n_stations: usize) -> Self {
        Self::of(n_stations, true, false)
    }

    fn of(n_stations: usize, is_watched: bool, wavers: bool) -> Self {
        let cue = Arc::new(AtomicU8::new(GOOD));
        let decoder = Falling {
            lanes: vec![(0, GOOD); 3 * n_stations],
            cue: cue.clone(),
            wavers,
        };
        let engine = Engine {
            decoder: Box::new(decoder),
            chunk: SHAPE,
            sessions: Vec::new(),
        };
        let stations = (0..n_stations).map(|lane| {
            let (mut opening, source) = opening(lane, start_of(lane as u64));
            let spare = n_stations + 2 * lane;
            opening.spares = is_watched.then_some([spare, spare + 1]);
            (opening, source)
        });
        let bench = Bench::of(vec![engine], stations.collect());
        Self { bench, cue }
    }

    /// Lets time pass; nothing is allocated in it.
    fn play(&mut self, seconds: f64) {
        assert_no_alloc(|| self.pass(seconds));
    }

    fn pass(&mut self, seconds: f64) {
        let bench = &mut self.bench;
        for _ in 0..(seconds * 50.0) as usize {
            while bench.body.step(bench.now).is_zero() {}
            bench.now += CHUNK;
        }
    }

    /// Lets the first station fail from the next code on; which that is.
    fn fail(&mut self, how: u8) -> usize {
        self.cue.store(how, Ordering::Relaxed);
        self.bench.sources[0].n_written() as usize * SHAPE.len
    }

    fn heard(&self) -> Vec<u8> {
        published(&self.bench.sources[0])
    }

    fn collapses(&self) -> (u64, u64) {
        let told = &self.bench.telemetry.pump;
        (told.noise_collapses.get(), told.dead_collapses.get())
    }
}

/// At which position of the tones these codes begin.
fn place_of(codes: &[u8]) -> u64 {
    let places = 0..60 * RATE as u64;
    let is_here = |place: &u64| {
        codes
            .iter()
            .zip(*place..)
            .all(|(code, at)| *code == tone(at))
    };
    places.into_iter().find(is_here).expect("nothing but tones")
}

#[test]
fn a_stream_that_falls_into_noise_is_back_within_a_second() {
    let mut stage = Stage::new(1);
    stage.play(30.0);
    let failed_at = stage.fail(NOISE);
    stage.play(4.0);
    let heard = stage.heard();
    assert_eq!(heard[..failed_at], tones(7, failed_at));
    let good_again = failed_at + RATE;
    let place = place_of(&heard[good_again..good_again + 2 * RATE]);
    let kept_before = failed_at as u64 - place;
    assert!(kept_before > 3 * RATE as u64, "{kept_before}");
    assert!(kept_before < 11 * RATE as u64, "{kept_before}");
    assert_eq!(stage.collapses(), (1, 0));
    // The count of the codes goes on, and so do the uniforms.
    let position = stage.bench.body.ensembles[0].stations[0]
        .voice
        .stream
        .position();
    assert_eq!(position, 7 + heard.len() as u64);
}

#[test]
fn a_watched_stream_that_does_not_collapse_is_what_an_unwatched_one_is() {
    let heard = |is_watched| {
        let mut stage = Stage::of(1, is_watched, true);
        stage.play(17.0);
        assert_eq!(stage.collapses(), (0, 0));
        stage.heard()
    };
    let watched = heard(true);
    assert!(watched.len() > 17 * RATE && watched != tones(7, watched.len()));
    assert!(watched == heard(false));
}

#[test]
fn the_noise_fades_once_and_no_hole_follows() {
    let mut stage = Stage::new(1);
    stage.play(30.0);
    let failed_at = stage.fail(NOISE);
    stage.play(2.0);
    let samples: Vec<f32> = stage.heard().iter().map(|c| mulaw::decode(*c)).collect();
    let power = |part: &[f32]| part.iter().map(|x| x * x).sum::<f32>() / part.len() as f32;
    let loud = power(&samples[failed_at..failed_at + RATE / 4]);
    let parts = samples[failed_at..failed_at + 3 * RATE / 2].chunks(RATE / 20);
    let levels: Vec<f32> = parts.map(|part| power(part) / loud).collect();
    // Twentieths of a second: all is over within one, a quarter of it after it was noticed.
    let fades_at = levels.iter().position(|level| *level < 0.6).unwrap();
    assert!((10..=17).contains(&fades_at), "{levels:?}");
    assert!(
        levels[fades_at..].iter().all(|level| *level < 0.6),
        "{levels:?}"
    );
    assert!(levels[19..].iter().all(|level| *level < 0.3), "{levels:?}");
    assert!(levels.iter().all(|level| *level > 1e-3), "{levels:?}");
}

#[test]
fn a_stream_that_holds_a_code_is_left_after_some_seconds() {
    let mut stage = Stage::new(1);
    stage.play(30.0);
    let failed_at = stage.fail(DEAD);
    stage.play(10.0);
    let heard = stage.heard();
    assert!(
        heard[failed_at..failed_at + 5 * RATE]
            .iter()
            .all(|c| *c == 190)
    );
    place_of(&heard[failed_at + 7 * RATE..failed_at + 9 * RATE]);
    assert_eq!(stage.collapses(), (0, 1));
}

#[test]
fn a_stream_that_falls_at_once_returns_to_its_beginning() {
    let mut stage = Stage::new(1);
    let failed_at = stage.fail(NOISE);
    stage.play(4.0);
    let heard = stage.heard();
    let good_again = failed_at + RATE * 5 / 4;
    let place = place_of(&heard[good_again..good_again + 2 * RATE]);
    // Its prompt of seven codes is not heard again.
    assert!((7..RATE as u64).contains(&place), "{place}");
}

#[test]
fn a_copy_that_does_not_hold_is_given_up_and_the_stream_begins_anew() {
    let mut stage = Stage::new(1);
    stage.play(12.0);
    let mut places = Vec::new();
    for n in 1..=4 {
        let failed_at = stage.fail(NOISE);
        stage.play(2.5);
        assert_eq!(stage.collapses(), (n, 0));
        let good_again = failed_at + RATE * 5 / 4;
        places.push(place_of(&stage.heard()[good_again..good_again + RATE]));
    }
    let second = RATE as u64;
    assert!(
        places[..2].iter().all(|place| *place > 5 * second),
        "{places:?}"
    );
    assert!(
        places[2..].iter().all(|place| *place < second),
        "{places:?}"
    );
    // Once it has been good for long enough, there is something to return to again.
    stage.play(12.5);
    let failed_at = stage.fail(NOISE);
    stage.play(2.5);
    let place = place_of(&stage.heard()[failed_at + RATE..failed_at + 2 * RATE]);
    assert!((4 * second..14 * second).contains(&place), "{place}");
}

#[test]
fn a_card_and_the_other_stations_do_not_suffer() {
    let mut stage = Stage::new(3);
    let mut ring = stage.bench.attach_card(4_800);
    stage.bench.settle();
    let mut played = Vec::new();
    for chunk in 0..1_000 {
        if chunk == 700 {
            stage.fail(NOISE);
        }
        played.extend(drain(&mut ring, 960));
        stage.bench.settle();
        assert_eq!(ring.slots(), 4_800, "the ring is full whatever happens");
        stage.bench.now += CHUNK;
    }
    assert_eq!(stage.collapses(), (1, 0));
    let samples: Vec<f32> = stage.heard().iter().map(|c| mulaw::decode(*c)).collect();
    let mut resampler = Resampler::new(16_000, 48_000, samples.len()).unwrap();
    assert!(resampler.process(&samples)[..played.len()] == played);
    for source in &stage.bench.sources[1..] {
        let codes = published(source);
        assert!(codes.len() > 18 * RATE);
        assert_eq!(codes, tones(7, codes.len()));
    }
}

#[test]
fn spare_lanes_are_their_stations_own() {
    let refusal = |spares| {
        let stations = [0, 1].map(|lane| {
            let mut opening = opening(lane, start_of(0)).0;
            opening.spares = Some(spares);
            opening
        });
        let engines = vec![engine_of(6)];
        let primed = Primed::new(
            engines,
            stations.into(),
            SETTINGS,
            Arc::default(),
            &mut hear,
        );
        primed.unwrap_err().to_string()
    };
    assert!(refusal([2, 3]).contains("lane 2"));
    assert!(refusal([0, 3]).contains("lane 0"));
    assert!(refusal([2, 6]).contains("lane 6"));
}

/// The CPU engine that hears tones as if it had drawn them, until the cue comes: then it draws for
/// itself, as hot as can be.
struct Heated {
    engine: Box<dyn Decoder>,
    is_hot: Vec<bool>,
    cue: Arc<AtomicU8>,
}

impl Decoder for Heated {
    fn n_lanes(&self) -> usize {
        self.engine.n_lanes()
    }
    fn open(&mut self, lane: usize) {
        self.is_hot[lane] = false;
        self.engine.open(lane);
    }
    fn copy(&mut self, from: usize, to: usize) {
        self.is_hot[to] = self.is_hot[from];
        self.engine.copy(from, to);
    }
    fn position(&self, lane: usize) -> u64 {
        self.engine.position(lane)
    }
    fn prime(&mut self, lane: usize, codes: &[u8]) {
        self.engine.prime(lane, codes);
    }
    fn score(&mut self, lane: usize, codes: &[u8], see: &mut dyn FnMut(usize, &[f32])) {
        self.engine.score(lane, codes, see);
    }
    fn generate(&mut self, turns: &mut [Turn<'_>]) {
        self.is_hot[turns[0].lane] |= self.cue.swap(GOOD, Ordering::Relaxed) == NOISE;
        for turn in turns {
            if self.is_hot[turn.lane] {
                turn.draw.temperature = 10.0;
                self.engine.generate(std::slice::from_mut(turn));
                continue;
            }
            let from = self.engine.position(turn.lane);
            turn.codes.copy_from_slice(&tones(from, turn.codes.len()));
            self.engine.prime(turn.lane, turn.codes);
        }
    }
    fn age(&mut self, _lane: usize, _position: u64) {}

    fn isa(&self) -> &'static str {
        "heated"
    }
}

#[test]
fn a_real_engine_is_after_its_return_what_it_was_before() {
    let cue = Arc::new(AtomicU8::new(GOOD));
    // The fourth lane is for comparison.
    let decoder = Box::new(Heated {
        engine: engine::tiny(4),
        is_hot: vec![false; 4],
        cue: cue.clone(),
    });
    let (mut opening, source) = opening(0, start_of(3));
    opening.spares = Some([1, 2]);
    let engine = Engine {
        decoder,
        chunk: SHAPE,
        sessions: Vec::new(),
    };
    let bench = Bench::of(vec![engine], vec![(opening, source)]);
    let mut stage = Stage { bench, cue };
    stage.pass(12.0);
    let failed_at = stage.fail(NOISE);
    stage.pass(3.0);
    assert_eq!(stage.collapses(), (1, 0));
    let heard = stage.heard();
    let noise = &heard[failed_at..failed_at + RATE / 2];
    assert_ne!(noise, tones(7 + failed_at as u64, noise.len()));
    place_of(&heard[failed_at + RATE..failed_at + 2 * RATE]);

    let body = &mut stage.bench.body;
    let lane = body.ensembles[0].stations[0].voice.stream.lane();
    let decoder = &mut body.ensembles[0].decoder;
    let position = decoder.position(lane);
    let earlier = failed_at as u64 - 9 * RATE as u64..failed_at as u64;
    assert!(lane != 0 && earlier.contains(&position), "{position}");
    decoder.prime(3, &[mulaw::SILENCE; 7]);
    decoder.prime(3, &tones(7, position as usize - 7));
    let mut logits = |lane| {
        let mut all = Vec::new();
        decoder.score(lane, &tones(position, 40), &mut |_, logits| {
            all.extend(logits.iter().map(|logit| logit.to_bits()));
        });
        all
    };
    assert!(logits(lane) == logits(3));
}
