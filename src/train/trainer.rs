//! The loop: windows in, gradients back, a step; now and then a look at the loss, a checkpoint,
//! something to listen to.
//!
//! Runs on the caller's thread. The device is asked for numbers only every [`LOOK_ITERATIONS`], so
//! a GPU never waits for the host in between.

use std::fs::File;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};

use super::audition::{Audition, Take};
use super::checkpoint::{self, Checkpoint};
use super::codes::{self, Gap, Reading};
use super::device;
use super::error::TrainError;
use super::feed::Feed;
use super::metrics::{Metric, Metrics};
use super::ops::AdamW;
use super::optimiser::{Gradients, Optimiser};
use super::recipe::{Budget, Progress};
use super::run::Job;
use super::{Network, curves, readme, schedule, score};
use crate::corpus::{CorpusError, Split};
use crate::model::{self, Model, ModelConfig, Weights};

/// Iterations between two looks at the loss.
const LOOK_ITERATIONS: u64 = 20;
/// Nor longer than this: small devices take seconds for an iteration.
const LOOK_TIME: Duration = Duration::from_secs(2);
/// Codes of the validation split that are looked at with every checkpoint, at the least in so many
/// windows.
const VALID_CODES: usize = 65_536;
const VALID_WINDOWS_MIN: usize = 4;

/// What happens, for whoever looks on.
#[derive(Clone, Debug)]
pub enum Event {
    /// The corpus is being read.
    Reading(Reading),
    /// Iterations begin.
    Begin {
        /// The device in a word.
        device: &'static str,
        /// Codes to learn from.
        n_codes: u64,
        /// Values that are learnt.
        n_parameters: u64,
        /// What was done before.
        resumed: Progress,
    },
    /// A look at the loss.
    Look {
        /// What was measured.
        metric: Metric,
        /// The share of the budget that is used.
        share: f64,
        /// Seconds until it is used up, as far as one can say.
        left_s: f64,
    },
    /// A checkpoint is on the disk.
    Saved {
        /// What was measured of it.
        metric: Metric,
    },
    /// All is trained and saved; what the model sounds like is still being rendered. Told time and
    /// again: who breaks off goes without.
    Rendering,
    /// Something that a person should know and that stops nothing.
    Note(String),
}

/// Who looks on, and may say that it is enough: the training then saves and ends.
pub type Tell<'a> = &'a mut dyn FnMut(Event) -> ControlFlow<()>;

/// How a training ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ending {
    /// How far it came.
    pub progress: Progress,
    /// Bits per sample of the averaged weights on the validation windows, if there are any.
    pub valid_bits: Option<f64>,
    /// Whether it was stopped before its budget was used.
    pub is_interrupted: bool,
}

/// Trains until the budget is used or `tell` breaks off.
pub fn run(job: &Job, device: &Device, tell: Tell<'_>) -> Result<Ending, TrainError> {
    let config = job.check()?;
    device::check(&config, device).map_err(TrainError::Setting)?;
    let corpus = Corpus::read(job, &config, tell)?;
    let mut training = Training::begin(job, &config, device, corpus, tell)?;
    let was_stopped = training.iterate(tell);
    let ending = training.end(was_stopped?, tell);
    // The lock goes last.
    drop(training);
    ending
}

/// What is learnt from, and what it is judged by.
struct Corpus {
    train: Vec<u8>,
    /// Empty where there is no validation split.
    valid: Vec<u8>,
}

impl Corpus {
    fn read(job: &Job, config: &ModelConfig, tell: Tell<'_>) -> Result<Self, TrainError> {
        let (corpus, window) = (&job.settings.corpus, job.settings.recipe.window);
        let rate_hz = config.sample_rate_hz;
        let mut read = |split, gap| {
            codes::read(corpus, split, rate_hz, gap, &mut |reading| {
                tell(Event::Reading(reading))
            })
        };
        let train = read(Split::Train, Gap::Noise)?;
        if train.len() < window {
            return Err(TrainError::Short {
                path: corpus.join(Split::Train.name()),
                expected: window,
                got: train.len(),
            });
        }
        let valid = match read(Split::Valid, Gap::Silence) {
            Err(codes::CodesError::Corpus(CorpusError::NoSplit { .. })) => Vec::new(),
            valid => valid?,
        };
        let valid = Some(valid).filter(|valid| valid.len() >= window);
        if valid.is_none() {
            let note = "no validation split as long as a window: nothing to judge the model by";
            // An answer is only asked for once iterations run.
            let _ = tell(Event::Note(note.into()));
        }
        Ok(Self {
            train,
            valid: valid.unwrap_or_default(),
        })
    }
}

