//! The load: many listeners of one station beside a sound card, then more until something breaks; or
//! sessions that open and break off beside a station that must not notice.
//!
//! `scripts/load` builds what it needs and starts it. The listeners are of this process and, unless each
//! is kept to its own (`--cpus`, and `taskset` for the whole), take part of the same processors: a daemon
//! whose listeners are elsewhere bears more.

mod daemon;
mod listeners;
mod sessions;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{fs, thread};

use clap::Parser;
use clap::builder::RangedU64ValueParser;
use eyre::{Result, WrapErr, ensure};
use longwave::bench::Host;
use longwave::files;
use tokio::runtime::Runtime;

use daemon::Daemon;
use listeners::Lateness;

const SEED: &str = "7";

/// What a listener gathers before it plays: later than that is heard.
const JITTER_MS: usize = 200;

/// Between what holds and what breaks, at last: a larger number by that share is looked for no closer.
const CLOSE_ENOUGH: f64 = 1.1;

/// Listeners that the daemon lets in.
const MOST: usize = 100_000;

/// Sessions that it draws: of 64 lanes one is the station's, and one hears prompts.
const MOST_SESSIONS: usize = 62;

/// Loads a daemon with listeners, or with sessions that come and go.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many listeners; with --sessions, how many of those at once.
    #[arg(long, value_name = "N", default_value_t = 500, default_value_if("sessions", "true", "50"),
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=MOST as u64))]
    clients: usize,
    /// How long.
    #[arg(long, value_name = "M", default_value_t = 10.0)]
    minutes: f64,
    /// How long each other number of listeners is tried afterwards, until it is known how many are too many;
    /// 0 tries none.
    #[arg(long, value_name = "S", default_value_t = 30.0)]
    more_seconds: f64,
    /// Sessions that open and break off, instead of listeners.
    #[arg(long)]
    sessions: bool,
    /// What it plays.
    #[arg(long, value_name = "NAME", default_value = "piano-16k")]
    model: String,
    /// The program.
    #[arg(long, value_name = "FILE", default_value = "target/debug/longwave")]
    longwave: PathBuf,
    /// Processors that the daemon is kept to, as `taskset` understands them; all, when absent.
    #[arg(long, value_name = "LIST")]
    cpus: Option<String>,
    /// A page to which the report is added.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// What else the machine did meanwhile, for the report.
    #[arg(long, value_name = "WORDS", default_value = "nothing else")]
    beside: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        !arguments.sessions || arguments.clients <= MOST_SESSIONS,
        "{MOST_SESSIONS} sessions at once are the most: name fewer by --clients"
    );
    let dir = tempfile::tempdir().wrap_err("no temporary directory")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let text = head(&arguments)
        + &match arguments.sessions {
            true => of_sessions(&arguments, dir.path(), &runtime)?,
            false => of_listeners(&arguments, dir.path(), &runtime)?,
        };
    println!("{text}");
    if let Some(report) = &arguments.report {
        append(report, &text)?;
    }
    Ok(())
}

/// Below what the report holds already.
fn append(report: &Path, text: &str) -> Result<()> {
    let before = fs::read_to_string(report).unwrap_or_else(|_| TITLE.to_owned());
    Ok(files::replace(report, (before + "\n" + text).as_bytes())?)
}

const TITLE: &str = "# Load

Written by `scripts/load` ([examples/load](../examples/load/main.rs)): a daemon that plays on a card made of
software (`tests/fakecard`), and clients of one other process, which take a good part of the processors where both
have the same. A packet is late by what it comes after the earliest of them all, against one clock; a listener gathers
200 ms before it plays.
";

