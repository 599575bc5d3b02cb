//! How stations come to a pump that runs, and go: what is made elsewhere is handed over whole, and what
//! has left is handed back to be freed elsewhere. Both ways are rings that nobody waits at.

use crate::control::Snapshot;

use super::STATIONS_MAX;
use super::ensemble::Ensemble;
use super::station::Station;

/// Ensembles there may be at once: one for each station, and while all are exchanged, twice as many.
pub(super) const ENSEMBLES_MAX: usize = 2 * STATIONS_MAX;

/// What the pump is told.
pub(super) enum Cue {
    /// Plays from now on.
    Join(Ensemble),
    /// A station fades out and goes; in the snapshot's room it leaves what it was then, if there is
    /// any.
    Leave(Box<Snapshot>),
}

/// A station that has left, or was not there, with what nobody needs without it.
pub(super) struct Left {
    pub snapshot: Box<Snapshot>,
    pub _station: Option<Station>,
    pub _ensemble: Option<Ensemble>,
}

/// The pump's ends.
pub(super) struct Stage {
    pub cues: rtrb::Consumer<Cue>,
    pub left: rtrb::Producer<Left>,
}

/// The ends of whoever has the pump.
pub(super) struct Wings {
    pub cues: rtrb::Producer<Cue>,
    pub left: rtrb::Consumer<Left>,
}

impl std::fmt::Debug for Wings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wings").finish_non_exhaustive()
    }
}

pub(super) fn wings() -> (Wings, Stage) {
    let (cues, taken) = rtrb::RingBuffer::new(ENSEMBLES_MAX);
    let (given, left) = rtrb::RingBuffer::new(ENSEMBLES_MAX);
    let wings = Wings { cues, left };
    let stage = Stage {
        cues: taken,
        left: given,
    };
    (wings, stage)
}

impl Stage {
    /// Follows the cues that came.
    pub fn follow(&mut self, ensembles: &mut Vec<Ensemble>) {
        // What it takes to answer: room for a station, or it is asked for later.
        while self.left.slots() > 0
            && let Ok(cue) = self.cues.pop()
        {
            match cue {
                Cue::Join(ensemble) => {
                    debug_assert!(ensembles.len() < ensembles.capacity(), "it would grow");
                    ensembles.push(ensemble);
                }
                Cue::Leave(snapshot) => {
                    let mut stations = ensembles.iter_mut().flat_map(|e| &mut e.stations);
                    match stations.find(|station| station.number == snapshot.station) {
                        Some(station) if !station.is_leaving() => station.leave(snapshot),
                        _ => self.hand_back(snapshot, None, None),
                    }
                }
            }
        }
    }

    /// Lets one station go that has faded out, and its ensemble if that was the last of it.
    pub fn dismiss(&mut self, ensembles: &mut Vec<Ensemble>) -> bool {
        if self.left.slots() == 0 {
            return false;
        }
        let has_faded = |ensemble: &mut Ensemble| {
            let faded = ensemble.stations.iter().position(Station::has_faded)?;
            Some(ensemble.stations.swap_remove(faded))
        };
        let mut each = ensembles.iter_mut().enumerate();
        let Some((index, mut station)) = each.find_map(|(i, e)| Some((i, has_faded(e)?))) else {
            return false;
        };
        let ensemble = &mut ensembles[index];
        let snapshot = station.exit(&mut *ensemble.decoder);
        let is_empty = ensemble.stations.is_empty() && ensemble.sessions.slots.is_empty();
        let ensemble = is_empty.then(|| ensembles.swap_remove(index));
        if let Some(snapshot) = snapshot {
            self.hand_back(snapshot, Some(station), ensemble);
        }
        true
    }

    fn hand_back(
        &mut self,
        snapshot: Box<Snapshot>,
        station: Option<Station>,
        ensemble: Option<Ensemble>,
    ) {
        let left = Left {
            snapshot,
            _station: station,
            _ensemble: ensemble,
        };
        // There was room before.
        let _ = self.left.push(left);
    }
}