/// Everything that lives as long as iterations do.
struct Training<'a> {
    job: &'a Job,
    config: &'a ModelConfig,
    device: &'a Device,
    /// Empty where there is no validation split.
    valid: Vec<u8>,
    feed: Feed,
    network: Network,
    optimiser: Optimiser,
    metrics: Metrics,
    audition: Audition,
    progress: Progress,
    /// What was done before `begin`.
    resumed: Progress,
    begin: Instant,
    last_save: Instant,
    last_render: Instant,
    /// Iterations of the checkpoint that is on the disk.
    saved: Option<u64>,
    valid_bits: Option<f64>,
    _lock: File,
}

/// What was summed up on the device since the last look.
struct Sums {
    loss: Tensor,
    squares: Tensor,
    n: u64,
    lr: f64,
    since: Instant,
    samples_before: u64,
}

impl<'a> Training<'a> {
    fn begin(
        job: &'a Job,
        config: &'a ModelConfig,
        device: &'a Device,
        corpus: Corpus,
        tell: Tell<'_>,
    ) -> Result<Self, TrainError> {
        let lock = job.dir.lock()?;
        if !job.is_resumed && job.dir.checkpoint().exists() {
            // Another training was faster than the reading of this one's corpus.
            return Err(TrainError::Exists(job.dir.path().to_owned()));
        }
        let network = Network::new(config, device, job.settings.recipe.seed)?;
        let (optimiser, progress) = match job.is_resumed {
            true => checkpoint::restore(&network, &job.dir, &job.model_json)?,
            false => (Optimiser::new(&network)?, Progress::default()),
        };
        job.write()?;
        let n_parameters = network
            .parameters()
            .iter()
            .map(|parameter| parameter.value.as_tensor().elem_count() as u64);
        // The answer comes with the first look.
        let _ = tell(Event::Begin {
            device: device::name(device),
            n_codes: corpus.train.len() as u64,
            n_parameters: n_parameters.sum(),
            resumed: progress,
        });
        let recipe = job.settings.recipe.clone();
        let predictor = config.predictor.clone();
        let feed = Feed::new(corpus.train, recipe, predictor, device.clone());
        let now = Instant::now();
        let mut training = Self {
            metrics: Metrics::open(&job.dir.metrics(), progress.iteration)?,
            audition: Audition::default(),
            resumed: progress,
            begin: now,
            last_save: now,
            last_render: now,
            saved: job.is_resumed.then_some(progress.iteration),
            valid_bits: None,
            _lock: lock,
            job,
            config,
            device,
            valid: corpus.valid,
            feed,
            network,
            optimiser,
            progress,
        };
        // At once: a disk that is full or read-only is told before hours of work, not after.
        if training.saved.is_none() {
            training.save(tell)?;
        }
        Ok(training)
    }

    /// Returns whether it was stopped before the budget was used.
    fn iterate(&mut self, tell: Tell<'_>) -> Result<bool, TrainError> {
        let mut sums = Sums::new(self.device, self.progress.samples)?;
        loop {
            let is_used = self.share() >= 1.0;
            let is_due = sums.n >= LOOK_ITERATIONS || sums.since.elapsed() >= LOOK_TIME;
            let mut is_stopped = false;
            if sums.n > 0 && (is_used || is_due) {
                is_stopped = self.look(&mut sums, tell)?.is_break();
            }
            if is_used || is_stopped {
                return Ok(!is_used);
            }
            self.look_after(&mut sums, tell)?;
            self.iteration(&mut sums)?;
        }
    }

    /// One step of the optimiser.
    fn iteration(&mut self, sums: &mut Sums) -> Result<(), TrainError> {
        let recipe = &self.job.settings.recipe;
        let n_done = self.progress.iteration;
        let part_share = 1.0 / recipe.accumulate as f64;
        let is_noisy = self.share() < recipe.noise_until;
        let mut gradients = Gradients::default();
        for part in 0..recipe.accumulate as u64 {
            let pass = n_done * recipe.accumulate as u64 + part;
            let (inputs, targets) = self.feed.pass(pass, is_noisy)?;
            let loss = self.network.loss(&inputs, &targets)?;
            gradients.add(self.network.parameters(), &loss.backward()?, part_share)?;
            sums.loss = (&sums.loss + (loss.detach() * part_share)?)?;
        }
        sums.lr = schedule::learning_rate(recipe, n_done, self.share());
        let step = AdamW {
            lr: sums.lr as f32,
            beta1: recipe.beta1,
            beta2: recipe.beta2,
            eps: recipe.eps,
            decay: recipe.decay,
            clip: recipe.clip,
            ema: schedule::average_kept(recipe, n_done),
            iteration: n_done + 1,
        };
        let squares = self.optimiser.step(&self.network, &gradients, &step)?;
        sums.squares = (&sums.squares + squares)?;
        sums.n += 1;
        self.progress.iteration += 1;
        self.progress.samples += recipe.samples_per_iteration();
        self.progress.seconds = self.seconds();
        Ok(())
    }

