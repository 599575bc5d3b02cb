//! Training: the model as a chain of blocks in candle's autograd, the loop around it, and the
//! oracle.
//!
//! `forward.rs` is the model written naively and dense: what every engine and `network.rs` are
//! judged by. [`run`] trains in a directory of its own, of which [`Job`] knows what lies where;
//! [`Scorer`] only judges. Everything runs on the caller's thread but what is rendered to listen
//! to; nothing here prints.

mod audition;
mod blocks;
mod checkpoint;
pub mod codes;
mod curves;
mod device;
mod error;
mod feed;
pub mod forward;
mod inputs;
mod metrics;
mod network;
pub mod ops;
mod optimiser;
mod parameters;
mod presets;
mod readme;
mod recipe;
mod run;
mod schedule;
mod score;
mod trainer;
mod windows;

/// What computes, as [`DeviceChoice::open`] gives it.
pub use candle_core::Device;
pub use codes::{CodesError, Reading};
pub use device::{DeviceChoice, DeviceError, Opened};
pub use error::TrainError;
pub use inputs::{Heard, Inputs};
pub use metrics::Metric;
pub use network::Network;
pub use parameters::{Parameter, Part};
pub use presets::Preset;
pub use recipe::{Budget, Progress, Recipe};
pub use run::{Job, Origin, Pace, RunDir, Settings};
pub use score::{Scorer, spread};
pub use trainer::{Ending, Event, run};

#[cfg(test)]
mod differences;
#[cfg(test)]
mod tests;
