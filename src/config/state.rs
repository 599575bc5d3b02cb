//! The `[state]` table: whether streams survive a restart, and where they are kept.

use std::env;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::fault::{Fault, out_of};
use super::limits;

/// The `[state]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateConfig {
    /// Whether stations go on where they stopped, and are kept for that.
    pub resume: bool,
    /// Where; a service's own directory when absent, else the user's.
    pub directory: Option<PathBuf>,
    /// How often they are kept besides, should the machine lose power.
    pub every_min: u32,
}

impl Default for StateConfig {
    fn default() -> Self {
        Self {
            // Whoever tries something out wants it to begin at the beginning; the units say --resume.
            resume: false,
            directory: None,
            // 10 MB of `piano-16k` each time: a gigabyte and a half a day, which any disk bears.
            every_min: 10,
        }
    }
}

impl StateConfig {
    /// Where the states are: as the system tells services (`systemd.exec(5)`), or users (XDG).
    pub fn directory(&self) -> PathBuf {
        let from = |name| env::var_os(name).filter(|value| !value.is_empty());
        let own = || {
            let all = from("STATE_DIRECTORY")?;
            env::split_paths(&all).next()
        };
        let of_user = || {
            let home = || from("HOME").map(|home| PathBuf::from(home).join(".local/state"));
            let states = from("XDG_STATE_HOME").map(PathBuf::from).or_else(home);
            states.unwrap_or_default().join("longwave")
        };
        let said = self.directory.clone();
        said.or_else(own).unwrap_or_else(of_user)
    }

    pub(super) fn first_fault(&self) -> Option<Fault> {
        out_of(limits::EVERY_MIN, &["state", "every_min"], self.every_min)
    }
}
