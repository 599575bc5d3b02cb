//! Clients' own streams: lanes that wait for them, and how each is paced.
//!
//! A session is drawn as fast as it plays, a lead ahead, and only while its ring has room: a client
//! that does not read holds up nobody but itself, and loses nothing. It ends when the ring's other end is
//! dropped, in whatever state it is; then its lane waits for the next.

use std::time::{Duration, Instant};

use super::station::Tempo;
use super::stream::Stream;
use super::voice::Voice;
use crate::control::{self, ChunkShape, Inbox, Order, Refusal, Retired};
use crate::engine::Decoder;

/// The lanes of an engine's sessions, taken and free.
#[derive(Debug)]
pub(super) struct Sessions {
    pub slots: Vec<Slot>,
    /// The lane that hears new prompts, while nobody has it.
    spare: Option<usize>,
    /// Whether there are none any more.
    are_shed: bool,
}

/// A lane, and who has it.
#[derive(Debug)]
pub(super) struct Slot {
    pub voice: Voice,
    pub is_due: bool,
    tempo: Tempo,
    line: Option<Box<control::Session>>,
    /// How much of what it hears first has been taken in.
    n_heard: usize,
    /// Whether it has the spare lane.
    spare: Option<usize>,
    play_at: Instant,
}

impl Sessions {
    /// With a session for each lane but the last.
    pub fn new(lanes: &[usize], chunk: ChunkShape, tempo: Tempo) -> Self {
        let (spare, lanes) = match lanes.split_last() {
            Some((spare, lanes)) => (Some(*spare), lanes),
            None => (None, lanes),
        };
        let slots = lanes.iter().map(|&lane| Slot {
            voice: Voice::new(Stream::idle(lane, chunk.len), chunk),
            is_due: false,
            tempo,
            line: None,
            n_heard: 0,
            spare: None,
            play_at: Instant::now(),
        });
        Self {
            slots: slots.collect(),
            spare,
            are_shed: false,
        }
    }

    /// Gives a session a lane, or back.
    pub fn open(
        &mut self,
        session: Box<control::Session>,
        decoder: &mut dyn Decoder,
        inbox: &Inbox,
    ) {
        // Who has just left has made room.
        self.sweep(inbox);
        match self.place(&session, decoder) {
            Ok((index, position)) => {
                session.answer(Ok(position));
                let slot = &mut self.slots[index];
                slot.voice.restart(&session.start, position);
                slot.play_at = Instant::now();
                // A branch has heard all.
                slot.n_heard = session.branch_of.map_or(0, |_| usize::MAX);
                slot.line = Some(session);
            }
            Err(refusal) => {
                session.answer(Err(refusal));
                inbox.retire(Retired::Session(session));
            }
        }
    }

    /// A free lane, made what the session begins as, and the position of its first code.
    fn place(
        &self,
        session: &control::Session,
        decoder: &mut dyn Decoder,
    ) -> Result<(usize, u64), Refusal> {
        if self.are_shed {
            return Err(Refusal::Shed);
        }
        let free = self.slots.iter().position(|slot| slot.line.is_none());
        let index = free.ok_or(Refusal::NoLane)?;
        let lane = self.slots[index].voice.stream.lane();
        let Some(parent) = session.branch_of else {
            decoder.open(lane);
            return Ok((index, session.prompt().len() as u64));
        };
        let parent = self.slots.iter().find(|slot| slot.is(parent));
        let parent = parent.ok_or(Refusal::Gone)?;
        if !parent.has_heard() || parent.voice.fade.is_running() {
            return Err(Refusal::Busy);
        }
        decoder.copy(parent.voice.stream.lane(), lane);
        Ok((index, parent.voice.stream.position()))
    }

    pub fn has(&self, number: u64) -> bool {
        self.slots.iter().any(|slot| slot.is(number))
    }

