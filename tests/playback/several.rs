//! More than one card: one station on two whose clocks differ, one that goes while the other plays, two
//! stations on two cards; and what a card that stands still does to listeners.

use super::*;
use longwave::broadcast::Source;
use longwave::pump::Pump;
use std::f64::consts::TAU;

const SHAPE: ChunkShape = ChunkShape {
    rate_hz: 16_000,
    len: 320,
};

/// Which fake card: the name that opens it, its recording.
const FIRST: (&str, &str) = ("default", "played.raw");
const SECOND: (&str, &str) = ("second", "second.raw");

/// A tone of 1 kHz.
fn tone(position: u64, _: f32) -> u8 {
    let phase = TAU * (position % 16) as f64 / 16.0;
    mulaw::encode(0.5 * phase.sin() as f32).unwrap()
}

/// A station for each decoder, by seeds from 0, and its listeners' ring.
fn stations(decoders: Vec<Box<dyn Decoder>>) -> (Primed, Vec<Source>, Arc<Telemetry>) {
    let telemetry = Arc::<Telemetry>::default();
    let (mut openings, mut sources) = (Vec::new(), Vec::new());
    for engine in 0..decoders.len() {
        let (writer, source) = broadcast::ring(256, SHAPE.len);
        openings.push(Opening {
            start: start(engine as u64),
            place: Place { engine, lane: 0 },
            spares: None,
            writer,
        });
        sources.push(source);
    }
    let engines = decoders.into_iter().map(|decoder| Engine {
        decoder,
        chunk: SHAPE,
        sessions: Vec::new(),
    });
    let settings = PumpSettings {
        lead_ms: 400,
        cpu: None,
    };
    let told = telemetry.clone();
    let primed = Primed::new(engines.collect(), openings, settings, told, &mut hear).unwrap();
    (primed, sources, telemetry)
}

fn start(seed: u64) -> Start {
    Start {
        seed,
        draw: DrawParams::default(),
        prompt: vec![mulaw::SILENCE; 100],
        kept: None,
    }
}

/// One that plays a station in its part.
fn open((name, _): (&str, &str), primed: &Primed, of: (usize, Part)) -> (Card, Arc<CardTelemetry>) {
    let telemetry = Arc::<CardTelemetry>::default();
    let settings = CardSettings {
        output_device: Some(name.into()),
        period_ms: 50,
        is_paced_elsewhere: of.1 != Part::Paces,
        ..settings()
    };
    let attach = attach_to(&primed.controls(), of, &telemetry);
    let card = Card::open(settings, telemetry.clone(), attach).unwrap();
    (card, telemetry)
}

/// The cards that play one station in step: the first sets its pace.
fn open_both(primed: &Primed) -> [(Card, Arc<CardTelemetry>); 2] {
    [
        open(FIRST, primed, (0, Part::Paces)),
        open(SECOND, primed, (0, Part::Follows(1))),
    ]
}

fn stop(pump: Pump, cards: impl IntoIterator<Item = Card>) {
    cards.into_iter().for_each(Card::stop);
    pump.stop().unwrap();
}

/// Cycles that begin in a recording, for each frame of it.
fn frequency(sound: &[f32]) -> f64 {
    let rises = |pair: &&[f32]| pair[0] < 0.0 && pair[1] >= 0.0;
    let n_cycles = sound.windows(2).filter(rises).count();
    n_cycles as f64 / sound.len() as f64
}

#[test]
fn a_second_card_with_a_fast_clock_keeps_time_by_playing_lower() {
    let test = "several::a_second_card_with_a_fast_clock_keeps_time_by_playing_lower";
    with_card(test, |fake| {
        fake.fault_of("second", "drift 1000");
        let (primed, ..) = stations(vec![Box::new(Codes::of(tone))]);
        let [(first, told), (second, told_2)] = open_both(&primed);
        let pump = primed.start().unwrap();
        wait_for_frames(&told_2, 48_000);
        let begin = Instant::now();
        let mut levels = Vec::new();
        let minute = Duration::from_secs(75);
        while begin.elapsed() < minute {
            thread::sleep(Duration::from_millis(20));
            if begin.elapsed() > minute - Duration::from_secs(15) {
                levels.push(told_2.ring_frames.get() as f64 / 48.0);
            }
        }
        stop(pump, [first, second]);
        for told in [&told, &told_2] {
            let lost = (told.ring_underruns.get(), told.skipped_frames.get());
            assert_eq!(lost, (0, 0), "underruns, frames left out");
        }
        // Played at its own pace it would have taken 75 ms more than it got.
        let level_ms = levels.iter().sum::<f64>() / levels.len() as f64;
        assert!((level_ms - 400.0).abs() < 45.0, "{level_ms} ms, not 400");
        let ppm = told_2.correction_ppm.get().unwrap();
        assert!((500.0..1_900.0).contains(&ppm), "{ppm} ppm for 1000");
        assert_eq!(told.correction_ppm.get(), None);
        let of = |file: &str| {
            let sound = fake.played(file);
            let end = sound.len() - 48_000;
            frequency(&sound[end - 20 * 48_000..end]) * 48.0
        };
        let lower = 1e6 * (of(FIRST.1) - of(SECOND.1));
        assert!((500.0..1_900.0).contains(&lower), "{lower} ppm lower");
    });
}

