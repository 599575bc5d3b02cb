//! The card through the real cpal and ALSA, into a sound card made of software
//! (`tests/fakecard`): what is played is recorded, and faults come on command.
//!
//! libasound reads its configuration once per process, from the environment. So each test runs
//! itself again as a child whose environment names a fake card of its own. Samples are compared,
//! never milliseconds; the buffers are long because the machine may be busy.

#![cfg(feature = "playback")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, fs};

use longwave::card::{self, Card, CardError, CardFeed, CardSettings};
use longwave::control::{CardEnd, ChunkShape, Controls, Part};
use longwave::engine::{Decoder, DrawParams, Turn};
use longwave::pump::{Engine, Opening, Place, Primed, PumpSettings, Start, Stream};
use longwave::resample::Resampler;
use longwave::telemetry::{CardTelemetry, Telemetry};
use longwave::{broadcast, mulaw};

#[path = "playback/several.rs"]
mod several;

/// Where the child finds its card; its presence makes a process the child.
const CARD_DIR: &str = "LONGWAVE_TEST_CARD";

/// Frames of the fades at 48 kHz with the settings below.
const FADE_LEN: usize = 2_400;

/// What nothing here should ever take.
const DEADLINE: Duration = Duration::from_secs(60);

fn settings() -> CardSettings {
    CardSettings {
        lead_ms: 400,
        period_ms: 100,
        ..CardSettings::default()
    }
}

/// Runs the test's body in a child process that sees a fake card and nothing else.
fn with_card(test: &str, body: fn(&FakeCard)) {
    if let Some(dir) = env::var_os(CARD_DIR) {
        return body(&FakeCard { dir: dir.into() });
    }
    // ALSA takes its path apart at colons.
    let name = test.replace("::", "-");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fakecard-{name}"));
    let _ = fs::remove_dir_all(&dir);
    let made = script().arg("make").arg(&dir).output().unwrap();
    assert!(
        made.status.success(),
        "the fake card needs cc and the headers of libasound2-dev to be built: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CARD_DIR, &dir)
        .env("ALSA_CONFIG_PATH", dir.join("asound.conf"))
        .status()
        .unwrap();
    let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
    assert!(
        status.success(),
        "{test} failed in its child; the card's log:\n{log}"
    );
}

fn script() -> Command {
    Command::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fakecard/fakecard.sh"
    ))
}

struct FakeCard {
    dir: PathBuf,
}

impl FakeCard {
    fn fault(&self, word: &str) {
        self.fault_of("default", word);
    }

    /// Of the card "default" or "second".
    fn fault_of(&self, card: &str, word: &str) {
        let status = script()
            .arg("fault")
            .arg(&self.dir)
            .args([word, card])
            .status();
        assert!(status.unwrap().success());
    }

    /// All frames played so far; both channels are seen to be equal.
    fn played(&self, file: &str) -> Vec<f32> {
        let bytes = fs::read(self.dir.join(file)).unwrap();
        let float = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
        let frames = bytes.chunks_exact(8).map(|frame| {
            assert_eq!(frame[..4], frame[4..]);
            float(&frame[..4])
        });
        frames.collect()
    }
}

/// Feeds noise to every output that is opened, and keeps what it fed to the last.
struct Feeder {
    thread: JoinHandle<Vec<f32>>,
    is_over: Arc<AtomicBool>,
}

impl Feeder {
    fn start() -> (Self, impl FnMut(CardFeed) + Send + 'static) {
        let (sender, feeds) = mpsc::channel::<CardFeed>();
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let (mut noise, mut sent) = (Noise(0x1234_5678), Vec::new());
            let mut feed: Option<CardFeed> = None;
            while !seen.load(Ordering::Relaxed) {
                if let Ok(new) = feeds.try_recv() {
                    sent.clear();
                    feed = Some(new);
                }
                while feed.as_ref().is_some_and(|feed| !feed.frames.is_full()) {
                    let sample = noise.next();
                    feed.as_mut().unwrap().frames.push(sample).unwrap();
                    sent.push(sample);
                }
                thread::sleep(Duration::from_millis(2));
            }
            sent
        });
        let attach = move |feed| sender.send(feed).unwrap();
        (Self { thread, is_over }, attach)
    }

    fn stop(self) -> Vec<f32> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

struct Noise(u32);

