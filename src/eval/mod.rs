//! `longwave eval`: how well a model predicts sound it never heard, in bits per sample, and how
//! much of the past helps it.
//!
//! Called by commands on the main thread. Everything is a function of the model and the corpus: the
//! same windows on every machine, so figures can be compared.

mod context;
mod plot;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use context::{Context, ContextPoint, DEFAULT_TARGETS, contexts, measure as context};
pub use plot::{PlotError, write as plot};

use crate::corpus::Split;
use crate::train::{CodesError, Reading, Scorer, TrainError, codes, spread};

/// Codes of a window of the protocol.
pub const WINDOW: usize = 65_536;
/// Windows of the protocol.
pub const DEFAULT_WINDOWS: u32 = 48;
/// What the protocol leaves free at the end of a split.
const TAIL: usize = 2;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// *Fatal*: see [`CodesError`].
    #[error(transparent)]
    Codes(#[from] CodesError),
    /// See [`TrainError`].
    #[error(transparent)]
    Compute(#[from] TrainError),
    /// *Fatal*: the split is too short to be measured by.
    #[error(
        "{} holds {got} samples, and {needed} are needed: add recordings, or measure another \
         --split",
        path.display()
    )]
    Short {
        /// The split's folder.
        path: PathBuf,
        /// Codes needed.
        needed: usize,
        /// Codes there are.
        got: usize,
    },
    /// *Fatal*: neither bits nor context were asked for.
    #[error("there is nothing to measure: give --windows 48, or --context, or both")]
    Nothing,
    /// The caller wanted no more.
    #[error("interrupted")]
    Interrupted,
}

/// How far it has come.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// The corpus is being read.
    Reading(Reading),
    /// Codes predicted, of so many.
    Predicted {
        /// Done.
        n_done: u64,
        /// Of so many.
        n_codes: u64,
    },
}

/// Who looks on, and may break off.
pub type Tell<'a> = &'a mut dyn FnMut(Event) -> ControlFlow<()>;

/// A split's codes, and where they are from.
#[derive(Clone, Debug)]
pub struct SplitCodes {
    /// Which split.
    pub split: Split,
    /// Its folder.
    pub path: PathBuf,
    /// All of it.
    pub codes: Vec<u8>,
}

impl SplitCodes {
    /// Reads a split of a corpus that is at `rate_hz`.
    pub fn read(
        corpus: &Path,
        split: Split,
        rate_hz: u32,
        tell: Tell<'_>,
    ) -> Result<Self, EvalError> {
        let mut on_progress = |reading| tell(Event::Reading(reading));
        Ok(Self {
            split,
            path: corpus.join(split.name()),
            codes: codes::read(
                corpus,
                split,
                rate_hz,
                codes::Gap::Silence,
                &mut on_progress,
            )?,
        })
    }

    fn check(&self, needed: usize) -> Result<(), EvalError> {
        match self.codes.len() < needed {
            true => Err(EvalError::Short {
                path: self.path.clone(),
                needed,
                got: self.codes.len(),
            }),
            false => Ok(()),
        }
    }
}

/// Bits per sample of one split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bits {
    /// Which split.
    pub split: Split,
    /// The mean of −log2 p over all codes of all windows.
    pub bits_per_sample: f64,
    /// Its standard error, if windows were independent.
    pub standard_error: f64,
    /// How many windows.
    pub windows: usize,
    /// Codes of each.
    pub window: usize,
}

/// Measures by the protocol: `n_windows` windows of [`WINDOW`] codes at floor(i · (N − 65,538) /
/// (n − 1)), each from a cold start.
pub fn bits(
    scorer: &Scorer,
    split: &SplitCodes,
    n_windows: usize,
    tell: Tell<'_>,
) -> Result<Bits, EvalError> {
    split.check(WINDOW + TAIL)?;
    let n_codes = (n_windows * WINDOW) as u64;
    let mut means = Vec::with_capacity(n_windows);
    for start in spread(split.codes.len() - WINDOW - TAIL, n_windows) {
        let n_done = (means.len() * WINDOW) as u64;
        if tell(Event::Predicted { n_done, n_codes }).is_break() {
            return Err(EvalError::Interrupted);
        }
        let bits = scorer.bits(&split.codes[start..][..WINDOW])?;
        means.push(mean(bits.iter().map(|&bits| f64::from(bits))));
    }
    let (bits_per_sample, standard_error) = mean_and_error(&means);
    Ok(Bits {
        split: split.split,
        bits_per_sample,
        standard_error,
        windows: n_windows,
        window: WINDOW,
    })
}

fn mean(numbers: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = numbers.len() as f64;
    numbers.sum::<f64>() / n
}

/// The mean and its standard error; the error of fewer than two numbers is 0.
fn mean_and_error(numbers: &[f64]) -> (f64, f64) {
    let n = numbers.len() as f64;
    let middle = mean(numbers.iter().copied());
    if numbers.len() < 2 {
        return (middle, 0.0);
    }
    let squares: f64 = numbers.iter().map(|x| (x - middle).powi(2)).sum();
    (middle, (squares / (n - 1.0) / n).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::train::DeviceChoice;

    pub fn tiny() -> Scorer {
        let model = Model::load(Path::new("models/tiny")).unwrap();
        Scorer::new(&model, DeviceChoice::Cpu.open().unwrap().device).unwrap()
    }

    pub fn noise(n: usize) -> SplitCodes {
        SplitCodes {
            split: Split::Valid,
            path: "corpus/valid".into(),
            codes: (0..n as u32)
                .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
                .collect(),
        }
    }

    #[test]
    fn windows_cover_the_split_and_a_short_one_is_refused() {
        let (scorer, split) = (tiny(), noise(WINDOW + 1_000));
        let mut shares = Vec::new();
        let bits = bits(&scorer, &split, 2, &mut |step| {
            if let Event::Predicted { n_done, n_codes } = step {
                shares.push((n_done, n_codes));
            }
            ControlFlow::Continue(())
        });
        let bits = bits.unwrap();
        let all = 2 * WINDOW as u64;
        assert_eq!(shares, [(0, all), (WINDOW as u64, all)]);
        assert!(bits.bits_per_sample > 0.0, "{bits:?}");
        let first = scorer.bits(&split.codes[..WINDOW]).unwrap();
        let last = scorer.bits(&split.codes[998..][..WINDOW]).unwrap();
        let both = mean(
            first
                .iter()
                .chain(&last)
                .map(|&b| f64::from(b))
                .collect::<Vec<_>>()
                .into_iter(),
        );
        assert!((bits.bits_per_sample - both).abs() < 1e-6);
        let why = super::bits(
            &scorer,
            &noise(9_000),
            2,
            &mut |_| ControlFlow::Continue(()),
        );
        let why = why.unwrap_err().to_string();
        assert!(why.contains("corpus/valid holds 9000"), "{why}");
    }

    #[test]
    fn errors_of_means_are_those_of_the_books() {
        assert_eq!(mean_and_error(&[1.0, 3.0]), (2.0, 1.0));
        assert_eq!(mean_and_error(&[5.0]), (5.0, 0.0));
    }
}
