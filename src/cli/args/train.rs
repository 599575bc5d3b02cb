//! What can be typed after `longwave train`.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueHint};
use longwave::config::limits;
use longwave::train::{Budget, DeviceChoice, Job, Origin, Pace, Preset, Recipe, TrainError};

use super::{replace, within};

/// `train`
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// A corpus, as `longwave prepare` makes it; with --resume it need not be said again
    #[arg(value_name = "CORPUS", value_hint = ValueHint::DirPath,
        required_unless_present = "resume")]
    pub corpus: Option<PathBuf>,

    /// Where the training lives: checkpoint, model, curves and samples
    #[arg(long, short, value_name = "RUN", value_hint = ValueHint::DirPath)]
    pub output: PathBuf,

    /// Go on from the checkpoint in RUN with the settings kept there; what is said here goes
    /// before them
    #[arg(long)]
    pub resume: bool,

    /// A training that works [default: tiny]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Preset::NAMES))]
    pub preset: Option<String>,

    /// Train a model of these shapes instead, with the defaults below
    #[arg(long, short, value_name = "config.json", value_hint = ValueHint::FilePath,
        conflicts_with = "preset")]
    pub config: Option<PathBuf>,

    /// What computes: auto, cpu, or cuda:0
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: DeviceChoice,

    #[command(flatten)]
    pub budget: BudgetArgs,
    #[command(flatten)]
    pub recipe: RecipeArgs,
    #[command(flatten)]
    pub pace: PaceArgs,
}

/// For how long.
#[derive(Debug, Args)]
#[command(next_help_heading = "Budget, all resumptions together")]
pub struct BudgetArgs {
    /// So many minutes by the clock [default: the preset's]
    #[arg(long, value_name = "M", value_parser = within::<f64>(limits::MINUTES))]
    pub minutes: Option<f64>,

    /// So many samples heard, which makes every training with a seed the same
    #[arg(long, value_name = "N", conflicts_with = "minutes",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub samples: Option<u64>,
}

/// How.
#[derive(Debug, Args)]
#[command(next_help_heading = "Recipe (a preset may have other defaults)")]
pub struct RecipeArgs {
    /// Samples of a window [default: 65536]
    #[arg(long, value_name = "T")]
    pub window: Option<usize>,

    /// Windows at once [default: 2]
    #[arg(long, value_name = "B")]
    pub batch: Option<usize>,

    /// Batches whose gradients make one iteration [default: 1]
    #[arg(long, value_name = "N")]
    pub accumulate: Option<usize>,

    /// Learning rate at its height [default: 0.003]
    #[arg(long, value_name = "R")]
    pub lr: Option<f64>,

    /// Iterations in which the learning rate rises [default: 300]
    #[arg(long, value_name = "N")]
    pub warmup: Option<u64>,

    /// Share of the budget until which it stays at its height [default: 0.3]
    #[arg(long, value_name = "SHARE")]
    pub hold: Option<f64>,

    /// Share of its height to which it then falls [default: 0.02]
    #[arg(long, value_name = "SHARE")]
    pub floor: Option<f64>,

    /// Weight decay of matrices [default: 0.05]
    #[arg(long, value_name = "D")]
    pub decay: Option<f32>,

    /// Longest gradient [default: 1]
    #[arg(long, value_name = "LENGTH")]
    pub clip: Option<f32>,

    /// Share of the averaged weights that an iteration keeps; 0 averages nothing [default: 0.999]
    #[arg(long, value_name = "SHARE")]
    pub ema: Option<f32>,

    /// Share of the input codes that are moved a little, against runaway noise [default: 0]
    #[arg(long, value_name = "SHARE")]
    pub input_noise: Option<f64>,

    /// By so many codes, the standard deviation [default: 4]
    #[arg(long, value_name = "CODES")]
    pub noise_width: Option<f64>,

    /// In runs of so many codes, on average: noisy for a while, and not in between
    /// [default: 1]
    #[arg(long, value_name = "CODES")]
    pub noise_run: Option<f64>,

    /// Share of the input codes that are replaced by any [default: 0]
    #[arg(long, value_name = "SHARE")]
    pub input_replace: Option<f64>,

    /// Share of the budget until which inputs are moved and replaced; then they are clean, and the
    /// model learns to trust them [default: 1]
    #[arg(long, value_name = "SHARE")]
    pub noise_until: Option<f64>,

    /// Draws the first weights and the windows [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// What happens beside.
#[derive(Debug, Args)]
#[command(next_help_heading = "Beside")]
pub struct PaceArgs {
    /// Minutes from checkpoint to checkpoint [default: 2]
    #[arg(long, value_name = "M", value_parser = within::<f64>(limits::MINUTES))]
    pub save_every: Option<f64>,

    /// Minutes from one rendering to the next; 0 renders nothing [default: 4]
    #[arg(long, value_name = "M", value_parser = within::<f64>(limits::MINUTES_OR_NEVER))]
    pub render_every: Option<f64>,