fn head(arguments: &Arguments) -> String {
    let Arguments {
        clients,
        minutes,
        more_seconds,
        model,
        beside,
        cpus,
        ..
    } = arguments;
    let (what, flag) = match arguments.sessions {
        true => ("Sessions that come and go", " --sessions"),
        false => ("Listeners of one station", ""),
    };
    let n_cores = thread::available_parallelism().map_or(1, |n| n.get());
    let (cores, cpus) = match cpus {
        Some(cpus) => (
            format!("the daemon on processors {cpus}, {n_cores} for its clients"),
            format!(" --cpus {cpus}"),
        ),
        None => (format!("{n_cores} processors"), String::new()),
    };
    let build = match cfg!(debug_assertions) {
        true => "development",
        false => "release",
    };
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC");
    format!(
        "## {what}\n\n`scripts/load{flag} --clients {clients} --minutes {minutes} --more-seconds {more_seconds} \
         --model {model}{cpus}`, {date}, {}, {cores}, {build} build; beside it: {beside}.\n\n",
        Host::this().cpu
    )
}

fn config(arguments: &Arguments, n_sessions: usize) -> String {
    format!(
        "model = \"{}\"\noverload = true\n[card]\nenabled = true\nlead_ms = 300\n[network]\nmax_listeners = {MOST}\n\
         [sessions]\nmax = {n_sessions}\n[[station]]\nname = \"piano\"\nseed = {SEED}\nwatch = false\n",
        arguments.model
    )
}

/// One number of listeners for a while: a row of the table, and what broke.
fn stage(
    daemon: &Daemon,
    runtime: &Runtime,
    n: usize,
    time: Duration,
    idle_kib: u64,
) -> Result<(String, Vec<String>)> {
    let lateness = Lateness::new();
    let gathered = runtime.block_on(listeners::gather(&daemon.address, n, &lateness));
    let all = match gathered {
        Ok(all) => all,
        Err(error) => return Ok((String::new(), vec![error.to_string()])),
    };
    thread::sleep(Duration::from_secs(5));
    lateness.count();
    let (before, begin) = (daemon.figures()?, Instant::now());
    thread::sleep(time);
    let (after, seconds) = (daemon.figures()?, begin.elapsed().as_secs_f64());
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| lateness.quantile_ms(share));
    let (n_lost, n_ended) = (
        lateness.n_lost.load(Ordering::Relaxed),
        lateness.n_ended.load(Ordering::Relaxed),
    );
    let n_underruns = after.underruns - before.underruns;
    drop(all);
    let each_s = (after.bytes_sent - before.bytes_sent) as f64 / seconds / n as f64;
    let each_kib = after.rss_kib.saturating_sub(idle_kib) as f64 / n as f64;
    let computed = (after.computed - before.computed).as_secs_f64() / seconds;
    let row = format!(
        "| {n} | {seconds:.0} s | {n_underruns} | {p50} | {p99} | {p999} | {n_lost} | {n_ended} | {} | {computed:.2} | {each_s:.0} | {each_kib:.1} |\n",
        after.late_chunks - before.late_chunks
    );
    let broken = [
        (
            n_underruns > 0,
            format!("the card ran dry {n_underruns} times"),
        ),
        (n_ended > 0, format!("{n_ended} listeners were cut off")),
        (n_lost > 0, format!("{n_lost} packets were lost")),
        (
            p99 > JITTER_MS,
            format!("one packet in a hundred came more than {JITTER_MS} ms late"),
        ),
    ];
    let broken = broken
        .into_iter()
        .filter(|(is_so, _)| *is_so)
        .map(|(_, what)| what);
    Ok((row, broken.collect()))
}

