//! What the watch of a daemon would have made of it: whether, and when, it would have stepped in.

use serde::{Deserialize, Serialize};

use crate::pump::{Collapse, Judgement, Watch};

/// A daemon would have left the stream here. What it would have gone on with nobody knows: here the
/// stream goes on as it is, and is left once for as long as nothing is good again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// When it would have been noticed.
    pub at_s: f64,
    /// What it would have been called.
    pub collapse: Collapse,
}

/// Listens as a daemon does, in chunks.
#[derive(Debug)]
pub(super) struct Alarms {
    watch: Watch,
    rate_hz: u32,
    n_heard: u64,
    is_left: bool,
    raised: Vec<Alarm>,
}

impl Alarms {
    pub(super) fn new(rate_hz: u32) -> Self {
        Self {
            watch: Watch::new(rate_hz),
            rate_hz,
            n_heard: 0,
            is_left: false,
            raised: Vec::new(),
        }
    }

    /// Takes in the next codes.
    pub(super) fn push(&mut self, codes: &[u8]) {
        // As long as a packet.
        for chunk in codes.chunks(self.rate_hz as usize / 50) {
            self.n_heard += chunk.len() as u64;
            match self.watch.hear(chunk, &mut |_| ()) {
                Judgement::Good => self.is_left = false,
                Judgement::Suspicious => {}
                Judgement::Collapsed(_) if self.is_left => {}
                Judgement::Collapsed(collapse) => {
                    self.is_left = true;
                    self.raised.push(Alarm {
                        at_s: self.n_heard as f64 / f64::from(self.rate_hz),
                        collapse,
                    });
                }
            }
        }
    }

    pub(super) fn finish(self) -> Vec<Alarm> {
        self.raised
    }
}
