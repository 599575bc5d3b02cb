//! Stations that survive a restart, and that are shown to whoever may know them: read at the start, kept
//! from time to time and when asked, and written at the end.
//!
//! The pump fills a snapshot when nothing is due, one of a station at a time, and threads that may wait
//! write it. What cannot be read or written is said, and nothing stops playing for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::kept::Kept;
use crate::config::Config;
use crate::control::{ControlError, Controls, Snapshot};
use crate::net::Inquiry;
use crate::pump::Stopped;
use crate::setup::Setup;
use crate::state::Asked;
use crate::telemetry::Telemetry;

/// Before the first time: that there is no room for it should be known while somebody still looks.
const SOON: Duration = Duration::from_secs(5);

/// A station is shown no more often, whoever asks: each time its pump copies a lane.
const SHOW_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Keeper {
    /// By their numbers.
    stations: BTreeMap<usize, Keeping>,
    /// Where there are files: how often they are written, and when next.
    files: Option<(Duration, Instant)>,
    /// Whoever wants to know.
    inquiries: mpsc::Receiver<Inquiry>,
    /// One file at a time: two must not be called the same while they are written.
    pen: Arc<Mutex<()>>,
    telemetry: Arc<Telemetry>,
}

/// A station, and what is wanted of it.
#[derive(Debug)]
struct Keeping {
    kept: Kept,
    /// The pump was asked and has not come to it.
    is_under_way: bool,
    /// What comes of it belongs into a file.
    is_to_write: bool,
    /// Who wants to see it.
    curious: Vec<Inquiry>,
    shown_at: Option<Instant>,
}

impl Keeper {
    /// Lets the stations begin where they stopped, if that is wanted.
    pub fn open(
        config: &Config,
        setup: &mut Setup,
        telemetry: Arc<Telemetry>,
        inquiries: mpsc::Receiver<Inquiry>,
    ) -> Self {
        let every = Duration::from_secs(60 * u64::from(config.state.every_min));
        let files = config.state.resume.then(|| {
            let directory = config.state.directory();
            tracing::info!("stations are kept in {}", directory.display());
            (every, Instant::now() + SOON)
        });
        let stations = Kept::all(config, setup).into_iter().map(Keeping::new);
        Self {
            stations: stations.enumerate().collect(),
            files,
            inquiries,
            pen: Arc::default(),
            telemetry,
        }
    }

    /// Keeps a station from now on that has come while others play.
    pub fn admit(&mut self, station: usize, kept: Kept) {
        self.stations.insert(station, Keeping::new(kept));
    }

    /// What it takes to keep a station that leaves: room for a lane's state, none where it is not kept.
    pub fn room(&self, station: usize) -> Vec<u8> {
        let keeping = self.stations.get(&station).filter(|_| self.files.is_some());
        keeping.map_or_else(Vec::new, |keeping| keeping.kept.room())
    }

    /// Writes what a station was when it left, which may take a while.
    pub fn part(&mut self, snapshot: Snapshot) -> impl FnOnce() + Send + use<> {
        let keeping = self.stations.remove(&snapshot.station);
        let (pen, telemetry) = (self.pen.clone(), self.telemetry.clone());
        move || {
            if let Some(Keeping { kept, .. }) = keeping
                && !snapshot.bytes.is_empty()
            {
                kept.write(&kept.state(snapshot), &pen, &telemetry);
            }
        }
    }

    /// What the configuration has come to say of a station while it plays.
    pub fn adopt(&mut self, station: usize, asked: Asked) {
        if let Some(keeping) = self.stations.get_mut(&station) {
            keeping.kept.asked = asked;
        }
    }

    /// Asks for what is to be kept when it is time and for what somebody wants to know, and hands out
    /// what came of it.
    pub fn beat(&mut self, controls: &Controls) {
        if let Some((every, next)) = &mut self.files
            && Instant::now() >= *next
        {
            *next = Instant::now() + *every;
            for keeping in self.stations.values_mut() {
                keeping.is_to_write = true;
            }
        }
        while let Ok(inquiry) = self.inquiries.try_recv() {
            // Of one that has left: it is dropped, and nobody knows.
            if let Some(keeping) = self.stations.get_mut(&inquiry.station) {
                keeping.curious.push(inquiry);
            }
        }
        for (&number, keeping) in &mut self.stations {
            if !keeping.ask(number, controls) {
                // The others at the next beat: those before them are under way then.
                break;
            }
        }
        while let Some(snapshot) = controls.kept() {
            self.hand_out(*snapshot);
        }
    }

    fn hand_out(&mut self, snapshot: Snapshot) {
        // It may have left meanwhile.
        let Some(keeping) = self.stations.get_mut(&snapshot.station) else {
            return;
        };
        let state = Arc::new(keeping.kept.state(snapshot));
        keeping.is_under_way = false;
        for Inquiry { answer, .. } in keeping.curious.drain(..) {
            keeping.shown_at = Some(Instant::now());
            // Who has gone meanwhile does not want it.
            let _ = answer.send(state.clone());
        }
        if std::mem::take(&mut keeping.is_to_write) {
            let (pen, telemetry) = (self.pen.clone(), self.telemetry.clone());
            let kept = keeping.kept.clone();
            tokio::task::spawn_blocking(move || kept.write(&state, &pen, &telemetry));
        }
    }

