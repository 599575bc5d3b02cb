//! Typed commands to the pump.
//!
//! [`Controls`] is cloned to whoever may command: the daemon, the card's supervisor, the network. What
//! a command carries is built by its sender and, once done with, comes back here to be freed: the
//! pump neither allocates nor frees. What became of an [`Order`] its sender reads from a [`Receipt`];
//! nobody is woken for it. This module moves commands and does not know what they do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TryRecvError, bounded};

pub use crate::engine::DrawParams;
use crate::resample::{ResampleError, Resampler};
use crate::telemetry::CardTelemetry;

/// Commands under way at once; the pump takes them every few milliseconds.
const COMMANDS_MAX: usize = 16;

/// What may wait to be freed: every station's order at once, and more cards than anybody loses in a
/// row.
const RETIRED_MAX: usize = 256;

/// Streams kept that nobody has fetched yet: each station's, and more.
const KEPT_MAX: usize = 128;

/// How long a sender waits for the pump, which by then has missed hundreds of chances.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a command did not reach the pump.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Fatal: the generation thread has ended.
    #[error("the generation thread has ended and takes no more commands")]
    Gone,
    /// Retry: the generation thread is stuck in a step.
    #[error("the generation thread took no command for {PATIENCE:?}")]
    Stuck,
    /// Fatal: a bug of the caller.
    #[error("there is no station {0} to play")]
    NoStation(usize),
    /// Fatal: no way from the model's rate to the card's.
    #[error(transparent)]
    Rate(#[from] ResampleError),
}

/// What the pump can be told.
#[derive(Debug)]
pub enum Command {
    /// Let this card play a station, and replace the one that did so in the same part.
    AttachCard {
        /// Which station, by its number.
        station: usize,
        /// The way to the card.
        line: Box<CardLine>,
    },
    /// Let a timer set a station's pace again; cards that follow play on.
    DetachCard {
        /// Which station.
        station: usize,
    },
    /// Play a stream otherwise.
    Change(Box<Order>),
    /// Draw a session.
    Open(Box<Session>),
    /// Keep a station's stream.
    Keep(Box<Snapshot>),
    /// End the thread.
    Stop,
}

/// What shall be different; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// Seeds the uniforms from here on.
    pub seed: Option<u64>,
    /// How codes are chosen.
    pub draw: Option<DrawParams>,
    /// A factor of the samples at the card; what listeners get stays as it is.
    pub gain: Option<f32>,
    /// What the stream shall go on from, instead of its own past; at least one code.
    pub prompt: Option<Box<[u8]>>,
}

/// A change that is wanted, and where to say what became of it.
#[derive(Debug)]
pub struct Order {
    /// Whose.
    pub whose: Whose,
    /// What shall be different.
    pub change: Change,
    answer: Answer,
}

impl Order {
    /// Tells the sender from which position on it is so, or why it will not be.
    pub fn answer(&self, answer: Result<u64, Refusal>) {
        self.answer.tell(answer);
    }
}

/// A station's stream at the border of a chunk: all that it goes on from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Its number.
    pub station: usize,
    /// Seeds the uniforms.
    pub seed: u64,
    /// How codes are chosen.
    pub draw: DrawParams,
    /// A factor of the samples at the card.
    pub gain: f32,
    /// Of the next code.
    pub position: u64,
    /// The lane's state, as its engine keeps it; whoever asks for it brings the room.
    pub bytes: Vec<u8>,
}

/// Who is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A station, by its number.
    Station(usize),
    /// A session, by its number.
    Session(u64),
}

/// A client's own stream: how it begins, and where its codes go. It lasts as long as the other end of
/// the ring does, and whatever ends that gives the lane back.
#[derive(Debug)]
pub struct Session {
    /// Nobody else's.
    pub number: u64,
    /// Which engine draws it, by its number.
    pub engine: usize,
    /// How it begins: a seed, how codes are chosen, and what is heard first, if anything is.
    pub start: Change,
    /// The session whose past it has, instead of a prompt: as it is now.
    pub branch_of: Option<u64>,
    /// Room for at least a chunk. While there is none, nothing is drawn.
    pub codes: rtrb::Producer<u8>,
    answer: Answer,
}

impl Session {
    /// What it hears first.
    pub fn prompt(&self) -> &[u8] {
        self.start.prompt.as_deref().unwrap_or_default()
    }

    /// Tells the sender at which position it begins, or why it does not.
    pub fn answer(&self, answer: Result<u64, Refusal>) {
        self.answer.tell(answer);
    }
}

/// The pump's half of a receipt. Whoever drops it unused has said that there is nobody.
#[derive(Debug)]
struct Answer(Receipt);

