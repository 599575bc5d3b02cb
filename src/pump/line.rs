//! The ways from a station to its cards, none of which it ever waits for.
//!
//! A card that sets the pace gets every frame ([`Pacer`]): a chunk is due when the last one has gone into
//! its ring whole. One that asks for nothing is found out by its ring, and is no clock any more; it is
//! one again once it has taken what a ring holds. Until then, like all cards that follow another clock
//! ([`Follower`]), it is offered what is drawn: what its ring has no room for is left out, with a fade
//! over the seam. A follower's clock is never quite the station's, so the ratio of its resampler is
//! steered by how full the ring is ([`Servo`]).

use std::time::{Duration, Instant};

use super::servo::Servo;
use crate::control::CardLine;

/// The pump looks more often than this: in a longer time it was held up itself, and saw nothing.
const LOOK_MAX: Duration = Duration::from_millis(20);

/// So many periods without a word are no jitter: a device has room for two, and starts with as many.
const PERIODS_MAX: usize = 4;

/// A card's ring, and what it has no room for yet, which waits in the resampler's own buffer.
struct Line {
    card: Box<CardLine>,
    /// How much of the resampler's last output is in the ring, or was left out.
    n_sent: usize,
    n_pushed: u64,
    n_taken: u64,
    looked_at: Option<Instant>,
    /// For how long the card was seen to take nothing of what it could.
    idle: Duration,
}

impl Line {
    fn new(card: Box<CardLine>) -> Self {
        // What another line has left in its resampler is none of this one's.
        let n_sent = card.resampler.output().len();
        Self {
            card,
            n_sent,
            n_pushed: 0,
            n_taken: 0,
            looked_at: None,
            idle: Duration::ZERO,
        }
    }

    /// Whether the device at the other end is gone.
    fn is_lost(&self) -> bool {
        self.card.telemetry.is_live.get() == 0 || self.card.frames.is_abandoned()
    }

    /// Sees what the card has taken; says how long that was seen to take.
    fn look(&mut self, now: Instant) -> Duration {
        let since = self.looked_at.replace(now).unwrap_or(now);
        let elapsed = now.saturating_duration_since(since).min(LOOK_MAX);
        let n_taken = self.n_pushed - self.n_queued() as u64;
        if n_taken > self.n_taken {
            (self.n_taken, self.idle) = (n_taken, Duration::ZERO);
        } else if self.n_queued() >= self.half() {
            self.idle += elapsed;
        }
        elapsed
    }

    /// Converts a chunk, which waits for room.
    fn send(&mut self, samples: &[f32]) {
        debug_assert!(
            self.n_waiting() == 0,
            "a chunk is due once the last one is gone"
        );
        self.convert(samples);
        self.mend();
        self.top_up();
    }

    /// Converts a chunk, of which goes into the ring what there is room for. Once something was left out,
    /// so is all else until the ring is half empty: one seam is better than many.
    fn offer(&mut self, samples: &[f32]) {
        self.leave_out();
        self.convert(samples);
        if self.card.seam.is_empty() || self.n_queued() <= self.half() {
            self.mend();
            self.top_up();
        }
        self.leave_out();
    }

    fn convert(&mut self, samples: &[f32]) {
        self.card.resampler.process(samples);
        self.n_sent = 0;
    }

    /// How long until the rest fits; zero when nothing waits any more.
    fn top_up(&mut self) -> Duration {
        let waiting = &self.card.resampler.output()[self.n_sent..];
        let (sent, rest) = self.card.frames.push_partial_slice(waiting);
        self.n_sent += sent.len();
        self.n_pushed += sent.len() as u64;
        // A rest as long as the ring fits only when the ring is empty, and then the card starves:
        // come back when half of the ring is free at the latest.
        let n_free = rest.len().min(self.half());
        self.lasts(n_free)
    }

    /// Gives up what waits, and remembers how it would have begun.
    fn leave_out(&mut self) {
        let card = &mut *self.card;
        let rest = &card.resampler.output()[self.n_sent..];
        self.n_sent += rest.len();
        if card.seam.is_empty() {
            let n = rest.len().min(card.seam.capacity());
            card.seam.extend_from_slice(&rest[..n]);
        }
        // Before it has begun to play nobody lacks anything.
        if self.n_taken > 0 {
            card.telemetry.skipped_frames.add(rest.len() as u64);
        }
    }

    /// Fades from what was left out, if something was, into what comes instead.
    fn mend(&mut self) {
        let CardLine {
            resampler, seam, ..
        } = &mut *self.card;
        let fresh = resampler.output_mut();
        if fresh.is_empty() {
            return;
        }
        let n = seam.len().min(fresh.len());
        for (at, (new, &old)) in fresh.iter_mut().zip(&*seam).enumerate() {
            let share = (at + 1) as f32 / (n + 1) as f32;
            *new = old + (*new - old) * share;
        }
        seam.clear();
    }

    fn n_waiting(&self) -> usize {
        self.card.resampler.output().len() - self.n_sent
    }