    /// Takes an order for one of them, and gives it back once it is done with.
    pub fn obey(&mut self, number: u64, order: Box<Order>) -> Option<Box<Order>> {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.is(number)) else {
            return Some(order);
        };
        if order.change.prompt.is_some() && slot.spare.is_none() {
            slot.spare = self.spare.take();
        }
        slot.voice.obey(order, slot.spare.is_some())
    }

    /// Ends those whose clients have gone.
    pub fn sweep(&mut self, inbox: &Inbox) {
        self.end(inbox, |session| session.codes.is_abandoned());
    }

    /// Ends all, and lets none begin again: what draws has become so slow that it shall draw stations alone.
    pub fn shed(&mut self, inbox: &Inbox) {
        self.are_shed = true;
        self.end(inbox, |session| {
            session.answer(Err(Refusal::Shed));
            true
        });
    }

    fn end(&mut self, inbox: &Inbox, is_over: impl Fn(&control::Session) -> bool) {
        for slot in &mut self.slots {
            let Some(line) = slot.line.take_if(|line| is_over(line)) else {
                continue;
            };
            inbox.retire(Retired::Session(line));
            if let Some(order) = slot.voice.abandon() {
                inbox.retire(Retired::Order(order));
            }
            self.spare = slot.spare.take().or(self.spare);
            slot.is_due = false;
        }
    }

    /// Sends the chunks that were drawn on their way.
    pub fn deliver(&mut self, now: Instant) {
        for slot in self.slots.iter_mut().filter(|slot| slot.is_due) {
            if let Some(lane) = slot.voice.finish() {
                (self.spare, slot.spare) = (Some(lane), None);
            }
            slot.play_at = slot.play_at.max(now) + slot.tempo.chunk;
            if let Some(line) = &mut slot.line {
                let (_, rest) = line.codes.push_partial_slice(slot.voice.stream.codes());
                debug_assert!(rest.is_empty(), "what is due has room");
            }
        }
    }

    /// Takes in a tile of something that one of them is to hear; whether there was any.
    pub fn prime(&mut self, decoder: &mut dyn Decoder, inbox: &Inbox) -> bool {
        self.slots.iter_mut().any(|slot| slot.prime(decoder, inbox))
    }
}

impl Slot {
    fn is(&self, number: u64) -> bool {
        self.line.as_ref().is_some_and(|line| line.number == number)
    }

    fn has_heard(&self) -> bool {
        let line = self.line.as_ref();
        line.is_some_and(|line| self.n_heard >= line.prompt().len())
    }

    /// How long until a chunk is due; for ever, while there is nobody, no room or nothing to go on
    /// from.
    pub fn wait(&self, now: Instant) -> Duration {
        let line = self.line.as_ref().filter(|_| self.has_heard());
        match line {
            Some(line) if line.codes.slots() >= self.voice.stream.codes().len() => {
                let due_from = now + self.tempo.lead;
                self.play_at.saturating_duration_since(due_from)
            }
            _ => Duration::MAX,
        }
    }

    /// Whether a chunk that is due after `wait` may be drawn now, to share a call of the engine.
    pub fn is_flexible(&self, wait: Duration) -> bool {
        wait <= self.tempo.chunk / 2
    }

    fn prime(&mut self, decoder: &mut dyn Decoder, inbox: &Inbox) -> bool {
        let Some(line) = &self.line else {
            return false;
        };
        if !self.has_heard() {
            let prompt = line.prompt();
            let end = prompt.len().min(self.n_heard + decoder.prompt_tile());
            decoder.prime(self.voice.stream.lane(), &prompt[self.n_heard..end]);
            self.n_heard = end;
            // It begins to play when it can, and not late.
            self.play_at = Instant::now();
            return true;
        }
        match self.spare {
            Some(spare) if self.voice.wants_prime() => {
                if let Some(order) = self.voice.prime(spare, decoder) {
                    inbox.retire(Retired::Order(order));
                }
                true
            }
            _ => false,
        }
    }
}
