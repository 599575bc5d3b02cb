//! How many streams this machine plays in time: measured loads in, a verdict out.
//!
//! A load is the time that computing takes over the time that it plays, on the one thread that
//! generates for all engines: together they may take [`BUDGET`]. Pure; what is measured, and when,
//! is the caller's.

use std::fmt;

/// The share of the time there is that may be planned for. The rest is for what a quiet start does
/// not show: other programs, interrupts, a slow chunk that has to be made up for.
pub const BUDGET: f64 = 0.9;

/// A lane more costs at least this share of the first: a measurement that says less is noise.
const EACH_MIN: f64 = 0.1;

/// What was measured of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// The load of one busy lane.
    pub one: f64,
    /// Lanes that were busy together.
    pub n_lanes: usize,
    /// Their load.
    pub all: f64,
}

/// What the lanes of one engine cost.
#[derive(Clone, Debug)]
pub struct EngineLoad {
    model: String,
    n_lanes: usize,
    first: f64,
    each: f64,
    is_known: bool,
}

/// All engines and what they may take together.
#[derive(Clone, Debug)]
pub struct Capacity {
    engines: Vec<EngineLoad>,
    lanes_max: usize,
    /// Promised to sessions.
    reserve: f64,
}

/// More stations are asked for than this machine plays in time. *Fatal*: a human must decide which.
#[derive(Debug, thiserror::Error)]
#[error(
    "{n_asked} stations take {load:.2} of the time there is and {BUDGET:.2} may be used ({parts}): \
     {}; configure fewer, name a faster isa or more threads, or set overload = true and hear them \
     stutter",
    fitting(*n_fit)
)]
pub struct Overload {
    n_asked: usize,
    n_fit: usize,
    load: f64,
    parts: String,
}

impl EngineLoad {
    /// An engine whose `n_lanes` lanes cost the first what was measured, and each more as much as
    /// those measured together.
    pub fn new(model: &str, n_lanes: usize, costs: Costs) -> Self {
        let Costs { one, all, .. } = costs;
        let each = match costs.n_lanes {
            // What a second lane would save is not known.
            0 | 1 => one,
            n => (all - one) / (n - 1) as f64,
        };
        Self {
            model: model.to_owned(),
            n_lanes,
            first: one,
            each: each.max(EACH_MIN * one),
            is_known: true,
        }
    }

    /// The same engine with other lanes open.
    pub fn with_lanes(self, n_lanes: usize) -> Self {
        Self { n_lanes, ..self }
    }

    /// Nobody knows any more what it takes: it may be all there is.
    pub fn give_up(&mut self) {
        (self.first, self.each) = (BUDGET, BUDGET);
        self.is_known = false;
    }

    /// Whether it was measured as it is.
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    fn of(&self, n_lanes: usize) -> f64 {
        match n_lanes {
            0 => 0.0,
            n => self.first + (n - 1) as f64 * self.each,
        }
    }
}

impl Capacity {
    /// Of engines that serve no more than `lanes_max` lanes together.
    pub fn new(engines: Vec<EngineLoad>, lanes_max: usize) -> Self {
        Self {
            engines,
            lanes_max,
            reserve: 0.0,
        }
    }

    /// What was measured of each.
    pub fn engines(&self) -> &[EngineLoad] {
        &self.engines
    }

    /// What so many lanes more take at most, whichever engines have them.
    pub fn cost_of_more(&self, n_lanes: usize) -> f64 {
        let each = self.engines.iter().map(|engine| engine.each);
        n_lanes as f64 * each.fold(0.0, f64::max)
    }

    /// With so much of the time kept free for sessions.
    pub fn with_reserve(self, reserve: f64) -> Self {
        Self { reserve, ..self }
    }

    /// What all lanes take of the time there is, and what is kept free.
    pub fn load(&self) -> f64 {
        let loads = self.engines.iter().map(|e| e.of(e.n_lanes));
        loads.sum::<f64>() + self.reserve
    }

    /// Lanes that are asked for, of all engines.
    pub fn n_lanes(&self) -> usize {
        self.engines.iter().map(|engine| engine.n_lanes).sum()
    }

    /// Lanes of `engine` that could be opened besides.
    pub fn room_for(&self, engine: usize) -> usize {
        let each = self.engines[engine].each.max(f64::MIN_POSITIVE);
        let n = ((BUDGET - self.load()).max(0.0) / each) as usize;
        n.min(self.lanes_max.saturating_sub(self.n_lanes()))
    }

    /// Judges stations that use the engines `stations` in this order: something to warn of, if
    /// they play at all. A station alone is never turned away, nor is anybody with `overload`.
    pub fn judge(&self, stations: &[usize], overload: bool) -> Result<Option<String>, Overload> {
        let load = self.load();
        if load <= BUDGET {
            return Ok(None);
        }
        if stations.len() > 1 && !overload {
            return Err(Overload {
                n_asked: stations.len(),
                n_fit: self.n_fit(stations),
                load,
                parts: self.parts(),
            });
        }
        let sound = match load > 1.0 {
            true => "it will stutter",
            false => "it may stutter whenever the machine is busy",
        };
        Ok(Some(format!(
            "this takes {load:.2} of the time there is ({}): {sound}",
            self.parts()
        )))
    }

    /// How many of the stations fit, from the first on.
    fn n_fit(&self, stations: &[usize]) -> usize {
        let mut n_lanes = vec![0; self.engines.len()];
        let fits = |&&engine: &&usize| {
            n_lanes[engine] += 1;
            let loads = self.engines.iter().zip(&n_lanes);
            let loads = loads.map(|(engine, n)| engine.of(*n));
            loads.sum::<f64>() + self.reserve <= BUDGET
        };
        stations.iter().take_while(fits).count()
    }

