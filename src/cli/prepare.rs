//! `prepare`: a progress bar around [`longwave::corpus::prepare`], and what came of it.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{FormattedDuration, ProgressBar};
use longwave::corpus::{self, MANIFEST, Progress, Report};

use super::args::prepare::PrepareArgs;
use super::exit::Outcome;
use super::interrupt;
use super::render::progress_bar;

/// Skipped recordings that are told one by one; the manifest has them all.
const N_TOLD_MAX: usize = 20;

/// The bar is shown on a terminal only; what was skipped is told on standard error.
pub fn run(args: PrepareArgs) -> Outcome {
    let order = args.order();
    let is_interrupted = interrupt::flag()?;
    corpus::hush_decoders();
    let bar = progress_bar();
    let stage = AtomicU64::new(u64::MAX);
    let result = corpus::prepare(&order, &|progress| {
        show(&bar, &stage, progress);
        match is_interrupted.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    bar.finish_and_clear();
    let report = result?;
    tell(&order.corpus, order.options.rate_hz, &report);
    Ok(())
}

/// Called by every thread for every packet; `stage` is what the bar was last set up for.
fn show(bar: &ProgressBar, stage: &AtomicU64, progress: Progress) {
    let now = progress.n_total << 1 | u64::from(progress.is_looking);
    if stage.swap(now, Ordering::Relaxed) != now {
        // The stages differ in speed: the time left is estimated anew.
        bar.reset();
        bar.set_length(progress.n_total);
        bar.set_message(match progress.is_looking {
            true => "looking",
            false => "converting",
        });
    }
    bar.set_position(progress.n_done);
}

fn tell(corpus: &Path, rate_hz: u32, report: &Report) {
    let totals = &report.manifest.totals;
    for skipped in report.manifest.skipped.iter().take(N_TOLD_MAX) {
        // A file's name may hold anything, also what a terminal obeys.
        eprintln!(
            "skipped: {} {}",
            skipped.source.escape_debug(),
            skipped.reason.escape_debug()
        );
    }
    if totals.n_skipped > N_TOLD_MAX {
        let (n, corpus) = (totals.n_skipped - N_TOLD_MAX, corpus.display());
        eprintln!("skipped: {n} more, see {corpus}/{MANIFEST}");
    }
    let splits = totals.splits.iter();
    let splits: Vec<String> = splits
        .map(|(split, of)| format!("{split} {} ({})", of.n_files, length(of.seconds)))
        .collect();
    eprintln!(
        "{}: {} recordings, {} at {rate_hz} Hz: {}; {} converted now, {} skipped, {} removed",
        corpus.display(),
        totals.n_files,
        length(totals.seconds),
        splits.join(", "),
        report.n_made,
        totals.n_skipped,
        report.n_removed,
    );
}

fn length(seconds: f64) -> FormattedDuration {
    FormattedDuration(Duration::from_secs_f64(seconds.max(0.0)))
}
