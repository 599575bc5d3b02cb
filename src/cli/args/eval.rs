//! What can be typed after `longwave eval`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use longwave::corpus::Split;
use longwave::eval::DEFAULT_WINDOWS;
use longwave::train::DeviceChoice;

use super::split;

/// `eval`
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// A model's directory or name
    #[arg(value_name = "MODEL", value_hint = ValueHint::DirPath)]
    pub model: PathBuf,

    /// A corpus at the model's rate
    #[arg(value_name = "CORPUS", value_hint = ValueHint::DirPath)]
    pub corpus: PathBuf,

    /// Which part of it; can be given several times [default: valid and test, as far as they are
    /// there]
    #[arg(long, value_name = "SPLIT", value_parser = split())]
    pub split: Vec<Split>,

    /// Windows of 65,536 samples; 48 are the protocol, 0 leaves them out
    #[arg(long, value_name = "N", default_value_t = DEFAULT_WINDOWS,
        value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub windows: u32,

    /// Measure, too, how much of the past helps, on the first of the splits
    #[arg(long)]
    pub context: bool,

    /// Blocks of 256 samples that this is measured on [default: 256, or what the CPU has time for]
    #[arg(long, value_name = "N", requires = "context",
        value_parser = clap::value_parser!(u32).range(2..=65_536))]
    pub targets: Option<u32>,

    /// Draw context.svg in this directory
    #[arg(long, value_name = "DIR", requires = "context", value_hint = ValueHint::DirPath)]
    pub plot: Option<PathBuf>,

    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,

    /// What computes: auto, cpu, or cuda:0
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: DeviceChoice,
}
