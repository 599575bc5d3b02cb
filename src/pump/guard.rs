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

use super::fade::Fade;
use super::stream::Stream;
use super::watch::{Collapse, Judgement, Watch};
use crate::control::ChunkShape;
use crate::engine::Decoder;

/// Good sound from one copy to the next, and until a copy has proved itself: longer than a stream
/// needs from its first wrong step to what the watch calls noise.
const KEEP_S: f64 = 5.0;

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
        Self {
            watch: Watch::new(chunk.rate_hz),
            young,
            kept,
            has_young: false,
            has_kept: true,
            n_returns: 0,
            n_good: 0,
            is_suspicious: false,
            keep_len: (KEEP_S * f64::from(chunk.rate_hz)) as usize,
        }
    }

    /// The spare lane that may be written to: where a prompt is heard.
    pub fn spare(&self) -> usize {
        self.young
    }

    /// A fade has ended: the stream has the spare lane, and `lane` is the spare one. What is kept
    /// stays good to return to.
    pub fn take_back(&mut self, lane: usize) {
        self.young = lane;
        (self.has_young, self.n_good) = (false, 0);
        self.watch.reset();
    }

    /// Looks at the chunk that was delivered, and begins a return if the stream has collapsed; while
    /// it fades there is nothing to judge.
    pub fn look(
        &mut self,
        stream: &Stream,
        fade: &mut Fade,
        decoder: &mut dyn Decoder,
    ) -> Option<Collapse> {
        if fade.is_running() {
            return None;
        }
        let judgement = self.watch.hear(stream.codes(), &mut |_| ());
        self.is_suspicious = judgement != Judgement::Good;
        match judgement {
            Judgement::Good => self.n_good += stream.codes().len(),
            Judgement::Suspicious => {}
            Judgement::Collapsed(collapse) => {
                self.begin_return(fade, decoder);
                return Some(collapse);
            }
        }
        None
    }

    /// The kept lane stays as it is, should its copy collapse as well. Where that has happened too
    /// often, or nothing is kept, the stream begins anew: from silence, for there is no time to
    /// listen to a prompt.
    fn begin_return(&mut self, fade: &mut Fade, decoder: &mut dyn Decoder) {
        self.has_kept &= self.n_returns < RETURNS_MAX;
        match self.has_kept {
            true => decoder.copy(self.kept, self.young),
            false => decoder.open(self.young),
        }
        self.n_returns += 1;
        (self.has_young, self.n_good) = (false, 0);
        fade.begin(self.young);
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
