//! `eval`: a table, or one JSON object.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;
use longwave::config::find_model;
use longwave::corpus::{self, CorpusError, Split};
use longwave::eval::{self, Bits, Context, EvalError, Event, SplitCodes};
use longwave::model::Model;
use longwave::train::Scorer;
use serde::Serialize;

use super::args::eval::EvalArgs;
use super::exit::Outcome;
use super::interrupt;
use super::pages::print;
use super::render::progress_bar;
use super::train::device;

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    sha256: String,
    device: &'static str,
    bits: Vec<Bits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context>,
}

/// Bits first, then context; figures are printed as soon as they are there.
pub fn run(args: &EvalArgs) -> Outcome {
    if args.windows == 0 && !args.context {
        return Err(EvalError::Nothing.into());
    }
    let model = Model::load(&find_model(&args.model)?)?;
    let splits = splits(args)?;
    let device = device(args.device)?;
    let scorer = Scorer::new(&model, device).map_err(EvalError::from)?;
    let watch = Watch::new()?;
    let mut report = Report {
        model: model.name.clone(),
        sha256: model.sha256.clone(),
        device: scorer.device(),
        bits: Vec::new(),
        context: None,
    };
    let rate_hz = model.config.sample_rate_hz;
    for (i, split) in splits.into_iter().enumerate() {
        let codes = SplitCodes::read(&args.corpus, split, rate_hz, &mut |s| watch.see(&s))?;
        if args.windows > 0 {
            let bits = eval::bits(&scorer, &codes, args.windows as usize, &mut |s| {
                watch.see(&s)
            })?;
            watch.tell(args, &line(&bits))?;
            report.bits.push(bits);
        }
        if args.context && i == 0 {
            let (config, asked) = (&model.config, args.targets.map(|n| n as usize));
            let curve = eval::context(&scorer, config, &codes, asked, &mut |s| watch.see(&s))?;
            watch.tell(args, &table(&curve))?;
            report.context = Some(curve);
        }
    }
    watch.bar.finish_and_clear();
    if args.json {
        let json = serde_json::to_string_pretty(&report)?;
        print(format!("{json}\n").as_bytes())?;
    }
    if let (Some(dir), Some(curve)) = (&args.plot, report.context) {
        let path = eval::plot(&[curve], &report.model, dir)?;
        eprintln!("{}", path.display());
    }
    Ok(())
}

/// Those asked for; else those of valid and test that are there, and at least one must be.
fn splits(args: &EvalArgs) -> Result<Vec<Split>, EvalError> {
    if !args.split.is_empty() {
        return Ok(args.split.clone());
    }
    let has = |split: &Split| {
        let files = corpus::files(&args.corpus, *split);
        !matches!(files, Err(CorpusError::NoSplit { .. }))
    };
    let there: Vec<Split> = [Split::Valid, Split::Test]
        .into_iter()
        .filter(has)
        .collect();
    Ok(match there.is_empty() {
        // Reading it says what is missing.
        true => vec![Split::Valid],
        false => there,
    })
}

fn line(bits: &Bits) -> String {
    format!(
        "{:<6}{:.3} bits per sample  ± {:.3}, {} windows of {} samples\n",
        bits.split.name(),
        bits.bits_per_sample,
        bits.standard_error,
        bits.windows,
        bits.window
    )
}

fn table(curve: &Context) -> String {
    let mut page = format!(
        "\n{}: {} blocks of {} samples, each from several contexts\n\n\
         {:>9}  {:>9}  {:>6}  {:>24}\n",
        curve.split, curve.targets, curve.block, "context", "", "bits", "saved by what was added"
    );
    for (i, point) in curve.points.iter().enumerate() {
        let saved = match i {
            0 => String::new(),
            _ => format!("{:.4} ± {:.4}", point.gain, point.gain_error),
        };
        page += &format!(
            "{:>9}  {:>7.3} s  {:>6.3}  {saved:>24}\n",
            point.context, point.seconds, point.bits_per_sample
        );
    }
    page
}

/// The bar, and whether it is enough.
struct Watch {
    bar: ProgressBar,
    is_interrupted: Arc<AtomicBool>,
}

impl Watch {
    fn new() -> eyre::Result<Self> {
        Ok(Self {
            bar: progress_bar(),
            is_interrupted: interrupt::flag()?,
        })
    }

    fn see(&self, step: &Event) -> ControlFlow<()> {
        let (message, n_done, n_codes) = match step {
            Event::Reading(reading) => ("reading", reading.n_done, reading.n_codes),
            Event::Predicted { n_done, n_codes } => ("predicting", *n_done, *n_codes),
        };
        if n_done == 0 {
            self.bar.reset();
        }
        self.bar.set_message(message);
        self.bar.set_length(n_codes);
        self.bar.set_position(n_done);
        match self.is_interrupted.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Prints without tearing the bar; a JSON object comes at the end.
    fn tell(&self, args: &EvalArgs, text: &str) -> Outcome {
        match args.json {
            true => Ok(()),
            false => self.bar.suspend(|| print(text.as_bytes())),
        }
    }
}
