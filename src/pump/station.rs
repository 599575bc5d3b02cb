//! A station: a stream and what guards it, its listeners' ring, perhaps a card, and the one clock
//! that paces it.
//!
//! With a live card the pace is the card's: a chunk is due when the last one has gone into the
//! ring whole. Otherwise a timer keeps the stream a fixed lead ahead of the wall clock. At a
//! change of clock the stream goes on from now: it never skips, and never makes up for more than
//! the lead.

use std::time::{Duration, Instant};

use crate::broadcast::Writer;
use crate::control::CardLine;
use crate::engine::{Decoder, Turn};
use crate::mulaw;
use crate::pump::guard::Guard;
use crate::pump::stream::Stream;
use crate::pump::watch::Collapse;

/// How a station's time passes: that of its model, and how far ahead it is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tempo {
    pub rate_hz: u32,
    /// How long a chunk plays.
    pub chunk: Duration,
    /// How far ahead of the wall clock a station without a card is kept.
    pub lead: Duration,
}

pub(super) struct Station {
    pub stream: Stream,
    /// If it is watched.
    guard: Option<Guard>,
    /// Which engine draws it.
    pub engine: usize,
    tempo: Tempo,
    writer: Writer,
    line: Option<Line>,
    /// When the next chunk would begin to play, by the timer.
    play_at: Instant,
    /// Whether the next call of `generate` includes this station.
    pub is_due: bool,
    samples: Vec<f32>,
}

impl Station {
    pub fn new(
        (stream, guard): (Stream, Option<Guard>),
        writer: Writer,
        engine: usize,
        tempo: Tempo,
    ) -> Self {
        Self {
            samples: vec![0.0; stream.codes().len()],
            stream,
            guard,
            engine,
            tempo,
            writer,
            line: None,
            // Long past when the thread looks for the first time: its timer starts there.
            play_at: Instant::now(),
            is_due: false,
        }
    }

    /// Takes a card, gives back the one before it.
    pub fn attach(&mut self, card: Box<CardLine>) -> Option<Box<CardLine>> {
        let line = Line { card, n_sent: 0 };
        self.line.replace(line).map(|old| old.card)
    }

    /// Gives back the card, if there is one.
    pub fn detach(&mut self) -> Option<Box<CardLine>> {
        self.line.take().map(|old| old.card)
    }

    /// Whether the card at the other end of the ring is gone.
    pub fn is_cut_off(&self) -> bool {
        self.line
            .as_ref()
            .is_some_and(|line| line.card.frames.is_abandoned())
    }

    /// Moves what waits into the card's ring, and says how long until a chunk is due.
    pub fn wait(&mut self, now: Instant) -> Duration {
        let due_from = now + self.tempo.lead;
        match &mut self.line {
            Some(line) => line.top_up(),
            None => self.play_at.saturating_duration_since(due_from),
        }
    }

    /// Whether a chunk that is due after `wait` may be drawn now, to share a call of the engine.
    pub fn is_flexible(&self, wait: Duration) -> bool {
        self.line.is_none() && wait <= self.tempo.chunk / 2
    }

    /// This station's part in a call of the engine; two while it returns from a collapse.
    pub fn turns(&mut self) -> impl Iterator<Item = Turn<'_>> {
        let turn = self.stream.turn();
        let guard = self.guard.as_mut();
        let beside = guard.and_then(|guard| guard.turn(&turn));
        std::iter::once(turn).chain(beside)
    }

    /// Sends the chunk that was just drawn on its way.
    pub fn deliver(&mut self, now: Instant) {
        let tempo = self.tempo;
        if let Some(guard) = &mut self.guard {
            guard.mix(&mut self.stream);
        }
        self.stream.advance();
        let codes = self.stream.codes();
        self.play_at = match &mut self.line {
            Some(line) => {
                for (sample, &code) in self.samples.iter_mut().zip(codes) {
                    *sample = mulaw::decode(code);
                }
                line.send(&self.samples);
                // Should the card be lost now, the timer's next chunk is due one chunk later.
                now + tempo.lead + tempo.chunk
            }
            None => self.play_at.max(now) + tempo.chunk,
        };
        self.writer.publish(codes);
    }

    /// Looks at what was delivered: whether the stream has just collapsed, and returns.
    pub fn look(&mut self, decoder: &mut dyn Decoder) -> Option<Collapse> {
        let guard = self.guard.as_mut()?;
        guard.look(&self.stream, decoder)
    }

    /// Copies the stream if its guard wants that; whether it did.
    pub fn copy(&mut self, decoder: &mut dyn Decoder) -> bool {
        let guard = self.guard.as_mut().filter(|guard| guard.wants_copy());
        guard
            .map(|guard| guard.copy(&self.stream, decoder))
            .is_some()
    }

    /// Seconds that were drawn but have not been played, or without a card are not yet due.
    pub fn lead_s(&self, now: Instant) -> f64 {
        match &self.line {
            Some(line) => line.lead_s(),
            None => self.play_at.saturating_duration_since(now).as_secs_f64(),
        }
    }

    /// That lead in codes.
    pub fn lead_codes(&self, now: Instant) -> u64 {
        (self.lead_s(now) * f64::from(self.tempo.rate_hz)) as u64
    }
}

/// A card's line in use. What the ring has no room for yet waits in the resampler's own buffer.
struct Line {
    card: Box<CardLine>,
    /// How much of the resampler's last output is in the ring.
    n_sent: usize,
}

impl Line {
    fn send(&mut self, samples: &[f32]) {
        debug_assert!(
            self.n_waiting() == 0,
            "a chunk is due once the last one is gone"
        );
        self.card.resampler.process(samples);
        self.n_sent = 0;
        self.top_up();
    }

    /// How long until the rest fits; zero when nothing waits any more.
    fn top_up(&mut self) -> Duration {
        let waiting = &self.card.resampler.output()[self.n_sent..];
        let (sent, rest) = self.card.frames.push_partial_slice(waiting);
        self.n_sent += sent.len();
        // A rest as long as the ring fits only when the ring is empty, and then the card starves:
        // come back when half of the ring is free at the latest.
        let n_free = rest
            .len()
            .min(self.card.frames.buffer().capacity().div_ceil(2));
        Duration::from_secs_f64(n_free as f64 / f64::from(self.card.resampler.to_hz()))
    }

    fn n_waiting(&self) -> usize {
        self.card.resampler.output().len() - self.n_sent
    }

    fn lead_s(&self) -> f64 {
        let ring = &self.card.frames;
        let n_queued = ring.buffer().capacity() - ring.slots();
        (n_queued + self.n_waiting()) as f64 / f64::from(self.card.resampler.to_hz())
    }
}
