//! `longwave bench`: how fast this machine decodes a model.
//!
//! Every case is measured step by step on a lane that has been running for hours, so its caches
//! are full. Figures of one run may be compared with each other; figures of different runs only
//! as ratios, since machines drift.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use crate::engine::{self, Decoder, DrawParams, Isa, NaiveDecoder, Settings, Turn, uniform};
use crate::model::{Model, pattern};

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Only this instruction set; otherwise every one the CPU has, and the naive engine.
    pub isa: Option<Isa>,
    /// Threads that share a step; chosen from the model and the machine when absent.
    pub threads: Option<usize>,
    /// How long each case runs.
    pub time_per_case: Duration,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct CaseResult {
    /// `one-lane`, `eight-lanes`, or `dense-65536`: the same model, every layer seeing every key.
    pub case: String,
    /// What computed: `cpu`.
    pub device: String,
    /// The instruction set, or `naive`.
    pub isa: String,
    /// Streams decoded at once.
    pub lanes: usize,
    /// Steps measured.
    pub steps: usize,
    /// Steps per second; each is one code in every lane.
    pub steps_per_s: f64,
    /// Audio time over compute time, of each lane.
    pub x_realtime: f64,
    /// Nanoseconds of the median step.
    pub step_ns_p50: u64,
    /// Nanoseconds that 99 % of the steps kept to.
    pub step_ns_p99: u64,
    /// Nanoseconds that 99.9 % of the steps kept to.
    pub step_ns_p999: u64,
    /// Step time over what the memory and the arithmetic of this machine allow; not yet measured.
    pub floor_ratio: Option<f64>,
}

/// A stream of this age has wrapped every ring, and its caches are full.
const AGE: u64 = 100 * 3600 * 16_000;
/// Keys that every layer of the dense case reads.
const DENSE_KEYS: usize = 65_536;
/// The lanes of the batch case.
const BATCH: usize = 8;

/// Measures all cases of the plan, giving each result as it comes.
pub fn run(
    model: &Arc<Model>,
    plan: &Plan,
    mut report: impl FnMut(&CaseResult),
) -> Vec<CaseResult> {
    let isas: Vec<Isa> = match plan.isa {
        Some(isa) => vec![isa],
        None => Isa::ALL
            .into_iter()
            .filter(|isa| isa.is_available())
            .collect(),
    };
    let best = isas[0];
    let mut results = Vec::new();
    let mut measure = |case: &str, engine: Option<Box<dyn Decoder>>| {
        if let Some(engine) = engine {
            let result = measure(
                case,
                engine,
                model.config.sample_rate_hz,
                plan.time_per_case,
            );
            report(&result);
            results.push(result);
        }
    };
    for isa in &isas {
        measure("one-lane", open(model, *isa, plan, 1));
    }
    if plan.isa.is_none() {
        measure(
            "one-lane",
            Some(Box::new(NaiveDecoder::new(model.clone(), 1))),
        );
    }
    measure("eight-lanes", open(model, best, plan, BATCH));
    let dense = Arc::new(dense(model));
    measure(&format!("dense-{DENSE_KEYS}"), open(&dense, best, plan, 1));
    results
}

fn open(model: &Arc<Model>, isa: Isa, plan: &Plan, n_lanes: usize) -> Option<Box<dyn Decoder>> {
    let settings = Settings {
        isa: Some(isa),
        threads: plan.threads,
        ..Settings::default()
    };
    engine::open(model, &settings, n_lanes)
}

/// The results as `bench --json` prints them.
pub fn to_json(model: &Model, results: &[CaseResult]) -> String {
    let machine = json!({ "cpu": cpu_name(), "arch": std::env::consts::ARCH });
    let object = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": model.name,
        "model_sha256": model.sha256,
        "machine": machine,
        "results": results,
    });
    format!("{object:#}")
}

/// The processor, as the system names it.
pub fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| "unknown".into(), |(_, name)| name.trim().into())
}

fn measure(case: &str, mut engine: Box<dyn Decoder>, rate_hz: u32, time: Duration) -> CaseResult {
    let n_lanes = engine.n_lanes();
    for lane in 0..n_lanes {
        engine.age(lane, AGE + lane as u64);
    }
    let mut step = Stepper::new(n_lanes);
    let warm_until = Instant::now() + time / 10;
    while Instant::now() < warm_until {
        step.run(engine.as_mut());
    }
    let mut nanoseconds = Vec::with_capacity(1 << 20);
    let start = Instant::now();
    loop {
        let before = Instant::now();
        step.run(engine.as_mut());
        nanoseconds.push(before.elapsed().as_nanos() as u64);
        if start.elapsed() >= time || nanoseconds.len() == nanoseconds.capacity() {
            break;
        }
    }
    let steps_per_s = nanoseconds.len() as f64 / start.elapsed().as_secs_f64();
    nanoseconds.sort_unstable();
    let quantile = |q: f64| nanoseconds[((nanoseconds.len() - 1) as f64 * q) as usize];
    CaseResult {
        case: case.into(),
        device: "cpu".into(),
        isa: engine.isa().into(),
        lanes: n_lanes,
        steps: nanoseconds.len(),
        steps_per_s,
        x_realtime: steps_per_s / f64::from(rate_hz),
        step_ns_p50: quantile(0.5),
        step_ns_p99: quantile(0.99),
        step_ns_p999: quantile(0.999),
        floor_ratio: None,
    }
}

/// Draws one code in every lane.
struct Stepper {
    position: u64,
    uniforms: Vec<f32>,
    codes: Vec<u8>,
}

impl Stepper {
    fn new(n_lanes: usize) -> Self {
        Self {
            position: 0,
            uniforms: vec![0.0; n_lanes],
            codes: vec![0; n_lanes],
        }
    }

    fn run(&mut self, engine: &mut dyn Decoder) {
        for (lane, number) in self.uniforms.iter_mut().enumerate() {
            *number = uniform(lane as u64, self.position);
        }
        self.position += 1;
        let parts = self
            .uniforms
            .chunks(1)
            .zip(self.codes.chunks_mut(1))
            .enumerate();
        let mut turns: Vec<Turn<'_>> = parts
            .map(|(lane, (uniforms, codes))| Turn {
                lane,
                draw: DrawParams::default(),
                uniforms,
                codes,
            })
            .collect();
        engine.generate(&mut turns);
    }
}

/// The same weights with every layer seeing the last 65,536 positions.
fn dense(model: &Model) -> Model {
    let mut config = model.config.clone();
    let entry = json!({ "kind": "local", "window": DENSE_KEYS });
    let reach = pattern::Defaults {
        stride: 1,
        context: DENSE_KEYS,
    };
    let layer = pattern::parse(&entry, &reach).expect("a window of this size is accepted");
    // Turn by the same angles, but repeat them only after the whole window.
    let times = DENSE_KEYS.div_ceil(config.rope_period);
    config.rope_period *= times;
    config
        .rope_harmonics
        .iter_mut()
        .for_each(|harmonic| *harmonic *= times as u32);
    config
        .layers
        .iter_mut()
        .for_each(|own| *own = layer.clone());
    Model {
        name: model.name.clone(),
        config,
        weights: model.weights.clone(),
        sha256: model.sha256.clone(),
    }
}
