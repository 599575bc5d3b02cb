//! The daemon on a card made of software, from outside.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use eyre::{Result, WrapErr, ensure, eyre};
use ureq::Agent;

/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// In which `/proc` counts time: USER_HZ, one number on all that longwave runs on.
const TICKS_PER_S: u64 = 100;

/// What of the daemon's counters matters here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub underruns: u64,
    pub late_chunks: u64,
    pub bytes_sent: u64,
    pub listeners: u64,
    pub sessions: u64,
    pub rss_kib: u64,
    /// That it has computed, all its threads together.
    pub computed: Duration,
}

#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// `127.0.0.1:PORT`
    pub address: String,
    agent: Agent,
}

impl Daemon {
    /// Returns once it plays on a card of its own in `dir`; on these processors alone, if any are named.
    pub fn start(longwave: &Path, cpus: Option<&str>, config: &str, dir: &Path) -> Result<Self> {
        let (card, file) = (dir.join("card"), dir.join("longwave.toml"));
        let made = Command::new("tests/fakecard/fakecard.sh")
            .arg("make")
            .arg(&card)
            .output();
        let made = made.wrap_err("no tests/fakecard here: start it from the repository's root")?;
        let why = String::from_utf8_lossy(&made.stderr);
        ensure!(made.status.success(), "cannot make the fake card: {why}");
        fs::write(&file, config)?;
        let mut command = match cpus {
            Some(cpus) => {
                let mut taskset = Command::new("taskset");
                taskset.args(["--cpu-list", cpus]).arg(longwave);
                taskset
            }
            None => Command::new(longwave),
        };
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&file)
            .env("ALSA_CONFIG_PATH", card.join("asound.conf"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .wrap_err_with(|| format!("cannot start {}", longwave.display()))?;
        let stderr = child.stderr.take().expect("it was asked for");
        let (sender, pages) = mpsc::channel();
        thread::spawn(move || {
            for words in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, page)) = words.split_once("http://") {
                    // Only the first is waited for.
                    let _ = sender.send(page.trim_end_matches('/').to_owned());
                } else if words.contains("WARN") || words.contains("ERROR") {
                    eprintln!("{words}");
                }
            }
        });
        let page = pages.recv_timeout(PATIENCE);
        let agent = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .build();
        let daemon = Self {
            child,
            address: page.wrap_err("the daemon does not start")?,
            agent: agent.into(),
        };
        let begin = Instant::now();
        while daemon.get("/readyz")?.0 != 200 {
            ensure!(begin.elapsed() < PATIENCE, "the daemon does not get ready");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(daemon)
    }

    fn get(&self, path: &str) -> Result<(u16, String)> {
        let url = format!("http://{}{path}", self.address);
        let mut answer = self.agent.get(url).call()?;
        let body = answer.body_mut().read_to_string()?;
        Ok((answer.status().as_u16(), body))
    }

    pub fn figures(&self) -> Result<Figures> {
        let text = self.get("/metrics")?.1;
        let of = |name: &str| {
            let mut values = text.lines().filter_map(|line| {
                let rest = line.strip_prefix("longwave_")?.strip_prefix(name)?;
                let is_it = rest.starts_with([' ', '{']);
                is_it
                    .then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())
                    .flatten()
            });
            let first = values
                .next()
                .ok_or_else(|| eyre!("/metrics has no longwave_{name}"))?;
            Ok::<u64, eyre::Report>((first + values.sum::<f64>()) as u64)
        };
        let proc = |file| fs::read_to_string(format!("/proc/{}/{file}", self.child.id()));
        let (status, stat) = (proc("status")?, proc("stat")?);
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss = rss.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Ok(Figures {
            underruns: of("card_ring_underruns_total")?,
            late_chunks: of("late_chunks_total")?,
            bytes_sent: of("sent_bytes_total")?,
            listeners: of("listeners")?,
            sessions: of("sessions")?,
            rss_kib: rss.ok_or_else(|| eyre!("the daemon is gone"))?,
            computed: computed(&stat).ok_or_else(|| eyre!("/proc says nothing of the daemon"))?,
        })
    }
}

/// What the 14th and 15th words of proc(5)'s `stat` say, after a name that may hold anything.
fn computed(stat: &str) -> Option<Duration> {
    let words = stat.rsplit_once(')')?.1.split_whitespace();
    let ticks = words.skip(11).take(2).map(|word| word.parse::<u64>().ok());
    let ticks: u64 = ticks.sum::<Option<u64>>()?;
    Some(Duration::from_millis(ticks * 1_000 / TICKS_PER_S))
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