impl Noise {
    /// Never 0, so that silence cannot be taken for sound.
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        (self.0 >> 8) as f32 / (1 << 25) as f32 + 0.25
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < DEADLINE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn wait_for_frames(telemetry: &CardTelemetry, n: u64) {
    let target = telemetry.frames.get() + n;
    wait_until("frames were played", || telemetry.frames.get() >= target);
}

/// Asserts that a recording is silence, `sent` faded in, `sent` exactly, faded out, silence; and
/// gives the number of frames between the fades.
fn assert_recorded(recorded: &[f32], sent: &[f32]) -> usize {
    let start = recorded
        .iter()
        .position(|&x| x != 0.0)
        .expect("no sound at all");
    let recorded = &recorded[start..];
    for (r, s) in recorded.iter().zip(sent).take(FADE_LEN - 1) {
        assert!(r.abs() <= s.abs(), "the fade-in amplifies");
    }
    let pairs = || recorded.iter().zip(sent).skip(FADE_LEN);
    let n_exact = pairs().take_while(|(r, s)| r == s).count();
    let rest = &recorded[FADE_LEN + n_exact..];
    let n_fading = rest
        .iter()
        .rposition(|&x| x != 0.0)
        .map_or(0, |last| last + 1);
    assert!(
        n_fading <= FADE_LEN,
        "{n_fading} frames differ after {n_exact} exact ones"
    );
    n_exact
}

#[test]
fn every_sample_between_the_fades_is_played_exactly() {
    with_card("every_sample_between_the_fades_is_played_exactly", |fake| {
        let telemetry = Arc::<CardTelemetry>::default();
        let (feeder, attach) = Feeder::start();
        let card = Card::open(settings(), telemetry.clone(), attach).unwrap();
        let facts = card.facts();
        assert_eq!(
            (facts.rate_hz, facts.n_channels, &*facts.format),
            (48_000, 2, "f32")
        );
        assert_eq!((facts.period_len, &*facts.id), (4_800, "alsa:default"));
        wait_for_frames(&telemetry, 3 * 48_000);
        assert_eq!(card.trouble(), None);
        card.stop();
        let n_exact = assert_recorded(&fake.played("played.raw"), &feeder.stop());
        assert!(
            n_exact >= 3 * 48_000 - 2 * FADE_LEN - 2 * 4_800,
            "{n_exact} frames"
        );
        assert_eq!(telemetry.ring_underruns.get(), 0);
        assert_eq!(telemetry.is_live.get(), 0);
        assert!(telemetry.device_latency_us.get() <= 250_000);
    });
}

/// Codes of a position and a uniform.
struct Codes {
    position: u64,
    of: fn(u64, f32) -> u8,
}

impl Codes {
    fn of(of: fn(u64, f32) -> u8) -> Self {
        Self { position: 0, of }
    }
}

/// As a real engine's, they depend on both.
fn hash(position: u64, uniform: f32) -> u8 {
    let hash = position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
    (hash as u8).wrapping_add((uniform * 256.0) as u8)
}

impl Decoder for Codes {
    fn n_lanes(&self) -> usize {
        1
    }
    fn open(&mut self, _: usize) {
        self.position = 0;
    }
    fn copy(&mut self, _: usize, _: usize) {}
    fn position(&self, _: usize) -> u64 {
        self.position
    }
    fn prime(&mut self, _: usize, codes: &[u8]) {
        self.position += codes.len() as u64;
    }
    fn score(&mut self, _: usize, _: &[u8], _: &mut dyn FnMut(usize, &[f32])) {}
    fn generate(&mut self, turns: &mut [Turn<'_>]) {
        for (code, uniform) in turns[0].codes.iter_mut().zip(turns[0].uniforms) {
            *code = (self.of)(self.position, *uniform);
            self.position += 1;
        }
    }
    fn age(&mut self, _lane: usize, _position: u64) {}

    fn isa(&self) -> &'static str {
        "codes"
    }
}

/// Feeds a station to the outputs of a card.
fn attach_to(
    controls: &Controls,
    (station, part): (usize, Part),
    telemetry: &Arc<CardTelemetry>,
) -> impl FnMut(CardFeed) + Send + 'static {
    let (controls, telemetry) = (controls.clone(), telemetry.clone());
    move |feed| {
        let end = CardEnd {
            frames: feed.frames,
            rate_hz: feed.rate_hz,
            period_len: feed.period_len,
            telemetry: telemetry.clone(),
        };
        controls.attach_card(station, part, end).unwrap();
    }
}

