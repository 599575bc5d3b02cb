//! What is on the air: each station with all that hangs on it, and what they take of the machine together.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use super::casting::Waiting;
use super::recording;
use crate::capacity::{Capacity, EngineLoad};
use crate::config::{StateConfig, StationConfig};
use crate::control::Controls;
use crate::engine::{Fall, Omen};
use crate::model::Model;
use crate::net;
use crate::pump::{Numbers, STATIONS_MAX};
use crate::record::Recorder;
use crate::telemetry::Telemetry;

/// Who draws a station.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    /// The pump's number of it.
    pub number: usize,
    /// The pump's number of its engine.
    pub engine: usize,
    pub model: Arc<Model>,
}

/// A station that plays.
pub(super) struct OnAir {
    pub seat: Seat,
    pub station: net::Station,
    pub recorder: Option<Recorder>,
    /// Of its engine, until the rest of what is on the air has it.
    omen: Option<Arc<Omen>>,
}

impl OnAir {
    /// Of one that the pump plays, or will: the `index`th after those that had numbers.
    pub fn new(waiting: Waiting, given: Numbers, index: usize, controls: &Controls) -> Self {
        let seat = Seat {
            number: given.stations + index,
            engine: given.engines + waiting.engine,
            model: waiting.model.clone(),
        };
        Self {
            station: waiting.open(seat.number, controls),
            omen: waiting.omen,
            seat,
            recorder: None,
        }
    }

    /// Begins to record it as its configuration says.
    pub fn record(
        &self,
        config: &StationConfig,
        state: &StateConfig,
        telemetry: &Arc<Telemetry>,
    ) -> io::Result<Option<Recorder>> {
        let net::Station { facts, source, .. } = &self.station;
        recording::start(state, config, (facts, source), telemetry)
    }

    pub fn name(&self) -> &str {
        &self.station.facts.station
    }
}

/// All that is on the air.
pub(super) struct Air {
    /// In the order of the configuration.
    pub stations: Vec<OnAir>,
    /// What the engines take, by their numbers.
    pub load: Load,
    /// Numbers that are somebody's, or were.
    pub given: Numbers,
    /// Engines that have failed.
    pub n_fallen: usize,
    /// Of engines that may fail, by their numbers, with the names of their models. One that sessions alone are
    /// left on has no station.
    omens: BTreeMap<usize, (String, Arc<Omen>)>,
    /// The network's list.
    roster: watch::Sender<Vec<net::Station>>,
}

impl Air {
    /// Of the first stations.
    pub fn new(stations: Vec<OnAir>, load: Load, given: Numbers) -> Self {
        let air = Self {
            stations,
            load,
            given,
            n_fallen: 0,
            omens: BTreeMap::new(),
            roster: watch::Sender::default(),
        };
        air.show();
        air
    }

    /// What the network serves.
    pub fn roster(&self) -> watch::Receiver<Vec<net::Station>> {
        self.roster.subscribe()
    }

    /// Shows the network what there is now.
    pub fn show(&self) {
        let stations = self.stations.iter().map(|on_air| on_air.station.clone());
        self.roster.send_replace(stations.collect());
    }

    /// Engines that have failed since it was last asked, each once, by the names of their models; their
    /// stations, and those of them that are `leaving`, say from now on what plays.
    pub fn fallen(&mut self, leaving: &mut [OnAir]) -> Vec<(String, Fall)> {
        for on_air in self.stations.iter_mut().chain(&mut *leaving) {
            if let Some(omen) = on_air.omen.take() {
                let model = on_air.seat.model.name.clone();
                let engine = self.omens.entry(on_air.seat.engine);
                engine.or_insert((model, omen));
            }
        }
        let omens = self.omens.iter();
        let fallen = omens.filter_map(|(engine, (model, omen))| {
            let fall = omen.get()?.clone();
            Some((*engine, (model.clone(), fall)))
        });
        let fallen: BTreeMap<usize, (String, Fall)> = fallen.collect();
        // Of an engine that has left nobody else has one.
        self.omens.retain(|engine, (_, omen)| {
            !fallen.contains_key(engine) && Arc::strong_count(omen) > 1
        });
        for on_air in self.stations.iter().chain(&*leaving) {
            if let Some((_, fall)) = fallen.get(&on_air.seat.engine) {
                on_air.station.desk.tell_isa(fall.isa);
            }
        }
        fallen.keys().for_each(|engine| self.load.give_up(*engine));
        self.n_fallen += fallen.len();
        fallen.into_values().collect()
    }

