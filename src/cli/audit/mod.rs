//! `audit`: listens, judges, writes the report and prints it.

mod table;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use longwave::audit::{self, AuditError, Heard, Reference, Report, Source};
use longwave::corpus::Split;
use longwave::setup::Setup;

use super::args::audit::AuditArgs;
use super::exit::Outcome;
use super::interrupt;
use super::pages::print;
use super::render::{progress_bar, x_realtime};

/// Measures the corpus if one is named, then judges what is to be judged.
pub fn run(mut args: AuditArgs) -> Outcome {
    let reference = reference(&args)?;
    let heard = match (&args.file, args.minutes) {
        (Some(file), _) => hear_file(file, &reference)?,
        (None, Some(minutes)) => hear_model(&mut args, minutes, &reference)?,
        // Calibrated, and no more was asked for.
        (None, None) => return Ok(()),
    };
    let report = Report::new(&heard, &reference);
    let dir = args.output.unwrap_or_else(|| directory(&heard.source));
    let written = audit::write(&dir, &heard, &report)?;
    match args.json {
        true => print(format!("{}\n", report.to_json()).as_bytes())?,
        false => print(table::page(&report).as_bytes())?,
    }
    for path in written {
        eprintln!("{}", path.display());
    }
    let (n, all) = (report.summary.n_flagged, report.summary.n_seconds);
    if args.strict && n > 0 {
        eyre::bail!(
            "{n} of {all} seconds are named, which --strict does not let pass; see {}",
            dir.display()
        );
    }
    Ok(())
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
fn hear_model(args: &mut AuditArgs, minutes: f64, reference: &Reference) -> eyre::Result<Heard> {
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
    let heard = audit::model(&mut setup, seconds, |n_done, n_codes| {
        if n_done == 0 {
            begin = Instant::now();
            bar.set_message("listening to the prompt");
        } else {
            let x_realtime = x_realtime(n_done, f64::from(rate_hz), begin);
            bar.set_message(format!("{x_realtime:.2} x real time"));
        }
        bar.set_length(n_codes);
        bar.set_position(n_done);
        match is_interrupted.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    let n_codes = bar.position();
    bar.finish_and_clear();
    let heard = heard?;
    let x_realtime = x_realtime(n_codes, f64::from(rate_hz), begin);
    let seed = setup.starts[0].seed;
    eprintln!("{seconds} s drawn, seed {seed}, {x_realtime:.2} x real time");
    Ok(heard)
}

/// Where the report goes unless --output says it.
fn directory(source: &Source) -> PathBuf {
    match source {
        Source::File { path } => Path::new(path).with_extension("audit"),
        Source::Model { name, seed, .. } => PathBuf::from(format!("{name}-{seed}.audit")),
    }
}
