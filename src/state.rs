//! What a station is, in a file: so that after a restart the music goes on where it stopped.
//!
//! A line that says what the file is, the length of a head (u32), the head (JSON), the stream as its
//! engine keeps it, and the SHA-256 of all that; numbers are little-endian. A file is written whole or
//! not at all, and one that was damaged is refused.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::control::Snapshot;
use crate::draw::{DrawParams, or_neutral};
use crate::files;

const TITLE: &[u8] = b"longwave state 1\n";
const SUM_LEN: usize = 32;
/// Longer is no head.
const HEAD_LEN_MAX: usize = 64 * 1024;
/// Longer is the state of no stream.
const FILE_LEN_MAX: u64 = 1 << 30;

/// A station, kept.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Of the model that has drawn it.
    pub model_sha256: String,
    /// What the configuration said of it then.
    pub asked: Asked,
    /// The stream.
    pub snapshot: Snapshot,
}

/// What a configuration says of a station. What it has come to say since goes before what was kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// None that the clock has chosen.
    pub seed: Option<u64>,
    /// How it is drawn.
    #[serde(deserialize_with = "or_neutral")]
    pub draw: DrawParams,
    /// Of the codes that it hears first, if any.
    pub prompt_sha256: Option<String>,
}

impl Asked {
    /// With the codes of the prompt.
    pub fn new(seed: Option<u64>, draw: DrawParams, prompt: &[u8]) -> Self {
        Self {
            seed,
            draw,
            prompt_sha256: prompt_sha256(prompt),
        }
    }
}

/// What a prompt is called by, here and to listeners; `None` where there was none.
pub fn prompt_sha256(codes: &[u8]) -> Option<String> {
    (!codes.is_empty()).then(|| sha256_of(codes))
}

/// In hexadecimal.
pub fn sha256_of(codes: &[u8]) -> String {
    let digest = Sha256::digest(codes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why nothing goes on from a file. *Fatal* for the file: the station begins anew.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be read.
    #[error("cannot read the state in {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is none, not what was written, or of something else.
    #[error("the state in {} is {why}", path.display())]
    Useless {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        why: &'static str,
    },
}

/// All but the stream's bytes.
#[derive(Serialize, Deserialize)]
struct Head {
    model_sha256: String,
    asked: Asked,
    seed: u64,
    #[serde(deserialize_with = "or_neutral")]
    draw: DrawParams,
    gain: f32,
    position: u64,
}

impl State {
    /// Writes a file, in the place of the one before.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        files::replace(path, &self.to_bytes()?)
    }

    /// Reads a file; `None` if there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, StateError> {
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            let file = File::open(path)?;
            file.take(FILE_LEN_MAX).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let path = || path.to_owned();
        match read() {
            Ok(bytes) => Self::parse(&bytes)
                .map(Some)
                .map_err(|why| StateError::Useless { path: path(), why }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::Read {
                path: path(),
                source,
            }),
        }
    }

    /// Why an engine of a model whose lanes take `len` bytes cannot go on from this.
    pub fn objection(&self, model_sha256: &str, len: usize) -> Option<&'static str> {
        match (
            self.model_sha256 == model_sha256,
            self.snapshot.bytes.len() == len,
        ) {
            (true, true) => None,
            (true, false) => Some("of another version of longwave, or this engine takes none"),
            (false, _) => Some("of another model"),
        }
    }

    /// As a file holds it.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let Snapshot {
            seed,
            draw,
            gain,
            position,
            bytes,
            ..
        } = &self.snapshot;
        let head = serde_json::to_vec(&Head {
            model_sha256: self.model_sha256.clone(),
            asked: self.asked.clone(),
            seed: *seed,
            draw: *draw,
            gain: *gain,
            position: *position,
        })?;
        let head_len = head.len() as u32;
        let mut file = [TITLE, &head_len.to_le_bytes(), &head, bytes].concat();
        file.extend_from_slice(&Sha256::digest(&file));
        Ok(file)
    }

    fn parse(file: &[u8]) -> Result<Self, &'static str> {
        if !file.starts_with(TITLE) {
            return Err("none of this version");
        }
        let sum_at = file.len().checked_sub(SUM_LEN).ok_or("cut short")?;
        let (told, sum) = file.split_at(sum_at);
        if *sum != *Sha256::digest(told) {
            return Err("damaged: its checksum is another");
        }
        let rest = told.strip_prefix(TITLE).ok_or("cut short")?;
        let (head_len, rest) = rest.split_first_chunk::<4>().ok_or("cut short")?;
        let head_len = u32::from_le_bytes(*head_len) as usize;
        let split = rest.split_at_checked(head_len.min(HEAD_LEN_MAX));
        let (head, bytes) = split.ok_or("cut short")?;
        let head: Head = serde_json::from_slice(head).map_err(|_| "none: its head says nothing")?;
        let is_sound = head.draw.check().is_ok() && (0.0..=1.0).contains(&head.gain);
        if !is_sound || head.position > u64::MAX / 2 {
            return Err("none: it says what no stream is");
        }
        Ok(Self {
            model_sha256: head.model_sha256,
            asked: head.asked,
            snapshot: Snapshot {
                station: 0,
                seed: head.seed,
                draw: head.draw,
                gain: head.gain,
                position: head.position,
                bytes: bytes.to_vec(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state() -> State {
        State {
            model_sha256: "ab".repeat(32),
            asked: Asked::new(Some(7), DrawParams::default(), &[1, 2, 3]),
            snapshot: Snapshot {
                station: 0,
                seed: 8,
                draw: DrawParams {
                    temperature: 0.9,
                    ..DrawParams::default()
                },
                gain: 0.25,
                position: 1 << 40,
                bytes: (0..10_000u32).map(|at| (at * at) as u8).collect(),
            },
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("piano.state");
        assert!(State::read(&path).unwrap().is_none());
        state().write(&path).unwrap();
        assert_eq!(State::read(&path).unwrap(), Some(state()));
    }

    #[test]
    fn no_damage_goes_unnoticed() {
        let whole = state().to_bytes().unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            assert!(State::parse(&damaged).is_err(), "byte {at}");
            assert!(State::parse(&whole[..at]).is_err(), "cut at {at}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("piano.state");
        std::fs::write(&path, &whole[..5_000]).unwrap();
        let why = State::read(&path).unwrap_err().to_string();
        assert!(
            why.ends_with("is damaged: its checksum is another"),
            "{why}"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_with_a_right_sum_are_a_state_or_refused(rest in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut file = [TITLE, &rest].concat();
            file.extend_from_slice(&Sha256::digest(&file));
            prop_assert!(State::parse(&file).is_err());
            prop_assert!(State::parse(&rest).is_err());
        }
    }
}
