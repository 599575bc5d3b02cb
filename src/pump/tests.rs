//! The pump against a decoder whose codes are known, with time as an argument.

use super::*;
use crate::broadcast::{self, Next, Source};
use crate::control::{CardEnd, Part};
use crate::engine::{self, DrawParams, Turn};
use crate::mulaw;
use crate::resample::Resampler;
use crate::telemetry::CardTelemetry;
use assert_no_alloc::assert_no_alloc;

mod cards;
mod change;
mod collapse;
mod company;
mod sessions;

const SETTINGS: PumpSettings = PumpSettings {
    lead_ms: 100,
    cpu: None,
};
const SHAPE: ChunkShape = ChunkShape {
    rate_hz: 16_000,
    len: 320,
};
const CHUNK: Duration = Duration::from_millis(20);

/// Codes that depend on all that a real engine's do, except the past.
struct Fake {
    positions: Vec<u64>,
}

impl Decoder for Fake {
    fn n_lanes(&self) -> usize {
        self.positions.len()
    }
    fn open(&mut self, lane: usize) {
        self.positions[lane] = 0;
    }
    fn copy(&mut self, from: usize, to: usize) {
        self.positions[to] = self.positions[from];
    }
    fn position(&self, lane: usize) -> u64 {
        self.positions[lane]
    }
    fn prime(&mut self, lane: usize, codes: &[u8]) {
        self.positions[lane] += codes.len() as u64;
    }
    fn score(&mut self, _: usize, _: &[u8], _: &mut dyn FnMut(usize, &[f32])) {}
    fn generate(&mut self, turns: &mut [Turn<'_>]) {
        for turn in turns {
            for (code, uniform) in turn.codes.iter_mut().zip(turn.uniforms) {
                let position = &mut self.positions[turn.lane];
                let hash = position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
                *code = (hash as u8).wrapping_add((uniform * 256.0) as u8);
                *position += 1;
            }
        }
    }
    fn age(&mut self, _lane: usize, _position: u64) {}

    fn isa(&self) -> &'static str {
        "fake"
    }
}

fn fake(n_lanes: usize) -> Box<dyn Decoder> {
    Box::new(Fake {
        positions: vec![0; n_lanes],
    })
}

fn engine_of(n_lanes: usize) -> Engine {
    Engine {
        decoder: fake(n_lanes),
        chunk: SHAPE,
        sessions: Vec::new(),
    }
}

/// A station in a lane of the first engine, and who listens to it.
fn opening(lane: usize, start: Start) -> (Opening, Source) {
    let (writer, source) = broadcast::ring(4_096, SHAPE.len);
    let place = Place { engine: 0, lane };
    let opening = Opening {
        start,
        place,
        spares: None,
        writer,
    };
    (opening, source)
}

fn start_of(seed: u64) -> Start {
    Start {
        seed,
        draw: DrawParams::default(),
        prompt: vec![mulaw::SILENCE; 7],
        kept: None,
    }
}

