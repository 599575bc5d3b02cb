//! Engines: what turns a model into an endless stream of codes.
//!
//! An engine does not know what time it is, who listens, or what a code sounds like. It holds a
//! fixed number of *lanes*, each the state of one stream, and advances any subset of them in lock
//! step; a lane's arithmetic never depends on its neighbours, so the same seed gives the same
//! codes alone or in a full batch.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod draw;
mod fallback;
mod footprint;
mod naive;
mod work;

pub use crate::model::DrawParams;
pub use cpu::CpuDecoder;
#[cfg(feature = "cuda")]
pub use cuda::{CudaDecoder, GpuError, GpuFacts, gpus};
pub use device::{Device, DeviceError, LaneCounts, Opened, open_on};
pub use draw::{draw, uniform};
pub use fallback::{Fall, Fallback, Fallible, Omen};
pub use footprint::Footprint;
pub use naive::NaiveDecoder;
pub use work::Work;

use std::sync::Arc;

pub use crate::compute::Isa;
use crate::compute::{Job, Ops, dispatch};
use crate::model::Model;

/// How an engine computes.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The instruction set; the best of this CPU when absent.
    pub isa: Option<Isa>,
    /// Threads that share a step, one when absent; never more than there are KV heads.
    pub threads: Option<usize>,
    /// The CPUs that the threads are kept on, the caller's first, who pins itself; where the
    /// scheduler places them when there are none.
    pub cpus: Vec<usize>,
}

/// The CPU engine with `n_lanes` lanes; `None` if the CPU lacks the instruction set asked for.
pub fn open(model: &Arc<Model>, settings: &Settings, n_lanes: usize) -> Option<Box<dyn Decoder>> {
    let isa = settings.isa.unwrap_or_else(Isa::best);
    dispatch(isa, Open(model, settings, n_lanes))
}

#[cfg(test)]
pub(crate) use fallback::tests::fragile;

/// The tiny model's engine, for tests of those who know no models.
#[cfg(test)]
pub(crate) fn tiny(n_lanes: usize) -> Box<dyn Decoder> {
    let model = Model::load(std::path::Path::new("models/tiny")).expect("it lies in the tree");
    open(&Arc::new(model), &Settings::default(), n_lanes).expect("the best of this CPU")
}

struct Open<'a>(&'a Arc<Model>, &'a Settings, usize);

impl Job for Open<'_> {
    type Out = Box<dyn Decoder>;

    fn run<O: Ops>(self, ops: O) -> Box<dyn Decoder> {
        let Self(model, settings, n_lanes) = self;
        Box::new(CpuDecoder::new(ops, model.clone(), settings, n_lanes))
    }
}

/// As many codes as [`Decoder::prime`] takes in one after the other, which needs no memory of its own;
/// more are taken in together, by the CPU in tiles and by a GPU layer by layer.
pub const STEPPED_MAX: usize = 63;

/// Who looks on: gets the index of a code and the logits `[V]` that the model held for its place.
pub type See<'a> = &'a mut dyn FnMut(usize, &[f32]);

/// One lane's part in a call of [`Decoder::generate`].
#[derive(Debug)]
pub struct Turn<'a> {
    /// Which lane.
    pub lane: usize,
    /// How to choose a code from the logits.
    pub draw: DrawParams,
    /// One number in [0, 1) for each code: randomness is an argument, see [`uniform`].
    pub uniforms: &'a [f32],
    /// Where the codes go; as long as `uniforms`.
    pub codes: &'a mut [u8],
}

/// The seam between those who compute and those who need sound.
///
/// In the CPU engine `open`, `copy`, `save`, `restore` and `generate` allocate nothing, `prime` and `score`
/// only for more than [`STEPPED_MAX`] codes. Lanes are numbered `0..n_lanes()`; naming another, or one lane twice in a call, is a bug
/// of the caller and panics.
pub trait Decoder: Send {
    /// How many streams this engine can hold at once.
    fn n_lanes(&self) -> usize;

