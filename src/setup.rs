//! From a configuration to engines and the streams they shall play: what `render` and the daemon
//! do first. Blocks for as long as reading the models takes; main thread, before any other starts.

mod warm_up;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::capacity::{Capacity, EngineLoad};
use crate::config::{Config, ConfigError, NetworkConfig, StationConfig, find_model};
use crate::engine::{self, Decoder, DeviceError, Footprint, LaneCounts};
use crate::machine::{self, Machine, Work};
use crate::model::{Model, ModelConfig, ModelError};
use crate::mulaw;
use crate::pump::{Place, STATIONS_MAX, Start};
use crate::state::{State, StateError};
use crate::wav::{self, WavError};

/// Why nothing can play. All are *fatal*: the configuration, the model or the prompt must change.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// See [`ConfigError`].
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// See [`ModelError`].
    #[error(transparent)]
    Model(#[from] ModelError),
    /// See [`DeviceError`].
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A prompt cannot be heard.
    #[error("no prompt: {0}")]
    Prompt(#[from] WavError),
}

/// Everything that is needed to draw, with one lane for each station, and for each that is watched
/// two more.
#[derive(Debug)]
pub struct Setup {
    /// Every model that a station plays, in the order of their first stations.
    pub engines: Vec<ModelEngine>,
    /// How each station begins, in the order of the configuration.
    pub starts: Vec<Start>,
    /// Where each station is drawn: an index into `engines`, and its lane.
    pub places: Vec<Place>,
    /// The spare lanes of each station that is watched, in the engine of its place.
    pub spares: Vec<Option<[usize; 2]>>,
    /// The CPUs that decode threads are kept on, the pump's first; none where they may wander.
    pub cpus: Vec<usize>,
}

/// A model and its engine, with a lane for each of its stations, and spare ones behind them.
pub struct ModelEngine {
    /// The model.
    pub model: Arc<Model>,
    /// Its engine.
    pub decoder: Box<dyn Decoder>,
    /// The lanes that play, the first ones. The spare ones cost memory and are not counted as load:
    /// a station draws in one of them for a quarter of a second, when it returns from a collapse.
    pub n_stations: usize,
    /// The lanes of sessions, and one more to hear their new prompts with.
    pub sessions: Vec<usize>,
    /// Where it computes, and why there, where there was a choice.
    pub device_why: Option<String>,
    /// Why its steps are shared by so many threads.
    pub threads_why: String,
}

impl std::fmt::Debug for ModelEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelEngine")
            .field("model", &self.model.name)
            .field("isa", &self.decoder.isa())
            .finish_non_exhaustive()
    }
}

impl Setup {
    /// Reads the models and the prompts, and makes the engines.
    pub fn new(config: &Config) -> Result<Self, SetupError> {
        let isa = config.available_isa()?;
        let (paths, places) = places(config)?;
        let spares = spares(config, &places);
        let models = paths.iter().map(|path| Model::load(path).map(Arc::new));
        let models = models.collect::<Result<Vec<_>, _>>()?;
        let stations = config.stations.iter().zip(&places).enumerate();
        let starts = stations
            .map(|(index, (station, place))| start(station, index as u64, &models[place.engine]));
        let starts = starts.collect::<Result<Vec<_>, _>>()?;
        let machine = Machine::read();
        let shares = models
            .iter()
            .map(|model| threads(config, &model.config, &machine));
        let shares: Vec<(usize, String)> = shares.collect();
        let n_threads = shares.iter().map(|(n, _)| *n).max().unwrap_or(1);
        let cpus = machine::placement(n_threads, config.pin, &machine);
        let engines = models.into_iter().zip(shares).enumerate();
        let engines = engines.map(|(index, (model, (n_threads, threads_why)))| {
            let settings = engine::Settings {
                isa,
                threads: Some(n_threads),
                cpus: cpus.iter().copied().take(n_threads).collect(),
            };
            let n_stations = n_stations(&places, index);
            let of_engine = places.iter().zip(&spares);
            let of_engine = of_engine.filter(|(place, _)| place.engine == index);
            let n_spares = of_engine.flat_map(|(_, spares)| spares).flatten().count();
            let n_own = n_stations + n_spares;
            let n_lanes = match config.sessions.max {
                0 => n_own,
                max => n_own + max + 1,
            };
            let lanes = LaneCounts {
                all: n_lanes,
                lasting: n_own,
            };
            let opened = engine::open_on(config.device, &model, &settings, lanes)?;
            Ok(ModelEngine {
                model,
                decoder: opened.decoder,
                n_stations,
                sessions: (n_own..n_lanes).collect(),
                device_why: opened.why,
                threads_why,
            })
        });
        Ok(Self {
            engines: engines.collect::<Result<_, DeviceError>>()?,
            starts,
            places,
            spares,
            cpus,
        })
    }

