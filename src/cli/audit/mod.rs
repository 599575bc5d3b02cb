//! `audit`: listens, judges, writes the report and prints it.

mod table;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use longwave::audit::{self, AuditError, Heard, Reference, Report};
use longwave::config::Config;
use longwave::corpus::Split;
use longwave::setup::Setup;

use super::args::audit::AuditArgs;
use super::exit::Outcome;
use super::interrupt;
use super::pages::print;
use super::render::{progress_bar, tell_fall, x_realtime};

/// What was judged, and where its report goes.
struct Audited {
    dir: PathBuf,
    heard: Heard,
    report: Report,
}

/// Measures the corpus if one is named, then judges what is to be judged.
pub fn run(mut args: AuditArgs) -> Outcome {
    let reference = reference(&args)?;
    let heard = match (&args.file, args.minutes) {
        (Some(file), _) => {
            let dir = args.output.clone();
            let dir = dir.unwrap_or_else(|| file.with_extension("audit"));
            vec![(dir, hear_file(file, &reference)?)]
        }
        (None, Some(minutes)) => hear_models(&mut args, minutes, &reference)?,
        // Calibrated, and no more was asked for.
        (None, None) => return Ok(()),
    };
    let judged = heard.into_iter().map(|(dir, heard)| Audited {
        report: Report::new(&heard, &reference),
        dir,
        heard,
    });
    let judged: Vec<Audited> = judged.collect();
    let mut written = Vec::new();
    for Audited { dir, heard, report } in &judged {
        written.extend(audit::write(dir, heard, report)?);
    }
    print(words(&judged, args.json).as_bytes())?;
    for path in written {
        eprintln!("{}", path.display());
    }
    let reports = judged.iter().map(|audited| &audited.report.summary);
    let sum = |n: fn(&audit::Summary) -> usize| reports.clone().map(n).sum::<usize>();
    let (n, all) = (sum(|one| one.n_flagged), sum(|one| one.n_seconds));
    if args.strict && n > 0 {
        let dirs = judged.iter().filter(|one| one.report.summary.n_flagged > 0);
        let dirs: Vec<String> = dirs.map(|one| one.dir.display().to_string()).collect();
        eyre::bail!(
            "{n} of {all} seconds are named, which --strict does not let pass; see {}",
            dirs.join(", ")
        );
    }
    Ok(())
}

/// A page or a JSON object of one, a table or a JSON array of several: without the seconds, which
/// their files have.
fn words(judged: &[Audited], json: bool) -> String {
    match (judged, json) {
        ([one], true) => format!("{}\n", one.report.to_json()),
        ([one], false) => table::page(&one.report),
        (_, true) => {
            let short = judged.iter().map(|one| Report {
                seconds: Vec::new(),
                ..one.report.clone()
            });
            let short: Vec<String> = short.map(|report| report.to_json()).collect();
            format!("[{}]\n", short.join(",\n"))
        }
        (_, false) => table::several(judged),
    }
}

/// What to compare with: measured now, measured before, or built in.
fn reference(args: &AuditArgs) -> Result<Reference, AuditError> {
    let Some(corpus) = &args.corpus else {
        let file = args.reference.as_deref();
        return file.map_or_else(|| Ok(Reference::builtin()), Reference::read);
    };
    let spinner = spinner("measuring the corpus");
    let reference = Reference::measure(corpus, args.split.unwrap_or(Split::Valid));
    spinner.finish_and_clear();
    let reference = reference?;
    if let Some(path) = &args.calibrate {
        reference.write(path)?;
        eprintln!("{}", path.display());
    }
    Ok(reference)
}

fn spinner(message: &'static str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(message);
    spinner.enable_steady_tick(Duration::from_millis(250));
    spinner
}

fn hear_file(file: &Path, reference: &Reference) -> Result<Heard, AuditError> {
    let spinner = spinner("listening");
    let heard = audit::file(file, reference.rate_hz);
    spinner.finish_and_clear();
    heard
}

/// Draws and listens; the last line says what a person needs to do it again.
fn hear_models(
    args: &mut AuditArgs,
    minutes: f64,
    reference: &Reference,
) -> eyre::Result<Vec<(PathBuf, Heard)>> {
    let seconds = ((minutes * 60.0).round() as u64).max(1);
    let config = args.resolve()?;
    let mut setup = Setup::new(&config)?;
    let rate_hz = setup.engines[0].model.config.sample_rate_hz;
    if rate_hz != reference.rate_hz {
        let other = AuditError::Rate {
            path: config.model,
            got: rate_hz,
            expected: reference.rate_hz,
        };
        return Err(other.into());
    }
    let is_interrupted = interrupt::flag()?;
    let (bar, mut begin) = (progress_bar(), Instant::now());
    let n_streams = setup.starts.len() as u64;
    let heard = audit::models(&mut setup, seconds, |n_done, n_codes| {
        if n_done == 0 {
            begin = Instant::now();
            bar.set_message("listening to the prompt");
        } else {
            let x_realtime = x_realtime(n_done * n_streams, f64::from(rate_hz), begin);
            bar.set_message(format!("{x_realtime:.2} x real time"));
        }
        bar.set_length(n_codes);
        bar.set_position(n_done);
        match is_interrupted.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    let n_codes = bar.position() * n_streams;
    bar.finish_and_clear();
    let heard = heard?;
    tell_fall(&setup);
    let x_realtime = x_realtime(n_codes, f64::from(rate_hz), begin);
    let seed = setup.starts[0].seed;
    match n_streams {
        1 => eprintln!("{seconds} s drawn, seed {seed}, {x_realtime:.2} x real time"),
        n => eprintln!("{seconds} s drawn of {n} streams, {x_realtime:.2} x real time in all"),
    }
    let dirs = directories(args.output.take(), &config, &setup);
    Ok(dirs.into_iter().zip(heard).collect())
}

/// Where the report of each stream goes, below `output` if it is said and there are several.
fn directories(output: Option<PathBuf>, config: &Config, setup: &Setup) -> Vec<PathBuf> {
    let name = &setup.engines[0].model.name;
    if let [start] = setup.starts.as_slice() {
        return vec![output.unwrap_or_else(|| format!("{name}-{}.audit", start.seed).into())];
    }
    let parent = output.unwrap_or_else(|| format!("{name}.audits").into());
    let streams = setup.starts.iter().zip(&config.stations);
    let names = streams.map(|(start, station)| {
        let stem = station.prompt.as_deref().and_then(Path::file_stem);
        let stem = stem.map(|stem| format!("{}-", stem.display()));
        parent.join(format!("{}{}", stem.unwrap_or_default(), start.seed))
    });
    names.collect()
}
