//! The configuration, and its changes: a good one changes the station, a bad one nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use eyre::{Result, ensure};
use serde_json::Value;
use tokio::sync::watch;

use crate::daemon::Daemon;
use crate::faults::Chance;
use crate::record::{Clock, sleep};

/// What the log says of a configuration that was taken.
const TAKEN: &str = "the configuration was read again";

/// What is heard of a guest before it goes: two seconds.
const GUEST_BYTES: usize = 64_000;

/// Seconds between two changes.
const EVERY_S: (f64, f64) = (90.0, 210.0);

/// The daemon answers a SIGHUP within this, or not at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// Of the station that is listened to.
pub const STATION: &str = "piano";

/// Another that comes and goes; its model is loaded for it, unless it is that of the whole soak.
const GUEST: &str = "\n[[station]]\nname = \"guest\"\nmodel = \"tiny\"\nwatch = false\n";

/// What a station plays with, as the file says.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    seed: u64,
    temperature: f64,
    /// Holds after a restart, so that it changes nothing here.
    lead_ms: u32,
}

/// One SIGHUP and what came of it.
#[derive(Clone, Debug)]
pub struct Change {
    pub at_s: f64,
    /// What was changed.
    pub what: &'static str,
    pub is_good: bool,
    /// What is wrong with how the daemon took it.
    pub fault: Option<String>,
}

