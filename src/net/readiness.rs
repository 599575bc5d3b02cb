//! Whether the stations play as they should, and if not, why.

use std::sync::{Mutex, PoisonError};

/// The answer of `/readyz`: told by the daemon, read by whoever asks. No thread that makes sound comes
/// here.
#[derive(Debug)]
pub struct Readiness(Mutex<Option<String>>);

impl Default for Readiness {
    /// A daemon that has just begun.
    fn default() -> Self {
        Self(Mutex::new(Some("nothing has been played yet".into())))
    }
}

impl Readiness {
    /// From now on it is so: `None` while all is well, or else in one sentence what is not.
    pub fn tell(&self, trouble: Option<String>) {
        *self.lock() = trouble;
    }

    /// What is not well.
    pub fn trouble(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        // The sentence is whole whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