impl Answer {
    fn tell(&self, answer: Result<u64, Refusal>) {
        let word = match answer {
            Ok(position) => position + 1,
            Err(refusal) => u64::MAX - refusal as u64,
        };
        // ORDERING: Relaxed, the number stands for itself.
        self.0.0.store(word, Ordering::Relaxed);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.0.read().is_none() {
            self.tell(Err(Refusal::Gone));
        }
    }
}

/// What became of an order.
#[derive(Clone, Debug, Default)]
pub struct Receipt(Arc<AtomicU64>);

impl Receipt {
    /// From which position on the change holds; `None` as long as nothing is decided.
    pub fn read(&self) -> Option<Result<u64, Refusal>> {
        let all = [Refusal::Gone, Refusal::NoLane, Refusal::Busy, Refusal::Shed];
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            word => {
                let refusal = all.into_iter().find(|r| u64::MAX - *r as u64 == word);
                Some(refusal.map_or(Ok(word - 1), Err))
            }
        }
    }
}

/// Why there are no sessions where a GPU has failed.
pub const SHED: &str = "a GPU has failed, and the processor has time for stations alone";

/// Why an order is not obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Fatal: there is nobody to obey it.
    #[error("the stream or its generator has ended")]
    Gone,
    /// Fatal: a prompt is heard by a lane beside the stream's.
    #[error(
        "there is no spare lane for it; a station has one if it is watched (watch = true), and \
         sessions have one together to hear new prompts with"
    )]
    NoLane,
    /// Retry: one after the other.
    #[error("it still listens to a prompt or fades over to one; try again in a few seconds")]
    Busy,
    /// Retry much later: what drew sessions has failed.
    #[error("{}", SHED)]
    Shed,
}

/// What the pump is done with.
#[derive(Debug)]
pub enum Retired {
    /// A card that plays no more.
    Line(Box<CardLine>),
    /// An order that was obeyed or refused.
    Order(Box<Order>),
    /// A session that has ended or did not begin.
    Session(Box<Session>),
    /// A wish to keep a stream that another has come after.
    Snapshot(Box<Snapshot>),
}

/// The near end of a card that was opened.
#[derive(Debug)]
pub struct CardEnd {
    /// Its ring of mono frames.
    pub frames: rtrb::Producer<f32>,
    /// Frames a second.
    pub rate_hz: u32,
    /// Frames the device takes at a time.
    pub period_len: u32,
    /// Tells whether it lives.
    pub telemetry: Arc<CardTelemetry>,
}

/// What a card is to its station.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It sets the pace, and plays every frame as it was drawn.
    Paces,
    /// It follows whatever sets the pace, by a ratio that is steered. The number is the card's own.
    Follows(usize),
}

/// The way from the pump to a card: the model's rate to the device's, then the card's ring.
#[derive(Debug)]
pub struct CardLine {
    /// What the card is to its station.
    pub part: Part,
    /// From the model's rate to the device's.
    pub resampler: Resampler,
    /// The card's ring.
    pub frames: rtrb::Producer<f32>,
    /// Frames the device takes at a time.
    pub period_len: usize,
    /// Tells whether it lives.
    pub telemetry: Arc<CardTelemetry>,
    /// Room for what is kept of sound that was left out, to fade from: [`SEAM_MS`].
    pub seam: Vec<f32>,
}

/// A fade from one piece of sound into another that does not follow on it.
pub const SEAM_MS: u32 = 5;

/// What a station is drawn in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkShape {
    /// Codes per second of its model.
    pub rate_hz: u32,
    /// Codes per chunk and per packet.
    pub len: usize,
}

/// The sending side.
#[derive(Clone, Debug)]
pub struct Controls {
    commands: Sender<Command>,
    retired: Receiver<Retired>,
    kept: Receiver<Box<Snapshot>>,
    chunks: Arc<Mutex<Chunks>>,
}

/// What each station is drawn in, by its number.
type Chunks = BTreeMap<usize, ChunkShape>;

/// The pump's side.
#[derive(Debug)]
pub struct Inbox {
    commands: Receiver<Command>,
    retired: Sender<Retired>,
    kept: Sender<Box<Snapshot>>,
}