    /// Takes over what was measured for stations that are on the air now, and forgets who is not any more.
    pub fn admit(&mut self, load: Load) {
        self.load.admit(load);
        self.load.keep(&self.engines());
    }

    /// Says how much there is room for on the first station's engine, sessions or stations.
    pub fn tell_lanes(&self, telemetry: &Telemetry) {
        let (capacity, places) = self.load.of(&self.engines());
        tell_lanes(&capacity, places[0], telemetry);
    }

    /// The number of each station's engine.
    fn engines(&self) -> Vec<usize> {
        self.stations.iter().map(|s| s.seat.engine).collect()
    }

    pub fn seats(&self) -> Vec<Seat> {
        self.stations.iter().map(|s| s.seat.clone()).collect()
    }

    /// What plays, in a few words: what a status begins with.
    pub fn subject(&self) -> String {
        let names = self.stations.iter().map(OnAir::name);
        let first = self.stations.first();
        let isa = first.map(|on_air| on_air.station.desk.facts().isa);
        format!(
            "{} on {}",
            names.collect::<Vec<_>>().join(", "),
            isa.unwrap_or_default()
        )
    }
}

/// What was measured of all engines there are.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// By the pump's numbers of them.
    pub engines: BTreeMap<usize, EngineLoad>,
    /// The first so many have lanes for sessions, and stay.
    pub n_with_sessions: usize,
    /// Of the time, what sessions may take.
    pub reserve: f64,
}

impl Load {
    /// Forgets the engines that neither `stations`, by their engines' numbers, nor sessions play on.
    pub fn keep(&mut self, stations: &[usize]) {
        let n_with_sessions = self.n_with_sessions;
        self.engines
            .retain(|number, _| *number < n_with_sessions || stations.contains(number));
    }

    /// What the engines take together with `stations` on them, and `stations` as the judge wants them: as
    /// places in the list of engines.
    pub fn of(&self, stations: &[usize]) -> (Capacity, Vec<usize>) {
        let engines = self.engines.iter().map(|(number, load)| {
            let n_lanes = stations.iter().filter(|engine| *engine == number).count();
            load.clone().with_lanes(n_lanes)
        });
        let capacity = Capacity::new(engines.collect(), STATIONS_MAX).with_reserve(self.reserve);
        let place = |engine: &usize| self.engines.keys().position(|number| number == engine);
        (capacity, stations.iter().filter_map(place).collect())
    }

    /// Nobody knows any more what an engine takes, and it has no sessions.
    fn give_up(&mut self, engine: usize) {
        if let Some(load) = self.engines.get_mut(&engine) {
            load.give_up();
        }
        let mut with_sessions = self.engines.range(..self.n_with_sessions);
        if with_sessions.all(|(_, load)| !load.is_known()) {
            self.reserve = 0.0;
        }
    }

    /// Takes over what was measured of engines that have come; of the others it may be known better by now.
    fn admit(&mut self, other: Self) {
        for (number, load) in other.engines {
            self.engines.entry(number).or_insert(load);
        }
    }
}

