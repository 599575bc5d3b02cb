//! `record` of a `[[station]]`: whether it is recorded, where to, and how much of it is kept.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::fault::{Fault, out_of};
use super::limits;
use crate::record::Format;

/// The `[station.record]` table; a station without one is not recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordConfig {
    /// Where; `recordings` where the states are when absent.
    pub directory: Option<PathBuf>,
    /// How the files hold their samples.
    pub format: Format,
    /// How much sound a file holds.
    pub rotate_min: u32,
    /// How many bytes a file has at most; any number when absent.
    pub rotate_bytes: Option<u64>,
    /// How many files are kept, the oldest goes first; all when absent.
    pub keep: Option<u32>,
}

impl Default for RecordConfig {
    fn default() -> Self {
        Self {
            directory: None,
            // Half the room, the same samples, and every player has it.
            format: Format::Flac,
            // A day is 24 files: few enough to look through, and none too long to open.
            rotate_min: 60,
            rotate_bytes: None,
            // What was asked for is not thrown away by a default.
            keep: None,
        }
    }
}

impl RecordConfig {
    pub(super) fn first_fault(&self, index: &str) -> Option<Fault> {
        let at = |key| ["station", index, "record", key];
        out_of(limits::ROTATE_MIN, &at("rotate_min"), self.rotate_min)
            .or_else(|| {
                let n_bytes = self.rotate_bytes? as f64;
                out_of(limits::ROTATE_BYTES, &at("rotate_bytes"), n_bytes)
            })
            .or_else(|| out_of(limits::KEEP, &at("keep"), self.keep?))
    }
}
