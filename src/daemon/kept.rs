//! One station as it is kept: what it may go on from, and the file of it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use crate::config::Config;
use crate::control::Snapshot;
use crate::pump::Start;
use crate::setup::Setup;
use crate::state::{Asked, State};
use crate::telemetry::Telemetry;

/// What does not change about a station.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    name: String,
    path: PathBuf,
    model_sha256: String,
    pub asked: Asked,
    /// Bytes that a lane of its engine takes.
    len: usize,
}

impl Kept {
    /// All stations, in the order of the configuration; each begins where it stopped, if that is wanted.
    pub fn all(config: &Config, setup: &mut Setup) -> Vec<Self> {
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
                len: engine.decoder.state_len(),
            };
            if config.state.resume {
                kept.resume(start);
            }
            kept
        });
        stations.collect()
    }

    /// Lets the station begin where it stopped, as far as that is known and still wanted.
    fn resume(&self, start: &mut Start) {
        let name = &self.name;
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

    /// One that has no file.
    #[cfg(test)]
    pub fn of(name: &str, len: usize) -> Self {
        Self {
            name: name.to_owned(),
            path: PathBuf::new(),
            model_sha256: String::new(),
            asked: Asked::new(None, Default::default(), &[]),
            len,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Room for a lane's state.
    pub fn room(&self) -> Vec<u8> {
        // Written to, so that the pump does not wait for the system to find the memory.
        vec![0xff; self.len]
    }

    /// What the station is.
    pub fn state(&self, snapshot: Snapshot) -> State {
        State {
            model_sha256: self.model_sha256.clone(),
            asked: self.asked.clone(),
            snapshot,
        }
    }

    /// Into its file, when it is `pen`'s turn.
    pub fn write(&self, state: &State, pen: &Mutex<()>, telemetry: &Telemetry) {
        let position = state.snapshot.position;
        // Nothing is left half done by whoever panicked.
        let _pen = pen.lock().unwrap_or_else(PoisonError::into_inner);
        match write(state, &self.path) {
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
