//! A split of a corpus as one long row of codes, in memory: what windows are cut from.
//!
//! Files follow each other in the order of their names with half a second of silence between, as
//! the protocol of `docs/training.md` says, so everybody's windows are the same.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::corpus::{self, CorpusError, Split};
use crate::mulaw;
use crate::wav::{self, WavError};

/// The most codes that are taken into memory: 8 GiB, 149 hours at 16 kHz.
const CODES_MAX: u64 = 8 << 30;

/// Why there are no codes. All are *fatal*: the corpus must change.
#[derive(Debug, thiserror::Error)]
pub enum CodesError {
    /// See [`CorpusError`].
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// See [`WavError`].
    #[error(transparent)]
    Wav(#[from] WavError),
    /// More than the memory that is allowed for it.
    #[error(
        "{path} holds {got} samples, more than the {CODES_MAX} that are kept in memory; \
         move some of its files elsewhere"
    )]
    TooLong {
        /// The split's folder.
        path: PathBuf,
        /// Codes that it would come to.
        got: u64,
    },
    /// The caller wanted no more.
    #[error("interrupted while the corpus was read")]
    Interrupted,
}

/// How far reading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Which split.
    pub split: Split,
    /// Codes read.
    pub n_done: u64,
    /// Of so many.
    pub n_codes: u64,
}

/// What lies between two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// The code of silence, as the protocol has it.
    Silence,
    /// The two codes nearest to silence in turn, by chance: a model that learns from exact silence
    /// never leaves it again.
    Noise,
}

impl Gap {
    fn codes(self, n: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
        match self {
            Self::Silence => vec![mulaw::SILENCE; n],
            Self::Noise => (0..n)
                .map(|_| mulaw::SILENCE - (rng.next_u32() >> 31) as u8)
                .collect(),
        }
    }
}

/// Reads a split; `on_progress` hears of every file and may break off.
pub fn read(
    corpus: &Path,
    split: Split,
    rate_hz: u32,
    gap: Gap,
    on_progress: &mut dyn FnMut(Reading) -> ControlFlow<()>,
) -> Result<Vec<u8>, CodesError> {
    let files = corpus::files(corpus, split)?;
    let gap_len = rate_hz as usize / 2;
    let n_codes = length(&files, gap_len)?;
    if n_codes > CODES_MAX {
        return Err(CodesError::TooLong {
            path: corpus.join(split.name()),
            got: n_codes,
        });
    }
    let (encoder, mut rng) = (Encoder::new(), ChaCha8Rng::seed_from_u64(0));
    let mut codes = Vec::with_capacity(n_codes as usize);
    for (i, path) in files.iter().enumerate() {
        let reading = Reading {
            split,
            n_done: codes.len() as u64,
            n_codes,
        };
        if on_progress(reading).is_break() {
            return Err(CodesError::Interrupted);
        }
        if i > 0 {
            codes.extend(gap.codes(gap_len, &mut rng));
        }
        wav::each_block(path, rate_hz, &mut |block| {
            codes.extend(block.iter().map(|&sample| encoder.encode(sample)));
        })?;
    }
    Ok(codes)
}

/// Codes that the files come to with gaps of `gap` between them.
fn length(files: &[PathBuf], gap: usize) -> Result<u64, CodesError> {
    let mut n_codes = (files.len().saturating_sub(1) * gap) as u64;
    for path in files {
        n_codes += wav::head(path)?.n_frames;
    }
    Ok(n_codes)
}

/// [`mulaw::encode`] with the answers for all 16-bit samples at hand: hours of sound are encoded
/// before the first iteration.
struct Encoder(Vec<u8>);

impl Encoder {
    const SCALE: f32 = 32_768.0;

    fn new() -> Self {
        let samples = (-32_768..=32_767).map(|whole: i32| whole as f32 / Self::SCALE);
        Self(samples.map(encode).collect())
    }

    fn encode(&self, sample: f32) -> u8 {
        let scaled = sample * Self::SCALE;
        let whole = scaled as i32;
        match usize::try_from(whole + 32_768).map(|i| self.0.get(i)) {
            Ok(Some(code)) if whole as f32 == scaled => *code,
            _ => encode(sample),
        }
    }
}

fn encode(sample: f32) -> u8 {
    mulaw::encode(sample).expect("`wav` gives finite samples only")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::wav::{WavFormat, WavWriter};

    fn write(path: &Path, rate_hz: u32, samples: &[f32]) {
        let mut file = WavWriter::create(path, rate_hz, WavFormat::S16, None).unwrap();
        file.write(samples).unwrap();
        file.finish().unwrap();
    }

    fn corpus() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("train")).unwrap();
        dir
    }

    fn read_train(corpus: &Path) -> Result<Vec<u8>, CodesError> {
        read(corpus, Split::Train, 8_000, Gap::Silence, &mut |_| {
            ControlFlow::Continue(())
        })
    }

    #[test]
    fn files_follow_in_the_order_of_their_names_with_half_a_second_between() {
        let dir = corpus();
        write(&dir.path().join("train/b.wav"), 8_000, &[0.5; 3]);
        write(&dir.path().join("train/a.wav"), 8_000, &[-0.5; 2]);
        let mut expected = vec![encode(-0.5); 2];
        expected.extend(vec![mulaw::SILENCE; 4_000]);
        expected.extend(vec![encode(0.5); 3]);
        assert_eq!(read_train(dir.path()).unwrap(), expected);
    }

    #[test]
    fn noise_between_files_keeps_to_the_two_codes_nearest_to_silence() {
        let gap = Gap::Noise.codes(4_000, &mut ChaCha8Rng::seed_from_u64(0));
        let n_up = gap.iter().filter(|code| **code == mulaw::SILENCE).count();
        assert!(gap.iter().all(|code| (127..=128).contains(code)));
        assert!((1_800..2_200).contains(&n_up), "{n_up}");
    }

    #[test]
    fn another_rate_is_refused_and_the_way_out_named() {
        let dir = corpus();
        write(&dir.path().join("train/a.wav"), 44_100, &[0.5; 9]);
        let why = read_train(dir.path()).unwrap_err().to_string();
        for word in ["a.wav", "44100", "8000 Hz", "longwave prepare --rate 8000"] {
            assert!(why.contains(word), "{word}: {why}");
        }
    }

    #[test]
    fn whoever_listens_can_break_off() {
        let dir = corpus();
        write(&dir.path().join("train/a.wav"), 8_000, &[0.5; 9]);
        let result = read(dir.path(), Split::Train, 8_000, Gap::Silence, &mut |_| {
            ControlFlow::Break(())
        });
        assert!(matches!(result, Err(CodesError::Interrupted)));
    }

    #[test]
    fn the_table_says_what_the_codec_says() {
        let encoder = Encoder::new();
        let whole = (-32_768..=32_767).map(|i: i32| i as f32 / 32_768.0);
        let odd = (-1_000..1_000).map(|i| i as f32 * 0.00137);
        for sample in whole
            .chain(odd)
            .chain([1.0, 8.0, -8.0, 0.0, -0.0, -1e-9, 1e-30])
        {
            assert_eq!(encoder.encode(sample), encode(sample), "{sample}");
        }
    }
}
