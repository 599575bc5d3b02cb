//! Typed commands to the pump.
//!
//! [`Controls`] is cloned to whoever may command: the daemon, the card's supervisor. What a
//! command carries is built by its sender and, once done with, comes back here to be freed: the
//! pump neither allocates nor frees. This module moves commands and does not know what they do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TryRecvError, bounded};

use crate::model::DrawParams;
use crate::resample::{ResampleError, Resampler};

/// Commands under way at once; the pump takes them every few milliseconds.
const COMMANDS_MAX: usize = 16;

/// How long a sender waits for the pump, which by then has missed hundreds of chances.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a sender looks for an answer.
const LOOK: Duration = Duration::from_millis(2);

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
    /// Let this card play a station, and its ring set the pace; replaces an earlier card.
    AttachCard {
        /// Which station, by its place in the list the pump started with.
        station: usize,
        /// The way to the card.
        line: Box<CardLine>,
    },
    /// Let a timer set a station's pace again.
    DetachCard {
        /// Which station.
        station: usize,
    },
    /// Draw a station otherwise from its next chunk on.
    Retune {
        /// Which station.
        station: usize,
        /// Seeds its uniforms.
        seed: u64,
        /// How it draws.
        draw: DrawParams,
    },
    /// End the thread.
    Stop,
}

/// The way from the pump to a card: the model's rate to the device's, then the card's ring.
#[derive(Debug)]
pub struct CardLine {
    /// From the model's rate to the device's.
    pub resampler: Resampler,
    /// The card's ring of mono frames.
    pub frames: rtrb::Producer<f32>,
}

/// What a station is drawn in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    retired: Receiver<Box<CardLine>>,
    chunks: Box<[ChunkShape]>,
    retuned: Arc<[Retuned]>,
}

/// The last retuning of a station.
#[derive(Debug, Default)]
struct Retuned {
    /// How many there have been.
    n: AtomicU64,
    /// The first position that is drawn so.
    since: AtomicU64,
}

/// The pump's side.
#[derive(Debug)]
pub struct Inbox {
    commands: Receiver<Command>,
    retired: Sender<Box<CardLine>>,
    retuned: Arc<[Retuned]>,
}

/// A way to command a pump whose stations are drawn in `chunks`, each in its own.
pub fn channel(chunks: Vec<ChunkShape>) -> (Controls, Inbox) {
    let (command_sender, command_receiver) = bounded(COMMANDS_MAX);
    let (retired_sender, retired_receiver) = bounded(COMMANDS_MAX);
    let retuned: Arc<[Retuned]> = chunks.iter().map(|_| Retuned::default()).collect();
    let controls = Controls {
        commands: command_sender,
        retired: retired_receiver,
        chunks: chunks.into(),
        retuned: retuned.clone(),
    };
    let inbox = Inbox {
        commands: command_receiver,
        retired: retired_sender,
        retuned,
    };
    (controls, inbox)
}

impl Controls {
    /// Lets the card behind `frames` play a station at its own rate, and its ring set the pace.
    pub fn attach_card(
        &self,
        station: usize,
        frames: rtrb::Producer<f32>,
        rate_hz: u32,
    ) -> Result<(), ControlError> {
        let chunk = self.chunks.get(station);
        let chunk = chunk.ok_or(ControlError::NoStation(station))?;
        let line = Box::new(CardLine {
            resampler: Resampler::new(chunk.rate_hz, rate_hz, chunk.len)?,
            frames,
        });
        self.send(Command::AttachCard { station, line })
    }

    /// Lets a timer set a station's pace again.
    pub fn detach_card(&self, station: usize) -> Result<(), ControlError> {
        self.send(Command::DetachCard { station })
    }

    /// Lets a station draw otherwise, and waits for the pump to say from which position on. One caller
    /// at a time for a station, or either may be told the other's.
    pub fn retune(&self, station: usize, seed: u64, draw: DrawParams) -> Result<u64, ControlError> {
        let told = self.retuned.get(station);
        let told = told.ok_or(ControlError::NoStation(station))?;
        // ORDERING: Acquire meets the pump's Release: `since` is that of the count.
        let before = told.n.load(Ordering::Acquire);
        self.send(Command::Retune {
            station,
            seed,
            draw,
        })?;
        let asked = Instant::now();
        while told.n.load(Ordering::Acquire) == before {
            if asked.elapsed() > PATIENCE {
                return Err(ControlError::Stuck);
            }
            thread::sleep(LOOK);
        }
        Ok(told.since.load(Ordering::Relaxed))
    }

    /// Asks the pump to end after the chunk it is at.
    pub fn stop(&self) -> Result<(), ControlError> {
        self.send(Command::Stop)
    }

    /// Leaves a command there without waiting for what comes of it.
    #[cfg(test)]
    pub(crate) fn send_now(&self, command: Command) {
        self.send(command).expect("the pump's inbox has room");
    }

    fn send(&self, command: Command) -> Result<(), ControlError> {
        self.retired.try_iter().for_each(drop);
        self.commands
            .send_timeout(command, PATIENCE)
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

    /// Tells that a station is drawn as the last `Retune` says, from a position on.
    pub fn retuned(&self, station: usize, since: u64) {
        if let Some(told) = self.retuned.get(station) {
            told.since.store(since, Ordering::Relaxed);
            // ORDERING: Release, so that who sees the count sees the position.
            told.n.fetch_add(1, Ordering::Release);
        }
    }

    /// Gives a line back to be freed elsewhere. Lines come one by one, as cards do, and every
    /// command sent empties this queue: that it is full, and the line freed here, needs more
    /// cards lost in a row than there is room for.
    pub fn retire(&self, line: Box<CardLine>) {
        drop(self.retired.try_send(line));
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

    #[test]
    fn commands_arrive_in_order_and_the_end_of_all_senders_is_stop() {
        let (controls, inbox) = channel(vec![CHUNK; 4]);
        assert!(inbox.take().is_none());
        let (frames, _ring) = rtrb::RingBuffer::new(8);
        controls.attach_card(3, frames, 48_000).unwrap();
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
        controls.attach_card(0, frames, 48_000).unwrap();
        assert_no_alloc(|| match inbox.take() {
            Some(Command::AttachCard { line, .. }) => inbox.retire(line),
            _ => unreachable!(),
        });
        assert!(!ring.is_abandoned());
        controls.detach_card(0).unwrap();
        assert!(ring.is_abandoned());
    }

    #[test]
    fn what_cannot_be_sent_is_an_error() {
        let (controls, inbox) = channel(vec![CHUNK; 4]);
        let (frames, _ring) = rtrb::RingBuffer::new(8);
        let error = controls.attach_card(0, frames, 0).unwrap_err();
        assert!(matches!(error, ControlError::Rate(_)));
        let (frames, _ring) = rtrb::RingBuffer::new(8);
        let error = controls.attach_card(4, frames, 48_000).unwrap_err();
        assert!(matches!(error, ControlError::NoStation(4)));
        drop(inbox);
        assert!(matches!(controls.stop(), Err(ControlError::Gone)));
    }
}