/// Says how much there is room for, on the engine in that place, sessions or stations.
pub(super) fn tell_lanes(capacity: &Capacity, first: usize, telemetry: &Telemetry) {
    let capacity = capacity.clone().with_reserve(0.0);
    let n_lanes = capacity.n_lanes();
    let n_more = capacity.room_for(first);
    telemetry.lanes.open.set(n_lanes as u64);
    telemetry.lanes.capacity.set((n_lanes + n_more) as u64);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::capacity::Costs;
    use crate::config::Config;
    use crate::control;
    use crate::daemon::casting;
    use crate::engine;
    use crate::setup::Setup;

    const COSTS: Costs = Costs {
        one: 0.01,
        n_lanes: 1,
        all: 0.01,
    };

    /// Two stations of an engine that fails when a lane is opened.
    fn mortal() -> (Setup, Air) {
        let stations = "model = \"models/tiny\"\n[[station]]\n[[station]]\nname = \"b\"";
        let config = Config::parse(stations, Path::new("c.toml")).unwrap();
        let mut setup = Setup::new(&config).unwrap();
        let decoder = &mut setup.engines[0].decoder;
        *decoder = engine::fragile(decoder.n_lanes(), decoder.n_lanes(), 0);
        let (controls, _inbox) = control::channel(Vec::new());
        let (_openings, waiting) = casting::stations(&config, &setup);
        let on_air = waiting.into_iter().enumerate();
        let on_air = on_air.map(|(at, w)| OnAir::new(w, Numbers::default(), at, &controls));
        let load = Load {
            engines: BTreeMap::from([(0, EngineLoad::new("tiny", 2, COSTS))]),
            n_with_sessions: 0,
            reserve: 0.0,
        };
        let air = Air::new(on_air.collect(), load, Numbers::default());
        (setup, air)
    }

    #[test]
    fn an_engine_that_fails_is_told_once_and_its_stations_say_what_plays_on() {
        let (mut setup, mut air) = mortal();
        let telemetry = Telemetry::default();
        let lanes = || {
            let lanes = &telemetry.lanes;
            (lanes.open.get(), lanes.capacity.get())
        };
        assert!(air.fallen(&mut []).is_empty());
        air.tell_lanes(&telemetry);
        assert!(lanes().1 > 2, "{:?}", lanes());
        assert!(air.subject().ends_with(" on mortal"), "{}", air.subject());
        setup.engines[0].decoder.open(1);
        let fallen = air.fallen(&mut []);
        let [(model, fall)] = fallen.as_slice() else {
            panic!("{fallen:?}");
        };
        assert_eq!(
            (&**model, fall.isa),
            ("tiny", setup.engines[0].decoder.isa())
        );
        assert!(air.subject().ends_with(&format!(" on {}", fall.isa)));
        assert!(air.fallen(&mut []).is_empty(), "it was told");
        // What the processor has time for nobody knows: nobody else is let in, and a reload that was on its
        // way does not know better. An engine that nobody plays on is forgotten.
        let load = EngineLoad::new("tiny", 2, COSTS);
        let before = Load {
            engines: BTreeMap::from([(0, load.clone()), (1, load)]),
            ..air.load.clone()
        };
        air.admit(before);
        air.tell_lanes(&telemetry);
        assert_eq!(lanes(), (2, 2));
        assert!(air.load.engines.keys().eq(&[0]));
    }

    #[test]
    fn an_engine_that_sessions_alone_are_left_on_is_told_too_and_nothing_is_kept_free_for_them() {
        let (mut setup, mut air) = mortal();
        air.load.n_with_sessions = 1;
        air.load.reserve = 0.1;
        assert!(air.fallen(&mut []).is_empty());
        air.stations.clear();
        setup.engines[0].decoder.open(1);
        assert_eq!(air.fallen(&mut []).len(), 1);
        assert!(air.fallen(&mut []).is_empty(), "it was told");
        assert_eq!((air.n_fallen, air.load.reserve), (1, 0.0));
        let words = air
            .load
            .of(&[0, 0])
            .0
            .judge(&[0, 0], true)
            .unwrap()
            .unwrap();
        assert!(
            words.contains("tiny 2, not measured since its GPU has failed"),
            "{words}"
        );
    }

    #[test]
    fn an_engine_that_fails_while_its_stations_leave_is_told_too() {
        let (mut setup, mut air) = mortal();
        let mut leaving = std::mem::take(&mut air.stations);
        setup.engines[0].decoder.open(1);
        let fallen = air.fallen(&mut leaving);
        let [(_, fall)] = fallen.as_slice() else {
            panic!("{fallen:?}");
        };
        for on_air in &leaving {
            assert_eq!(on_air.station.desk.facts().isa, fall.isa);
        }
        assert!(air.fallen(&mut leaving).is_empty(), "it was told");
    }
}
