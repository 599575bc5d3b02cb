//! How far a run has come, counted by all its threads; and whether it is to stop.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How far it has come, in bytes of the recordings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Whether recordings are still being looked at; otherwise they are being converted.
    pub is_looking: bool,
    /// Of this stage.
    pub n_done: u64,
    /// Of this stage.
    pub n_total: u64,
}

/// Hears time and again how far it is, on any thread, and may break off.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) -> ControlFlow<()> + Sync);

/// Counts for all threads and tells the caller.
pub struct Pace<'a> {
    is_looking: bool,
    n_done: AtomicU64,
    n_total: u64,
    is_stopped: AtomicBool,
    on_progress: OnProgress<'a>,
}

impl<'a> Pace<'a> {
    /// Of a stage that comes to `n_total` bytes.
    pub fn new(is_looking: bool, n_total: u64, on_progress: OnProgress<'a>) -> Self {
        Self {
            is_looking,
            n_done: AtomicU64::new(0),
            n_total,
            is_stopped: AtomicBool::new(false),
            on_progress,
        }
    }

    // ORDERING of all below: a count for people, and a flag that some later look sees. Nothing is
    // read on the word of either.

    /// Counts `n` bytes more; breaks off where the caller does, or one of the threads.
    pub fn advance(&self, n: u64) -> ControlFlow<()> {
        let n_done = self.n_done.fetch_add(n, Ordering::Relaxed) + n;
        if self.is_stopped.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        (self.on_progress)(Progress {
            is_looking: self.is_looking,
            n_done,
            n_total: self.n_total,
        })
    }

    /// Makes all threads break off at their next look.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }
}