    /// Fetches what was summed up, and starts to sum anew.
    fn look(&mut self, sums: &mut Sums, tell: Tell<'_>) -> Result<ControlFlow<()>, TrainError> {
        let n = sums.n as f64;
        let loss = f64::from(sums.loss.to_scalar::<f32>()?) / n;
        let squares = f64::from(sums.squares.to_vec1::<f32>()?[0]) / n;
        // Only now has the device done what it was told.
        self.progress.seconds = self.seconds();
        for (what, value) in [("the loss", loss), ("the gradient", squares)] {
            if !value.is_finite() {
                return Err(self.diverged(what, sums.n));
            }
        }
        let heard = self.progress.samples - sums.samples_before;
        let metric = Metric {
            bits: Some(loss / std::f64::consts::LN_2),
            lr: Some(sums.lr),
            gradient: Some(squares.sqrt()),
            samples_per_s: Some(heard as f64 / sums.since.elapsed().as_secs_f64().max(1e-9)),
            ..self.metric()
        };
        self.metrics.push(&self.job.dir.metrics(), metric)?;
        *sums = Sums::new(self.device, self.progress.samples)?;
        let share = self.share();
        Ok(tell(Event::Look {
            metric,
            share,
            left_s: self.left_s(share),
        }))
    }

    /// Saves and renders when it is time to.
    fn look_after(&mut self, sums: &mut Sums, tell: Tell<'_>) -> Result<(), TrainError> {
        let pace = &self.job.settings.pace;
        let is_due = |last: Instant, minutes: f64| last.elapsed().as_secs_f64() >= 60.0 * minutes;
        if is_due(self.last_save, pace.save_minutes) {
            if sums.n > 0 {
                // What is kept must be known to be good.
                let _ = self.look(sums, tell)?;
            }
            self.save(tell)?;
        }
        let renders = pace.render_minutes > 0.0 && !self.audition.is_busy();
        if renders && is_due(self.last_render, pace.render_minutes) {
            self.render(tell);
        }
        Ok(())
    }

    /// Writes the checkpoint, the model that can be played and the curves.
    fn save(&mut self, tell: Tell<'_>) -> Result<(), TrainError> {
        let kept = Checkpoint::take(&self.network, &self.optimiser, self.progress)?;
        let kept = kept.ok_or_else(|| self.diverged("a weight", 0))?;
        let settings = serde_json::to_string(&self.job.settings).expect("plain values");
        kept.write(&self.job.dir, &self.job.model_json, settings)?;
        self.saved = Some(self.progress.iteration);
        let weights = self.network.weights(&self.optimiser.averages())?;
        model::save(&self.job.dir.model(), &self.job.model_json, &weights)?;
        self.valid_bits = self.judge(&weights)?;
        readme::write(self.job, self.config, &self.progress, self.valid_bits)?;
        let metric = Metric {
            valid_bits: self.valid_bits,
            ..self.metric()
        };
        if metric.valid_bits.is_some() {
            self.metrics.push(&self.job.dir.metrics(), metric)?;
        }
        self.draw_curves(tell)?;
        self.last_save = Instant::now();
        // An answer is asked for at every look.
        let _ = tell(Event::Saved { metric });
        Ok(())
    }

    /// Bits per sample of the averaged weights on a few windows that are always the same.
    fn judge(&self, weights: &Weights) -> Result<Option<f64>, TrainError> {
        let (valid, window) = (&self.valid, self.job.settings.recipe.window);
        if valid.is_empty() {
            return Ok(None);
        }
        let network = Network::from_weights(self.config, weights, self.device)?;
        let n_windows = VALID_CODES.div_ceil(window).max(VALID_WINDOWS_MIN);
        let mut sum = 0.0;
        for start in score::spread(valid.len() - window, n_windows) {
            sum += score::mean_bits(&network, self.device, &valid[start..][..window])?;
        }
        Ok(Some(sum / n_windows as f64))
    }

