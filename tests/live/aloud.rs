//! The daemon on a sound card made of software.

use std::io::Read as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, PATIENCE, SEED, render, samples_of, text};

/// A card made of software (`tests/fakecard`): what it played lies in a file.
struct FakeCard {
    dir: tempfile::TempDir,
}

impl FakeCard {
    const RATE_HZ: usize = 48_000;
    const FADE_LEN: usize = Self::RATE_HZ / 20;

    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new("tests/fakecard/fakecard.sh")
            .args(["make", text(dir.path())])
            .output()
            .unwrap();
        assert!(made.status.success(), "the fake card could not be built");
        Self { dir }
    }

    /// For the environment of who shall play on it.
    fn alsa_config(&self) -> std::path::PathBuf {
        self.dir.path().join("asound.conf")
    }

    /// The left channel from the first sound on.
    fn played(&self) -> Vec<f32> {
        self.played_on("played.raw")
    }

    /// The same of one of its two cards, by the recording.
    fn played_on(&self, file: &str) -> Vec<f32> {
        // Until it is opened there is no file.
        let bytes = std::fs::read(self.dir.path().join(file)).unwrap_or_default();
        let frames = bytes.chunks_exact(8);
        let samples = frames.map(|f| f32::from_le_bytes([f[0], f[1], f[2], f[3]]));
        samples.skip_while(|&sample| sample == 0.0).collect()
    }
}

/// The machine may be too busy for real time: what is sure to be played without a gap is the half
/// lead that is gathered before the first frame.
#[test]
fn the_card_plays_the_samples_that_render_writes() {
    const RATE_HZ: usize = FakeCard::RATE_HZ;
    let card = FakeCard::new();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("c.toml");
    std::fs::write(
        &config,
        "[card]\nenabled = true\nlead_ms = 4000\nperiod_ms = 100\n",
    )
    .unwrap();
    let alsa = card.alsa_config();
    let environment = [("ALSA_CONFIG_PATH", text(&alsa))];
    let mut daemon = Daemon::start(&["--config", text(&config)], &environment);
    let begin = Instant::now();
    while card.played().len() < 3 * RATE_HZ {
        assert!(begin.elapsed() < PATIENCE, "the card does not play");
        thread::sleep(Duration::from_millis(100));
    }
    daemon.signal("TERM");
    assert_eq!(daemon.end().code(), Some(0));

    let played = card.played();
    let file = dir.path().join("out.wav");
    render(
        &file,
        (played.len() / RATE_HZ + 1) as f64,
        &RATE_HZ.to_string(),
    );
    let written = samples_of(&file);
    let pairs = played.iter().zip(&written).skip(FakeCard::FADE_LEN);
    let n_equal = pairs
        .take_while(|(played, written)| played == written)
        .count();
    assert!(
        n_equal >= 2 * RATE_HZ - FakeCard::FADE_LEN,
        "only {n_equal} frames are those of the file"
    );
}

#[test]
fn the_card_fades_over_to_the_station_that_a_reload_names_and_from_one_that_goes() {
    const RATE_HZ: usize = FakeCard::RATE_HZ;
    let card = FakeCard::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let head = "model = \"tiny\"\noverload = true\n[card]\nenabled = true\nlead_ms = 400\n";
    let station = |name, seed: &str| {
        format!("[[station]]\nname = \"{name}\"\nseed = {seed}\nwatch = false\n")
    };
    let (other, piano) = (station("other", "3"), station("piano", SEED));
    std::fs::write(&file, head.to_owned() + &other + &piano).unwrap();
    let alsa = card.alsa_config();
    let environment = [("ALSA_CONFIG_PATH", text(&alsa))];
    let begin = Instant::now();
    let mut daemon = Daemon::start_bare(&["--config", text(&file)], &environment);
    let wait_for = |n| {
        let begin = Instant::now();
        while card.played().len() < n {
            assert!(begin.elapsed() < PATIENCE, "the card does not play");
            thread::sleep(Duration::from_millis(50));
        }
    };
    wait_for(RATE_HZ);
    // The station that it plays is not there any more: the first one is what it plays by default.
    std::fs::write(&file, head.to_owned() + &piano).unwrap();
    daemon.signal("HUP");
    daemon.log_line("the card default fades over to station piano");
    daemon.log_line("station other was taken off the air");
    daemon.log_line("the configuration was read again");
    let n = card.played().len();
    wait_for(n + 2 * RATE_HZ);
    daemon.signal("TERM");
    assert_eq!(daemon.end().code(), Some(0));
    let (played, written) = (card.played(), dir.path().join("out.wav"));
    let seconds = begin.elapsed().as_secs_f64() + 2.0;
    render(&written, seconds, &RATE_HZ.to_string());
    let written = samples_of(&written);
    // A tenth of a second is the other's sound, sample for sample; a busy machine may spoil some, not all.
    let is_there = |heard: &[f32]| written.windows(heard.len()).any(|window| window == heard);
    let mut tenths = played[n + RATE_HZ / 2..].chunks_exact(RATE_HZ / 10);
    let is_there = tenths.any(is_there);
    assert!(is_there, "it plays something else");
}