/// A way to command a pump whose first stations are drawn in `chunks`, each in its own: the numbers of
/// stations are their places there.
pub fn channel(chunks: Vec<ChunkShape>) -> (Controls, Inbox) {
    let (command_sender, command_receiver) = bounded(COMMANDS_MAX);
    let (retired_sender, retired_receiver) = bounded(RETIRED_MAX);
    let (kept_sender, kept_receiver) = bounded(KEPT_MAX);
    let controls = Controls {
        commands: command_sender,
        retired: retired_receiver,
        kept: kept_receiver,
        chunks: Arc::new(Mutex::new(chunks.into_iter().enumerate().collect())),
    };
    let inbox = Inbox {
        commands: command_receiver,
        retired: retired_sender,
        kept: kept_sender,
    };
    (controls, inbox)
}

impl Controls {
    /// Says what a station that has come is drawn in.
    pub fn note(&self, station: usize, chunk: ChunkShape) {
        self.chunks().insert(station, chunk);
    }

    /// Forgets a station that has gone.
    pub fn forget(&self, station: usize) {
        self.chunks().remove(&station);
    }

    fn chunk(&self, station: usize) -> Result<ChunkShape, ControlError> {
        let chunk = self.chunks().get(&station).copied();
        chunk.ok_or(ControlError::NoStation(station))
    }

    /// The pump never comes here.
    fn chunks(&self) -> MutexGuard<'_, Chunks> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a card play a station at its own rate.
    pub fn attach_card(
        &self,
        station: usize,
        part: Part,
        card: CardEnd,
    ) -> Result<(), ControlError> {
        let chunk = self.chunk(station)?;
        let CardEnd {
            frames,
            rate_hz,
            period_len,
            telemetry,
        } = card;
        let resampler = match part {
            Part::Paces => Resampler::new(chunk.rate_hz, rate_hz, chunk.len)?,
            Part::Follows(_) => Resampler::steered(chunk.rate_hz, rate_hz, chunk.len)?,
        };
        let seam_len = u64::from(rate_hz) * u64::from(SEAM_MS) / 1_000;
        let line = Box::new(CardLine {
            part,
            resampler,
            frames,
            period_len: period_len as usize,
            telemetry,
            seam: Vec::with_capacity(seam_len as usize),
        });
        self.send(Command::AttachCard { station, line })
    }

    /// Lets a timer set a station's pace again.
    pub fn detach_card(&self, station: usize) -> Result<(), ControlError> {
        self.send(Command::DetachCard { station })
    }

    /// Asks for a change, which is made at the next border of a chunk; one with a prompt once that
    /// was heard. Waits for nothing: while the pump takes no commands, it is refused.
    pub fn change(&self, whose: Whose, change: Change) -> Result<Receipt, ControlError> {
        if let Whose::Station(station) = whose {
            self.chunk(station)?;
        }
        let receipt = Receipt::default();
        let order = Box::new(Order {
            whose,
            change,
            answer: Answer(receipt.clone()),
        });
        self.send_within(Command::Change(order), Duration::ZERO)?;
        Ok(receipt)
    }

    /// Asks for a session of `engine` whose codes go into a ring of `ring_len`; it ends when the ring's
    /// other end is dropped. Waits for nothing, like [`change`](Self::change).
    pub fn open_session(
        &self,
        number: u64,
        engine: usize,
        (start, branch_of): (Change, Option<u64>),
        ring_len: usize,
    ) -> Result<(rtrb::Consumer<u8>, Receipt), ControlError> {
        let receipt = Receipt::default();
        let (codes, ring) = rtrb::RingBuffer::new(ring_len);
        let session = Box::new(Session {
            number,
            engine,
            start,
            branch_of,
            codes,
            answer: Answer(receipt.clone()),
        });
        self.send_within(Command::Open(session), Duration::ZERO)?;
        Ok((ring, receipt))
    }

    /// Asks for a station's stream, in room for the state of a lane of its engine; it comes back
    /// [kept](Self::kept), once nothing is due. Waits for nothing.
    pub fn keep(&self, station: usize, room: impl FnOnce() -> Vec<u8>) -> Result<(), ControlError> {
        self.chunk(station)?;
        // The room is large.
        if self.commands.is_full() {
            return Err(ControlError::Stuck);
        }
        let snapshot = Snapshot {
            station,
            bytes: room(),
            ..Snapshot::default()
        };
        self.send_within(Command::Keep(Box::new(snapshot)), Duration::ZERO)
    }

    /// What has been kept, if there is something.
    pub fn kept(&self) -> Option<Box<Snapshot>> {
        self.kept.try_recv().ok()
    }

    /// Asks the pump to end after the chunk it is at.
    pub fn stop(&self) -> Result<(), ControlError> {
        self.send(Command::Stop)
    }

    fn send(&self, command: Command) -> Result<(), ControlError> {
        self.send_within(command, PATIENCE)
    }

