//! Which machine and which build made a record.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// The machine, as the system names it. What the system does not tell is absent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Host {
    /// The processor's name.
    pub cpu: String,
    /// Its architecture.
    pub arch: String,
    /// Physical cores that we may use.
    #[serde(default)]
    pub cores: Option<usize>,
    /// The second cache of a core.
    #[serde(default)]
    pub l2_bytes: Option<usize>,
    /// The third, which cores share.
    #[serde(default)]
    pub l3_bytes: Option<usize>,
}

impl Host {
    /// The one we run on.
    pub fn this() -> Self {
        let machine = Machine::read();
        Self {
            cpu: cpu_name(),
            arch: std::env::consts::ARCH.into(),
            cores: Some(machine.n_cores()),
            l2_bytes: machine.l2_bytes(),
            l3_bytes: machine.l3_bytes(),
        }
    }
}

/// The compiler, where the build knew it.
pub const RUSTC: Option<&str> = option_env!("LONGWAVE_RUSTC");
/// The commit, likewise.
pub const COMMIT: Option<&str> = option_env!("LONGWAVE_COMMIT");

/// Today, in UTC.
pub fn date() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()
}

fn cpu_name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| "unknown".into(), |(_, name)| name.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_a_day() {
        let date = date();
        assert!(date.len() == 10 && date.starts_with("20"), "{date}");
    }
}