/// Hears a prompt to its end.
fn hear(_n_fed: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn what_a_station_plays_is_what_the_same_seed_renders() {
    with_card(
        "what_a_station_plays_is_what_the_same_seed_renders",
        |fake| {
            let telemetry = Arc::<CardTelemetry>::default();
            let start = Start {
                seed: 7,
                draw: DrawParams::default(),
                prompt: vec![mulaw::SILENCE; 100],
                kept: None,
            };
            let pump_settings = PumpSettings {
                lead_ms: 100,
                cpu: None,
            };
            // The card is attached before the clocks run: the first code is the first frame.
            let engines = vec![Engine {
                decoder: Box::new(Codes::of(hash)),
                chunk: ChunkShape {
                    rate_hz: 16_000,
                    len: 320,
                },
                sessions: Vec::new(),
            }];
            let stations = vec![Opening {
                start: start.clone(),
                place: Place { engine: 0, lane: 0 },
                spares: None,
                writer: broadcast::ring(64, 320).0,
            }];
            let told = Arc::<Telemetry>::default();
            let all = told.clone();
            let primed = Primed::new(engines, stations, pump_settings, told, &mut hear).unwrap();
            let attach = attach_to(&primed.controls(), (0, Part::Paces), &telemetry);
            let card = Card::open(settings(), telemetry.clone(), attach).unwrap();
            let pump = primed.start().unwrap();
            wait_for_frames(&telemetry, 2 * 48_000);
            card.stop();
            let n_codes = all.pump.codes.get() as usize;
            pump.stop().unwrap();

            let mut decoder = Codes::of(hash);
            let mut stream = Stream::open(&mut decoder, 0, &start, 320, &mut hear).unwrap();
            let mut resampler = Resampler::new(16_000, 48_000, 320).unwrap();
            let mut rendered = Vec::new();
            for _ in 0..n_codes / 320 {
                let codes = stream.next(&mut decoder);
                let samples: Vec<f32> = codes.iter().map(|&code| mulaw::decode(code)).collect();
                rendered.extend_from_slice(resampler.process(&samples));
            }
            let n_exact = assert_recorded(&fake.played("played.raw"), &rendered);
            assert!(
                n_exact >= 2 * 48_000 - 2 * FADE_LEN - 2 * 4_800,
                "{n_exact} frames"
            );
            assert_eq!(telemetry.ring_underruns.get(), 0);
        },
    );
}

#[test]
fn an_xrun_is_counted_and_nothing_is_rebuilt() {
    with_card("an_xrun_is_counted_and_nothing_is_rebuilt", |fake| {
        let telemetry = Arc::<CardTelemetry>::default();
        let (feeder, attach) = Feeder::start();
        let card = Card::open(settings(), telemetry.clone(), attach).unwrap();
        wait_for_frames(&telemetry, 48_000);
        fake.fault("xrun");
        wait_until("the xrun was counted", || telemetry.device_xruns.get() > 0);
        wait_for_frames(&telemetry, 48_000);
        assert_eq!((telemetry.rebuilds.get(), card.trouble()), (0, None));
        card.stop();
        feeder.stop();
    });
}

#[test]
fn an_unplugged_card_plays_again_when_it_is_back() {
    with_card("an_unplugged_card_plays_again_when_it_is_back", |fake| {
        let telemetry = Arc::<CardTelemetry>::default();
        let (feeder, attach) = Feeder::start();
        let card = Card::open(settings(), telemetry.clone(), attach).unwrap();
        wait_for_frames(&telemetry, 48_000);
        fake.fault("unplug");
        wait_until("the loss was seen", || telemetry.is_live.get() == 0);
        wait_until("somebody was told", || card.trouble().is_some());
        let n_before = fake.played("played.raw").len();
        fake.fault("run");
        wait_until("it was rebuilt", || telemetry.rebuilds.get() == 1);
        assert_eq!(telemetry.is_live.get(), 1);
        wait_for_frames(&telemetry, 2 * 48_000);
        assert_eq!(card.trouble(), None);
        card.stop();
        let n_exact = assert_recorded(&fake.played("played.raw")[n_before..], &feeder.stop());
        assert!(n_exact >= 48_000, "{n_exact} frames after it was back");
    });
}

#[test]
fn a_card_that_was_away_for_long_plays_soon_after_its_return() {
    with_card(
        "a_card_that_was_away_for_long_plays_soon_after_its_return",
        |fake| {
            let telemetry = Arc::<CardTelemetry>::default();
            let (feeder, attach) = Feeder::start();
            let card = Card::open(settings(), telemetry.clone(), attach).unwrap();
            wait_for_frames(&telemetry, 48_000);
            fake.fault("unplug");
            // Waits that went on doubling would have the next attempt three seconds away.
            thread::sleep(Duration::from_millis(4_500));
            fake.fault("run");
            let back = Instant::now();
            wait_until("it was rebuilt", || telemetry.rebuilds.get() == 1);
            assert!(back.elapsed() < Duration::from_secs(2), "what is promised");
            wait_for_frames(&telemetry, 48_000);
            card.stop();
            feeder.stop();
        },
    );
}

#[test]
fn a_card_that_asks_for_nothing_is_given_up_and_rebuilt() {
    with_card(
        "a_card_that_asks_for_nothing_is_given_up_and_rebuilt",
        |fake| {
            let telemetry = Arc::<CardTelemetry>::default();
            let (feeder, attach) = Feeder::start();
            let card = Card::open(settings(), telemetry.clone(), attach).unwrap();
            wait_for_frames(&telemetry, 48_000);
            fake.fault("stall");
            wait_until("the watchdog barked", || telemetry.is_live.get() == 0);
            // It can be opened, and takes what its buffer holds: that must not make it a pacer again.
            let since = Instant::now();
            while since.elapsed() < Duration::from_secs(5) {
                assert_eq!(telemetry.is_live.get(), 0);
                thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(telemetry.rebuilds.get(), 0);
            fake.fault("run");
            wait_until("it was rebuilt", || telemetry.rebuilds.get() > 0);
            wait_for_frames(&telemetry, 48_000);
            card.stop();
            feeder.stop();
        },
    );
}

#[test]
fn a_busy_card_is_an_error_by_name_until_it_is_free() {
    with_card("a_busy_card_is_an_error_by_name_until_it_is_free", |fake| {
        let telemetry = Arc::<CardTelemetry>::default();
        fake.fault("busy");
        let error = Card::open(settings(), telemetry.clone(), drop).unwrap_err();
        assert!(matches!(&error, CardError::Busy { device } if device == "alsa:default"));
        assert_eq!(telemetry.is_live.get(), 0);
        fake.fault("run");
        Card::open(settings(), telemetry, drop).unwrap().stop();
    });
}

#[test]
fn a_card_that_is_not_there_is_no_card() {
    with_card("a_card_that_is_not_there_is_no_card", |fake| {
        fake.fault("unplug");
        let error = Card::open(settings(), Arc::default(), drop).unwrap_err();
        assert!(matches!(error, CardError::NoCard), "{error}");
    });
}

#[test]
fn devices_are_listed_and_chosen_by_a_unique_beginning() {
    with_card(
        "devices_are_listed_and_chosen_by_a_unique_beginning",
        |fake| {
            let listed = card::devices().unwrap();
            let ids: Vec<_> = listed.iter().map(|d| (&*d.id, d.is_default)).collect();
            assert_eq!(ids, [("alsa:default", true), ("alsa:second", false)]);
            assert_eq!(listed[1].rates_hz, [(44_100, 44_100), (48_000, 48_000)]);
            assert_eq!(listed[1].channels, (1, 8));

            let open = |name: &str, attach: Box<dyn FnMut(CardFeed) + Send>| {
                let settings = CardSettings {
                    output_device: Some(name.to_owned()),
                    ..settings()
                };
                Card::open(settings, Arc::default(), attach)
            };
            let error = open("nonesuch", Box::new(drop)).unwrap_err().to_string();
            assert_eq!(
                error,
                "no sound card `nonesuch`; there is alsa:default alsa:second"
            );

            let (feeder, attach) = Feeder::start();
            let card = open("sec", Box::new(attach)).unwrap();
            assert_eq!(card.facts().id, "alsa:second");
            wait_until("the second card had played", || {
                fake.dir
                    .join("second.raw")
                    .metadata()
                    .is_ok_and(|m| m.len() > 8 * 48_000)
            });
            card.stop();
            feeder.stop();
        },
    );
}