    fn send_within(&self, command: Command, patience: Duration) -> Result<(), ControlError> {
        self.retired.try_iter().for_each(drop);
        self.commands
            .send_timeout(command, patience)
            .map_err(|error| match error {
                SendTimeoutError::Timeout(_) => ControlError::Stuck,
                SendTimeoutError::Disconnected(_) => ControlError::Gone,
            })
    }
}

impl Inbox {
    /// The next command, if there is one; never waits. When every sender is gone, nobody is left
    /// to say so: that is `Stop`.
    pub fn take(&self) -> Option<Command> {
        match self.commands.try_recv() {
            Ok(command) => Some(command),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Command::Stop),
        }
    }

    /// Gives out what was kept. Where that is not wanted any more, it is freed here: whoever asks for a
    /// station twice without taking the first is the one to blame.
    pub fn give(&self, snapshot: Box<Snapshot>) {
        drop(self.kept.try_send(snapshot));
    }

    /// Gives something back to be freed elsewhere. Every command sent empties this queue: that it is
    /// full, and the thing freed here, needs more cards lost in a row than there is room for.
    pub fn retire(&self, retired: Retired) {
        drop(self.retired.try_send(retired));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use assert_no_alloc::assert_no_alloc;

    const CHUNK: ChunkShape = ChunkShape {
        rate_hz: 16_000,
        len: 320,
    };

    fn end(frames: rtrb::Producer<f32>, rate_hz: u32) -> CardEnd {
        CardEnd {
            frames,
            rate_hz,
            period_len: 480,
            telemetry: Arc::default(),
        }
    }

    #[test]
    fn commands_arrive_in_order_and_the_end_of_all_senders_is_stop() {
        let (controls, inbox) = channel(vec![CHUNK; 4]);
        assert!(inbox.take().is_none());
        let (frames, _ring) = rtrb::RingBuffer::new(8);
        controls
            .attach_card(3, Part::Paces, end(frames, 48_000))
            .unwrap();
        controls.detach_card(3).unwrap();
        drop(controls);
        assert!(matches!(
            inbox.take(),
            Some(Command::AttachCard { station: 3, .. })
        ));
        assert!(matches!(
            inbox.take(),
            Some(Command::DetachCard { station: 3 })
        ));
        assert!(matches!(inbox.take(), Some(Command::Stop)));
    }

    #[test]
    fn a_retired_line_is_freed_by_the_sender() {
        let (controls, inbox) = channel(vec![CHUNK; 4]);
        let (frames, ring) = rtrb::RingBuffer::<f32>::new(8);
        controls
            .attach_card(0, Part::Follows(1), end(frames, 48_000))
            .unwrap();
        assert_no_alloc(|| match inbox.take() {
            Some(Command::AttachCard { line, .. }) => inbox.retire(Retired::Line(line)),
            _ => unreachable!(),
        });
        assert!(!ring.is_abandoned());
        controls.detach_card(0).unwrap();
        assert!(ring.is_abandoned());
    }

    #[test]
    fn an_order_is_answered_whatever_becomes_of_it() {
        let (controls, inbox) = channel(vec![CHUNK]);
        let seed = |seed| Change {
            seed: Some(seed),
            ..Change::default()
        };
        let receipts = [7, 8, 9].map(|n| controls.change(Whose::Station(0), seed(n)).unwrap());
        let mut orders = Vec::new();
        while let Some(Command::Change(order)) = inbox.take() {
            orders.push(order);
        }
        assert_eq!(receipts[0].read(), None);
        orders[0].answer(Ok(0));
        orders[1].answer(Err(Refusal::Busy));
        drop(orders);
        let read = receipts.map(|receipt| receipt.read().unwrap());
        assert_eq!(read, [Ok(0), Err(Refusal::Busy), Err(Refusal::Gone)]);
        assert!(matches!(
            controls.change(Whose::Station(1), seed(7)),
            Err(ControlError::NoStation(1))
        ));
    }

    #[test]
    fn what_cannot_be_sent_is_an_error() {
        let (controls, inbox) = channel(vec![CHUNK; 4]);
        let (frames, _ring) = rtrb::RingBuffer::new(8);
        let error = controls
            .attach_card(0, Part::Paces, end(frames, 0))
            .unwrap_err();
        assert!(matches!(error, ControlError::Rate(_)));
        let (frames, _ring) = rtrb::RingBuffer::new(8);
        let error = controls
            .attach_card(4, Part::Paces, end(frames, 48_000))
            .unwrap_err();
        assert!(matches!(error, ControlError::NoStation(4)));
        drop(inbox);
        assert!(matches!(controls.stop(), Err(ControlError::Gone)));
    }
}