    /// Seconds of each [default: 5]
    #[arg(long, value_name = "S", value_parser = within::<f64>(limits::SECONDS))]
    pub render_seconds: Option<f64>,
}

/// Where a training begins that is told nothing.
const DEFAULT_PRESET: &str = "tiny";

impl TrainArgs {
    /// The training that the command line and the directory come to.
    pub fn resolve(&self) -> Result<Job, TrainError> {
        let origin = self.origin();
        let mut job = match (self.resume, &self.corpus) {
            (true, _) => Job::resume(&self.output, origin.as_ref())?,
            (false, corpus) => {
                let origin = origin.unwrap_or_else(|| preset(DEFAULT_PRESET));
                let corpus = corpus.as_deref().expect("clap asks for it");
                Job::new(&self.output, corpus, &origin)?
            }
        };
        let settings = &mut job.settings;
        // Resumed from another directory it is the same corpus.
        let corpus = self.corpus.as_ref();
        let corpus = corpus.map(|corpus| std::path::absolute(corpus).unwrap_or(corpus.clone()));
        replace(&mut settings.corpus, corpus);
        let minutes = self.budget.minutes.map(Budget::Minutes);
        let samples = self.budget.samples.map(Budget::Samples);
        settings.budget = minutes.or(samples).or(settings.budget);
        self.recipe.apply(&mut settings.recipe);
        self.pace.apply(&mut settings.pace);
        job.check().map(|_| job)
    }

    fn origin(&self) -> Option<Origin> {
        let config = self.config.clone().map(Origin::Config);
        config.or_else(|| self.preset.as_deref().map(preset))
    }
}

fn preset(name: &str) -> Origin {
    Origin::Preset(Preset::named(name).expect("clap takes the names of presets only"))
}

impl RecipeArgs {
    fn apply(&self, recipe: &mut Recipe) {
        replace(&mut recipe.window, self.window);
        replace(&mut recipe.batch, self.batch);
        replace(&mut recipe.accumulate, self.accumulate);
        replace(&mut recipe.lr, self.lr);
        replace(&mut recipe.warmup, self.warmup);
        replace(&mut recipe.hold, self.hold);
        replace(&mut recipe.floor, self.floor);
        replace(&mut recipe.decay, self.decay);
        replace(&mut recipe.clip, self.clip);
        replace(&mut recipe.ema, self.ema);
        replace(&mut recipe.input_noise, self.input_noise);
        replace(&mut recipe.noise_width, self.noise_width);
        replace(&mut recipe.noise_run, self.noise_run);
        replace(&mut recipe.input_replace, self.input_replace);
        replace(&mut recipe.noise_until, self.noise_until);
        replace(&mut recipe.seed, self.seed);
    }
}

impl PaceArgs {
    fn apply(&self, pace: &mut Pace) {
        replace(&mut pace.save_minutes, self.save_every);
        replace(&mut pace.render_minutes, self.render_every);
        replace(&mut pace.render_seconds, self.render_seconds);
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn args(line: &str) -> TrainArgs {
        match Cli::parse_from(line.split(' ')).command {
            Command::Train(args) => *args,
            other => panic!("{other:?} is no training"),
        }
    }

    #[test]
    fn the_help_names_the_true_defaults() {
        let help = Cli::command()
            .find_subcommand_mut("train")
            .unwrap()
            .render_long_help()
            .to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let (recipe, pace) = (Recipe::default(), Pace::default());
        let told = |text: &str, default: String| {
            let told = format!("{text} [default: {default}]");
            assert!(help.contains(&told), "{told}: {help}");
        };
        told("Samples of a window", recipe.window.to_string());
        told("Windows at once", recipe.batch.to_string());
        told("make one iteration", recipe.accumulate.to_string());
        told("Learning rate at its height", recipe.lr.to_string());
        told("learning rate rises", recipe.warmup.to_string());
        told("stays at its height", recipe.hold.to_string());
        told("then falls", recipe.floor.to_string());
        told("of matrices", recipe.decay.to_string());
        told("Longest gradient", recipe.clip.to_string());
        told("averages nothing", recipe.ema.to_string());
        told("against runaway noise", recipe.input_noise.to_string());
        told("deviation", recipe.noise_width.to_string());
        told("and not in between", recipe.noise_run.to_string());
        told("replaced by any", recipe.input_replace.to_string());
        told("to trust them", recipe.noise_until.to_string());
        told("the windows", recipe.seed.to_string());
        told("checkpoint to checkpoint", pace.save_minutes.to_string());
        told("renders nothing", pace.render_minutes.to_string());
        told("Seconds of each", pace.render_seconds.to_string());
        told("A training that works", DEFAULT_PRESET.into());
    }

    #[test]
    fn what_is_said_goes_before_the_preset() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run").display().to_string();
        let job = args(&format!("longwave train c -o {run} --lr 0.01 --minutes 3"));
        let job = job.resolve().unwrap();
        let tiny = Preset::named("tiny").unwrap();
        assert_eq!(job.settings.recipe.lr, 0.01);
        assert_eq!(job.settings.recipe.window, tiny.recipe.window);
        assert_eq!(job.settings.budget, Some(Budget::Minutes(3.0)));
        let job = args(&format!("longwave train c -o {run} --samples 7"));
        let budget = job.resolve().unwrap().settings.budget;
        assert_eq!(budget, Some(Budget::Samples(7)));
    }

    #[test]
    fn what_makes_no_training_is_refused() {
        for line in [
            "longwave train c",
            "longwave train -o run",
            "longwave train c -o run --minutes 1 --samples 1",
            "longwave train c -o run --preset tiny --config c.json",
            "longwave train c -o run --preset huge",
            "longwave train c -o run --minutes 0",
            "longwave train c -o run --device abacus",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
        let why = args("longwave train c -o no-such-run --batch 0").resolve();
        assert!(why.unwrap_err().to_string().contains("batch is 0"));
        let config = "longwave train c -o no-such-run --config models/tiny/config.json";
        let why = args(config).resolve().unwrap_err().to_string();
        assert!(why.contains("--minutes"), "{why}");
    }
}