    /// Writes what all stations were in the end.
    pub fn finish(self, mut stopped: Stopped) {
        let stations = self.stations.iter().filter(|_| self.files.is_some());
        for (&number, Keeping { kept, .. }) in stations {
            if let Some(snapshot) = stopped.snapshot(number) {
                kept.write(&kept.state(snapshot), &self.pen, &self.telemetry);
            }
        }
    }
}

impl Keeping {
    fn new(kept: Kept) -> Self {
        Self {
            kept,
            is_under_way: false,
            is_to_write: false,
            curious: Vec::new(),
            shown_at: None,
        }
    }

    /// Asks the pump, if something is wanted; whether it has a place for more.
    fn ask(&mut self, number: usize, controls: &Controls) -> bool {
        self.curious.retain(|inquiry| !inquiry.answer.is_closed());
        let may_be_shown = self.shown_at.is_none_or(|at| at.elapsed() >= SHOW_EVERY);
        let is_to_show = !self.curious.is_empty() && may_be_shown;
        if self.is_under_way || !(self.is_to_write || is_to_show) {
            return true;
        }
        match controls.keep(number, || self.kept.room()) {
            Ok(()) => self.is_under_way = true,
            Err(ControlError::Stuck) => return false,
            Err(error) => {
                let name = self.kept.name();
                tracing::warn!("station {name} is not kept now: {error}");
                self.is_to_write = false;
                self.curious.clear();
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{self, Change, ChunkShape, Command, Inbox, Whose};
    use crate::net::STATES_MAX;
    use crate::state::State;
    use tokio::sync::oneshot;

    /// Of two stations.
    fn keeper() -> (Keeper, mpsc::Sender<Inquiry>, Controls, Inbox) {
        let (controls, inbox) = control::channel(vec![ChunkShape::default(); 2]);
        let (sender, inquiries) = mpsc::channel(STATES_MAX);
        let stations = [Kept::of("piano", 4), Kept::of("organ", 8)].map(Keeping::new);
        let keeper = Keeper {
            stations: stations.into_iter().enumerate().collect(),
            files: None,
            inquiries,
            pen: Arc::default(),
            telemetry: Arc::default(),
        };
        (keeper, sender, controls, inbox)
    }

    fn ask(sender: &mpsc::Sender<Inquiry>, station: usize) -> oneshot::Receiver<Arc<State>> {
        let (answer, answered) = oneshot::channel();
        sender.try_send(Inquiry { station, answer }).unwrap();
        answered
    }

    #[test]
    fn all_who_ask_are_shown_one_copy_and_the_next_is_made_a_second_later() {
        let (mut keeper, sender, controls, inbox) = keeper();
        let mut all = [ask(&sender, 0), ask(&sender, 0)];
        keeper.beat(&controls);
        let Some(Command::Keep(mut snapshot)) = inbox.take() else {
            panic!("nothing is asked for");
        };
        assert!(inbox.take().is_none(), "one is enough");
        assert_eq!((snapshot.station, snapshot.bytes.len()), (0, 4));
        snapshot.position = 5;
        inbox.give(snapshot);
        keeper.beat(&controls);
        for answered in &mut all {
            let state = answered.try_recv().unwrap();
            assert_eq!(state.snapshot.position, 5);
        }
        let later = ask(&sender, 0);
        keeper.beat(&controls);
        assert!(inbox.take().is_none(), "too soon");
        let long_ago = Instant::now().checked_sub(SHOW_EVERY);
        keeper.stations.get_mut(&0).unwrap().shown_at = long_ago;
        keeper.beat(&controls);
        assert!(matches!(inbox.take(), Some(Command::Keep(_))));
        drop(later);
    }

    #[test]
    fn who_has_gone_asks_for_nothing_and_of_a_station_that_has_left_nobody_knows() {
        let (mut keeper, sender, controls, inbox) = keeper();
        drop(ask(&sender, 0));
        let mut of_nobody = ask(&sender, 9);
        keeper.beat(&controls);
        assert!(inbox.take().is_none());
        assert_eq!(
            of_nobody.try_recv(),
            Err(oneshot::error::TryRecvError::Closed)
        );
    }

    #[test]
    fn what_a_full_pump_has_no_place_for_is_asked_for_at_the_next_beat() {
        let (mut keeper, sender, controls, inbox) = keeper();
        keeper.stations.get_mut(&0).unwrap().is_to_write = true;
        let waiting = ask(&sender, 1);
        let change = || controls.change(Whose::Session(1), Change::default());
        while change().is_ok() {}
        keeper.beat(&controls);
        // A place for one.
        assert!(matches!(inbox.take(), Some(Command::Change(_))));
        keeper.beat(&controls);
        let mut asked = Vec::new();
        let mut take_all = || {
            while let Some(command) = inbox.take() {
                if let Command::Keep(snapshot) = command {
                    asked.push(snapshot.station);
                }
            }
            asked.clone()
        };
        assert_eq!(take_all(), [0]);
        keeper.beat(&controls);
        assert_eq!(take_all(), [0, 1]);
        drop(waiting);
    }
}
