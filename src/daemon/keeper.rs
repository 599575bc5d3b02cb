//! Stations that survive a restart: read at the start, kept from time to time, and written at the end.
//!
//! The pump fills a snapshot when nothing is due, and a thread that may wait writes it. What cannot be
//! read or written is said, and nothing stops playing for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

use crate::config::Config;
use crate::control::{Controls, Snapshot};
use crate::engine;
use crate::pump::{Start, Stopped};
use crate::setup::Setup;
use crate::state::{Asked, State};
use crate::telemetry::Telemetry;

/// Before the first time: that there is no room for it should be known while somebody still looks.
const SOON: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Keeper {
    /// By their numbers.
    stations: BTreeMap<usize, Kept>,
    every: Duration,
    next: Instant,
    /// One file at a time: two must not be called the same while they are written.
    pen: Arc<Mutex<()>>,
    telemetry: Arc<Telemetry>,
}

/// What does not change about a station.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    name: String,
    path: PathBuf,
    model_sha256: String,
    asked: Asked,
    /// Bytes that a lane of its engine takes; none where it cannot be kept.
    len: usize,
}

impl Keeper {
    /// Lets the stations begin where they stopped, if that is wanted.
    pub fn open(config: &Config, setup: &mut Setup, telemetry: Arc<Telemetry>) -> Option<Self> {
        if !config.state.resume {
            return None;
        }
        tracing::info!(
            "stations are kept in {}",
            config.state.directory().display()
        );
        Some(Self {
            stations: Kept::resume_all(config, setup)
                .into_iter()
                .enumerate()
                .collect(),
            every: Duration::from_secs(60 * u64::from(config.state.every_min)),
            next: Instant::now() + SOON,
            pen: Arc::default(),
            telemetry,
        })
    }

    /// Keeps a station from now on that has come while others play.
    pub fn admit(&mut self, station: usize, kept: Kept) {
        self.stations.insert(station, kept);
    }

    /// What it takes to keep a station: room for a lane's state, none where it cannot be kept.
    pub fn room(&self, station: usize) -> Vec<u8> {
        let len = self.stations.get(&station).map_or(0, |kept| kept.len);
        // Written to, so that the pump does not wait for the system to find the memory.
        vec![0xff; len]
    }

    /// Writes what a station was when it left, which may take a while.
    pub fn part(&mut self, snapshot: Snapshot) -> impl FnOnce() + Send + use<> {
        let kept = self.stations.remove(&snapshot.station);
        let (pen, telemetry) = (self.pen.clone(), self.telemetry.clone());
        move || {
            if let Some(kept) = kept
                && !snapshot.bytes.is_empty()
            {
                kept.write(snapshot, &pen, &telemetry);
            }
        }
    }

    /// What the configuration has come to say of a station while it plays.
    pub fn adopt(&mut self, station: usize, asked: Asked) {
        if let Some(kept) = self.stations.get_mut(&station) {
            kept.asked = asked;
        }
    }

    /// Asks for what is to be kept when it is time, and has written what came of it.
    pub fn beat(&mut self, controls: &Controls) {
        if Instant::now() >= self.next {
            self.next = Instant::now() + self.every;
            for (&number, kept) in &self.stations {
                let room = self.room(number);
                if !room.is_empty()
                    && let Err(error) = controls.keep(number, room)
                {
                    tracing::warn!("station {} is not kept now: {error}", kept.name);
                }
            }
        }
        while let Some(snapshot) = controls.kept() {
            // It may have left meanwhile.
            let Some(kept) = self.stations.get(&snapshot.station).cloned() else {
                continue;
            };
            let (pen, telemetry) = (self.pen.clone(), self.telemetry.clone());
            tokio::task::spawn_blocking(move || kept.write(*snapshot, &pen, &telemetry));
        }
    }

    /// Writes what all stations were in the end.
    pub fn finish(self, mut stopped: Stopped) {
        for (&number, kept) in &self.stations {
            if let Some(snapshot) = stopped.snapshot(number) {
                kept.write(snapshot, &self.pen, &self.telemetry);
            }
        }
    }
}

impl Kept {
    /// Lets each station begin where it stopped; all of them, in the order of the configuration.
    pub fn resume_all(config: &Config, setup: &mut Setup) -> Vec<Self> {
        let Setup {
            engines,
            starts,
            places,
            ..
        } = setup;
        let stations = config.stations.iter().zip(starts.iter_mut().zip(places));
        let stations = stations.map(|(station, (start, place))| {
            let engine = &mut engines[place.engine];
            let directory = config.state.directory();
            let kept = Self {
                path: directory.join(format!("{}.state", station.name)),
                name: station.name.clone(),
                model_sha256: engine.model.sha256.clone(),
                asked: Asked::new(station.seed, start.draw, &start.prompt),
                len: engine::state_len(&mut *engine.decoder),
            };
            kept.resume(start);
            kept
        });
        stations.collect()
    }

    /// Lets the station begin where it stopped, as far as that is known and still wanted.
    fn resume(&self, start: &mut Start) {
        let name = &self.name;
        if self.len == 0 {
            tracing::warn!("station {name} is drawn on a GPU and cannot be kept: it begins anew");
            return;
        }
        let state = match State::read(&self.path) {
            Ok(Some(state)) => state,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!("{error}; station {name} begins anew");
                return;
            }
        };
        if let Some(why) = self.objection(&state) {
            tracing::warn!("{why}; station {name} begins anew");
            return;
        }
        let snapshot = state.snapshot;
        // What the configuration has come to say since goes before what was kept.
        if self.asked.seed == state.asked.seed {
            start.seed = snapshot.seed;
        }
        if self.asked.draw == state.asked.draw {
            start.draw = snapshot.draw;
        }
        let position = snapshot.position;
        start.prompt.clear();
        start.kept = Some(Arc::new(snapshot));
        tracing::info!("station {name} goes on from position {position}");
    }

    /// Why the station cannot go on from this.
    fn objection(&self, state: &State) -> Option<String> {
        let path = self.path.display();
        if let Some(why) = state.objection(&self.model_sha256, self.len) {
            return Some(format!("the state in {path} is {why}"));
        }
        let is_same = state.asked.prompt_sha256 == self.asked.prompt_sha256;
        (!is_same).then(|| "the configuration names another prompt".into())
    }

    fn write(&self, snapshot: Snapshot, pen: &Mutex<()>, telemetry: &Telemetry) {
        let position = snapshot.position;
        let state = State {
            model_sha256: self.model_sha256.clone(),
            asked: self.asked.clone(),
            snapshot,
        };
        // Nothing is left half done by whoever panicked.
        let _pen = pen.lock().unwrap_or_else(PoisonError::into_inner);
        match write(&state, &self.path) {
            Ok(()) => {
                telemetry.state.kept.add(1);
                tracing::debug!("station {} is kept at position {position}", self.name);
            }
            Err(error) => {
                telemetry.state.failed.add(1);
                tracing::warn!(
                    "cannot keep station {} in {}: {error}; after a restart it goes on from what was \
                     kept before, if anything was",
                    self.name,
                    self.path.display()
                );
            }
        }
    }
}

fn write(state: &State, path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    state.write(path)
}
