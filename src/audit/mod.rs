//! Judging long generation by numbers: what is wrong with which second.
//!
//! A stream of codes, from a file or drawn by a model as it goes, is measured second by second
//! ([`Second`]), compared with a corpus ([`Reference`]) and judged ([`Verdict`]). Everything is
//! measured on mu-law codes, a recording being encoded first: what the codec does to sound is then
//! the same on both sides. Called by `main`; the work is shared by rayon's threads.

mod alarms;
mod clicks;
mod extract;
mod features;
mod hear;
mod plot;
mod reference;
mod repeat;
mod report;
mod spectrogram;
mod steady;
#[cfg(test)]
mod tests;
mod verdict;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use alarms::Alarm;
pub use features::{Feature, Second};
pub use hear::{Heard, Source, file, models};
pub use reference::{Distribution, PERCENTS, Reference};
pub use report::{Beside, Compared, Judged, Report, Summary};
pub use spectrogram::Spectrogram;
pub use verdict::{Stretch, Thresholds, Verdict, stretches};

use crate::corpus::CorpusError;
use crate::files;
use crate::wav::WavError;

/// Why there is no judgement.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// *Fatal*: the recording cannot be read.
    #[error(transparent)]
    Wav(#[from] WavError),
    /// *Fatal*: the corpus cannot be read.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// *Fatal*: nothing to judge.
    #[error("{} is shorter than a second: there is nothing to judge", .0.display())]
    TooShort(PathBuf),
    /// *Fatal*: features of different rates are not comparable.
    #[error(
        "{} has {got} Hz and the reference {expected} Hz: name a corpus of {got} Hz with --corpus, \
         or bring the sound to {expected} Hz",
        path.display()
    )]
    Rate {
        /// The recording, or the model.
        path: PathBuf,
        /// Its rate.
        got: u32,
        /// The reference's.
        expected: u32,
    },
    /// *Fatal*: the reference file is none.
    #[error(
        "{} is no reference: {why}; make one with `longwave audit --corpus CORPUS --calibrate F.json`",
        path.display()
    )]
    Reference {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// *Fatal*: a report or picture cannot be written.
    #[error("cannot write {}: {source}; --output names a directory for the report", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// *Fatal*: the drawing library gave up.
    #[error("cannot draw the timeline: {0}")]
    Draw(String),
    /// The caller wanted no more.
    #[error("interrupted before the last second was drawn")]
    Interrupted,
}

/// Writes `report.json`, `timeline.svg` and `spectrogram.png` into `dir`, which is made if it is
/// missing. Returns what was written.
pub fn write(dir: &Path, heard: &Heard, report: &Report) -> Result<Vec<PathBuf>, AuditError> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| AuditError::Write { path, source }
    };
    let png = dir.join("spectrogram.png");
    let picture = heard.spectrogram.png(&report.verdicts());
    let picture = picture.map_err(failed(&png))?;
    let timeline = plot::timeline(report)?;
    fs::create_dir_all(dir).map_err(failed(dir))?;
    let files = [
        (dir.join("report.json"), report.to_json().into_bytes()),
        (dir.join("timeline.svg"), timeline.into_bytes()),
        (png, picture),
    ];
    let write = |(path, bytes): (PathBuf, Vec<u8>)| {
        files::replace(&path, &bytes).map_err(failed(&path))?;
        Ok(path)
    };
    files.into_iter().map(write).collect()
}