/// A file that no daemon should take: with what is wrong, and how it is made from a good one.
type Spoiling = (&'static str, fn(&str) -> String);

const SPOILINGS: [Spoiling; 5] = [
    ("an unknown key", |good| format!("speed = 2\n{good}")),
    ("half a file", |good| {
        good[..good.len() - 20].to_owned() + "\n[["
    }),
    ("a negative share", |good| {
        good.to_owned() + "min_p = -1.0\n"
    }),
    ("a prompt that is not there", |good| {
        good.to_owned() + "prompt = \"gone.wav\"\n"
    }),
    ("a model that is not there", |good| {
        good.to_owned() + "model = \"no-such-model\"\n"
    }),
];

#[derive(Debug)]
pub struct Settings {
    file: PathBuf,
    model: String,
}

impl Settings {
    pub fn new(model: &str, dir: &Path) -> Self {
        Self {
            file: dir.join("longwave.toml"),
            model: model.to_owned(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.file
    }

    pub fn first(&self) -> String {
        self.text(Wanted {
            seed: 1,
            temperature: 1.05,
            lead_ms: LEAD_MS,
        })
    }

    fn text(&self, wanted: Wanted) -> String {
        let Wanted {
            seed,
            temperature,
            lead_ms,
        } = wanted;
        let model = &self.model;
        // A machine that is busy on purpose: what is too much for it is counted, and no guest turned away.
        format!(
            "model = \"{model}\"\noverload = true\n\
             [card]\nenabled = true\nlead_ms = {lead_ms}\nperiod_ms = {PERIOD_MS}\n\
             [network]\nlisten = \"127.0.0.1:0\"\n\
             [[station]]\nname = \"{STATION}\"\nseed = {seed}\ntemperature = {temperature:.2}\n"
        )
    }

    pub fn write(&self, text: &str) -> Result<()> {
        let new = self.file.with_extension("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, &self.file)?)
    }

    /// Every few minutes a change, two good ones for each that is bad.
    pub fn run(
        &self,
        daemon: &Daemon,
        seed: u64,
        clock: Clock,
        over: &watch::Receiver<bool>,
    ) -> Vec<Change> {
        let mut chance = Chance::new(seed, 1);
        let mut changes = Vec::new();
        let mut good = self.first();
        while sleep(Duration::from_secs_f64(chance.between(EVERY_S)), over) {
            let at_s = clock.now_s();
            let is_good = chance.below(3) > 0;
            let (what, result) = match is_good {
                true if chance.below(3) == 0 => {
                    let what = "a station that comes and goes";
                    (what, self.receive(daemon, &good))
                }
                true => {
                    let wanted = wish(&mut chance);
                    good = self.text(wanted);
                    (
                        "seed, temperature, lead",
                        self.change(daemon, &good, wanted),
                    )
                }
                false => {
                    let (what, spoil) = chance.pick(&SPOILINGS);
                    (what, self.refuse(daemon, &spoil(&good), &good))
                }
            };
            let fault = result.err().map(|error| error.to_string());
            eprintln!(
                "{at_s:7.1} s: changed: {what}; {}",
                fault.as_deref().unwrap_or("as it should be")
            );
            changes.push(Change {
                at_s,
                what,
                is_good,
                fault,
            });
        }
        changes
    }

    fn change(&self, daemon: &Daemon, text: &str, wanted: Wanted) -> Result<()> {
        self.reread(daemon, text, TAKEN)?;
        // Between two chunks, once the generator has time.
        await_that("the station changes", || {
            Ok(is_so(&portrait(daemon)?, wanted))
        })
    }

    /// Another station comes, plays for a while and is gone, and this one does not notice.
    fn receive(&self, daemon: &Daemon, good: &str) -> Result<()> {
        let before = portrait(daemon)?;
        self.reread(daemon, &format!("{good}{GUEST}"), TAKEN)?;
        let came = daemon.hear("/v1/stations/guest/stream.wav", GUEST_BYTES);
        self.reread(daemon, good, TAKEN)?;
        came?;
        await_that("the guest goes", || {
            Ok(daemon.get("/v1/stations/guest")?.0 == 404)
        })?;
        let after = portrait(daemon)?;
        let same = |key: &str| before[key] == after[key];
        ensure!(
            same("seed") && same("draw"),
            "a guest made {before} into {after}"
        );
        Ok(())
    }

    fn refuse(&self, daemon: &Daemon, bad: &str, good: &str) -> Result<()> {
        let before = portrait(daemon)?;
        let answered = self.reread(daemon, bad, "all stays as it was");
        // Should anybody read it again, it is as it was.
        self.write(good)?;
        answered?;
        thread::sleep(Duration::from_secs(1));
        let after = portrait(daemon)?;
        ensure!(before == after, "a bad file made {before} into {after}");
        Ok(())
    }

    fn reread(&self, daemon: &Daemon, text: &str, answer: &str) -> Result<()> {
        let n_lines = daemon.log().len();
        self.write(text)?;
        daemon.hang_up()?;
        let begin = Instant::now();
        loop {
            let log = daemon.log();
            if log[n_lines..].iter().any(|line| line.contains(answer)) {
                return Ok(());
            }
            ensure!(begin.elapsed() < PATIENCE, "the log does not say: {answer}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Sound kept ready, and asked for at once, in milliseconds. More than the defaults: a machine that is
/// busy should not have xruns of its own in most of the time between faults, for what they cost cannot be told
/// from a loss that nobody counts.
pub const LEAD_MS: u32 = 300;
pub const PERIOD_MS: u32 = 30;

fn wish(chance: &mut Chance) -> Wanted {
    Wanted {
        seed: chance.below(1_000_000) as u64,
        temperature: chance.pick(&[1.03, 1.04, 1.05, 1.06]),
        lead_ms: chance.pick(&[LEAD_MS, 350, 400]),
    }
}

/// Asks again and again, but not for ever.
fn await_that(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !holds()? {
        ensure!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// How the station says that it is.
fn portrait(daemon: &Daemon) -> Result<Value> {
    let (status, text) = daemon.get(&format!("/v1/stations/{STATION}"))?;
    ensure!(status == 200, "the station answers {status}: {text}");
    Ok(serde_json::from_str(&text)?)
}

fn is_so(portrait: &Value, wanted: Wanted) -> bool {
    let temperature = portrait["draw"]["temperature"].as_f64();
    let is_near = temperature.is_some_and(|now| (now - wanted.temperature).abs() < 1e-4);
    is_near && portrait["seed"].as_str() == Some(&wanted.seed.to_string())
}
