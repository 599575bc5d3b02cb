//! A station: a stream and what guards it, its listeners' ring, perhaps cards, and the one clock
//! that paces it.
//!
//! With a live card that paces it the pace is the card's: a chunk is due when the last one has gone into
//! the ring whole. Otherwise, and as soon as that card asks for nothing, a timer keeps the stream a fixed
//! lead ahead of the wall clock. At a change of clock the stream goes on from now: it never skips, and
//! never makes up for more than the lead. More cards follow that clock, whichever it is.

use std::time::{Duration, Instant};

use crate::broadcast::Writer;
use crate::control::{CardLine, Order, Part, Snapshot};
use crate::engine::Decoder;
use crate::mulaw;
use crate::pump::fade::FADE_S;
use crate::pump::guard::Guard;
use crate::pump::line::{Follower, Pacer};
use crate::pump::voice::Voice;
use crate::pump::watch::Collapse;

/// Cards that may follow one station.
pub const FOLLOWERS_MAX: usize = 15;

/// How a station's time passes, and how far ahead it is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tempo {
    /// How long a chunk plays.
    pub chunk: Duration,
    /// How far ahead of the wall clock a station without a card is kept.
    pub lead: Duration,
}

pub(super) struct Station {
    /// Nobody else's, for ever.
    pub number: usize,
    pub voice: Voice,
    /// If it is watched.
    guard: Option<Guard>,
    tempo: Tempo,
    writer: Writer,
    pacer: Option<Pacer>,
    /// With room for all there may be.
    followers: Vec<Follower>,
    /// When the next chunk would begin to play, by the timer; before the first nobody waits for one.
    play_at: Option<Instant>,
    /// Whether the next call of `generate` includes this station.
    pub is_due: bool,
    samples: Vec<f32>,
    /// How loud the card plays it, and shall play it.
    gain: f32,
    gain_wanted: f32,
    /// Wants to know all that the stream is.
    keeping: Option<Box<Snapshot>>,
    /// Once it was told to go.
    exit: Option<Exit>,
}

/// How a station goes: it fades out, and says what it was.
struct Exit {
    n_faded: usize,
    /// Codes of the fade.
    len: usize,
    snapshot: Box<Snapshot>,
}

impl Exit {
    fn is_over(&self) -> bool {
        self.n_faded >= self.len
    }

    /// Makes a chunk as quiet as it is due.
    fn fade(&mut self, codes: &mut [u8]) {
        for code in codes {
            let rest = 1.0 - self.n_faded as f32 / self.len as f32;
            let sample = mulaw::decode(*code) * rest.max(0.0);
            *code = mulaw::encode(sample).unwrap_or(mulaw::SILENCE);
            self.n_faded += 1;
        }
    }
}

impl Station {
    pub fn new(
        (voice, guard): (Voice, Option<Guard>),
        writer: Writer,
        (number, tempo): (usize, Tempo),
        gain: f32,
    ) -> Self {
        Self {
            samples: vec![0.0; voice.stream.codes().len()],
            gain,
            gain_wanted: gain,
            keeping: None,
            exit: None,
            voice,
            guard,
            number,
            tempo,
            writer,
            pacer: None,
            followers: Vec::with_capacity(FOLLOWERS_MAX),
            play_at: None,
            is_due: false,
        }
    }

    /// Takes a card, gives back the one before it in that part.
    pub fn attach(&mut self, card: Box<CardLine>) -> Option<Box<CardLine>> {
        match card.part {
            Part::Paces => {
                let pacer = Pacer::new(card, self.play_at.is_some());
                self.pacer.replace(pacer).map(Pacer::into_card)
            }
            Part::Follows(number) => {
                let has_room = self.followers.len() < FOLLOWERS_MAX;
                let mut followers = self.followers.iter_mut();
                match followers.find(|follower| follower.number == number) {
                    Some(follower) => follower.attach(card),
                    None if has_room => {
                        self.followers.push(Follower::new(number, card));
                        None
                    }
                    None => Some(card),
                }
            }
        }
    }

    /// Gives back the card that paces it, if there is one.
    pub fn detach(&mut self) -> Option<Box<CardLine>> {
        self.pacer.take().map(Pacer::into_card)
    }

    /// Gives back a card that is gone, if there is one.
    pub fn take_lost(&mut self) -> Option<Box<CardLine>> {
        match &self.pacer {
            Some(pacer) if pacer.is_lost() => self.detach(),
            _ => self.followers.iter_mut().find_map(Follower::take_lost),
        }
    }

    /// Moves what waits into the card's ring, and says how long until a chunk is due.
    pub fn wait(&mut self, now: Instant) -> Duration {
        if self.has_faded() {
            return Duration::MAX;
        }
        let mut has_company = false;
        for follower in &mut self.followers {
            follower.look(now);
            has_company |= follower.has_card();
        }
        let pacer = self.pacer.as_mut();
        let by_card = pacer.and_then(|pacer| pacer.wait(now, has_company));
        by_card.unwrap_or_else(|| self.ahead_of(now + self.tempo.lead))
    }

    #[cfg(test)]
    pub fn is_paced_by_a_card(&self) -> bool {
        self.clock().is_some()
    }

    /// The card that is its clock now, if one is.
    fn clock(&self) -> Option<&Pacer> {
        self.pacer.as_ref().filter(|pacer| pacer.paces())
    }

