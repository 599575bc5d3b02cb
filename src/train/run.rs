//! A training's directory: what lies where, and the settings that are kept in it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::TrainError;
use super::presets::Preset;
use super::recipe::{Budget, Recipe};
use crate::files;
use crate::model::{ModelConfig, ModelError};

/// Where everything of a training lies.
#[derive(Clone, Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The run in that directory.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The model's shapes.
    pub fn config(&self) -> PathBuf {
        self.0.join("config.json")
    }

    /// The settings.
    pub fn settings(&self) -> PathBuf {
        self.0.join("run.json")
    }

    /// What was measured on the way.
    pub fn metrics(&self) -> PathBuf {
        self.0.join("metrics.jsonl")
    }

    /// The same, drawn.
    pub fn curves(&self) -> PathBuf {
        self.0.join("curves.svg")
    }

    /// What a training goes on from.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint/state.safetensors")
    }

    /// A model to play: the averaged weights.
    pub fn model(&self) -> PathBuf {
        self.0.join("model")
    }

    /// What it sounded like after so many iterations.
    pub fn sample(&self, iteration: u64) -> PathBuf {
        self.0.join(format!("samples/{iteration:08}.wav"))
    }

    /// Makes the directory, and keeps other trainings out for as long as the file lives.
    pub(super) fn lock(&self) -> Result<File, TrainError> {
        fs::create_dir_all(&self.0).map_err(TrainError::write(&self.0))?;
        let dir = File::open(&self.0).map_err(TrainError::read(&self.0))?;
        match dir.try_lock() {
            Err(TryLockError::WouldBlock) => Err(TrainError::Busy(self.0.clone())),
            // A file system without locks is no reason not to train.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(dir),
        }
    }
}

/// Everything that is said about a training, besides its model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The release that wrote it.
    pub version: String,
    /// Where it began, if at a preset.
    pub preset: Option<String>,
    /// What it learns from.
    pub corpus: PathBuf,
    /// How.
    pub recipe: Recipe,
    /// For how long.
    pub budget: Option<Budget>,
    /// How often it is looked after.
    pub pace: Pace,
}

/// How often what happens beside training happens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// Minutes from checkpoint to checkpoint.
    pub save_minutes: f64,
    /// Minutes from one rendering to the next; 0 renders nothing.
    pub render_minutes: f64,
    /// Length of what is rendered.
    pub render_seconds: f64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            save_minutes: 2.0,
            render_minutes: 4.0,
            render_seconds: 5.0,
        }
    }
}

/// A training that can be begun or gone on with.
#[derive(Clone, Debug)]
pub struct Job {
    /// Where.
    pub dir: RunDir,
    /// The text of the model's `config.json`.
    pub model_json: String,
    /// How.
    pub settings: Settings,
    /// Whether there is a checkpoint to go on from.
    pub is_resumed: bool,
}

/// What a new training begins with.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A preset.
    Preset(Preset),
    /// A `config.json`; everything else is the recipe's default.
    Config(PathBuf),
}

impl Job {
    /// A new training in a directory that is empty or not there.
    pub fn new(output: &Path, corpus: &Path, origin: &Origin) -> Result<Self, TrainError> {
        let dir = RunDir::new(output);
        if dir.checkpoint().exists() {
            return Err(TrainError::Exists(output.to_owned()));
        }
        // One that was stopped before its first checkpoint has lost nothing.
        if !dir.settings().exists() && !is_vacant(output)? {
            return Err(TrainError::Occupied(output.to_owned()));
        }
        let (preset, recipe, budget) = match origin {
            Origin::Preset(p) => (Some(p.name.to_owned()), p.recipe.clone(), Some(p.budget)),
            Origin::Config(_) => (None, Recipe::default(), None),
        };
        Ok(Self {
            dir,
            model_json: origin.model_json()?,
            settings: Settings {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                preset,
                corpus: corpus.to_owned(),
                recipe,
                budget,
                pace: Pace::default(),
            },
            is_resumed: false,
        })
    }

    /// The training in that directory. An origin that is named again must be the same model.
    pub fn resume(output: &Path, origin: Option<&Origin>) -> Result<Self, TrainError> {
        let dir = RunDir::new(output);
        if !dir.checkpoint().exists() {
            return Err(TrainError::NothingToResume(output.to_owned()));
        }
        let (config, settings) = (dir.config(), dir.settings());
        let model_json = fs::read_to_string(&config).map_err(TrainError::read(&config))?;
        let text = fs::read_to_string(&settings).map_err(TrainError::read(&settings))?;
        let settings = serde_json::from_str(&text).map_err(|error| TrainError::Damaged {
            path: settings,
            reason: error.to_string(),
        })?;
        if let Some(origin) = origin {
            same_architecture(output, &model_json, &origin.model_json()?)?;
        }
        Ok(Self {
            dir,
            model_json,
            settings,
            is_resumed: true,
        })
    }

