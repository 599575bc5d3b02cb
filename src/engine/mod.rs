//! Engines: what turns a model into an endless stream of codes.
//!
//! An engine does not know what time it is, who listens, or what a code sounds like. It holds a
//! fixed number of *lanes*, each the state of one stream, and advances any subset of them in lock
//! step; a lane's arithmetic never depends on its neighbours, so the same seed gives the same
//! codes alone or in a full batch.

pub mod draw;

pub use draw::{DrawParams, uniform};

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
/// After construction no method allocates. Lanes are numbered `0..n_lanes()`; naming another, or
/// one lane twice in a call, is a bug of the caller and panics.
pub trait Decoder: Send {
    /// How many streams this engine can hold at once.
    fn n_lanes(&self) -> usize;

    /// Puts the lane back to the start of a stream: position 0, nothing seen.
    fn open(&mut self, lane: usize);

    /// How many codes the lane has taken in, primed and drawn together.
    fn position(&self, lane: usize) -> u64;

    /// Feeds codes as if they had been drawn.
    fn prime(&mut self, lane: usize, codes: &[u8]);

    /// Feeds `codes` like [`prime`](Self::prime); before each one is fed, `see` gets its index in
    /// `codes` and the logits [V] that the model held for its place.
    fn score(&mut self, lane: usize, codes: &[u8], see: &mut dyn FnMut(usize, &[f32]));

    /// Draws `n` codes in every lane named, `n` being the common length of all turns.
    fn generate(&mut self, turns: &mut [Turn<'_>]);

    /// What computes, in words for a log or a bench record: `avx512-vnni`, `naive`, ...
    fn isa(&self) -> &'static str;
}
