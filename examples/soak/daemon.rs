//! The daemon and the fake card that it plays on, from outside.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use eyre::{Result, WrapErr, bail, ensure, eyre};
use rustix::process::{Pid, Signal, kill_process};
use ureq::Agent;

use crate::record::{Clock, End, Figures, Reading, Sample};
use crate::text;

/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Both ends of the card should be read within this, or a busy machine has come between.
const AT_ONCE_S: f64 = 0.02;

/// A sound card made of software, `tests/fakecard`.
#[derive(Debug)]
pub struct Card {
    dir: PathBuf,
}

impl Card {
    pub fn make(dir: &Path) -> Result<Self> {
        let made = Command::new("tests/fakecard/fakecard.sh")
            .args(["make", text(dir)])
            .output()
            .wrap_err("no tests/fakecard here: start it from the repository's root")?;
        let why = String::from_utf8_lossy(&made.stderr);
        ensure!(made.status.success(), "cannot make the fake card: {why}");
        Ok(Self { dir: dir.into() })
    }

    /// Does `words` from now on. Renamed into place: the card never reads half a word.
    pub fn tell(&self, words: &str) -> Result<()> {
        let new = self.dir.join(".control.new");
        fs::write(&new, format!("{words}\n"))?;
        Ok(fs::rename(new, self.dir.join("control"))?)
    }

    fn frames_played(&self) -> u64 {
        const FRAME_LEN: u64 = 8; // two channels of f32
        let file = fs::metadata(self.dir.join("played.raw"));
        file.map_or(0, |file| file.len() / FRAME_LEN)
    }

    /// Gives back the room of what was recorded; the file's length, which is all that matters, stays.
    pub fn forget_the_past(&self) {
        let Ok(file) = fs::metadata(self.dir.join("played.raw")) else {
            return;
        };
        // Where it does not work, the disk has to bear 1.4 GB an hour.
        let _ = Command::new("fallocate")
            .args(["--punch-hole", "--length", &file.len().to_string()])
            .arg(self.dir.join("played.raw"))
            .stderr(Stdio::null())
            .status();
    }
}

#[derive(Debug)]
pub struct Daemon {
    child: Mutex<Child>,
    /// `127.0.0.1:PORT`
    pub address: String,
    agent: Agent,
    log: Arc<Mutex<Vec<String>>>,
    clock: Clock,
}

