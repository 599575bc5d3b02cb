//! A corpus: a directory of recordings made alike, and the making of it.
//!
//! `CORPUS/{train,valid,test}/*.wav` hold mono sound of one rate, cut into splits by recording.
//! [`files`] is all that a reader needs: it takes a corpus that `longwave prepare` made as well as
//! a plain directory of that form. Called by commands, never on a real-time thread.

mod convert;
mod decode;
mod find;
mod level;
mod manifest;
mod names;
mod pace;
mod plan;
mod prepare;
mod silence;
mod split;
mod store;
mod work;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::wav::WavError;

pub use convert::hush_decoders;
pub use decode::SUFFIXES;
pub use manifest::{Done, Entry, MANIFEST, Manifest, Options, Skipped, SplitTotals, Totals};
pub use pace::{OnProgress, Progress};
pub use prepare::{Order, Report, prepare};
pub use silence::Silence;
pub use split::{Shares, Split};

/// Why a corpus is not read or not made; the path and what to do are in each sentence.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// *Fatal*: no such directory, or it is no corpus.
    #[error(
        "{} is no corpus: it has no folder {split} with WAV files in it; make one with \
         `longwave prepare FOLDER --output CORPUS`",
        path.display()
    )]
    NoSplit {
        /// The corpus.
        path: PathBuf,
        /// What it lacks.
        split: Split,
    },
    /// *Fatal*: the system would not list the directory.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// What could not be read.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// *Fatal*: recordings come by the folder.
    #[error("{} is not a folder: name the folder that holds the recordings", .0.display())]
    NoFolder(PathBuf),
    /// *Fatal*: nothing to make a corpus of.
    #[error(
        "no recordings in {}, {}: files that end in {} are read",
        path.display(), count_others(*n_others), suffixes()
    )]
    NoRecordings {
        /// The folder.
        path: PathBuf,
        /// Files that end otherwise.
        n_others: usize,
    },
    /// *Fatal*: files of the corpus would be taken for recordings.
    #[error(
        "{} and the folder of the recordings lie within each other: \
         choose another --output beside it", .0.display()
    )]
    Inside(PathBuf),
    /// *Fatal*: other people's files stand there.
    #[error(
        "{} exists and is no corpus of `longwave prepare`: choose another --output or remove it",
        .0.display()
    )]
    Foreign(PathBuf),
    /// *Fatal*: files of one corpus are made alike.
    #[error(
        "{} was prepared with {were}: type that again to go on, or choose another --output or \
         remove it", path.display()
    )]
    OtherOptions {
        /// The corpus.
        path: PathBuf,
        /// Its options, as they are typed.
        were: String,
    },
    /// *Fatal*: the corpus belongs to other recordings.
    #[error(
        "{} was prepared from other recordings, none of which is in {}: choose another --output \
         or remove it", path.display(), folder.display()
    )]
    OtherFolder {
        /// The corpus.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// *Fatal*: nobody knows what the corpus is.
    #[error("{} is damaged ({reason}): remove the corpus, or choose another --output",
        path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// *Retry*: later.
    #[error("{} is being prepared by another process: wait for it", .0.display())]
    Busy(PathBuf),
    /// *Retry*: when there is room.
    #[error(
        "the disk is full at {}: make room and run the same again; what is done stays done",
        path.display()
    )]
    Full {
        /// What could not be written.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// *Fatal*: the system would not have it.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// What could not be written.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// *Fatal*: the writer of WAV files would not.
    #[error(transparent)]
    Wav(WavError),
    /// *Fatal*: recordings, but none fit for use.
    #[error("none of the {n} recordings can be used; the first, {first}, {reason}")]
    NothingUsable {
        /// Recordings.
        n: usize,
        /// One of them.
        first: String,
        /// What is wrong with it.
        reason: String,
    },
    /// *Retry*: the caller wanted no more for now.
    #[error("interrupted with {n_left} recordings left: run the same again to go on from there")]
    Interrupted {
        /// Recordings still to be converted.
        n_left: usize,
    },
}

impl CorpusError {
    fn write(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { path, source }
            }
            _ => Self::Write { path, source },
        }
    }

    fn of_wav(error: WavError) -> Self {
        match error {
            WavError::Write { path, source } => Self::write(&path, source),
            error => Self::Wav(error),
        }
    }
}

fn count_others(n: usize) -> String {
    match n {
        0 => "which is empty".to_owned(),
        1 => "which holds 1 file of another kind".to_owned(),
        n => format!("which holds {n} files of other kinds"),
    }
}

fn suffixes() -> String {
    SUFFIXES.map(|suffix| format!(".{suffix}")).join(" ")
}

/// The WAV files of one split, in the order of their names; at least one.
pub fn files(corpus: &Path, split: Split) -> Result<Vec<PathBuf>, CorpusError> {
    let dir = corpus.join(split.name());
    let read_error = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => CorpusError::NoSplit {
            path: corpus.to_owned(),
            split,
        },
        _ => CorpusError::Read {
            path: dir.clone(),
            source,
        },
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(&dir).map_err(read_error)? {
        let path = entry.map_err(read_error)?.path();
        // Names that begin with a dot are other programs' business, such as `._a.wav`.
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let is_wav = path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("wav"));
        if is_wav && !name.starts_with(b".") && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(read_error(io::ErrorKind::NotFound.into()));
    }
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests;
