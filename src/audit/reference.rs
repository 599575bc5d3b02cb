//! What sound of a corpus is like: quantiles of every feature, and the thresholds they lead to.

use std::fs;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::features::{Feature, Second};
use super::verdict::{TREBLE_MIN_DBFS, Thresholds, is_held, repeats_of};
use super::{AuditError, hear};
use crate::corpus::{self, Split};
use crate::files;
use crate::wav;

/// Which quantiles are kept, in percent.
pub const PERCENTS: [f64; 9] = [0.1, 1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0, 99.9];

/// Share of a corpus's seconds that a threshold may name; together 0.095 %, below the promised
/// 0.1 %. Rests are the one fault that music has by itself.
mod share {
    pub const FLATNESS: f64 = 5e-5;
    pub const TREBLE: f64 = 5e-5;
    pub const HELD: f64 = 5e-4;
    pub const LEVEL: f64 = 5e-5;
    /// Each flags as many seconds as it looks back on.
    pub const WAVER: f64 = 1e-4 / 5.0;
    pub const REPEAT: f64 = 1e-4 / 4.0;
    pub const CLICK: f64 = 1e-4;
}

/// A threshold stands beyond its quantile by this share of the quantile's distance from the
/// median: what a corpus did not show once may yet be music.
const MARGIN: f64 = 0.1;

/// What an audited sound is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Always [`Reference::FORMAT`].
    pub format: String,
    /// Always [`Reference::VERSION`].
    pub version: u32,
    /// Where it comes from, in words: the corpus, and how it was measured.
    pub origin: String,
    /// The corpus's rate; sound of another is not comparable.
    pub rate_hz: u32,
    /// Seconds measured.
    pub n_seconds: usize,
    /// Beyond which a second is named.
    pub thresholds: Thresholds,
    /// One for each feature that the corpus has.
    pub distributions: Vec<Distribution>,
}

/// How a feature is spread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// Of which feature.
    pub feature: Feature,
    /// The quantiles at [`PERCENTS`], in the feature's unit.
    pub quantiles: [f32; 9],
}

impl Distribution {
    /// Of the seconds that have the feature, if any has.
    pub fn of(feature: Feature, seconds: &[Second]) -> Option<Self> {
        let values = sorted(seconds.iter().filter_map(|second| feature.of(second)));
        let quantiles = PERCENTS.map(|percent| quantile(&values, percent / 100.0));
        (!values.is_empty()).then_some(Self { feature, quantiles })
    }

    /// The middle 98 %: from the 1st to the 99th percentile.
    pub fn usual(&self) -> std::ops::RangeInclusive<f32> {
        self.quantiles[1]..=self.quantiles[7]
    }
}

impl Reference {
    /// What the file says it is.
    pub const FORMAT: &str = "longwave-audit-reference";
    /// Grows when an older reader would misunderstand.
    pub const VERSION: u32 = 1;

    /// Piano at 16 kHz, the corpus of the models that come with the program.
    pub fn builtin() -> Self {
        let text = include_str!("piano-16k.json");
        serde_json::from_str(text).expect("the built-in reference is constant and tested")
    }

    /// Reads what [`write`](Self::write) wrote.
    pub fn read(path: &Path) -> Result<Self, AuditError> {
        let wrong = |why: String| AuditError::Reference {
            path: path.to_owned(),
            why,
        };
        let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let reference: Self =
            serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if (reference.format.as_str(), reference.version) != (Self::FORMAT, Self::VERSION) {
            let (format, version) = (&reference.format, reference.version);
            return Err(wrong(format!("it is {format}, version {version}")));
        }
        if !(1_000..=384_000).contains(&reference.rate_hz) {
            return Err(wrong(format!("its rate is {} Hz", reference.rate_hz)));
        }
        Ok(reference)
    }

    /// Writes it as JSON.
    pub fn write(&self, path: &Path) -> Result<(), AuditError> {
        let json = serde_json::to_string_pretty(self).expect("numbers and words have a JSON form");
        files::replace(path, (json + "\n").as_bytes()).map_err(|source| AuditError::Write {
            path: path.to_owned(),
            source,
        })
    }