impl Daemon {
    /// Returns once it is ready.
    pub fn start(longwave: &Path, config: &Path, card: &Card, clock: Clock) -> Result<Self> {
        let mut child = Command::new(longwave)
            .args(["serve", "--config", text(config)])
            .env("ALSA_CONFIG_PATH", card.dir.join("asound.conf"))
            // As the units have it.
            .env("MALLOC_ARENA_MAX", "1")
            .env_remove("RUST_LOG")
            .env_remove("LONGWAVE_ISA")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .wrap_err_with(|| format!("cannot start {}", longwave.display()))?;
        let stderr = child.stderr.take().expect("it was asked for");
        let log = Arc::<Mutex<Vec<String>>>::default();
        let (sender, pages) = mpsc::channel();
        let kept = log.clone();
        thread::spawn(move || {
            for words in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, page)) = words.split_once("http://") {
                    // Only the first is waited for.
                    let _ = sender.send(page.trim_end_matches('/').to_owned());
                }
                kept.lock().unwrap().push(words);
            }
        });
        let agent = Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(5)))
            .http_status_as_error(false)
            .build();
        let page = pages.recv_timeout(PATIENCE);
        let daemon = Self {
            child: Mutex::new(child),
            address: page.clone().unwrap_or_default(),
            agent: agent.into(),
            log,
            clock,
        };
        if let Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) = page {
            let said = daemon.log().into_iter().map(|line| line + "\n");
            bail!("the daemon does not start: {}", said.collect::<String>());
        }
        daemon.wait_until_ready()?;
        Ok(daemon)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let begin = Instant::now();
        while !self.is_ready()? {
            ensure!(begin.elapsed() < PATIENCE, "the daemon does not get ready");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Status and body.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut answer = self
            .agent
            .get(format!("http://{}{path}", self.address))
            .call()?;
        let body = answer.body_mut().read_to_string()?;
        Ok((answer.status().as_u16(), body))
    }

    fn is_ready(&self) -> Result<bool> {
        Ok(self.get("/readyz")?.0 == 200)
    }

    pub fn figures(&self) -> Result<Figures> {
        let text = self.get("/metrics")?.1;
        let sum = |name: &str| sum_of(&text, name);
        let of = |name: &str| sum(name).ok_or_else(|| eyre!("/metrics has no longwave_{name}"));
        Ok(Figures {
            frames: of("card_frames_total")?,
            underruns: of("card_ring_underruns_total")?,
            xruns: of("card_device_xruns_total")?,
            errors: of("card_backend_errors_total")?,
            rebuilds: of("card_rebuilds_total")?,
            is_live: of("card_is_live")? == 1,
            codes: of("codes_total")?,
            late_chunks: of("late_chunks_total")?,
            listeners: of("listeners")?,
            seated: of("listeners_seated_total")?,
            packets_lost: of("packets_lost_total")?,
            refused: of("listeners_refused_total")?,
            collapses: of("collapses_total")?,
        })
    }

    /// Reads so many bytes of a stream, none of which may be long in coming.
    pub fn hear(&self, path: &str, n_bytes: usize) -> Result<()> {
        let stream = self.agent.get(format!("http://{}{path}", self.address));
        let mut answer = stream.call()?;
        ensure!(answer.status() == 200, "{path} answers {}", answer.status());
        let mut bytes = vec![0; n_bytes];
        Ok(answer.body_mut().as_reader().read_exact(&mut bytes)?)
    }

    /// Both ends of the card, as nearly at one instant as the machine lets us.
    pub fn reading(&self, card: &Card) -> Result<Reading> {
        let mut best: Option<(f64, Reading)> = None;
        for _ in 0..5 {
            let begin_s = self.clock.now_s();
            let reading = self.glance(card)?;
            let took_s = reading.at_s - begin_s;
            if best.is_none_or(|(least_s, _)| took_s < least_s) {
                best = Some((took_s, reading));
            }
            if took_s < AT_ONCE_S {
                break;
            }
        }
        Ok(best.expect("it was read at least once").1)
    }

    /// The same in one try, for who asks again soon.
    pub fn glance(&self, card: &Card) -> Result<Reading> {
        let figures = self.figures()?;
        Ok(Reading {
            at_s: self.clock.now_s(),
            frames_played: card.frames_played(),
            figures,
        })
    }

    pub fn sample(&self) -> Result<Sample> {
        let directory = PathBuf::from(format!("/proc/{}", self.pid().as_raw_nonzero()));
        let status = fs::read_to_string(directory.join("status"))?;
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.ok_or_else(|| eyre!("its status has no {name}"))
        };
        let load = fs::read_to_string("/proc/loadavg")?;
        let load = load.split(' ').next().and_then(|load| load.parse().ok());
        Ok(Sample {
            at_s: self.clock.now_s(),
            rss_kib: of("VmRSS:")?,
            n_threads: of("Threads:")?,
            n_descriptors: fs::read_dir(directory.join("fd"))?.count() as u64,
            machine_load: load.unwrap_or(f64::NAN),
            is_ready: self.is_ready()?,
            figures: self.figures()?,
        })
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child.lock().unwrap())
    }

    fn try_wait(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap().try_wait().ok().flatten()
    }

    pub fn has_ended(&self) -> bool {
        self.try_wait().is_some()
    }

    pub fn hang_up(&self) -> Result<()> {
        Ok(kill_process(self.pid(), Signal::HUP)?)
    }

    /// SIGTERM, and what comes of it. The card plays as it should: the end must not wait for it.
    pub fn stop(&self, card: &Card) -> Option<End> {
        let end = |status: ExitStatus, begin: Instant, was_gone| End {
            code: status.code(),
            seconds: begin.elapsed().as_secs_f64(),
            was_gone,
        };
        let begin = Instant::now();
        if let Some(status) = self.try_wait() {
            return Some(end(status, begin, true));
        }
        // The last fault may have been cut short.
        let _ = card.tell("drift 0");
        let begin = Instant::now();
        let _ = kill_process(self.pid(), Signal::TERM);
        while begin.elapsed() < PATIENCE {
            if let Some(status) = self.try_wait() {
                return Some(end(status, begin, false));
            }
            thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Of all lines of that name, whatever their labels.
fn sum_of(metrics: &str, name: &str) -> Option<u64> {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix("longwave_")?.strip_prefix(name)?;
        let is_it = rest.starts_with([' ', '{']);
        let value = rest.rsplit(' ').next()?.parse::<f64>().ok()?;
        is_it.then_some(value as u64)
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0) + value))
}
