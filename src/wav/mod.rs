//! WAV files in and out, mono on our side.
//!
//! Called by `main`, never on a real-time thread. Reading takes what music software writes
//! (integers of 8, 16, 24 or 32 bits, f32, plain or extensible headers, up to 64 channels) and
//! holds in memory only what the caller asked for; writing goes to a file beside the target that
//! takes its name once it is whole, so nobody ever sees half a file.

mod read;
mod write;

use std::io;
use std::path::PathBuf;

use crate::resample::ResampleError;

pub use read::{Head, each_block, head, parse_mono, read_mono};
pub use write::{WavFormat, WavWriter, abandon_all, header};

/// Why a WAV file was not read or written; the path is in each sentence.
#[derive(Debug, thiserror::Error)]
pub enum WavError {
    /// Fatal: the system would not read the file.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Fatal: the system would not write the file.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file as the caller named it.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Fatal: a directory, a device or a pipe has the name, and must keep it.
    #[error("cannot write {path}: it exists and is not a regular file; name another")]
    NoFile {
        /// What stands there.
        path: PathBuf,
    },
    /// Fatal: another kind of file.
    #[error("{path} is not a WAV file: {reason}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What the header lacks.
        reason: &'static str,
    },
    /// Fatal: a WAV file in a form this program does not read.
    #[error("{path} holds {what}; convert it to 16-bit PCM first")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it holds.
        what: String,
    },
    /// Fatal: the header promises more than there is.
    #[error("{path} is truncated: its header promises {expected} bytes of sound, it holds {got}")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes promised.
        expected: u64,
        /// Bytes found.
        got: u64,
    },
    /// Fatal: no sound at all.
    #[error("{path} holds no sound: it is 0 seconds long")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Fatal: NaN or infinity.
    #[error("{path} holds a sample that is not a finite number, at frame {frame}")]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// Where.
        frame: u64,
    },
    /// Fatal: sound of another rate, where nothing converts it.
    #[error(
        "{path} is sound at {got} Hz, and {expected} Hz is needed; \
         `longwave prepare --rate {expected}` makes a corpus of that rate"
    )]
    OtherRate {
        /// The file.
        path: PathBuf,
        /// The rate needed.
        expected: u32,
        /// The file's.
        got: u32,
    },
    /// Fatal: the rate cannot be converted.
    #[error("{path}: {source}")]
    Rate {
        /// The file.
        path: PathBuf,
        /// The resampler's reason.
        source: ResampleError,
    },
    /// Fatal: more sound than a WAV file can count.
    #[error(
        "{path} would hold more than the 4 GiB a WAV file can count: \
         write fewer seconds, a lower rate or a smaller format"
    )]
    TooLong {
        /// The file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn write_spec(path: &Path, spec: hound::WavSpec, samples: &[f32]) {
        let mut writer = hound::WavWriter::create(path, spec).unwrap();
        for &sample in samples {
            match spec.sample_format {
                hound::SampleFormat::Float => writer.write_sample(sample).unwrap(),
                hound::SampleFormat::Int => {
                    let n_bits = u32::from(spec.bits_per_sample) - 1;
                    writer
                        .write_sample((f64::from(sample) * f64::from(1u32 << n_bits)) as i32)
                        .unwrap();
                }
            }
        }
        writer.finalize().unwrap();
    }

    fn spec(channels: u16, sample_rate: u32, bits_per_sample: u16) -> hound::WavSpec {
        hound::WavSpec {
            channels,
            sample_rate,
            bits_per_sample,
            sample_format: hound::SampleFormat::Int,
        }
    }

    fn error_of(bytes: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bad.wav");
        fs::write(&path, bytes).unwrap();
        let error = read_mono(&path, 16_000, 1.0).unwrap_err().to_string();
        assert!(
            error.contains("bad.wav") && !error.contains('\n'),
            "{error}"
        );
        error
    }

    fn good_bytes() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("good.wav");
        write_spec(&path, spec(1, 16_000, 16), &[0.25; 1_000]);
        fs::read(path).unwrap()
    }

    #[test]
    fn every_format_we_write_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let samples: Vec<f32> = (0..500).map(|i| (i as f32 * 0.1).sin() * 0.9).collect();
        for (format, error_max) in [
            (WavFormat::S16, 0.5 / 32_768.0),
            (WavFormat::S24, 0.5 / 8_388_608.0),
            (WavFormat::F32, 0.0),
        ] {
            let path = dir.path().join(format.name());
            let mut writer = WavWriter::create(&path, 16_000, format, Some(500)).unwrap();
            writer.write(&samples[..123]).unwrap();
            writer.write(&samples[123..]).unwrap();
            assert!(!path.exists(), "half a file stands in its place");
            writer.finish().unwrap();
            let got = read_mono(&path, 16_000, 10.0).unwrap();
            assert_eq!(got.len(), samples.len());
            for (g, s) in got.iter().zip(&samples) {
                assert!((g - s).abs() <= error_max + 1e-9, "{format}: {g} for {s}");
            }
        }
    }

    #[test]
    fn integers_of_every_width_and_channel_count_become_mono() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.wav");
        for bits in [8, 16, 24, 32] {
            for channels in [1u16, 2, 8, 64] {
                // The first channel carries 0.5, the others 0.25.
                let frame: Vec<f32> = (0..channels)
                    .map(|c| if c == 0 { 0.5 } else { 0.25 })
                    .collect();
                write_spec(&path, spec(channels, 16_000, bits), &frame.repeat(100));
                let got = read_mono(&path, 16_000, 1.0).unwrap();
                let want = 0.25 + 0.25 / f32::from(channels);
                assert_eq!(got.len(), 100);
                assert!(
                    got.iter().all(|x| (x - want).abs() < 1e-6),
                    "{bits} bits, {channels}"
                );
            }
        }
    }

    #[test]
    fn only_the_last_seconds_are_kept_at_the_rate_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.wav");
        // Three seconds of silence, then one of a constant.
        let mut samples = vec![0.0; 3 * 8 * 192_000];
        samples.resize(4 * 8 * 192_000, 0.5);
        write_spec(&path, spec(8, 192_000, 16), &samples);
        let got = read_mono(&path, 16_000, 0.5).unwrap();
        assert_eq!(got.len(), 8_000);
        assert!(got[..7_900].iter().all(|x| (x - 0.5).abs() < 1e-3));
        assert_eq!(read_mono(&path, 16_000, 100.0).unwrap().len(), 64_000);
    }

    #[test]
    fn every_truncation_is_refused_in_one_sentence() {
        let good = good_bytes();
        for len in 0..good.len() {
            error_of(&good[..len]);
        }
        let error = error_of(&good[..good.len() - 1]);
        assert!(
            error.contains("promises 2000 bytes") && error.contains("holds 1999"),
            "{error}"
        );
    }

    #[test]
    fn a_stream_saved_without_its_length_is_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stream.wav");
        let good = good_bytes();
        for length in [0, u32::MAX] {
            let mut bytes = good.clone();
            let data = bytes.windows(4).position(|w| w == b"data").unwrap();
            bytes[data + 4..data + 8].copy_from_slice(&length.to_le_bytes());
            bytes[4..8].copy_from_slice(&length.to_le_bytes());
            fs::write(&path, bytes).unwrap();
            assert_eq!(read_mono(&path, 16_000, 1.0).unwrap().len(), 1_000);
        }
    }

    #[test]
    fn what_follows_sound_of_no_length_is_not_heard() {
        let mut bytes = good_bytes();
        let data = bytes.windows(4).position(|w| w == b"data").unwrap();
        bytes.truncate(data + 4);
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(b"LIST\x04\0\0\0INFO");
        let riff_len = (bytes.len() - 8) as u32;
        bytes[4..8].copy_from_slice(&riff_len.to_le_bytes());
        assert!(error_of(&bytes).contains("0 seconds"));
    }

    #[test]
    fn foreign_files_silence_of_no_length_and_nan_are_refused_by_name() {
        assert!(error_of(b"OggS and so on, long enough to be a header").contains("not a WAV"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.wav");
        write_spec(&path, spec(1, 16_000, 16), &[]);
        assert!(error_of(&fs::read(&path).unwrap()).contains("0 seconds"));
        let float = hound::WavSpec {
            sample_format: hound::SampleFormat::Float,
            ..spec(1, 16_000, 32)
        };
        write_spec(&path, float, &[0.0, 0.1, f32::NAN]);
        assert!(error_of(&fs::read(&path).unwrap()).contains("at frame 2"));
        write_spec(&path, spec(65, 16_000, 16), &[0.0; 65]);
        assert!(error_of(&fs::read(&path).unwrap()).contains("65 channels"));
        write_spec(&path, spec(1, 999, 16), &[0.0; 65]);
        assert!(error_of(&fs::read(&path).unwrap()).contains("999 Hz"));
        let error = read_mono(&dir.path().join("none"), 16_000, 1.0).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }

    #[test]
    fn samples_beyond_all_measure_stay_finite_at_another_rate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("loud.wav");
        let float = hound::WavSpec {
            sample_format: hound::SampleFormat::Float,
            ..spec(2, 48_000, 32)
        };
        // Every second frame negative for a while: the filter adds what it finds.
        let sign = |i: usize| if i % 4 < 2 { 1.0 } else { -1.0 };
        let samples: Vec<f32> = (0..9_600)
            .map(|i| f32::MAX * if i < 4_800 { 1.0 } else { sign(i) })
            .collect();
        write_spec(&path, float, &samples);
        let got = read_mono(&path, 16_000, 1.0).unwrap();
        assert_eq!(got.len(), 1_600);
        assert!(got.iter().all(|sample| sample.is_finite()));
        assert!(got[100..700].iter().all(|sample| *sample >= 1.0));
    }

    #[test]
    fn random_damage_never_panics() {
        let good = good_bytes();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.wav");
        let mut state = 1u32;
        for _ in 0..500 {
            let mut bytes = good[..200].to_vec();
            for _ in 0..4 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                bytes[(state >> 8) as usize % 48] = (state >> 24) as u8;
            }
            fs::write(&path, bytes).unwrap();
            let _ = read_mono(&path, 16_000, 1.0);
        }
    }
}
