//! Connections that have not asked for anything yet.
//!
//! Whoever connects may stay silent for a while, and nobody may keep others out by that: when all
//! doors are taken, the one that has been silent longest makes room for a newcomer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// All that are silent, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Doorstep(Mutex<Silent>);

#[derive(Debug, Default)]
struct Silent {
    n_ever: u64,
    guests: BTreeMap<u64, Arc<Notify>>,
}

impl Doorstep {
    pub(super) fn step_up(self: &Arc<Self>) -> Guest {
        let mut silent = self.silent();
        silent.n_ever += 1;
        let (number, leave) = (silent.n_ever, Arc::new(Notify::new()));
        silent.guests.insert(number, leave.clone());
        Guest {
            doorstep: self.clone(),
            number,
            leave,
        }
    }

    /// Sends away who has been silent longest; whether there was anybody.
    pub(super) fn push_out(&self) -> bool {
        let oldest = self.silent().guests.pop_first();
        oldest.map(|(_, leave)| leave.notify_one()).is_some()
    }

    fn silent(&self) -> MutexGuard<'_, Silent> {
        // The list is whole whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection: on the doorstep until it asks, or ends.
#[derive(Debug)]
pub(super) struct Guest {
    doorstep: Arc<Doorstep>,
    number: u64,
    leave: Arc<Notify>,
}

impl Guest {
    /// It is not silent any more, and nobody sends it away.
    pub(super) fn has_asked(&self) {
        self.doorstep.silent().guests.remove(&self.number);
    }

    /// Resolves when it must make room.
    pub(super) async fn pushed_out(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.has_asked();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn the_oldest_silent_one_makes_room_and_nobody_who_has_asked() {
        let doorstep = Arc::new(Doorstep::default());
        let [asked, old, young] = std::array::from_fn(|_| doorstep.step_up());
        asked.has_asked();
        let gone = doorstep.step_up();
        drop(gone);
        assert!(doorstep.push_out());
        let is_out = |guest: &Guest| guest.pushed_out().now_or_never().is_some();
        assert!(is_out(&old) && !is_out(&young) && !is_out(&asked));
        assert!(doorstep.push_out() && is_out(&young));
        assert!(!doorstep.push_out(), "nobody is silent");
    }
}