    fn n_queued(&self) -> usize {
        self.capacity() - self.card.frames.slots()
    }

    fn capacity(&self) -> usize {
        self.card.frames.buffer().capacity()
    }

    fn half(&self) -> usize {
        self.capacity().div_ceil(2)
    }

    fn lasts(&self, n_frames: usize) -> Duration {
        Duration::from_secs_f64(n_frames as f64 / f64::from(self.card.resampler.to_hz()))
    }
}

/// The card that sets a station's pace, if it can.
pub(super) struct Pacer {
    line: Line,
    /// How much it will have taken when it sets the pace again.
    on_trial_until: Option<u64>,
}

impl Pacer {
    /// Of a station that has begun already, the card has to show first that it takes something: else it
    /// would hold up all who listen, and its empty ring would be filled at once.
    pub fn new(card: Box<CardLine>, is_late: bool) -> Self {
        card.telemetry.correction_ppm.set(None);
        let line = Line::new(card);
        let on_trial_until = is_late.then_some(line.capacity() as u64);
        Self {
            line,
            on_trial_until,
        }
    }

    pub fn into_card(self) -> Box<CardLine> {
        self.line.card
    }

    pub fn is_lost(&self) -> bool {
        self.line.is_lost()
    }

    /// Whether it is the station's clock now.
    pub fn paces(&self) -> bool {
        self.on_trial_until.is_none()
    }

    /// Moves what waits into the ring, and says how long until a chunk is due; `None` while something else
    /// has to say so.
    pub fn wait(&mut self, now: Instant, has_company: bool) -> Option<Duration> {
        self.line.look(now);
        let line = &self.line;
        match self.on_trial_until {
            Some(until) if line.n_taken >= until => self.on_trial_until = None,
            // One that has taken nothing yet is just being started, for which there is no measure.
            None if line.n_taken > 0 && line.idle > self.patience(has_company) => {
                line.card.telemetry.stalls.add(1);
                self.on_trial_until = Some(line.n_taken + line.capacity() as u64);
            }
            _ => {}
        }
        self.paces().then(|| self.line.top_up())
    }

    /// What the card may be silent for. Alone, until its lead is surely gone: leaving something out that it
    /// would have played is worse than a wait that listeners' buffers bear. Others cards' rings would be
    /// empty by then.
    fn patience(&self, has_company: bool) -> Duration {
        let line = &self.line;
        line.lasts(match has_company {
            false => line.capacity() + 2 * line.card.period_len,
            true => line.half().max(PERIODS_MAX * line.card.period_len),
        })
    }

    /// The next chunk's samples.
    pub fn deliver(&mut self, samples: &[f32]) {
        match self.paces() {
            true => self.line.send(samples),
            false => self.line.offer(samples),
        }
    }

    /// Seconds that were drawn and not taken.
    pub fn lead_s(&self) -> f64 {
        let n_frames = self.line.n_queued() + self.line.n_waiting();
        self.line.lasts(n_frames).as_secs_f64()
    }
}

/// A card that plays a station at another clock's pace, and is known while it is lost.
pub(super) struct Follower {
    pub number: usize,
    servo: Servo,
    line: Option<Line>,
}

impl Follower {
    pub fn new(number: usize, card: Box<CardLine>) -> Self {
        Self {
            number,
            servo: Servo::default(),
            line: Some(Line::new(card)),
        }
    }

    /// Plays on another output of the same card, whose clock is known.
    pub fn attach(&mut self, card: Box<CardLine>) -> Option<Box<CardLine>> {
        self.servo.forget_level();
        self.line.replace(Line::new(card)).map(|line| line.card)
    }

    /// Gives back a card that is gone.
    pub fn take_lost(&mut self) -> Option<Box<CardLine>> {
        let lost = self.line.take_if(|line| line.is_lost());
        lost.map(|line| line.card)
    }

    pub fn has_card(&self) -> bool {
        self.line.is_some()
    }

    /// Sees how full the ring is.
    pub fn look(&mut self, now: Instant) {
        let Some(line) = &mut self.line else {
            return;
        };
        let elapsed = line.look(now);
        // Neither before it plays nor while it stands still does its ring say anything of its clock.
        let is_playing = line.n_taken > 0 && line.card.seam.is_empty();
        if is_playing {
            let queued = line.lasts(line.n_queued()).as_secs_f64();
            let wanted = line.lasts(line.half()).as_secs_f64();
            self.servo.see(queued - wanted, elapsed.as_secs_f64());
        } else {
            self.servo.forget_level();
        }
    }

    /// The next chunk's samples, which last so long.
    pub fn deliver(&mut self, samples: &[f32], chunk: Duration) {
        let Some(line) = &mut self.line else {
            return;
        };
        let ratio = self.servo.steer(chunk.as_secs_f64());
        let card = &mut line.card;
        card.telemetry.correction_ppm.set(Some(1e6 * (ratio - 1.0)));
        card.resampler.steer(ratio);
        line.offer(samples);
    }
}
