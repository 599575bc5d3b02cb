//! A stream with all that was changed in it, drawn again: what its listeners heard.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::stream::{Start, Stream};
use super::voice::Voice;
use crate::control::{Change, ChunkShape};
use crate::engine::Decoder;

/// Why changes cannot be drawn again. *Fatal*: they are not of one stream.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReplayError {
    /// They come in the order in which they were told.
    #[error("the change at position {0} comes after a later one, or before the stream begins")]
    Order(u64),
    /// Nobody's stream goes over to two prompts at once.
    #[error("the prompt at position {0} comes before the fade to the one before it has ended")]
    Overlap(u64),
}

/// The stream, and what is still to be changed.
#[derive(Debug)]
pub struct Replay {
    voice: Voice,
    spare: usize,
    chunk_len: usize,
    changes: VecDeque<(u64, Change)>,
}

impl Replay {
    /// Opens a stream in the lane `lane`, as [`Stream::open`] does, that changes as told at the
    /// positions named. Prompts are taken in by the lane `spare`.
    pub fn open(
        decoder: &mut dyn Decoder,
        [lane, spare]: [usize; 2],
        start: &Start,
        chunk: ChunkShape,
        on_prompt: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Option<Self> {
        let stream = Stream::open(decoder, lane, start, chunk.len, on_prompt)?;
        Some(Self {
            voice: Voice::new(stream, chunk),
            spare,
            chunk_len: chunk.len,
            changes: VecDeque::new(),
        })
    }

    /// Will change as `change` says when the stream has come to `position`.
    pub fn expect(&mut self, position: u64, change: Change) -> Result<(), ReplayError> {
        let last = self.changes.back().map(|(last, _)| *last);
        if position < last.unwrap_or(self.voice.stream.position()) {
            return Err(ReplayError::Order(position));
        }
        self.changes.push_back((position, change));
        Ok(())
    }

    /// Draws on, to the next change or for a chunk.
    pub fn next(&mut self, decoder: &mut dyn Decoder) -> Result<&[u8], ReplayError> {
        let position = self.voice.stream.position();
        let is_now = |(at, _): &&(u64, Change)| *at == position;
        while self.changes.front().filter(is_now).is_some() {
            let Some((_, change)) = self.changes.pop_front() else {
                break;
            };
            match &change.prompt {
                None => self.voice.apply(&change),
                Some(_) if self.voice.fade.is_running() => {
                    return Err(ReplayError::Overlap(position));
                }
                Some(prompt) => {
                    decoder.open(self.spare);
                    decoder.prime(self.spare, prompt);
                    self.voice.go_over(self.spare, &change);
                }
            }
        }
        let next = self.changes.front().map(|(at, _)| at - position);
        let len = next.map_or(self.chunk_len, |n| n.min(self.chunk_len as u64) as usize);
        self.voice.stream.set_len(len);
        let mut turns = self.voice.turns();
        match (turns.next(), turns.next()) {
            (Some(turn), Some(beside)) => decoder.generate(&mut [turn, beside]),
            (turn, _) => decoder.generate(&mut Vec::from_iter(turn)),
        }
        drop(turns);
        if let Some(lane) = self.voice.finish() {
            self.spare = lane;
        }
        Ok(self.voice.stream.codes())
    }
}