#[test]
fn two_cards_play_two_stations_and_after_a_reload_one_together() {
    let card = FakeCard::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let station =
        |name, seed| format!("[[station]]\nname = \"{name}\"\nseed = {seed}\nwatch = false\n");
    let (other, piano) = (station("other", "3"), station("piano", SEED));
    let config = |second: &str, is_first: bool| {
        let card = |device, station| {
            format!(
                "[[card]]\nenabled = true\noutput_device = \"{device}\"\nstation = \"{station}\"\n\
                 lead_ms = 400\n"
            )
        };
        let mut cards = [card("default", "piano"), card("second", second)];
        if is_first {
            cards.reverse();
        }
        let cards = cards.concat();
        format!("model = \"tiny\"\noverload = true\n{cards}{piano}{other}")
    };
    std::fs::write(&file, config("other", false)).unwrap();
    let alsa = card.alsa_config();
    let environment = [("ALSA_CONFIG_PATH", text(&alsa))];
    let mut daemon = Daemon::start_bare(&["--config", text(&file)], &environment);
    let wait_for = |n| {
        let begin = Instant::now();
        let n_played = |file| card.played_on(file).len();
        while n_played("played.raw").min(n_played("second.raw")) < n {
            assert!(begin.elapsed() < PATIENCE, "not both cards play");
            thread::sleep(Duration::from_millis(100));
        }
    };
    let metrics = |daemon: &Daemon| {
        let mut text = String::new();
        daemon.http("/metrics").read_to_string(&mut text).unwrap();
        text
    };
    wait_for(FakeCard::RATE_HZ);
    let before = metrics(&daemon);
    for card in ["default", "second"] {
        let is_live = format!("longwave_card_is_live{{card=\"{card}\"}} 1");
        assert!(before.contains(&is_live), "{before}");
    }
    assert!(
        !before.contains("longwave_card_correction_ppm{"),
        "{before}"
    );

    // Listed the other way round they play what they did.
    std::fs::write(&file, config("other", true)).unwrap();
    daemon.signal("HUP");
    daemon.log_line("the configuration was read again");
    assert!(!daemon.has_said("fades over"));
    std::fs::write(&file, config("piano", true)).unwrap();
    daemon.signal("HUP");
    daemon.log_line("the card second fades over to station piano, in time with the card before");
    daemon.log_line("the configuration was read again");
    wait_for(3 * FakeCard::RATE_HZ);
    let after = metrics(&daemon);
    assert!(after.contains("longwave_card_correction_ppm{card=\"second\"}"));
    assert!(!after.contains("longwave_card_correction_ppm{card=\"default\"}"));
    daemon.signal("TERM");
    assert_eq!(daemon.end().code(), Some(0));
}

/// The listener's clock is not the station's, and where the two part it bends the pace by up to
/// 0.3 %: so its sound is followed block by block. A busy machine may spoil a second, not all.
#[test]
fn a_station_is_heard_aloud_as_render_writes_it() {
    const RATE_HZ: usize = FakeCard::RATE_HZ;
    let card = FakeCard::new();
    let begin = Instant::now();
    let daemon = Daemon::start(&["--no-card"], &[]);
    let output = Command::new(env!("CARGO_BIN_EXE_longwave"))
        .args(["listen", &format!("http://{}/", daemon.address)])
        .args(["--seconds", "6"])
        .env("ALSA_CONFIG_PATH", card.alsa_config())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains(", 0 lost, 0 reconnects"), "{said}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.wav");
    let seconds = begin.elapsed().as_secs_f64() + 1.0;
    render(&file, seconds, &RATE_HZ.to_string());
    let (heard, written) = (card.played(), samples_of(&file));
    let mut whole_seconds = heard.chunks_exact(RATE_HZ);
    assert!(
        whole_seconds.any(|second| is_followed(second, &written)),
        "of {} frames no second is of the file",
        heard.len()
    );
}

/// Whether `heard` is a part of `written`, played a little faster or slower.
fn is_followed(heard: &[f32], written: &[f32]) -> bool {
    const BLOCK_LEN: usize = 256;
    let search = |block: &[f32], from: usize, to: usize| {
        let to = to.min(written.len() - BLOCK_LEN);
        let places = (from..=to).map(|at| (likeness(block, &written[at..][..BLOCK_LEN]), at));
        places.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
    };
    let mut blocks = heard.chunks_exact(BLOCK_LEN);
    let (_, mut at) = search(blocks.next().unwrap(), 0, written.len());
    blocks.all(|block| {
        let due = at + BLOCK_LEN;
        let (likeness, found) = search(block, due.saturating_sub(2), due + 2);
        at = found;
        likeness > 0.8
    })
}

/// 1 for the same sound at any volume, about 0 for another.
fn likeness(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1e-9)
}