    /// Lets the first stream begin where a station was kept; it is drawn as that was, but for what was
    /// `asked` otherwise.
    pub fn go_on_from(&mut self, path: &Path, asked: &StationConfig) -> Result<(), StateError> {
        let useless = |why| StateError::Useless {
            path: path.to_owned(),
            why,
        };
        let state = State::read(path)?.ok_or(useless("not there"))?;
        let engine = &mut self.engines[self.places[0].engine];
        let len = engine.decoder.state_len();
        if let Some(why) = state.objection(&engine.model.sha256, len) {
            return Err(useless(why));
        }
        let snapshot = state.snapshot;
        self.starts[0] = Start {
            seed: asked.seed.unwrap_or(snapshot.seed),
            draw: asked.draw.unwrap_or(snapshot.draw),
            prompt: Vec::new(),
            kept: Some(Arc::new(snapshot)),
        };
        Ok(())
    }

    /// Reads prompts of the first stream's model: the codes it hears of each.
    pub fn prompts(&self, paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, WavError> {
        let model = &self.engines[self.places[0].engine].model;
        paths.iter().map(|path| prompt_codes(path, model)).collect()
    }

    /// Measures what the stations take of the time there is, in about half a second. Leaves noise
    /// in the lanes, which whoever opens them never sees. `beside`: others play meanwhile, who must not
    /// notice.
    pub fn warm_up(&mut self, network: &NetworkConfig, beside: bool) -> Capacity {
        let (engines, cpu) = (&mut self.engines, self.cpus.first());
        let measure = || {
            // Where the pump will be: an engine's other threads have their places already.
            if let Some(cpu) = cpu.filter(|_| !beside) {
                machine::pin_to(*cpu);
            }
            loads(engines, network, beside)
        };
        let loads = thread::scope(|scope| scope.spawn(measure).join());
        Capacity::new(loads.expect("an engine that decodes"), STATIONS_MAX)
    }
}

/// What the lanes of every engine cost on this thread.
fn loads(engines: &mut [ModelEngine], network: &NetworkConfig, beside: bool) -> Vec<EngineLoad> {
    let time = warm_up::TIME / engines.len() as u32;
    let load = |engine: &mut ModelEngine| {
        let rate_hz = engine.model.config.sample_rate_hz;
        let case = warm_up::Case {
            rate_hz,
            draw: engine.model.config.draw,
            // What sessions would cost is told by measuring with them.
            n_lanes: engine.n_stations + engine.sessions.len().saturating_sub(1),
            chunk_len: network.packet_len(rate_hz),
            time,
            beside,
        };
        let decoder = &mut *engine.decoder;
        let costs = warm_up::measure(decoder, &case, &machine::thread_time);
        EngineLoad::new(&engine.model.name, engine.n_stations, costs)
    };
    engines.iter_mut().map(load).collect()
}

/// The different models of the stations, and each station's lane in the engine of its model.
fn places(config: &Config) -> Result<(Vec<PathBuf>, Vec<Place>), ConfigError> {
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut places: Vec<Place> = Vec::new();
    for model in config.models() {
        let path = find_model(model)?;
        let known = paths.iter().position(|other| *other == path);
        let engine = known.unwrap_or(paths.len());
        if known.is_none() {
            paths.push(path);
        }
        let lane = n_stations(&places, engine);
        places.push(Place { engine, lane });
    }
    Ok((paths, places))
}

/// How many of the stations an engine plays.
fn n_stations(places: &[Place], engine: usize) -> usize {
    places.iter().filter(|place| place.engine == engine).count()
}

/// Two lanes for each station that is watched, behind those that play.
fn spares(config: &Config, places: &[Place]) -> Vec<Option<[usize; 2]>> {
    let mut n_taken: Vec<usize> = (0..places.len()).map(|i| n_stations(places, i)).collect();
    let stations = config.stations.iter().zip(places);
    let spares = stations.map(|(station, place)| {
        let next = &mut n_taken[place.engine];
        station.watch.then(|| {
            *next += 2;
            [*next - 2, *next - 1]
        })
    });
    spares.collect()
}

/// How many threads share a step of a model, and why.
pub fn threads(config: &Config, model: &ModelConfig, machine: &Machine) -> (usize, String) {
    let work = Work {
        weight_bytes: Footprint::of(model).weight_bytes,
        rate_hz: model.sample_rate_hz,
        n_kv_heads: model.n_kv_heads,
    };
    match config.threads {
        Some(asked) => machine::fit_threads(asked as usize, &work, machine),
        None => machine::choose_threads(&work, machine),
    }
}

fn start(station: &StationConfig, index: u64, model: &Model) -> Result<Start, SetupError> {
    let prompt = station.prompt.as_deref();
    Ok(Start {
        // Stations that leave the seed to the clock shall not play the same.
        seed: station.seed.unwrap_or_else(|| seed_from_clock() + index),
        draw: station.draw.unwrap_or(model.config.draw),
        prompt: prompt.map_or_else(|| Ok(Vec::new()), |path| prompt_codes(path, model))?,
        kept: None,
    })
}

/// The end of the file, as far back as the model can hear.
pub fn prompt_codes(path: &Path, model: &Model) -> Result<Vec<u8>, WavError> {
    let rate_hz = model.config.sample_rate_hz;
    let heard_s = model.config.receptive_field() as f64 / f64::from(rate_hz);
    let samples = wav::read_mono(path, rate_hz, heard_s)?;
    let codes: Option<Vec<u8>> = samples.into_iter().map(mulaw::encode).collect();
    Ok(codes.expect("`read_mono` gives finite samples only"))
}

/// A seed that differs from start to start, and is short enough to be read out and typed again.
fn seed_from_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = now.map_or(0, |since| since.as_nanos() as u64);
    // Clocks tick coarsely and starts are close: the multiplier spreads them over all digits.
    nanos.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(stations: &str) -> Config {
        let stations = format!("model = \"models/tiny\"\n{stations}");
        Config::parse(&stations, Path::new("c.toml")).unwrap()
    }