    /// Measures a split of a corpus, on all cores.
    pub fn measure(corpus: &Path, split: Split) -> Result<Self, AuditError> {
        let files = corpus::files(corpus, split)?;
        let rate_hz = wav::head(&files[0])?.rate_hz;
        let recordings = files
            .par_iter()
            .map(|path| hear::seconds_of(path, rate_hz))
            .collect::<Result<Vec<_>, _>>()?;
        let n_files = files.len();
        let origin = format!("{}, split {split}, {n_files} files", corpus.display());
        if recordings.iter().all(Vec::is_empty) {
            return Err(AuditError::TooShort(corpus.join(split.name())));
        }
        Ok(Self::new(&recordings, rate_hz, origin))
    }

    /// From the seconds of recordings.
    pub fn new(recordings: &[Vec<Second>], rate_hz: u32, origin: String) -> Self {
        let seconds = recordings.concat();
        let distributions = Feature::ALL.into_iter();
        let distributions = distributions.filter_map(|feature| Distribution::of(feature, &seconds));
        Self {
            format: Self::FORMAT.to_owned(),
            version: Self::VERSION,
            origin,
            rate_hz,
            n_seconds: seconds.len(),
            thresholds: thresholds(recordings, &seconds),
            distributions: distributions.collect(),
        }
    }

    /// The distribution of a feature, if the corpus has it.
    pub fn distribution(&self, feature: Feature) -> Option<&Distribution> {
        let mut all = self.distributions.iter();
        all.find(|distribution| distribution.feature == feature)
    }
}

fn thresholds(recordings: &[Vec<Second>], seconds: &[Second]) -> Thresholds {
    let strictest = Thresholds::STRICTEST;
    let audible = || seconds.iter().filter(|s| s.treble_dbfs > TREBLE_MIN_DBFS);
    let repeats = recordings.iter().flat_map(|recording| {
        let all = 0..recording.len();
        all.map(|i| repeats_of(recording, i))
    });
    let upper = |values: Vec<f32>, share: f64, least: f32| {
        beyond(&values, 1.0 - share).map_or(least, |bound| bound.max(least))
    };
    let of = |feature: Feature| sorted(seconds.iter().filter_map(|s| feature.of(s)));
    let faint = sorted(seconds.iter().filter(|s| !is_held(s)).map(|s| s.level_dbfs));
    let faint = beyond(&faint, share::LEVEL);
    // A deviation is a scale: its distances are ratios.
    let logs: Vec<f32> = of(Feature::WaverDb).iter().map(|db| db.ln()).collect();
    let waver = beyond(&logs, share::WAVER).map(rounded_exp);
    Thresholds {
        flatness_db: upper(
            sorted(audible().map(|s| s.flatness_db)),
            share::FLATNESS,
            strictest.flatness_db,
        ),
        treble_dbfs: upper(
            of(Feature::TrebleDbfs),
            share::TREBLE,
            strictest.treble_dbfs,
        ),
        held_ms: upper(of(Feature::HeldMs), share::HELD, strictest.held_ms),
        level_dbfs: faint.map_or(strictest.level_dbfs, |db| db.min(strictest.level_dbfs)),
        waver_db: waver.map_or(strictest.waver_db, |db| db.min(strictest.waver_db)),
        repeat: upper(sorted(repeats), share::REPEAT, strictest.repeat).min(0.99),
        click_ratio: upper(of(Feature::ClickRatio), share::CLICK, strictest.click_ratio),
    }
}

fn sorted(values: impl Iterator<Item = f32>) -> Vec<f32> {
    let mut values: Vec<f32> = values.collect();
    values.sort_unstable_by(f32::total_cmp);
    values
}

/// The quantile and the margin beyond it, away from the median; to a precision that means anything.
fn beyond(values: &[f32], share: f64) -> Option<f32> {
    if values.is_empty() {
        return None;
    }
    let (at, median) = (quantile(values, share), quantile(values, 0.5));
    let bound = f64::from(at) + MARGIN * f64::from(at - median);
    Some(((bound * 1e3).round() / 1e3) as f32)
}

fn rounded_exp(log: f32) -> f32 {
    (log.exp() * 1e3).round() / 1e3
}

/// Between the two nearest values, in proportion; 0 of none.
pub(super) fn quantile(sorted: &[f32], share: f64) -> f32 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let at = share.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    let part = at - at.floor();
    let between = f64::from(sorted[low]) * (1.0 - part) + f64::from(sorted[high]) * part;
    // More digits than this are noise, and a report is read by people, too.
    ((between * 1e3).round() / 1e3) as f32
}
