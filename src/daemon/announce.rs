//! What the log says once at start: what a report of a fault should hold.

use crate::capacity::Capacity;
use crate::config::Config;
use crate::engine::Fall;
use crate::setup::{ModelEngine, Setup};

/// What the engine on a GPU calls itself.
const GPU: &str = "cuda";

/// The models, what computes them, and the streams.
pub(super) fn setup(config: &Config, setup: &Setup) {
    for engine in &setup.engines {
        tracing::info!("{}", model_line(engine));
        if let Some(why) = &engine.device_why {
            tracing::info!("{} computes {why}", engine.model.name);
        }
        if engine.decoder.isa() != GPU {
            tracing::info!("{}", threads_line(engine, &setup.cpus));
        }
    }
    if let Some(engine) = setup.engines.iter().find(|e| e.decoder.isa() != GPU) {
        let isa = engine.decoder.isa();
        tracing::info!("computed by {isa}: {}", config.why_isa(isa));
    }
    for (station, (start, place)) in config
        .stations
        .iter()
        .zip(setup.starts.iter().zip(&setup.places))
    {
        let draw = start.draw;
        tracing::info!(
            "station {} of {}: seed {}, {}, prompt of {} codes",
            station.name,
            setup.engines[place.engine].model.name,
            start.seed,
            draw,
            start.prompt.len(),
        );
    }
}

/// What the warm-up found, and what is wrong with it if anything is.
pub(super) fn capacity(capacity: &Capacity, warning: Option<String>) {
    tracing::info!("{capacity}");
    if let Some(warning) = warning {
        tracing::warn!("{warning}; `longwave bench` shows what this machine does");
    }
}

/// How many sessions are let in, where any are allowed.
pub(super) fn sessions(n: usize, max: usize) {
    match max {
        0 => {}
        max if n < max => {
            tracing::warn!(
                "{max} sessions are allowed, and there is time for {n}: no more are let in"
            );
        }
        max => tracing::info!("sessions: up to {max} at once"),
    }
}

/// That an engine has failed, and what plays on.
pub(super) fn fall(model: &str, fall: &Fall) {
    let Fall { why, isa } = fall;
    tracing::warn!(
        "the GPU that {model} played on has failed: {why}; {isa} plays on from what was heard, and sessions \
         of {model} have ended: restart longwave once the GPU is well"
    );
}

fn model_line(engine: &ModelEngine) -> String {
    let model = &engine.model;
    format!(
        "model {} ({}), {} Hz, lanes: {} and {} spare",
        model.name,
        model.sha256.get(..12).unwrap_or(&model.sha256),
        model.config.sample_rate_hz,
        engine.n_stations,
        engine.decoder.n_lanes() - engine.n_stations,
    )
}

fn threads_line(engine: &ModelEngine, cpus: &[usize]) -> String {
    let n = engine.decoder.n_threads();
    let cpus = cpus.iter().take(n).map(ToString::to_string);
    let place = match cpus.collect::<Vec<_>>() {
        none if none.is_empty() => "where the scheduler places them".into(),
        cpus => format!("pinned to CPU {}", cpus.join(", ")),
    };
    format!(
        "threads for {}: {n} ({}), {place}",
        engine.model.name, engine.threads_why
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn threads_are_told_with_their_reason_and_their_place() {
        let config = Config::parse("model = \"models/tiny\"", Path::new("c.toml")).unwrap();
        let setup = Setup::new(&config).unwrap();
        let engine = &setup.engines[0];
        let line = threads_line(engine, &[]);
        assert!(line.starts_with("threads for tiny: 1 ("), "{line}");
        assert!(
            line.ends_with("), where the scheduler places them"),
            "{line}"
        );
        assert!(threads_line(engine, &[3, 4]).ends_with("), pinned to CPU 3"));
    }
}
