//! The GPU engine draws what the CPU engine draws. On a machine without a GPU these tests say so
//! and pass; `scripts/check-gpu` runs them where there is one.
#![cfg(feature = "cuda")]

use std::path::Path;
use std::sync::Arc;

use longwave::engine::{self, CudaDecoder, Decoder, DrawParams, GpuError, Settings, Turn, uniform};
use longwave::model::{Model, ModelConfig, V};

fn model(name: &str) -> Arc<Model> {
    Arc::new(Model::load(&Path::new("models").join(name)).unwrap())
}

/// The tiny model without its predictor.
fn tiny_of_rings() -> Arc<Model> {
    let mut model = Model::load(Path::new("models/tiny")).unwrap();
    model.config.predictor.clear();
    model.weights.predictor.clear();
    Arc::new(model)
}

/// Steps of a test, unless the environment wants fewer.
fn steps(n: usize) -> usize {
    let asked = std::env::var("LONGWAVE_GPU_STEPS").ok();
    asked.map_or(n, |asked| n.min(asked.parse().expect("a number")))
}

/// Both engines, or none without a GPU.
fn engines(model: &Arc<Model>, n_lanes: usize) -> Option<[Box<dyn Decoder>; 2]> {
    match CudaDecoder::open(model, 0, n_lanes) {
        Ok(gpu) => {
            let cpu = engine::open(model, &Settings::default(), n_lanes);
            Some([cpu.expect("the best of this CPU"), Box::new(gpu)])
        }
        Err(GpuError::NoDriver) => {
            eprintln!("no GPU here: nothing was tested");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Ways to draw that differ from lane to lane.
fn draw(lane: usize) -> DrawParams {
    let draw = |temperature, max_entropy, max_rise, leveling, top_p, min_p| DrawParams {
        temperature,
        max_entropy,
        max_rise,
        leveling,
        top_p,
        min_p,
    };
    match lane % 5 {
        0 => draw(1.0, 8.0, 8.0, 0.0, 1.0, 0.0),
        1 => draw(1.06, 4.0, 0.8, 0.012, 1.0, 0.0),
        2 => draw(0.9, 3.0, 8.0, 0.2, 0.95, 0.01),
        3 => draw(0.0, 8.0, 8.0, 0.1, 1.0, 0.0),
        _ => draw(1.3, 8.0, 0.3, 0.0, 1.0, 0.05),
    }
}

/// Draws `n` codes in the lanes named, each with its own seed.
fn generate(engine: &mut dyn Decoder, lanes: &[usize], n: usize) -> Vec<Vec<u8>> {
    let uniforms = lanes.iter().map(|lane| {
        let start = engine.position(*lane);
        (0..n as u64)
            .map(|t| uniform(*lane as u64, start + t))
            .collect()
    });
    let uniforms: Vec<Vec<f32>> = uniforms.collect();
    let mut codes = vec![vec![0; n]; lanes.len()];
    let turns = lanes.iter().zip(&uniforms).zip(&mut codes);
    let turns = turns.map(|((lane, uniforms), codes)| Turn {
        lane: *lane,
        draw: draw(*lane),
        uniforms,
        codes,
    });
    engine.generate(&mut turns.collect::<Vec<_>>());
    codes
}

fn same_codes([cpu, gpu]: &mut [Box<dyn Decoder>; 2], lanes: &[usize], n: usize) {
    let (expected, got) = (
        generate(&mut **cpu, lanes, n),
        generate(&mut **gpu, lanes, n),
    );
    for ((lane, expected), got) in lanes.iter().zip(expected).zip(got) {
        let differs = expected.iter().zip(&got).position(|(a, b)| a != b);
        assert_eq!(differs, None, "lane {lane} of {lanes:?}, of {n} codes");
        assert_eq!(cpu.position(*lane), gpu.position(*lane));
    }
}

fn same_logits([cpu, gpu]: &mut [Box<dyn Decoder>; 2], lane: usize, codes: &[u8]) {
    let mut expected = Vec::new();
    cpu.score(lane, codes, &mut |_, logits| {
        expected.extend_from_slice(logits)
    });
    gpu.score(lane, codes, &mut |i, logits| {
        let expected = &expected[i * V..(i + 1) * V];
        let worst = expected.iter().zip(logits).map(|(a, b)| (a - b).abs());
        let worst = worst.fold(0.0, f32::max);
        assert_eq!(expected, logits, "code {i}: off by {worst}");
    });
}

fn some_codes(n: usize) -> Vec<u8> {
    let sound = |t: usize| {
        let t = t as f32;
        128.0 + 60.0 * (t * 0.05).sin() + 20.0 * (t * 0.31).sin() + 9.0 * uniform(3, t as u64)
    };
    (0..n).map(|t| sound(t) as u8).collect()
}

#[test]
fn scores_are_the_cpu_engines_to_the_last_bit() {
    for (model, n) in [
        (tiny_of_rings(), 400),
        (model("tiny"), 400),
        (model("piano-16k"), 1500),
        (Arc::new(longwave::bench::wide_model()), 600),
    ] {
        let Some(mut both) = engines(&model, 1) else {
            return;
        };
        same_logits(&mut both, 0, &some_codes(steps(n)));
    }
}

#[test]
fn one_lane_draws_the_cpu_engines_codes() {
    for (name, n) in [("tiny", 20_000), ("piano-16k", 12_000)] {
        let Some(mut both) = engines(&model(name), 2) else {
            return;
        };
        same_codes(&mut both, &[1], steps(n));
        same_codes(&mut both, &[0], steps(n) / 4);
    }
}

#[test]
fn lanes_that_join_and_leave_draw_the_cpu_engines_codes() {
    // More than a GPU has multiprocessors: blocks of one lane and of two take turns.
    for (name, n_lanes, n) in [("tiny", 150, 500), ("piano-16k", 140, 100)] {
        let Some(mut both) = engines(&model(name), n_lanes) else {
            return;
        };
        let all: Vec<usize> = (0..n_lanes).collect();
        let few: Vec<usize> = (0..n_lanes).rev().step_by(3).collect();
        let n = steps(n);
        for lanes in [&all[..], &few, &all[3..5], &all[..n_lanes / 2], &few, &all] {
            same_codes(&mut both, lanes, n);
        }
        for engine in &mut both {
            engine.open(2);
            engine.copy(7, 4);
            engine.prime(5, &some_codes(n / 2));
        }
        same_codes(&mut both, &all, n);
    }
}

#[test]
fn an_aged_lane_is_the_cpu_engines() {
    for name in ["tiny", "piano-16k"] {
        let Some(mut both) = engines(&model(name), 2) else {
            return;
        };
        for engine in &mut both {
            engine.prime(1, &some_codes(steps(100)));
            engine.age(1, 123_456_789_012);
        }
        same_codes(&mut both, &[1], steps(3000));
    }
}

#[test]
fn a_hashed_layer_is_refused_by_name_and_before_a_gpu_is_asked_for() {
    let mut model = Model::load(Path::new("models/tiny")).unwrap();
    let tiny = std::fs::read_to_string("models/tiny/config.json").unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&tiny).unwrap();
    config["pattern"][1] = "hashed".into();
    model.config = ModelConfig::parse(&config.to_string()).unwrap();
    let why = CudaDecoder::open(&Arc::new(model), 0, 1)
        .unwrap_err()
        .to_string();
    assert!(
        why.contains("GPU kernels") && why.contains("pattern[1] is hashed"),
        "{why}"
    );
}
