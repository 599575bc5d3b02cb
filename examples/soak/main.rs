//! The soak: hours of a daemon on a sound card that fails again and again, with listeners who come and
//! go as they please and a configuration that changes, watched from outside and judged at the end.
//!
//! `scripts/soak` builds what it needs and starts it. What is seen goes into a report with pictures; the
//! exit code is 0 if everything held. A seed decides faults, listeners and changes, but not the
//! instants: those are the machine's.
//!
//! ```text
//! faults ──► fake card ◄── daemon ◄── listeners, changes (SIGHUP)
//!    └── readings ──┐        └── samples (/proc, /metrics) ──┐
//!                   └────────► Record ◄──────────────────────┘ ──► verdict, report, pictures
//! ```

mod changes;
mod daemon;
mod faults;
mod listeners;
mod picture;
mod record;
mod report;
mod verdict;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use eyre::{Result, WrapErr, ensure};
use longwave::signals::Signals;
use tokio::sync::watch;

use daemon::{Card, Daemon};
use record::{Clock, Record};

/// Between two samples.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// Lets a daemon play on a card that fails, and judges it.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long.
    #[arg(long, value_name = "N", default_value_t = 120.0)]
    minutes: f64,
    /// Of all that happens.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// What it plays.
    #[arg(long, value_name = "NAME", default_value = "piano-16k")]
    model: String,
    /// The program.
    #[arg(long, value_name = "FILE", default_value = "target/debug/longwave")]
    longwave: PathBuf,
    /// Where soak.md and the pictures go.
    #[arg(long, value_name = "DIR", default_value = "docs")]
    report: PathBuf,
    /// What else the machine did meanwhile, for the report.
    #[arg(long, value_name = "WORDS", default_value = "nothing else")]
    beside: String,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    ensure!(
        arguments.minutes * 60.0 >= 60.0,
        "a soak of less than a minute sees nothing"
    );
    let dir = tempfile::tempdir().wrap_err("no temporary directory")?;
    let card = Card::make(&dir.path().join("card"))?;
    let settings = changes::Settings::new(&arguments.model, dir.path());
    settings.write(&settings.first())?;
    // Now: in hours the working tree may be another.
    let place = report::Place::look(&arguments.beside, &command(&arguments));
    let clock = Clock::start();
    let daemon = Daemon::start(&arguments.longwave, settings.path(), &card, clock)?;
    eprintln!("the daemon plays at {}", daemon.address);

    let record = soak(&arguments, &daemon, &card, &settings, clock);
    let judgements = verdict::judge(&record);
    let written = report::write(&arguments.report, &record, &judgements, &place)?;
    for judgement in &judgements {
        eprintln!("{judgement}");
    }
    eprintln!("the report is {}", written.display());
    Ok(match judgements.iter().all(|judgement| judgement.holds) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// As somebody would type it to have the same again.
fn command(arguments: &Arguments) -> String {
    let Arguments {
        minutes,
        seed,
        model,
        ..
    } = arguments;
    format!("scripts/soak --minutes {minutes} --seed {seed} --model {model}")
}

/// Everything that happens to the daemon, until the time is over, somebody interrupts or it dies; then
/// its end.
fn soak(
    arguments: &Arguments,
    daemon: &Daemon,
    card: &Card,
    settings: &changes::Settings,
    clock: Clock,
) -> Record {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a process may have a thread and timers");
    let (stop, over) = watch::channel(false);
    let stop = Arc::new(stop);
    let audience = runtime.block_on(async {
        end_by_signal(stop.clone());
        listeners::Audience::gather(daemon, arguments.seed, clock, over.clone())
    });
    let mut record = Record::default();
    let end = Instant::now() + Duration::from_secs_f64(arguments.minutes * 60.0);
    thread::scope(|scope| {
        let faults = scope.spawn(|| faults::run(daemon, card, arguments.seed, clock, &over));
        let changes = scope.spawn(|| settings.run(daemon, arguments.seed, clock, &over));
        record.samples = samples(daemon, end, &over);
        stop.send_replace(true);
        let story = faults.join().expect("the faults' thread does not panic");
        (record.faults, record.windows) = (story.faults, story.windows);
        record.changes = changes.join().expect("nor does that of the changes");
    });
    record.seconds = clock.now_s();
    record.end = daemon.stop(card);
    record.audience = runtime.block_on(audience.leave());
    record.log = daemon.log();
    record
}

/// SIGINT and SIGTERM end the soak early, with a report of what there was.
fn end_by_signal(stop: Arc<watch::Sender<bool>>) {
    let mut signals = Signals::new().expect("signals may be taken over");
    tokio::spawn(async move {
        let name = signals.next().await;
        eprintln!("{name}: that is all");
        stop.send_replace(true);
    });
}

/// Looks at the process until `end`, or until it is gone.
fn samples(daemon: &Daemon, end: Instant, over: &watch::Receiver<bool>) -> Vec<record::Sample> {
    let mut samples = Vec::new();
    while Instant::now() < end && !*over.borrow() {
        match daemon.sample() {
            Ok(sample) => samples.push(sample),
            Err(error) if daemon.has_ended() => {
                eprintln!("the daemon is gone: {error}");
                break;
            }
            // One sample less: what it means the others tell.
            Err(error) => eprintln!("no sample: {error}"),
        }
        record::sleep(SAMPLE_EVERY.min(end - Instant::now()), over);
    }
    samples
}

/// What a command prints, if it can be had.
fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn text(path: &Path) -> &str {
    path.to_str()
        .expect("temporary directories have plain names")
}
