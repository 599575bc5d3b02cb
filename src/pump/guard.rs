//! The last line of defence of a station: copies of its lane, and the way back to one of them.
//!
//! The station's stream has two spare lanes. Every few seconds that were good its lane is copied
//! into the young one; if the next few seconds are good as well, the young copy has proved itself
//! and is the kept one. When the [`Watch`] finds that the stream has collapsed, a copy of the kept
//! lane begins to draw beside it, the one fades into the other, and the failing lane becomes a
//! spare. Listeners and the card hear the same codes, and their count goes on.
//!
//! What comes after a return is not what came after the copy was made: the uniforms are those of
//! the stream's position, which never goes back.

use std::f32::consts::FRAC_PI_2;

use super::stream::Stream;
use super::watch::{Collapse, Judgement, Watch};
use crate::control::ChunkShape;
use crate::engine::{Decoder, Turn};
use crate::mulaw;

/// Good sound from one copy to the next, and until a copy has proved itself: longer than a stream
/// needs from its first wrong step to what the watch calls noise.
const KEEP_S: f64 = 5.0;

/// From a failing lane to a good one: long enough not to click, and short because it costs a lane
/// more while it lasts. A lead of 100 ms bears that up to a load of 0.7, where a chunk of two lanes
/// takes 1.4 times as long as it plays; beyond, a card may run dry once and fade. Admission does not
/// count it: stations would be refused for what one takes in a quarter of a second, if ever.
const FADE_S: f64 = 0.25;

/// A copy that collapses so often was not good after all.
const RETURNS_MAX: u32 = 2;

/// What guards a station.
#[derive(Debug)]
pub(super) struct Guard {
    watch: Watch,
    /// Lanes that do not play.
    young: usize,
    kept: usize,
    has_young: bool,
    has_kept: bool,
    /// Collapses since the kept lane was copied.
    n_returns: u32,
    /// Codes that sounded good since the last copy.
    n_good: usize,
    /// Whether the last ones did not: no moment for a copy, but a hiss of speech proves nothing
    /// against the young one.
    is_suspicious: bool,
    keep_len: usize,
    fade_len: usize,
    /// How much of a return is done, in codes.
    n_faded: Option<usize>,
    /// What the lane that fades in has drawn.
    codes: Box<[u8]>,
    samples: Box<[f32; 256]>,
}

impl Guard {
    /// Of a stream that was just opened, with two lanes that nobody else has.
    pub fn new(
        stream: &Stream,
        spares: [usize; 2],
        chunk: ChunkShape,
        decoder: &mut dyn Decoder,
    ) -> Self {
        let [young, kept] = spares;
        // Its beginning, prompt included, is what to return to until there is something better;
        // and memory that was written once is there when it is needed.
        decoder.copy(stream.lane(), young);
        decoder.copy(stream.lane(), kept);
        let codes_in = |s: f64| (s * f64::from(chunk.rate_hz)) as usize;
        let samples = std::array::from_fn(|code| mulaw::decode(code as u8));
        Self {
            watch: Watch::new(chunk.rate_hz),
            young,
            kept,
            has_young: false,
            has_kept: true,
            n_returns: 0,
            n_good: 0,
            is_suspicious: false,
            keep_len: codes_in(KEEP_S),
            fade_len: codes_in(FADE_S),
            n_faded: None,
            codes: vec![0; chunk.len].into(),
            samples: Box::new(samples),
        }
    }

    /// What the lane that fades in draws beside the stream's `turn`, if one does.
    pub fn turn<'a>(&'a mut self, turn: &Turn<'a>) -> Option<Turn<'a>> {
        self.n_faded.map(|_| Turn {
            lane: self.young,
            draw: turn.draw,
            uniforms: turn.uniforms,
            codes: &mut self.codes,
        })
    }

    /// Fades from what the stream has drawn into what was drawn beside it, if something was. At
    /// the end of the fade the stream has the good lane.
    pub fn mix(&mut self, stream: &mut Stream) {
        let Some(n_faded) = self.n_faded else {
            return;
        };
        // The two have nothing to do with each other: their powers add up, so that of the sum
        // stays.
        let turn = FRAC_PI_2 / self.fade_len as f32;
        let codes = stream.codes_mut().iter_mut().zip(&self.codes);
        for (at, (failing, good)) in (n_faded..).zip(codes) {
            *failing = match at < self.fade_len {
                true => {
                    let (up, down) = (turn * at as f32).sin_cos();
                    let sample = |code: u8| self.samples[usize::from(code)];
                    let mixed = down * sample(*failing) + up * sample(*good);
                    mulaw::encode(mixed).unwrap_or(mulaw::SILENCE)
                }
                false => *good,
            };
        }
        let n_faded = n_faded + self.codes.len();
        self.n_faded = Some(n_faded).filter(|n| *n < self.fade_len);
        if self.n_faded.is_none() {
            stream.swap_lane(&mut self.young);
        }
    }

    /// Looks at the chunk that was delivered, and begins a return if the stream has collapsed.
    pub fn look(&mut self, stream: &Stream, decoder: &mut dyn Decoder) -> Option<Collapse> {
        if self.n_faded.is_some() {
            return None;
        }
        let judgement = self.watch.hear(stream.codes(), &mut |_| ());
        self.is_suspicious = judgement != Judgement::Good;
        match judgement {
            Judgement::Good => self.n_good += stream.codes().len(),
            Judgement::Suspicious => {}
            Judgement::Collapsed(collapse) => {
                self.begin_return(decoder);
                return Some(collapse);
            }
        }
        None
    }

    /// The kept lane stays as it is, should its copy collapse as well. Where that has happened too
    /// often, or nothing is kept, the stream begins anew: from silence, for there is no time to
    /// listen to a prompt.
    fn begin_return(&mut self, decoder: &mut dyn Decoder) {
        self.has_kept &= self.n_returns < RETURNS_MAX;
        match self.has_kept {
            true => decoder.copy(self.kept, self.young),
            false => decoder.open(self.young),
        }
        self.n_returns += 1;
        (self.has_young, self.n_good) = (false, 0);
        self.n_faded = Some(0);
        self.watch.reset();
    }

    /// Whether it is time for another copy.
    pub fn wants_copy(&self) -> bool {
        !self.is_suspicious && self.n_good >= self.keep_len
    }

    /// Copies the stream's lane, for which a moment should be chosen in which nothing is due: that
    /// is a copy of all its memory.
    pub fn copy(&mut self, stream: &Stream, decoder: &mut dyn Decoder) {
        if self.has_young {
            std::mem::swap(&mut self.young, &mut self.kept);
            (self.has_kept, self.n_returns) = (true, 0);
        }
        decoder.copy(stream.lane(), self.young);
        (self.has_young, self.n_good) = (true, 0);
    }
}
