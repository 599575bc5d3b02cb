//! `longwave bench`: how fast this machine decodes a model, held against what its memory and its
//! arithmetic allow.
//!
//! Every case is measured on lanes that have been running for hours, so their caches are full.
//! Figures of one run may be compared with each other; figures of different runs only as ratios,
//! since machines drift. Called from `main`'s thread; the program prints what it is told.

mod beside;
mod cards;
mod cases;
mod floor;
mod gpu;
mod host;
mod measure;
mod models;
mod patterns;
mod plot;
mod record;

use std::sync::Arc;
use std::time::Duration;

pub use beside::stop as stop_beside;
pub use cases::{CHUNKS_PER_S, Case};
pub use floor::Floor;
pub use host::Host;
pub use measure::Times;
pub use models::wide as wide_model;
pub use plot::{PlotError, write as plot};
pub use record::{
    CaseResult, ChunkResult, NOISE, PatternFacts, PrefillResult, Record, RecordError, verdict,
};

use crate::engine::{Device, DeviceError, Isa};
use crate::model::Model;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which cases, in the order of [`Case::ALL`].
    pub cases: Vec<Case>,
    /// A GPU is measured by cases of its own, all of them: one stream, a prompt, and the most that it plays
    /// in time.
    pub device: Device,
    /// Only this instruction set; otherwise the best, and in the first case every one the CPU has.
    pub isa: Option<Isa>,
    /// Threads that share a step; otherwise one, so that a case tells what one core does.
    pub threads: Option<usize>,
    /// How long each case runs.
    pub time_per_case: Duration,
    /// A shell command that runs over and over while chunks are measured once more.
    pub beside: Option<String>,
}

/// What has just been begun or measured.
#[derive(Debug)]
pub enum Seen<'a> {
    /// A case begins.
    Case(Case),
    /// Steps were measured.
    Steps(&'a CaseResult),
    /// A prompt was heard.
    Prefill(&'a PrefillResult),
    /// Streams on a GPU begin to be measured.
    Gpu(&'a str),
    /// Chunks were measured.
    Chunks(&'a ChunkResult),
}

/// Measures all cases of the plan, telling of each result as it comes. Only a GPU that is asked for
/// by its number is measured, and then alone.
pub fn run(
    model: &Arc<Model>,
    plan: &Plan,
    see: &mut dyn FnMut(Seen<'_>),
) -> Result<Record, DeviceError> {
    if let Device::Cuda(_) = plan.device {
        return gpu::run(model, plan, see);
    }
    let mut bench = cases::Bench::new(model, plan, see);
    for case in Case::ALL
        .into_iter()
        .filter(|case| plan.cases.contains(case))
    {
        bench.run(case);
    }
    Ok(bench.record)
}