    /// Puts the lane back to the start of a stream: position 0, nothing seen.
    fn open(&mut self, lane: usize);

    /// Makes the lane `to` what the lane `from` is, its position and all that it remembers: from
    /// here on the same uniforms draw the same codes in both. Takes as long as its memory takes to
    /// copy.
    fn copy(&mut self, from: usize, to: usize);

    /// Bytes that a lane's state takes; none of an engine that no station plays on, such as the reference.
    fn state_len(&self) -> usize {
        0
    }

    /// Copies all that the lane is into `bytes`, which are [`state_len`](Self::state_len): the same bytes
    /// whatever device, instruction set and threads compute. Takes as long as [`copy`](Self::copy), and on a GPU,
    /// where it allocates, some ten times as long.
    fn save(&mut self, lane: usize, bytes: &mut [u8]) {
        let _ = (lane, bytes);
    }

    /// Makes the lane what [`save`](Self::save) has kept of one, of the same model, whoever has written to
    /// the bytes since; the position that it is at then. Takes as long as that.
    fn restore(&mut self, lane: usize, bytes: &[u8]) -> u64 {
        let _ = bytes;
        self.position(lane)
    }

    /// How many codes the lane has taken in, primed and drawn together.
    fn position(&self, lane: usize) -> u64;

    /// Feeds codes as if they had been drawn.
    fn prime(&mut self, lane: usize, codes: &[u8]);

    /// Codes of a prompt that [`prime`](Self::prime) takes in between two chunks: one to three milliseconds of
    /// work, which any lead bears, and the CPU engine allocates nothing for it.
    fn prompt_tile(&self) -> usize {
        STEPPED_MAX
    }

    /// Feeds `codes` like [`prime`](Self::prime); before each one is fed, `see` gets its index in
    /// `codes` and the logits `[V]` that the model held for its place.
    fn score(&mut self, lane: usize, codes: &[u8], see: See<'_>);

    /// Draws `n` codes in every lane named, `n` being the common length of all turns.
    fn generate(&mut self, turns: &mut [Turn<'_>]);

    /// Draws in one lane like [`generate`](Self::generate); before each code is drawn, `see` gets
    /// its index and the logits `[V]` it is drawn from. An engine that cannot show them never calls
    /// it.
    fn generate_seen(&mut self, turn: Turn<'_>, see: See<'_>) {
        let _ = see;
        self.generate(&mut [turn]);
    }

    /// Puts the lane at `position` with noise in every slot of its caches: a stream of any age,
    /// without living through it, for measuring. A predictor stays as it is; it costs the same at any
    /// age.
    fn age(&mut self, lane: usize, position: u64);

    /// Threads that share a step.
    fn n_threads(&self) -> usize {
        1
    }

    /// Where it will be said that the engine has failed and the CPU engine plays on, if that may happen.
    fn omen(&self) -> Option<Arc<Omen>> {
        None
    }

    /// What computes, in words for a log or a bench record: `avx512-vnni`, `cuda`, `naive`, ...
    fn isa(&self) -> &'static str;
}

/// The common length of all turns; each must bring as many uniforms as it wants codes, and no lane
/// may take two turns at once.
fn check_turns(turns: &[Turn<'_>]) -> usize {
    let n = turns.first().map_or(0, |turn| turn.codes.len());
    for (i, turn) in turns.iter().enumerate() {
        assert_eq!(
            (turn.codes.len(), turn.uniforms.len()),
            (n, n),
            "turns of different lengths"
        );
        assert!(
            turns[..i].iter().all(|other| other.lane != turn.lane),
            "a lane named twice"
        );
    }
    n
}

/// Numbers in (-1, 1) that fill the caches of an aged lane.
fn noise() -> impl Iterator<Item = f32> {
    (0..).map(|i| 2.0 * uniform(0, i) - 1.0)
}