    /// How long after `instant` the next chunk would begin to play, by the timer.
    fn ahead_of(&self, instant: Instant) -> Duration {
        let play_at = self.play_at;
        play_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(instant))
    }

    /// Whether a chunk that is due after `wait` may be drawn now, to share a call of the engine.
    pub fn is_flexible(&self, wait: Duration) -> bool {
        self.clock().is_none() && wait <= self.tempo.chunk / 2
    }

    /// Takes an order, and gives it back once it is done with.
    pub fn obey(&mut self, order: Box<Order>) -> Option<Box<Order>> {
        self.gain_wanted = order.change.gain.unwrap_or(self.gain_wanted);
        self.voice.obey(order, self.guard.is_some())
    }

    /// Takes in a tile of a prompt, if one waits; whether it did, and the order if that is done.
    pub fn prime(&mut self, decoder: &mut dyn Decoder) -> (bool, Option<Box<Order>>) {
        match &self.guard {
            Some(guard) if self.voice.wants_prime() => {
                (true, self.voice.prime(guard.spare(), decoder))
            }
            _ => (false, None),
        }
    }

    /// Will be kept when nothing is due; an earlier wish, which that makes needless.
    pub fn ask(&mut self, snapshot: Box<Snapshot>) -> Option<Box<Snapshot>> {
        self.keeping.replace(snapshot)
    }

    /// Fills in what was asked for, if something was. While a fade runs a lane alone does not say what
    /// comes next.
    pub fn keep(&mut self, decoder: &mut dyn Decoder) -> Option<Box<Snapshot>> {
        let is_whole = !self.voice.fade.is_running();
        let mut snapshot = self.keeping.take_if(|_| is_whole)?;
        self.fill(&mut snapshot, decoder);
        Some(snapshot)
    }

    /// Says all that the stream is. One that fades into another lane is what it will be then.
    pub fn fill(&mut self, snapshot: &mut Snapshot, decoder: &mut dyn Decoder) {
        let Voice { stream, fade, .. } = &self.voice;
        let lane = fade.lane().unwrap_or(stream.lane());
        decoder.save(lane, &mut snapshot.bytes);
        (snapshot.seed, snapshot.draw) = stream.drawn_by();
        snapshot.position = stream.position();
        snapshot.gain = self.gain_wanted;
    }

    /// Fades out from the next chunk on, and is then what `snapshot` has room for.
    pub fn leave(&mut self, snapshot: Box<Snapshot>) {
        self.exit = Some(Exit {
            n_faded: 0,
            len: (FADE_S / self.tempo.chunk.as_secs_f64() * self.samples.len() as f64) as usize,
            snapshot,
        });
    }

    pub fn is_leaving(&self) -> bool {
        self.exit.is_some()
    }

    /// Whether it has left but for its goodbye.
    pub fn has_faded(&self) -> bool {
        self.exit.as_ref().is_some_and(Exit::is_over)
    }

    /// Says what it was: to go on from, where there was room for that.
    pub fn exit(&mut self, decoder: &mut dyn Decoder) -> Option<Box<Snapshot>> {
        let mut snapshot = self.exit.take()?.snapshot;
        if !snapshot.bytes.is_empty() {
            self.fill(&mut snapshot, decoder);
        }
        Some(snapshot)
    }

    /// Sends the chunk that was just drawn on its way. Says by how much the timer had to be put back:
    /// so long there was nothing to hear. A card counts for itself what it lacked.
    pub fn deliver(&mut self, now: Instant) -> Duration {
        let tempo = self.tempo;
        if let (Some(lane), Some(guard)) = (self.voice.finish(), &mut self.guard) {
            guard.take_back(lane);
        }
        if let Some(exit) = &mut self.exit {
            exit.fade(self.voice.stream.codes_mut());
        }
        let codes = self.voice.stream.codes();
        // Over a whole chunk, or it would click.
        let slope = (self.gain_wanted - self.gain) / codes.len() as f32;
        if self.pacer.is_some() || !self.followers.is_empty() {
            for (at, (sample, &code)) in self.samples.iter_mut().zip(codes).enumerate() {
                *sample = mulaw::decode(code) * (self.gain + slope * at as f32);
            }
        }
        let mut lost = Duration::ZERO;
        let play_at = match self.clock() {
            // Should the card be lost now, the timer's next chunk is due one chunk later.
            Some(_) => now + tempo.lead + tempo.chunk,
            None => {
                let play_at = self.play_at.unwrap_or(now);
                lost = now.saturating_duration_since(play_at);
                play_at.max(now) + tempo.chunk
            }
        };
        if let Some(pacer) = &mut self.pacer {
            pacer.deliver(&self.samples);
        }
        for follower in &mut self.followers {
            follower.deliver(&self.samples, tempo.chunk);
        }
        self.play_at = Some(play_at);
        self.gain = self.gain_wanted;
        self.writer.publish(codes);
        lost
    }

    /// Looks at what was delivered: whether the stream has just collapsed, and returns.
    pub fn look(&mut self, decoder: &mut dyn Decoder) -> Option<Collapse> {
        if self.exit.is_some() {
            return None;
        }
        let Voice { stream, fade, .. } = &mut self.voice;
        let collapse = self.guard.as_mut()?.look(stream, fade, decoder);
        if collapse.is_some() {
            // The return has taken the lane.
            self.voice.restart_priming();
        }
        collapse
    }

    /// Copies the stream if its guard wants that; whether it did.
    pub fn copy(&mut self, decoder: &mut dyn Decoder) -> bool {
        let is_lent = self.voice.is_priming() || self.voice.fade.is_running();
        let guard = self.guard.as_mut();
        let guard = guard.filter(|guard| guard.wants_copy() && !is_lent);
        guard
            .map(|guard| guard.copy(&self.voice.stream, decoder))
            .is_some()
    }

    /// Seconds that were drawn but have not been played, or without a card are not yet due.
    pub fn lead_s(&self, now: Instant) -> f64 {
        match self.clock() {
            Some(pacer) => pacer.lead_s(),
            None => self.ahead_of(now).as_secs_f64(),
        }
    }
}