    /// Refuses settings that nothing can be trained with, and gives the model's shapes.
    pub fn check(&self) -> Result<ModelConfig, TrainError> {
        let settings = &self.settings;
        settings.recipe.check().map_err(TrainError::Setting)?;
        if settings.budget.is_none() {
            let why = "a training needs an end: give --minutes or --samples";
            return Err(TrainError::Setting(why.into()));
        }
        parse_model(&self.dir.config(), &self.model_json)
    }

    /// Writes the settings and the model's shapes into the directory.
    pub(super) fn write(&self) -> Result<(), TrainError> {
        let settings = serde_json::to_string_pretty(&self.settings);
        let settings = settings.expect("settings are plain values") + "\n";
        // The settings first: by them the directory is known as a training's.
        replace(&self.dir.settings(), settings.as_bytes())?;
        replace(&self.dir.config(), self.model_json.as_bytes())
    }
}

impl Origin {
    fn model_json(&self) -> Result<String, TrainError> {
        match self {
            Self::Preset(preset) => Ok(preset.model_json.clone()),
            Self::Config(path) => {
                let text = fs::read_to_string(path).map_err(|source| ModelError::Read {
                    path: path.clone(),
                    source,
                })?;
                parse_model(path, &text).map(|_| text)
            }
        }
    }
}

fn parse_model(path: &Path, json: &str) -> Result<ModelConfig, TrainError> {
    let config = ModelConfig::parse(json).map_err(|reason| ModelError::Config {
        path: path.to_owned(),
        reason,
    })?;
    Ok(config)
}

/// Refuses two models that differ in anything, naming the first difference.
pub(super) fn same_architecture(run: &Path, kept: &str, given: &str) -> Result<(), TrainError> {
    let parse = |json: &str| serde_json::from_str::<Value>(json).unwrap_or_default();
    let (kept, given) = (parse(kept), parse(given));
    let keys = |value: &Value| -> Vec<String> {
        let object = value.as_object();
        object.map_or_else(Vec::new, |object| object.keys().cloned().collect())
    };
    let all = keys(&kept).into_iter().chain(keys(&given));
    match all.into_iter().find(|key| kept.get(key) != given.get(key)) {
        None => Ok(()),
        Some(key) => Err(TrainError::OtherArchitecture {
            run: run.to_owned(),
            difference: format!(
                "{key} is {} there and {} here",
                kept.get(&key).unwrap_or(&Value::Null),
                given.get(&key).unwrap_or(&Value::Null)
            ),
        }),
    }
}

/// Is the directory empty or not there?
fn is_vacant(path: &Path) -> Result<bool, TrainError> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(TrainError::read(path)(error)),
    }
}

/// As [`files::replace`].
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    files::replace(path, bytes).map_err(TrainError::write(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Origin {
        Origin::Preset(Preset::named("tiny").unwrap())
    }

    #[test]
    fn settings_are_what_they_were_after_being_kept() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let mut job = Job::new(&run, Path::new("corpus"), &tiny()).unwrap();
        job.settings.recipe.lr = 1.7e-3;
        drop(job.dir.lock().unwrap());
        job.write().unwrap();
        assert!(matches!(
            Job::resume(&run, None),
            Err(TrainError::NothingToResume(_))
        ));
        fs::create_dir(run.join("checkpoint")).unwrap();
        fs::write(job.dir.checkpoint(), "").unwrap();
        let again = Job::resume(&run, Some(&tiny())).unwrap();
        assert_eq!(again.settings, job.settings);
        assert_eq!(again.model_json, job.model_json);
        let why = Job::new(&run, Path::new("corpus"), &tiny()).unwrap_err();
        assert!(why.to_string().contains("--resume"), "{why}");
    }

    #[test]
    fn another_model_is_refused_by_its_first_difference() {
        let dir = tempfile::tempdir().unwrap();
        let job = Job::new(dir.path(), Path::new("corpus"), &tiny()).unwrap();
        job.write().unwrap();
        fs::create_dir(dir.path().join("checkpoint")).unwrap();
        fs::write(job.dir.checkpoint(), "").unwrap();
        let piano = Origin::Preset(Preset::named("piano-16k").unwrap());
        let why = Job::resume(dir.path(), Some(&piano)).unwrap_err();
        let why = why.to_string();
        assert!(why.contains("d_model is 64 there and 128 here"), "{why}");
    }

    #[test]
    fn a_directory_with_other_things_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("diary.txt"), "dear").unwrap();
        let why = Job::new(dir.path(), Path::new("corpus"), &tiny()).unwrap_err();
        assert!(matches!(why, TrainError::Occupied(_)), "{why}");
    }

    #[test]
    fn two_trainings_do_not_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::new(dir.path());
        let held = run.lock().unwrap();
        assert!(matches!(run.lock(), Err(TrainError::Busy(_))));
        drop(held);
        run.lock().unwrap();
    }
}