fn of_listeners(arguments: &Arguments, dir: &Path, runtime: &Runtime) -> Result<String> {
    let longwave = &arguments.longwave;
    let daemon = Daemon::start(
        longwave,
        arguments.cpus.as_deref(),
        &config(arguments, 0),
        dir,
    )?;
    thread::sleep(Duration::from_secs(3));
    let idle = daemon.figures()?;
    let mut text = "| listeners | for | card underruns | late, ms: p50 | p99 | p99.9 | packets lost | cut off | late chunks | processors taken | bytes/s each | KiB of memory each |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    let mut time = Duration::from_secs_f64(arguments.minutes * 60.0);
    let mut n = arguments.clients;
    let (mut most_borne, mut least_broken) = (0, None);
    loop {
        let (row, broken) = stage(&daemon, runtime, n, time, idle.rss_kib)?;
        eprint!("{row}");
        text += &row;
        if broken.is_empty() {
            most_borne = n;
        } else {
            eprintln!("{n}: {}", broken.join("; "));
            least_broken = Some((n, broken));
        }
        let worst = least_broken.as_ref().map(|(n, _)| *n);
        let next = next(most_borne, worst).filter(|_| arguments.more_seconds > 0.0);
        let Some(next) = next else { break };
        (n, time) = (next, Duration::from_secs_f64(arguments.more_seconds));
        // Those of before have left, and the daemon has noticed.
        while daemon.figures()?.listeners > 0 {
            thread::sleep(Duration::from_millis(100));
        }
    }
    match least_broken {
        Some((n, broken)) => writeln!(
            text,
            "\n{most_borne} at most were borne. What broke, with {n}: {}.",
            broken.join("; ")
        )?,
        None => text += "\nNothing broke.\n",
    }
    Ok(text)
}

/// How many to try next, between the most that were borne and the fewest that were not.
fn next(most_borne: usize, least_broken: Option<usize>) -> Option<usize> {
    let Some(least_broken) = least_broken else {
        return Some((most_borne * 3 / 2).clamp(most_borne + 1, MOST))
            .filter(|_| most_borne < MOST);
    };
    let is_known = (least_broken as f64) < most_borne as f64 * CLOSE_ENOUGH;
    let middle = (most_borne + least_broken) / 2;
    (!is_known && middle > most_borne).then_some(middle)
}

fn of_sessions(arguments: &Arguments, dir: &Path, runtime: &Runtime) -> Result<String> {
    let n = arguments.clients;
    let longwave = &arguments.longwave;
    let daemon = Daemon::start(
        longwave,
        arguments.cpus.as_deref(),
        &config(arguments, n),
        dir,
    )?;
    let end = Instant::now() + Duration::from_secs_f64(arguments.minutes * 60.0);
    let heard = runtime.spawn(sessions::hear(daemon.address.clone(), end));
    let before = daemon.figures()?;
    // Every lane has been used by then.
    let half = Instant::now() + (end - Instant::now()) / 2;
    let first = runtime.block_on(sessions::churn(&daemon.address, n, half))?;
    let middle = daemon.figures()?;
    let second = runtime.block_on(sessions::churn(&daemon.address, n, end))?;
    let heard = runtime.block_on(heard)??;
    let begin = Instant::now();
    while daemon.figures()?.sessions > 0 && begin.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(100));
    }
    let after = daemon.figures()?;
    let is_exact = sessions::is_rendered(longwave, &arguments.model, dir, &heard)?;
    let mib = |kib: u64| kib as f64 / 1024.0;
    Ok(format!(
        "| | |\n|---|---|\n| opened and broken off | {}, {} at once at most; {} refused by a full house |\n\
         | sessions left when all had gone | {} |\n\
         | resident memory at the beginning, in the middle, at the end | {:.1}, {:.1}, {:.1} MiB |\n\
         | card underruns | {} |\n\
         | the station, {:.0} s heard by a listener, against `render` | {} |\n",
        first.n_opened + second.n_opened,
        first.n_most.max(second.n_most),
        first.n_refused + second.n_refused,
        after.sessions,
        mib(before.rss_kib),
        mib(middle.rss_kib),
        mib(after.rss_kib),
        after.underruns - before.underruns,
        heard.1.len() as f64 / 16_000.0,
        if is_exact {
            "the same to the bit"
        } else {
            "**differs**"
        },
    ))
}