#[test]
fn a_card_plays_on_without_a_gap_while_the_other_goes_and_comes_back() {
    let test = "several::a_card_plays_on_without_a_gap_while_the_other_goes_and_comes_back";
    with_card(test, |fake| {
        let (primed, ..) = stations(vec![Box::new(Codes::of(hash))]);
        let [(first, told), (second, told_2)] = open_both(&primed);
        let pump = primed.start().unwrap();
        for (card, goes, stays) in [(FIRST, &told, &told_2), (SECOND, &told_2, &told)] {
            wait_for_frames(stays, 48_000);
            fake.fault_of(card.0, "unplug");
            wait_until("the loss was seen", || goes.is_live.get() == 0);
            wait_for_frames(stays, 48_000);
            fake.fault_of(card.0, "run");
            wait_until("it was rebuilt", || goes.rebuilds.get() == 1);
            wait_for_frames(goes, 48_000);
            wait_for_frames(stays, 48_000);
            assert_eq!(stays.is_live.get(), 1);
            assert_eq!(
                (stays.ring_underruns.get(), stays.lost_frames.get()),
                (0, 0)
            );
            assert_eq!(stays.skipped_frames.get(), 0);
        }
        assert_eq!((told.rebuilds.get(), told_2.rebuilds.get()), (1, 1));
        stop(pump, [first, second]);
    });
}

#[test]
fn two_stations_on_two_cards_each_play_what_is_rendered() {
    let test = "several::two_stations_on_two_cards_each_play_what_is_rendered";
    with_card(test, |fake| {
        let (primed, _, all) = stations(vec![Box::new(Codes::of(hash)), Box::new(Codes::of(hash))]);
        let cards = [FIRST, SECOND];
        let open = |(at, card)| open(card, &primed, (at, Part::Paces));
        let opened = cards.into_iter().enumerate().map(open);
        let (opened, told): (Vec<_>, Vec<_>) = opened.unzip();
        let pump = primed.start().unwrap();
        told.iter()
            .for_each(|told| wait_for_frames(told, 2 * 48_000));
        stop(pump, opened);
        let n_codes = all.pump.codes.get() as usize;
        for (seed, (_, file)) in cards.into_iter().enumerate() {
            let mut decoder = Codes::of(hash);
            let start = start(seed as u64);
            let mut stream = Stream::open(&mut decoder, 0, &start, 320, &mut hear).unwrap();
            let mut resampler = Resampler::new(16_000, 48_000, 320).unwrap();
            let mut rendered = Vec::new();
            for _ in 0..n_codes / 320 {
                let codes = stream.next(&mut decoder);
                let samples: Vec<f32> = codes.iter().map(|&code| mulaw::decode(code)).collect();
                rendered.extend_from_slice(resampler.process(&samples));
            }
            let n_exact = assert_recorded(&fake.played(file), &rendered);
            assert!(
                n_exact >= 2 * 48_000 - 2 * FADE_LEN - 2 * 4_800,
                "{n_exact}"
            );
        }
    });
}

#[test]
fn a_card_that_stands_still_does_not_keep_listeners_waiting() {
    let test = "several::a_card_that_stands_still_does_not_keep_listeners_waiting";
    with_card(test, |fake| {
        let (primed, sources, _) = stations(vec![Box::new(Codes::of(hash))]);
        let (card, told) = open(FIRST, &primed, (0, Part::Paces));
        let pump = primed.start().unwrap();
        wait_for_frames(&told, 48_000);
        fake.fault("stall");
        // Found out by its ring, and packets come: not only once the supervisor has given it up, which
        // takes 800 ms, and after which it would be no stall any more.
        wait_until("the stall was seen", || told.stalls.get() == 1);
        let n_packets = sources[0].n_written();
        let has_gone_on = || sources[0].n_written() >= n_packets + 100;
        wait_until("two seconds were drawn", has_gone_on);
        wait_until("it was given up", || told.is_live.get() == 0);
        assert_eq!(told.stalls.get(), 1);
        fake.fault("run");
        wait_until("it was rebuilt", || told.rebuilds.get() > 0);
        wait_for_frames(&told, 48_000);
        stop(pump, [card]);
    });
}
