//! `audit`

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueHint};
use longwave::config::limits;
use longwave::config::{Config, ConfigError, StationConfig};
use longwave::corpus::Split;
use longwave::draw::KEYS;

use super::{ModelArgs, StreamArgs, WatchArgs, split, within};

/// Streams drawn side by side.
const STREAMS_MAX: usize = 256;

/// What is judged, with what it is compared, and where the answer goes.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).multiple(true)
    .args(["file", "minutes", "calibrate"])))]
pub struct AuditArgs {
    /// A recording to judge, at the reference's rate
    #[arg(value_name = "F.wav", value_hint = ValueHint::FilePath,
        conflicts_with_all = [&["minutes", "model", "seed", "prompt"], KEYS].concat())]
    pub file: Option<PathBuf>,

    /// Judge what a model draws in so many minutes instead
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = within::<f64>(limits::AUDIT_MINUTES))]
    pub minutes: Option<f64>,

    /// Draw so many streams side by side, of --seed and those that follow it
    #[arg(long, value_name = "N", conflicts_with = "file", requires = "minutes",
        value_parser = clap::value_parser!(u16).range(1..=STREAMS_MAX as i64), default_value_t = 1)]
    pub seeds: u16,

    /// Draw them after each of these, N streams for each WAV file; 256 streams in all at most
    #[arg(long, value_name = "F.wav", value_hint = ValueHint::FilePath, num_args = 1..,
        conflicts_with_all = ["file", "prompt"], requires = "minutes")]
    pub prompts: Vec<PathBuf>,

    /// Compare with this corpus, CORPUS/{train,valid,test}/*.wav [default: figures of the piano
    /// corpus at 16 kHz, built in]
    #[arg(long, value_name = "CORPUS", value_hint = ValueHint::DirPath, conflicts_with = "reference")]
    pub corpus: Option<PathBuf>,

    /// The part of the corpus to measure [default: valid]
    #[arg(long, value_name = "SPLIT", value_parser = split(), requires = "corpus")]
    pub split: Option<Split>,

    /// Write what was measured of the corpus to a file for --reference
    #[arg(long, value_name = "OUT.json", value_hint = ValueHint::FilePath, requires = "corpus")]
    pub calibrate: Option<PathBuf>,

    /// Compare with a corpus measured before by --calibrate
    #[arg(long, value_name = "REF.json", value_hint = ValueHint::FilePath)]
    pub reference: Option<PathBuf>,

    /// Where report.json, timeline.svg and spectrogram.png go; of several streams into DIR/SEED or
    /// DIR/PROMPT-SEED each [default: F.audit beside the recording; of a model MODEL-SEED.audit, here,
    /// of several streams MODEL.audits]
    #[arg(long, short, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: Option<PathBuf>,

    /// Print the report as JSON instead of a table
    #[arg(long)]
    pub json: bool,

    /// End with exit code 1 if any second is named
    #[arg(long)]
    pub strict: bool,

    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub stream: StreamArgs,
}

impl AuditArgs {
    /// The model and the streams that the command line describes, one station each.
    pub fn resolve(&mut self) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        std::mem::take(&mut self.model).apply(&mut config);
        std::mem::take(&mut self.stream).apply(&mut config);
        WatchArgs::OFF.apply(&mut config);
        config.check()?;
        self.check_prompts()?;
        // Not a daemon's stations: there may be more of these, and they have no names.
        config.stations = self.streams(&config.stations[0]);
        Ok(config)
    }

    /// Reports are called by the names of prompts, and all streams are drawn at once.
    fn check_prompts(&self) -> Result<(), ConfigError> {
        let fault = |why| {
            let key = "--prompts".into();
            Err(ConfigError::Value { key, why })
        };
        let n_streams = usize::from(self.seeds) * self.prompts.len();
        if n_streams > STREAMS_MAX {
            return fault(format!(
                "times --seeds are {n_streams} streams: {STREAMS_MAX} are drawn at most"
            ));
        }
        let mut known = BTreeMap::new();
        for prompt in &self.prompts {
            if let Some(other) = known.insert(prompt.file_stem(), prompt) {
                let (other, prompt) = (other.display(), prompt.display());
                return fault(format!(
                    "{other} and {prompt} have one name, and so would their reports: rename one"
                ));
            }
        }
        Ok(())
    }

    /// `one` with every seed after every prompt.
    fn streams(&self, one: &StationConfig) -> Vec<StationConfig> {
        let prompts: Vec<Option<PathBuf>> = match self.prompts.as_slice() {
            [] => vec![one.prompt.clone()],
            prompts => prompts.iter().cloned().map(Some).collect(),
        };
        let seeds = 0..u64::from(self.seeds);
        let all = prompts.iter().flat_map(|prompt| {
            seeds.clone().map(|i| StationConfig {
                seed: one.seed.map(|seed| seed.wrapping_add(i)),
                prompt: prompt.clone(),
                ..one.clone()
            })
        });
        all.collect()
    }
}