    #[test]
    fn stations_of_one_model_share_an_engine_and_others_have_their_own() {
        let copy = tempfile::tempdir().unwrap();
        for name in ["config.json", "model.safetensors"] {
            let from = Path::new("models/tiny").join(name);
            std::fs::copy(from, copy.path().join(name)).unwrap();
        }
        let station = |name, rest: &str| format!("[[station]]\nname = \"{name}\"\n{rest}\n");
        let other = format!("model = {:?}\nseed = 7", copy.path());
        let unwatched = station("a", "watch = false");
        let stations = [unwatched, station("b", &other), station("c", "")];
        let mut setup = Setup::new(&config(&stations.concat())).unwrap();
        let place = |engine, lane| Place { engine, lane };
        assert_eq!(setup.places, [place(0, 0), place(1, 0), place(0, 1)]);
        let n_lanes = setup.engines.iter().map(|engine| engine.decoder.n_lanes());
        assert_eq!(n_lanes.collect::<Vec<_>>(), [2 + 2, 1 + 2]);
        assert_eq!(setup.spares, [None, Some([1, 2]), Some([2, 3])]);
        assert_eq!(setup.starts[1].seed, 7);
        let capacity = setup.warm_up(&NetworkConfig::default(), false);
        assert_eq!(capacity.n_lanes(), 3);
        assert!(capacity.load() > 0.0);
    }

    #[test]
    fn threads_that_are_asked_for_are_given_as_far_as_the_model_goes() {
        let mut config = config("");
        config.threads = Some(5);
        let setup = Setup::new(&config).unwrap();
        let why = &setup.engines[0].threads_why;
        assert!(why.starts_with("5 were asked for"), "{why}");
        assert_eq!(setup.cpus, [0; 0]);
    }

    #[test]
    fn a_model_that_is_missing_is_named_whichever_station_wants_it() {
        let config = config("[[station]]\n[[station]]\nname = \"b\"\nmodel = \"no-such\"");
        let why = Setup::new(&config).unwrap_err().to_string();
        assert!(why.contains("no model no-such"), "{why}");
    }
}