    fn draw_curves(&self, tell: Tell<'_>) -> Result<(), TrainError> {
        let name = self.job.settings.preset.as_deref().unwrap_or("training");
        match curves::draw(self.metrics.lines(), name) {
            Ok(None) => Ok(()),
            Ok(Some(svg)) => super::run::replace(&self.job.dir.curves(), svg.as_bytes()),
            Err(why) => {
                let _ = tell(Event::Note(format!("no curves could be drawn: {why}")));
                Ok(())
            }
        }
    }

    /// Begins to render the averaged weights; what goes wrong there stops nothing here.
    fn render(&mut self, tell: Tell<'_>) {
        self.last_render = Instant::now();
        let begun = match self.network.weights(&self.optimiser.averages()) {
            Ok(weights) => self.audition.begin(self.take(weights)).map_err(words),
            Err(error) => Err(words(error)),
        };
        unheard(begun, tell);
    }

    fn take(&self, weights: Weights) -> Take {
        Take {
            model: Model {
                name: "training".to_owned(),
                config: self.config.clone(),
                weights,
                sha256: String::new(),
            },
            path: self.job.dir.sample(self.progress.iteration),
            seconds: self.job.settings.pace.render_seconds,
            seed: self.job.settings.recipe.seed,
        }
    }

    /// Renders a last time, for as long as somebody waits for it: all else is done.
    fn render_last(&mut self, tell: Tell<'_>) {
        if self.wait(tell) {
            self.render(tell);
            self.wait(tell);
        }
    }

    /// Waits for what is being rendered; false if nobody wants to any more.
    fn wait(&mut self, tell: Tell<'_>) -> bool {
        let mut is_wanted = || tell(Event::Rendering).is_continue();
        let waited = self.audition.wait(&mut is_wanted).map_err(words);
        unheard(waited, tell).unwrap_or(true)
    }

    /// Saves, and renders a last time unless nobody waits for it.
    fn end(&mut self, is_interrupted: bool, tell: Tell<'_>) -> Result<Ending, TrainError> {
        if self.saved != Some(self.progress.iteration) {
            self.save(tell)?;
        }
        let renders = self.job.settings.pace.render_minutes > 0.0;
        if renders && !is_interrupted {
            self.render_last(tell);
        }
        Ok(Ending {
            progress: self.progress,
            valid_bits: self.valid_bits,
            is_interrupted,
        })
    }

    fn metric(&self) -> Metric {
        Metric {
            iteration: self.progress.iteration,
            samples: self.progress.samples,
            seconds: self.progress.seconds,
            ..Metric::default()
        }
    }

    fn seconds(&self) -> f64 {
        self.resumed.seconds + self.begin.elapsed().as_secs_f64()
    }

    fn budget(&self) -> Budget {
        let budget = self.job.settings.budget;
        budget.expect("`Job::check` was asked")
    }

    /// The share of the budget that is used by now.
    fn share(&self) -> f64 {
        self.budget().share(&self.progress)
    }

    /// Seconds until the budget is used, at the speed of this process.
    fn left_s(&self, share: f64) -> f64 {
        let here_s = self.begin.elapsed().as_secs_f64();
        match self.budget() {
            Budget::Minutes(minutes) => (60.0 * minutes - self.progress.seconds).max(0.0),
            Budget::Samples(_) => {
                let before = self.budget().share(&self.resumed);
                (1.0 - share).max(0.0) * here_s / (share - before).max(1e-12)
            }
        }
    }

    fn diverged(&self, what: &'static str, n_unseen: u64) -> TrainError {
        let kept = match self.saved {
            Some(n) => format!("the checkpoint of iteration {n} is kept"),
            None => "there is no checkpoint yet".to_owned(),
        };
        TrainError::Diverged {
            what,
            first: self.progress.iteration - n_unseen,
            last: self.progress.iteration,
            kept,
            lr: self.job.settings.recipe.lr,
        }
    }
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What was rendered, or a note that there is nothing to listen to.
fn unheard<T>(rendered: Result<T, String>, tell: Tell<'_>) -> Option<T> {
    let told = |why: String| {
        let _ = tell(Event::Note(format!(
            "nothing to listen to this time: {why}"
        )));
    };
    rendered.map_err(told).ok()
}

impl Sums {
    fn new(device: &Device, samples: u64) -> Result<Self, TrainError> {
        Ok(Self {
            loss: Tensor::zeros((), DType::F32, device)?,
            squares: Tensor::zeros(1, DType::F32, device)?,
            n: 0,
            lr: 0.0,
            since: Instant::now(),
            samples_before: samples,
        })
    }
}

#[cfg(test)]
mod tests;
