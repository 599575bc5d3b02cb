//! The cases of a GPU: one stream, one of a wide model, and as many as it plays in time, in chunks of 20 ms;
//! and a prompt.

use std::sync::Arc;

use super::cases::{CHUNKS_PER_S, Case, time_apart, time_prompt};
use super::measure::AGE;
use super::models::{prompt, wide as wide_model};
use super::record::{CaseResult, PrefillResult, Record};
use super::{Plan, Seen};
use crate::engine::{self, Decoder, DeviceError, LaneCounts, Settings};
use crate::model::Model;

/// Lanes are looked for in steps of so many.
const GRAIN: usize = 12;
/// More are not looked for.
const MOST: usize = 50 * GRAIN;

/// Measures one lane, a prompt, then the most lanes that are in time.
pub(super) fn run(
    model: &Arc<Model>,
    plan: &Plan,
    see: &mut dyn FnMut(Seen<'_>),
) -> Result<Record, DeviceError> {
    let mut record = Record::new(model);
    see(Seen::Gpu("One stream on a GPU, in chunks of 20 ms"));
    let one = measure(model, plan, 1)?;
    see(Seen::Steps(&one));
    see(Seen::Case(Case::Prefill));
    let heard = hear(model, plan, one.step_ns_p50)?;
    see(Seen::Prefill(&heard));
    record.prefill.push(heard);
    record.results.push(one);
    see(Seen::Gpu("One stream of a model of 8.2 million parameters"));
    let wide_model = Arc::new(wide_model());
    let mut wide = measure(&wide_model, plan, 1)?;
    wide.model = Some(wide_model.name.clone());
    see(Seen::Steps(&wide));
    record.results.push(wide);
    see(Seen::Gpu(
        "Streams on a GPU: the most whose chunks are in time, 99 of 100",
    ));
    let (mut least, mut beyond) = (0, MOST / GRAIN + 1);
    while beyond - least > 1 {
        let middle = (least + beyond) / 2;
        let result = measure(model, plan, middle * GRAIN)?;
        see(Seen::Steps(&result));
        match is_in_time(&result, model) {
            true => least = middle,
            false => beyond = middle,
        }
        record.results.push(result);
    }
    Ok(record)
}

fn is_in_time(result: &CaseResult, model: &Model) -> bool {
    result.step_ns_p99 * u64::from(model.config.sample_rate_hz) <= 1_000_000_000
}

/// A prompt as long as the context, which so many steps would take in one by one.
fn hear(model: &Arc<Model>, plan: &Plan, step_ns: u64) -> Result<PrefillResult, DeviceError> {
    let mut engine = open(model, plan, 1)?;
    let codes = model.config.context as usize;
    let seconds = time_prompt(engine.as_mut(), &prompt(codes), plan.time_per_case);
    check(engine.as_ref(), plan)?;
    Ok(PrefillResult {
        case: Case::Prefill.name().into(),
        isa: engine.isa().into(),
        cores: 1,
        codes,
        seconds,
        x_realtime: codes as f64 / f64::from(model.config.sample_rate_hz) / seconds,
        stepping_seconds: step_ns as f64 / 1e9 * codes as f64,
        ratio_to_record: None,
    })
}

/// Steps of so many lanes, timed by the chunk.
fn measure(model: &Arc<Model>, plan: &Plan, n_lanes: usize) -> Result<CaseResult, DeviceError> {
    let mut engine = open(model, plan, n_lanes)?;
    engine.age(0, AGE);
    // Noise takes long to make: once will do.
    (1..n_lanes).for_each(|lane| engine.copy(0, lane));
    let n_codes = (model.config.sample_rate_hz / CHUNKS_PER_S) as usize;
    let times = time_apart(engine.as_mut(), n_codes, plan.time_per_case).of_codes(n_codes);
    check(engine.as_ref(), plan)?;
    let mut result = CaseResult::new("gpu", engine.isa(), &times);
    result.device = plan.device.to_string();
    result.lanes = n_lanes;
    result.x_realtime = result.steps_per_s / f64::from(model.config.sample_rate_hz);
    Ok(result)
}

fn open(model: &Arc<Model>, plan: &Plan, n_lanes: usize) -> Result<Box<dyn Decoder>, DeviceError> {
    // When it fails nobody wants to know how the processor goes on.
    let lanes = LaneCounts {
        all: n_lanes,
        lasting: 1,
    };
    let opened = engine::open_on(plan.device, model, &Settings::default(), lanes)?;
    Ok(opened.decoder)
}

/// What was measured was the GPU, to the end.
fn check(engine: &dyn Decoder, plan: &Plan) -> Result<(), DeviceError> {
    match engine.omen().as_ref().and_then(|omen| omen.get()) {
        Some(fall) => Err(DeviceError {
            device: plan.device,
            why: fall.why.clone(),
        }),
        None => Ok(()),
    }
}