    /// `piano-16k 2 x 0.21, tiny 1 x 0.20`
    fn parts(&self) -> String {
        let part = |engine: &EngineLoad| {
            let n = engine.n_lanes;
            if !engine.is_known {
                return format!(
                    "{} {n}, not measured since its GPU has failed",
                    engine.model
                );
            }
            let each = engine.of(n) / n.max(1) as f64;
            format!("{} {n} x {each:.2}", engine.model)
        };
        let reserve = (self.reserve > 0.0).then(|| format!("sessions {:.2}", self.reserve));
        let engines = self.engines.iter().filter(|engine| engine.n_lanes > 0);
        list(engines.map(part).chain(reserve))
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, load) = (self.n_lanes(), self.load());
        let stations = if n == 1 {
            "station takes"
        } else {
            "stations take"
        };
        write!(
            f,
            "{n} {stations} {load:.2} of the time there is ({BUDGET:.2} may be used): {}",
            self.parts()
        )?;
        let room = self.engines.iter().enumerate();
        let room = room.map(|(index, engine)| (self.room_for(index), &engine.model));
        let room = room.filter(|(n, _)| *n > 0);
        match list(room.map(|(n, model)| format!("{n} more of {model}"))) {
            none if none.is_empty() => f.write_str("; room for no more"),
            room => write!(f, "; room for {room}"),
        }
    }
}

fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn fitting(n: usize) -> String {
    match n {
        0 => "not even the first fits".into(),
        1 => "only the first fits".into(),
        n => format!("only the first {n} fit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(engines: &[(&str, usize, f64, f64)]) -> Capacity {
        let load = |&(model, n_lanes, one, all): &(&str, usize, f64, f64)| {
            EngineLoad::new(model, n_lanes, Costs { one, n_lanes, all })
        };
        Capacity::new(engines.iter().map(load).collect(), 64)
    }

    #[test]
    fn the_budget_is_shared_by_all_engines_and_said() {
        let capacity = capacity(&[("piano-16k", 2, 0.22, 0.42), ("tiny", 1, 0.2, 0.2)]);
        assert_eq!(
            capacity.to_string(),
            "3 stations take 0.62 of the time there is (0.90 may be used): \
             piano-16k 2 x 0.21, tiny 1 x 0.20; room for 1 more of piano-16k, 1 more of tiny"
        );
        assert!(capacity.judge(&[0, 1, 0], false).unwrap().is_none());
        assert_eq!(capacity.room_for(0), 1);
    }

    #[test]
    fn more_than_fit_are_refused_in_a_sentence_that_says_how_many_would() {
        let capacity = capacity(&[("a", 4, 0.3, 1.05), ("b", 1, 0.2, 0.2)]);
        let why = capacity.judge(&[0, 1, 0, 0, 0], false).unwrap_err();
        assert_eq!(
            why.to_string(),
            "5 stations take 1.25 of the time there is and 0.90 may be used (a 4 x 0.26, \
             b 1 x 0.20): only the first 3 fit; configure fewer, name a faster isa or more \
             threads, or set overload = true and hear them stutter"
        );
        assert_eq!(capacity.room_for(1), 0);
        assert!(capacity.to_string().ends_with("room for no more"));
    }

    #[test]
    fn what_is_promised_to_sessions_is_not_given_to_stations() {
        let capacity = capacity(&[("a", 2, 0.2, 0.4), ("b", 1, 0.1, 0.1)]);
        assert_eq!(capacity.cost_of_more(2), 0.4);
        let promised = capacity.clone().with_reserve(0.4);
        assert!(promised.judge(&[0, 0, 1], false).unwrap().is_none());
        let b = promised.engines()[1].clone().with_lanes(2);
        let engines = vec![promised.engines()[0].clone(), b];
        let more = Capacity::new(engines, 64).with_reserve(0.4);
        let why = more.judge(&[0, 0, 1, 1], false).unwrap_err().to_string();
        assert!(
            why.contains("b 2 x 0.10, sessions 0.40): only the first 3 fit"),
            "{why}"
        );
    }

    #[test]
    fn overload_lets_everybody_in_with_a_warning() {
        let capacity = capacity(&[("a", 2, 0.6, 1.2)]);
        let warning = capacity.judge(&[0, 0], true).unwrap().unwrap();
        assert!(warning.contains("1.20") && warning.contains("will stutter"));
        let why = capacity.judge(&[0, 0], false).unwrap_err().to_string();
        assert!(why.contains("only the first fits"), "{why}");
    }

    #[test]
    fn a_station_alone_is_warned_about_and_plays() {
        let tight = capacity(&[("a", 1, 0.95, 0.95)]);
        let warning = tight.judge(&[0], false).unwrap().unwrap();
        assert!(warning.contains("may stutter"), "{warning}");
        let slow = capacity(&[("a", 1, 30.0, 30.0)]);
        let warning = slow.judge(&[0], false).unwrap().unwrap();
        assert!(warning.contains("30.00") && warning.contains("will stutter"));
        let two = capacity(&[("a", 2, 30.0, 60.0)]);
        let why = two.judge(&[0, 0], false).unwrap_err().to_string();
        assert!(why.contains("not even the first fits"), "{why}");
    }

    #[test]
    fn noise_never_makes_lanes_free_nor_room_endless() {
        let odd = capacity(&[("a", 8, 0.1, 0.05)]);
        assert!(odd.load() > 0.1 && odd.room_for(0) < 80);
        let quick = capacity(&[("a", 3, 1e-4, 1e-4)]);
        assert_eq!(quick.room_for(0), 61);
        let instant = capacity(&[("a", 1, 0.0, 0.0)]);
        assert_eq!(instant.room_for(0), 63);
    }
}
