//! A stream that can be changed while it plays: at the border of a chunk, and without a click.
//!
//! Seed and draw parameters hold from the next chunk on. A prompt is taken in by a lane beside the
//! stream's own, a tile at a time and only while nothing is due; then the one fades into the other,
//! and the position goes on.

use super::fade::Fade;
use super::stream::Stream;
use crate::control::{Change, ChunkShape, Order, Refusal};
use crate::engine::{Decoder, Turn};

#[derive(Debug)]
pub(super) struct Voice {
    pub stream: Stream,
    pub fade: Fade,
    /// Waits until its prompt has been taken in.
    waiting: Option<Box<Order>>,
    /// How much of that has been.
    n_primed: usize,
}

impl Voice {
    pub fn new(stream: Stream, chunk: ChunkShape) -> Self {
        Self {
            stream,
            fade: Fade::new(chunk),
            waiting: None,
            n_primed: 0,
        }
    }

    /// Its part in a call of the engine; two while it fades.
    pub fn turns(&mut self) -> impl Iterator<Item = Turn<'_>> {
        let turn = self.stream.turn();
        let beside = self.fade.turn(&turn);
        std::iter::once(turn).chain(beside)
    }

    /// Makes what was drawn what is heard; the lane that a fade has ended with, which is free.
    pub fn finish(&mut self) -> Option<usize> {
        let freed = self.fade.mix(&mut self.stream);
        self.stream.advance();
        freed
    }

    /// Draws otherwise from the next code on.
    pub fn apply(&mut self, change: &Change) {
        self.stream.redraw(change.seed, change.draw);
    }

    /// Takes an order: done at once and given back, or kept until its prompt has been heard.
    /// `has_spare`: whether there is a lane to hear it with.
    pub fn obey(&mut self, order: Box<Order>, has_spare: bool) -> Option<Box<Order>> {
        if order.change.prompt.is_none() {
            self.apply(&order.change);
            order.answer(Ok(self.stream.position()));
            return Some(order);
        }
        let refusal = match (has_spare, self.waiting.is_some()) {
            (false, _) => Refusal::NoLane,
            (true, true) => Refusal::Busy,
            (true, false) => {
                (self.waiting, self.n_primed) = (Some(order), 0);
                return None;
            }
        };
        order.answer(Err(refusal));
        Some(order)
    }

    /// Whether a prompt is being taken in.
    pub fn is_priming(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether there is something to [`prime`](Self::prime) now: not while the lane is in use.
    pub fn wants_prime(&self) -> bool {
        self.is_priming() && !self.fade.is_running()
    }

    /// The lane was needed for something else: from the beginning.
    pub fn restart_priming(&mut self) {
        self.n_primed = 0;
    }

    /// Begins another stream, in the same lane.
    pub fn restart(&mut self, start: &Change, position: u64) {
        self.stream.restart(position);
        self.apply(start);
    }

    /// Stops what is under way, a prompt or a fade; the order that will not be obeyed any more.
    pub fn abandon(&mut self) -> Option<Box<Order>> {
        self.fade.cancel();
        self.waiting.take()
    }

    /// Takes in a tile of the prompt that waits, in `lane`. After the last one the stream begins to
    /// fade into it; then the order comes back.
    pub fn prime(&mut self, lane: usize, decoder: &mut dyn Decoder) -> Option<Box<Order>> {
        let order = self.waiting.as_ref()?;
        let prompt = order.change.prompt.as_deref().unwrap_or_default();
        if self.n_primed == 0 {
            decoder.open(lane);
        }
        let end = prompt.len().min(self.n_primed + decoder.prompt_tile());
        decoder.prime(lane, &prompt[self.n_primed..end]);
        self.n_primed = end;
        if end < prompt.len() {
            return None;
        }
        let order = self.waiting.take()?;
        self.go_over(lane, &order.change);
        order.answer(Ok(self.stream.position()));
        Some(order)
    }

    /// Begins to fade into `lane`, which has heard the prompt.
    pub fn go_over(&mut self, lane: usize, change: &Change) {
        self.apply(change);
        self.fade.begin(lane);
    }
}
