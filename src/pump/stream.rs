//! One endless stream: a lane of the engine, where it is, and how it draws.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::control::Snapshot;
use crate::engine::{Decoder, DrawParams, See, Turn, uniform};

/// Codes of a prompt between two looks at the caller: below a second, and enough for an engine to take them
/// in by tiles.
const PROMPT_SLICE: usize = 8_192;

/// What decides every code of a stream, together with the model.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Seeds the uniforms.
    pub seed: u64,
    /// How codes are chosen.
    pub draw: DrawParams,
    /// Codes fed before the first is drawn; they are not part of what is heard.
    pub prompt: Vec<u8>,
    /// What it goes on from instead: the state of a lane of an engine of the same model.
    pub kept: Option<Arc<Snapshot>>,
}

impl Start {
    /// The position of the first code that is drawn.
    pub fn first_position(&self) -> u64 {
        let kept = self.kept.as_ref();
        kept.map_or(self.prompt.len() as u64, |kept| kept.position)
    }
}

/// A stream that occupies a lane. The pump drives many in one call of the engine; `render` drives
/// one, by [`next`](Self::next), and gets the same codes.
#[derive(Debug)]
pub struct Stream {
    lane: usize,
    seed: u64,
    draw: DrawParams,
    position: u64,
    uniforms: Box<[f32]>,
    codes: Box<[u8]>,
    /// Codes of the next chunk: as many as there is room for, or fewer.
    len: usize,
}

impl Stream {
    /// Opens the lane and feeds the prompt, which takes as long as the engine needs for it.
    /// `on_prompt` hears time and again how many codes of it are fed; if it breaks off, there is
    /// no stream. All later chunks have `chunk_len` codes.
    pub fn open(
        decoder: &mut dyn Decoder,
        lane: usize,
        start: &Start,
        chunk_len: usize,
        on_prompt: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Option<Self> {
        decoder.open(lane);
        if let Some(kept) = &start.kept {
            decoder.restore(lane, &kept.bytes);
        }
        let mut n_fed = 0;
        for codes in start.prompt.chunks(PROMPT_SLICE) {
            decoder.prime(lane, codes);
            n_fed += codes.len();
            if on_prompt(n_fed).is_break() {
                return None;
            }
        }
        Some(Self::at(lane, start, chunk_len))
    }

    /// In a lane that has heard the prompt already.
    pub(crate) fn at(lane: usize, start: &Start, chunk_len: usize) -> Self {
        Self {
            seed: start.seed,
            draw: start.draw,
            position: start.first_position(),
            ..Self::idle(lane, chunk_len)
        }
    }

    /// The position of the next code to be drawn; a prompt counts. It never goes back, though the
    /// lane's may.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The chunk that was drawn last.
    pub fn codes(&self) -> &[u8] {
        &self.codes[..self.len]
    }

    /// Draws the next chunk, this stream alone.
    pub fn next(&mut self, decoder: &mut dyn Decoder) -> &[u8] {
        decoder.generate(&mut [self.turn()]);
        self.advance();
        self.codes()
    }

    /// The same, looked on by `see`; see [`Decoder::generate_seen`].
    pub fn next_seen(&mut self, decoder: &mut dyn Decoder, see: See<'_>) -> &[u8] {
        decoder.generate_seen(self.turn(), see);
        self.advance();
        self.codes()
    }

    /// The next chunks of streams of one engine, each the same as if it were alone.
    pub fn next_of_all(streams: &mut [Self], decoder: &mut dyn Decoder) {
        let mut turns: Vec<Turn<'_>> = streams.iter_mut().map(Self::turn).collect();
        decoder.generate(&mut turns);
        streams.iter_mut().for_each(Self::advance);
    }

    /// This stream's part in a call of [`Decoder::generate`], which [`advance`](Self::advance)
    /// must follow.
    pub(super) fn turn(&mut self) -> Turn<'_> {
        let uniforms = &mut self.uniforms[..self.len];
        for (place, position) in uniforms.iter_mut().zip(self.position..) {
            *place = uniform(self.seed, position);
        }
        Turn {
            lane: self.lane,
            draw: self.draw,
            uniforms,
            codes: &mut self.codes[..self.len],
        }
    }

    pub(super) fn advance(&mut self) {
        self.position += self.len as u64;
    }

    /// The seed, and how codes are chosen.
    pub(super) fn drawn_by(&self) -> (u64, DrawParams) {
        (self.seed, self.draw)
    }

    pub(super) fn lane(&self) -> usize {
        self.lane
    }

    /// Goes on in another lane, at the stream's own position whatever that of the lane is.
    pub(super) fn swap_lane(&mut self, lane: &mut usize) {
        std::mem::swap(&mut self.lane, lane);
    }

    pub(super) fn codes_mut(&mut self) -> &mut [u8] {
        &mut self.codes[..self.len]
    }

    /// Draws otherwise from the next code on, as far as something is said.
    pub(super) fn redraw(&mut self, seed: Option<u64>, draw: Option<DrawParams>) {
        self.seed = seed.unwrap_or(self.seed);
        self.draw = draw.unwrap_or(self.draw);
    }

    /// Another stream, at `position` of a lane that somebody else has opened.
    pub(super) fn restart(&mut self, position: u64) {
        self.position = position;
    }

    /// In a lane that nobody has opened yet.
    pub(super) fn idle(lane: usize, chunk_len: usize) -> Self {
        Self {
            lane,
            seed: 0,
            draw: DrawParams::default(),
            position: 0,
            uniforms: vec![0.0; chunk_len].into(),
            codes: vec![0; chunk_len].into(),
            len: chunk_len,
        }
    }

    /// Makes the next chunks `len` codes long, or as long as there is room for.
    pub(super) fn set_len(&mut self, len: usize) {
        self.len = len.min(self.codes.len());
    }
}
