//! What can stop a training, each in one sentence that says what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::codes::CodesError;
use super::device::DeviceError;
use crate::model::ModelError;

/// Why a training did not begin or did not go on. Whatever happens, the last checkpoint is whole.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// See [`CodesError`].
    #[error(transparent)]
    Codes(#[from] CodesError),
    /// See [`DeviceError`].
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// See [`ModelError`].
    #[error(transparent)]
    Model(#[from] ModelError),
    /// *Fatal*: a setting that nothing can be trained with.
    #[error("{0}")]
    Setting(String),
    /// *Fatal*: the split is shorter than a window.
    #[error(
        "{} holds {got} samples, fewer than a window of {expected}; \
         add recordings or give a shorter --window",
        path.display()
    )]
    Short {
        /// The split's folder.
        path: PathBuf,
        /// Codes of a window.
        expected: usize,
        /// Codes of the split.
        got: usize,
    },
    /// *Fatal*: the directory holds a training already.
    #[error(
        "{} holds a training already: go on with it by --resume, or name another --output",
        .0.display()
    )]
    Exists(PathBuf),
    /// *Fatal*: the directory holds something else.
    #[error("{} is no training's directory and not empty: name a new one", .0.display())]
    Occupied(PathBuf),
    /// *Fatal*: there is nothing to go on with.
    #[error("{} holds no checkpoint to go on from: start without --resume", .0.display())]
    NothingToResume(PathBuf),
    /// *Retry*: another process trains there.
    #[error("{} is in use by another training: wait for it, or name another --output", .0.display())]
    Busy(PathBuf),
    /// *Fatal*: the checkpoint belongs to another architecture.
    #[error(
        "the checkpoint in {} is of another architecture ({difference}): go on without --preset \
         and --config, or start anew in another --output",
        run.display()
    )]
    OtherArchitecture {
        /// The run's directory.
        run: PathBuf,
        /// The first difference, in words.
        difference: String,
    },
    /// *Fatal*: a file of the run is not what was written.
    #[error("{} is damaged: {reason}; start anew in another --output", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// *Retry* once there is room: a file of the run cannot be read or written.
    #[error(
        "cannot {verb} {}: {source}; the last checkpoint is whole: mend that, then go on with --resume",
        path.display()
    )]
    Io {
        /// Read or write.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// *Fatal* with these settings.
    #[error(
        "{what} is no longer a finite number, between iterations {first} and {last}: {kept}; \
         lower --lr (it was {lr}) or --clip, or lengthen --warmup, and go on with --resume"
    )]
    Diverged {
        /// The loss, the gradient, or the weights.
        what: &'static str,
        /// Iterations that were fine.
        first: u64,
        /// Iterations when it was noticed.
        last: u64,
        /// Which checkpoint there is, in words.
        kept: String,
        /// The recipe's rate.
        lr: f64,
    },
    /// *Fatal*: what computes gave up; mostly it has too little memory.
    #[error("{}", compute_sentence(.0))]
    Compute(#[from] candle_core::Error),
}

impl TrainError {
    pub(super) fn write(path: &Path) -> impl Fn(io::Error) -> Self {
        Self::io("write", path)
    }

    pub(super) fn read(path: &Path) -> impl Fn(io::Error) -> Self {
        Self::io("read", path)
    }

    fn io(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io {
            verb,
            path: path.to_owned(),
            source,
        }
    }
}

/// candle's words, which may have a backtrace behind them, as one sentence.
fn compute_sentence(error: &candle_core::Error) -> String {
    let said = error.to_string();
    let first = said.lines().next().unwrap_or_default();
    let is_memory = said.to_lowercase().contains("out of memory") || said.contains("OUT_OF_MEMORY");
    match is_memory {
        true => format!("the device has too little memory ({first}): lower --batch or --window"),
        false => format!("the device cannot go on: {first}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_device_is_told_what_to_lower() {
        let full = candle_core::Error::Msg("CUDA_ERROR_OUT_OF_MEMORY\nbacktrace".into());
        let said = TrainError::from(full).to_string();
        assert!(
            said.contains("--batch") && !said.contains("backtrace"),
            "{said}"
        );
    }
}