/// Hears a prompt to its end.
fn hear(_n_fed: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

struct Bench {
    body: Body,
    controls: Controls,
    wings: Wings,
    sources: Vec<Source>,
    telemetry: Arc<Telemetry>,
    /// Of the card that paces the first station.
    card: Arc<CardTelemetry>,
    now: Instant,
}

impl Bench {
    fn new(n_stations: usize) -> Self {
        let stations = (0..n_stations).map(|lane| opening(lane, start_of(lane as u64)));
        Self::of(vec![engine_of(n_stations)], stations.collect())
    }

    fn of(engines: Vec<Engine>, stations: Vec<(Opening, Source)>) -> Self {
        let telemetry = Arc::new(Telemetry::default());
        let (stations, sources) = stations.into_iter().unzip();
        let told = Arc::clone(&telemetry);
        let primed = Primed::new(engines, stations, SETTINGS, told, &mut hear);
        let Primed {
            body,
            controls,
            wings,
        } = primed.unwrap();
        Self {
            now: Instant::now(),
            body,
            controls,
            wings,
            sources,
            telemetry,
            card: Arc::default(),
        }
    }

    /// Lets the pump work until nothing is due; how many packets the first station sent.
    fn settle(&mut self) -> u64 {
        let before = self.sources[0].n_written();
        assert!(self.body.obey());
        while self.body.step(self.now).is_zero() {}
        self.sources[0].n_written() - before
    }

    fn attach_card(&mut self, capacity: usize) -> rtrb::Consumer<f32> {
        let telemetry = self.card.clone();
        self.attach(Part::Paces, telemetry, capacity)
    }

    /// A card of 48 kHz and periods of 10 ms plays the first station.
    fn attach(
        &mut self,
        part: Part,
        telemetry: Arc<CardTelemetry>,
        capacity: usize,
    ) -> rtrb::Consumer<f32> {
        let (frames, ring) = rtrb::RingBuffer::new(capacity);
        telemetry.is_live.set(1);
        let card = CardEnd {
            frames,
            rate_hz: 48_000,
            period_len: 480,
            telemetry,
        };
        self.controls.attach_card(0, part, card).unwrap();
        ring
    }
}

fn rendered(seed: u64, n_chunks: usize) -> Vec<u8> {
    let mut decoder = fake(1);
    let mut stream = Stream::open(&mut *decoder, 0, &start_of(seed), 320, &mut hear).unwrap();
    let chunks = (0..n_chunks).map(|_| stream.next(&mut *decoder).to_vec());
    chunks.collect::<Vec<_>>().concat()
}

fn published(source: &Source) -> Vec<u8> {
    let mut reader = source.subscribe(source.n_written());
    let (mut packet, mut codes) = (vec![0; 320], Vec::new());
    while let Next::Packet { .. } = reader.next(&mut packet) {
        codes.extend_from_slice(&packet);
    }
    codes
}

fn drain(ring: &mut rtrb::Consumer<f32>, n: usize) -> Vec<f32> {
    let n = n.min(ring.slots());
    ring.read_chunk(n).unwrap().into_iter().collect()
}

#[test]
fn uniforms_are_those_of_the_stream_position_prompt_included() {
    let mut decoder = fake(1);
    let mut stream = Stream::open(&mut *decoder, 0, &start_of(5), 3, &mut hear).unwrap();
    stream.next(&mut *decoder);
    assert_eq!(stream.position(), 10);
    let turn = stream.turn();
    let want: Vec<f32> = (10..13).map(|at| engine::uniform(5, at)).collect();
    assert_eq!(turn.uniforms, want);
}

#[test]
fn the_timer_fills_its_lead_then_keeps_the_pace_of_the_wall_clock() {
    let mut bench = Bench::new(1);
    assert_eq!(bench.settle(), 6); // 100 ms of lead, and the chunk that begins to play now
    assert!(bench.telemetry.pump.lead_us.get() >= 100_000);
    for _ in 0..500 {
        bench.now += CHUNK;
        assert_eq!(bench.settle(), 1);
    }
    assert_eq!(bench.telemetry.pump.codes.get(), 506 * 320);
    assert_eq!(bench.telemetry.pump.chunks.get(), 506);
}

#[test]
fn a_gap_is_not_replayed_beyond_the_lead_and_is_counted() {
    let mut bench = Bench::new(1);
    bench.settle();
    let lost_us = |bench: &Bench| bench.telemetry.pump.lost_us.get();
    assert_eq!(lost_us(&bench), 0);
    bench.now += Duration::from_secs(60);
    assert_eq!(bench.settle(), 6);
    assert_eq!(lost_us(&bench), 59_880_000, "all but the six chunks ahead");
    bench.now += CHUNK;
    assert_eq!(bench.settle(), 1);
    assert_eq!(lost_us(&bench), 59_880_000);
}

#[test]
fn stations_sound_alone_as_they_do_together() {
    let mut bench = Bench::new(3);
    for _ in 0..20 {
        bench.settle();
        bench.now += CHUNK;
    }
    for (seed, source) in bench.sources.iter().enumerate() {
        let codes = published(source);
        assert!(codes.len() >= 20 * 320);
        assert_eq!(codes, rendered(seed as u64, codes.len() / 320));
    }
}

#[test]
fn a_cards_ring_is_kept_full_and_sets_the_pace() {
    let mut bench = Bench::new(1);
    let mut ring = bench.attach_card(4_800);
    // 4,800 frames fill the ring and a chunk of 960 waits; the filter owes 480 of them.
    assert_eq!(bench.settle(), 6);
    assert_eq!(ring.slots(), 4_800);
    bench.now += Duration::from_secs(5);
    assert_eq!(bench.settle(), 0, "time alone is not the pacer");
    for _ in 0..50 {
        drain(&mut ring, 960);
        bench.settle();
        assert_eq!(ring.slots(), 4_800);
    }
    assert_eq!(bench.sources[0].n_written(), 56);
}

#[test]
fn a_card_gets_what_render_would_write_and_listeners_the_same_codes() {
    let mut bench = Bench::new(1);
    let mut ring = bench.attach_card(2_000);
    let mut played = Vec::new();
    for _ in 0..100 {
        bench.settle();
        played.extend(drain(&mut ring, 777));
    }
    let codes = rendered(0, 200);
    let samples: Vec<f32> = codes.iter().map(|&code| mulaw::decode(code)).collect();
    let mut resampler = Resampler::new(16_000, 48_000, samples.len()).unwrap();
    assert!(resampler.process(&samples)[..played.len()] == played);
    let heard = published(&bench.sources[0]);
    assert!(codes[..heard.len()] == heard);
}

#[test]
fn a_ring_smaller_than_a_chunk_still_plays_every_frame() {
    let mut bench = Bench::new(1);
    let mut ring = bench.attach_card(100);
    let mut n_played = 0;
    for _ in 0..300 {
        bench.settle();
        assert_eq!(ring.slots(), 100);
        n_played += drain(&mut ring, 100).len();
    }
    assert_eq!(n_played, 30_000);
}

#[test]
fn losing_and_regaining_the_card_neither_skips_nor_bursts() {
    let mut bench = Bench::new(1);
    let ring = bench.attach_card(4_800);
    bench.settle();
    bench.card.is_live.set(0);
    assert_eq!(bench.settle(), 0, "the ring's lead still has to pass");
    for _ in 0..10 {
        bench.now += CHUNK;
        assert_eq!(bench.settle(), 1);
    }
    drop(ring);
    let ring = bench.attach_card(4_800);
    assert_eq!(bench.settle(), 0, "a new ring gets what is drawn anyway");
    bench.now += CHUNK;
    assert_eq!((bench.settle(), ring.slots()), (1, 480));
    drop(ring);
    bench.now += CHUNK;
    assert_eq!(bench.settle(), 1, "an abandoned ring is a lost card");
    let codes = published(&bench.sources[0]);
    assert_eq!(codes, rendered(0, codes.len() / 320));
}

#[test]
fn a_stalled_card_is_made_up_for_by_the_lead_at_most() {
    let mut bench = Bench::new(1);
    let _ring = bench.attach_card(4_800);
    bench.settle();
    bench.now += Duration::from_secs(3);
    bench.card.is_live.set(0);
    assert_eq!(bench.settle(), 6);
}

#[test]
fn nothing_is_allocated_once_the_pump_runs() {
    let mut bench = Bench::new(3);
    let mut ring = bench.attach_card(4_800);
    let mut scratch = vec![0.0; 960];
    assert_no_alloc(|| {
        for _ in 0..50 {
            assert!(bench.body.obey());
            while bench.body.step(bench.now).is_zero() {}
            bench.now += CHUNK;
            ring.pop_entire_slice(&mut scratch).unwrap();
        }
        bench.card.is_live.set(0);
        while bench.body.step(bench.now).is_zero() {}
    });
}

#[test]
fn the_thread_makes_progress_and_stops_when_told() {
    let (station, source) = opening(0, start_of(1));
    let telemetry = Arc::<Telemetry>::default();
    let told = telemetry.clone();
    let engines = vec![engine_of(1)];
    let settings = PumpSettings {
        // Wherever that may be: a thread that cannot be pinned plays all the same.
        cpu: Some(0),
        ..SETTINGS
    };
    let primed = Primed::new(engines, vec![station], settings, told, &mut hear).unwrap();
    let controls = primed.controls();
    let pump = primed.start().unwrap();
    while telemetry.pump.codes.get() < 10 * 320 {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(pump.is_running());
    controls.detach_card(77).unwrap();
    pump.stop().unwrap();
    let codes = published(&source);
    assert_eq!(codes, rendered(1, codes.len() / 320));
}

#[test]
fn stations_of_several_engines_and_rates_keep_their_own_pace() {
    let fast = Engine {
        chunk: ChunkShape {
            rate_hz: 24_000,
            len: 480,
        },
        ..engine_of(1)
    };
    let (mut second, source) = opening(0, start_of(1));
    second.place.engine = 1;
    second.writer = broadcast::ring(4_096, 480).0;
    let stations = vec![
        opening(0, start_of(0)),
        (second, source),
        opening(1, start_of(2)),
    ];
    let mut bench = Bench::of(vec![engine_of(2), fast], stations);
    assert_eq!(bench.settle(), 6);
    for _ in 0..49 {
        bench.now += CHUNK;
        assert_eq!(bench.settle(), 1);
    }
    assert_eq!(bench.telemetry.pump.codes.get(), 55 * (320 + 480 + 320));
    assert_eq!(bench.telemetry.pump.chunks.get(), 3 * 55);
    let pump = &bench.telemetry.pump;
    let rounds = pump.chunk_load.n_observed();
    assert_eq!(rounds, 55, "all engines together are one load");
    assert_eq!(pump.step_s.n_observed(), 2 * 55, "each engine has its step");
    assert_eq!(published(&bench.sources[2]), rendered(2, 55));
    let mut station = bench.body.ensembles[1].stations.remove(0);
    let drawn = station.voice.stream.turn();
    assert_eq!((drawn.lane, drawn.codes.len()), (0, 480));
    assert_eq!(station.voice.stream.position(), 7 + 55 * 480);
}

#[test]
fn stations_without_a_lane_of_their_own_are_refused() {
    let refusal = |lanes: &[usize], engines| {
        let stations = lanes.iter().map(|&lane| opening(lane, start_of(0)).0);
        let stations = stations.collect();
        let primed = Primed::new(engines, stations, SETTINGS, Arc::default(), &mut hear);
        primed.unwrap_err().to_string()
    };
    let why = refusal(&[0, 1, 2], vec![engine_of(2)]);
    assert_eq!(why, "no engine 0 has a lane 2 for a station");
    assert!(refusal(&[1, 1], vec![engine_of(2)]).contains("lane 1"));
    assert!(refusal(&[0], vec![]).contains("no engine 0"));
    assert!(refusal(&[0; 65], vec![engine_of(65)]).contains("65 stations are more than the 64"));
    let mut silent = engine_of(1);
    silent.chunk.len = 0;
    assert!(refusal(&[0], vec![silent]).contains("at least one code"));
}

#[test]
fn a_prompt_is_heard_whole_or_broken_off_at_once() {
    let long = Start {
        prompt: vec![mulaw::SILENCE; 40_000],
        ..start_of(1)
    };
    let mut told = Vec::new();
    let mut decoder = fake(1);
    let stream = Stream::open(&mut *decoder, 0, &long, 320, &mut |n_fed| {
        told.push(n_fed);
        ControlFlow::Continue(())
    });
    assert_eq!(stream.unwrap().position(), 40_000);
    assert!(told.len() > 3 && told.is_sorted() && told.last() == Some(&40_000));

    let (engines, stations) = (vec![engine_of(1)], vec![opening(0, long).0]);
    let mut n_told = 0;
    let primed = Primed::new(engines, stations, SETTINGS, Arc::default(), &mut |_| {
        n_told += 1;
        ControlFlow::Break(())
    });
    assert!(matches!(primed, Err(PumpError::Interrupted)) && n_told == 1);
}
