//! The GPU engine draws what the CPU engine draws. On a machine without a GPU these tests say so
//! and pass; `scripts/check-gpu` runs them where there is one.
#![cfg(feature = "cuda")]

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use cudarc::driver::{CudaContext, LaunchConfig};
use cudarc::nvrtc::Ptx;
use longwave::engine::{
    self, CudaDecoder, Decoder, DrawParams, Fallback, Fallible, GpuError, STEPPED_MAX, Settings,
    Turn, Work, uniform,
};
use longwave::model::{Model, ModelConfig, V};
use longwave::predictor::FilterPlan;

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

/// An engine of the first GPU. One other stays open while the tests run, whose kernels all share: the driver then
/// has to compile them but once.
fn open(model: &Arc<Model>, n_lanes: usize) -> Result<CudaDecoder, GpuError> {
    static KEPT: OnceLock<Mutex<Result<CudaDecoder, GpuError>>> = OnceLock::new();
    KEPT.get_or_init(|| Mutex::new(CudaDecoder::open(&self::model("tiny"), 0, 1)));
    CudaDecoder::open(model, 0, n_lanes)
}

/// Both engines, or none without a GPU.
fn engines(model: &Arc<Model>, n_lanes: usize) -> Option<[Box<dyn Decoder>; 2]> {
    both(model, n_lanes, open(model, n_lanes))
}

/// The CPU engine beside the GPU's, unless there is none.
fn both(
    model: &Arc<Model>,
    n_lanes: usize,
    gpu: Result<CudaDecoder, GpuError>,
) -> Option<[Box<dyn Decoder>; 2]> {
    match gpu {
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
    let neutral = DrawParams::NEUTRAL;
    match lane % 6 {
        0 => neutral,
        1 => DrawParams {
            temperature: 1.06,
            max_entropy: 4.0,
            max_rise: 0.8,
            leveling: 0.012,
            max_click: 4.0,
            ..neutral
        },
        2 => DrawParams {
            temperature: 0.9,
            max_entropy: 3.0,
            leveling: 0.2,
            min_entropy: 8.0,
            top_p: 0.95,
            min_p: 0.01,
            ..neutral
        },
        3 => DrawParams {
            temperature: 0.0,
            leveling: 0.1,
            max_click: 1.0,
            ..neutral
        },
        4 => DrawParams {
            min_entropy: 8.0,
            ..neutral
        },
        _ => DrawParams {
            temperature: 1.3,
            max_rise: 0.3,
            max_click: 2.0,
            min_p: 0.05,
            ..neutral
        },
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
        let Some(mut both) = engines(&model(name), 5) else {
            return;
        };
        same_codes(&mut both, &[1], steps(n));
        same_codes(&mut both, &[0], steps(n) / 4);
        same_codes(&mut both, &[4], steps(n) / 4);
    }
}

#[test]
fn lanes_that_join_and_leave_draw_the_cpu_engines_codes() {
    // More than a GPU has multiprocessors: a cluster for a lane, blocks of one lane and of two take turns.
    for (model, n_lanes, n) in [
        (model("tiny"), 150, 500),
        (model("piano-16k"), 140, 100),
        (wide_of_filters(4), 140, 12),
    ] {
        let Some(mut both) = engines(&model, n_lanes) else {
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
fn the_driver_compiles_the_kernels_where_it_is_told_to() {
    match open(&model("tiny"), 1) {
        Ok(gpu) if std::env::var("CUDA_FORCE_PTX_JIT").is_ok_and(|is_told| is_told == "1") => {
            assert!(gpu.is_compiled_by_driver().unwrap());
        }
        Ok(_) | Err(GpuError::NoDriver) => {}
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_cluster_draws_a_lane_that_is_alone_where_the_machine_code_runs() {
    match open(&model("piano-16k"), 1) {
        Ok(gpu) => {
            let is_compiled = gpu.is_compiled_by_driver().unwrap();
            let of_one = match is_compiled {
                true => "decode_one_128",
                false => "decode_cluster_128",
            };
            assert_eq!(gpu.kernel_of(1), of_one);
            assert_eq!(gpu.kernel_of(100_000), "decode_two_128");
        }
        Err(GpuError::NoDriver) => {}
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn smaller_gpus_draw_the_cpu_engines_codes() {
    // What a block may have on GeForce since Ampere, and on an A100: one lane and one piece of a matrix
    // at a time, two lanes and two pieces.
    for (kib, n_lanes, n) in [(99, 2, 2000), (163, 140, 60)] {
        let model = model("piano-16k");
        let gpu = CudaDecoder::open_without_clusters(&model, 0, n_lanes, kib << 10);
        let Some(mut both) = both(&model, n_lanes, gpu) else {
            return;
        };
        same_codes(&mut both, &(0..n_lanes).collect::<Vec<_>>(), steps(n));
    }
}

#[test]
fn an_engine_opened_later_leaves_the_kernels_as_the_first_wants_them() {
    let model = model("piano-16k");
    let Some(mut both) = engines(&model, 1) else {
        return;
    };
    // Of a model that needs less shared memory.
    let later = open(&self::model("tiny"), 1).unwrap();
    for engine in &mut both {
        engine.prime(0, &some_codes(2 * STEPPED_MAX));
    }
    same_codes(&mut both, &[0], steps(500));
    drop(later);
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
    let why = open(&Arc::new(model), 1).unwrap_err().to_string();
    assert!(
        why.contains("GPU kernels") && why.contains("pattern[1] is hashed"),
        "{why}"
    );
}

fn state_of(engine: &mut dyn Decoder, lane: usize) -> Vec<u8> {
    let mut bytes = vec![0; engine.state_len()];
    engine.save(lane, &mut bytes);
    bytes
}

#[test]
fn a_lane_moves_between_gpu_and_cpu_and_plays_on_to_the_bit() {
    for (model, n) in [
        (tiny_of_rings(), 400),
        (model("tiny"), 400),
        (model("piano-16k"), 3000),
    ] {
        let Some([mut cpu, mut gpu]) = engines(&model, 4) else {
            return;
        };
        let n = steps(n);
        // A young lane and one whose caches are full, with filters that have learnt.
        gpu.age(2, 123_456_789_012);
        for lane in [0, 2] {
            generate(&mut *gpu, &[lane], n);
            let state = state_of(&mut *gpu, lane);
            assert_eq!(cpu.state_len(), state.len());
            let position = cpu.restore(lane, &state);
            assert_eq!(position, gpu.position(lane));
        }
        let mut both = [cpu, gpu];
        same_codes(&mut both, &[0, 2], n);
        // And back, into another lane: it must not depend on what was there.
        let [cpu, gpu] = &mut both;
        let states = [0, 2].map(|lane| state_of(&mut **cpu, lane));
        for (lane, state) in [1, 3].into_iter().zip(&states) {
            for engine in [&mut *cpu, &mut *gpu] {
                engine.prime(lane, &some_codes(50));
                engine.restore(lane, state);
            }
        }
        same_codes(&mut both, &[1, 3], n);
    }
}

/// Filters that a GPU hears at once; the prompts of models with more are stepped through.
const HEARD_AT_ONCE: usize = 7;

/// The wide model with so many filters, of lengths that fill a GPU's warps and do not.
fn wide_of_filters(n_filters: usize) -> Arc<Model> {
    let mut model = longwave::bench::wide_model();
    let filter = |taps| FilterPlan {
        taps,
        rate: 0.05,
        leak: 1e-5,
    };
    let filters = [600, 1024, 208, 512, 128, 48, 16, 32].map(filter);
    model.config.predictor = filters[..n_filters].to_vec();
    let n = model.config.d_model * model.config.predictor_width();
    let noise = (0..n as u64).map(|i| (uniform(5, i) - 0.5) * 0.1);
    model.weights.predictor = noise.collect();
    Arc::new(model)
}

#[test]
fn a_prompt_comes_to_what_stepping_through_it_does() {
    for (model, n) in [
        (tiny_of_rings(), 5_000),
        // What is left of two pieces is as much as one holds, and a code more.
        (model("tiny"), 64 + 103 + 16_384),
        (model("tiny"), 64 + 103 + 16_385),
        (model("piano-16k"), 40_000),
        (Arc::new(longwave::bench::wide_model()), 3_000),
        (wide_of_filters(HEARD_AT_ONCE), 3_000),
        (wide_of_filters(6), 300),
        (wide_of_filters(4), 300),
        (wide_of_filters(3), 300),
        (wide_of_filters(1), 300),
        (wide_of_filters(HEARD_AT_ONCE + 1), 300),
    ] {
        let Some([_, mut gpu]) = engines(&model, 2) else {
            return;
        };
        let is_heard_at_once = model.config.predictor.len() <= HEARD_AT_ONCE;
        assert_eq!(gpu.prompt_tile() > STEPPED_MAX, is_heard_at_once);
        let codes = some_codes(steps(n).max(200));
        // A stream that begins, and one whose caches are full.
        for is_old in [false, true] {
            for lane in [0, 1] {
                gpu.open(lane);
                if is_old {
                    gpu.age(lane, 123_456_789_012);
                }
            }
            let (first, rest) = codes.split_at(64);
            let (second, rest) = rest.split_at(103);
            for codes in [first, second, rest] {
                gpu.prime(0, codes);
                codes
                    .chunks(STEPPED_MAX)
                    .for_each(|codes| gpu.prime(1, codes));
                let states = [0, 1].map(|lane| state_of(&mut *gpu, lane));
                let differ = states[0].iter().zip(&states[1]).map(|(a, b)| a != b);
                let differ: Vec<usize> = (0..)
                    .zip(differ)
                    .filter(|(_, is)| *is)
                    .map(|(i, _)| i)
                    .collect();
                assert!(
                    differ.is_empty(),
                    "{}, old: {is_old}, {} codes: {} bytes of {} differ, at {:?}",
                    model.name,
                    codes.len(),
                    differ.len(),
                    states[0].len(),
                    &differ[..differ.len().min(40)]
                );
            }
        }
    }
}

#[test]
fn a_long_prompt_is_the_cpu_engines() {
    let model = model("piano-16k");
    let Some([mut cpu, mut gpu]) = engines(&model, 2) else {
        return;
    };
    let prompt = some_codes(65_536);
    // At once, and as one that comes while others play.
    for (lane, tile) in [(0, prompt.len()), (1, gpu.prompt_tile())] {
        assert!(tile > STEPPED_MAX);
        let begin = std::time::Instant::now();
        prompt.chunks(tile).for_each(|codes| gpu.prime(lane, codes));
        eprintln!(
            "65,536 codes of prompt, {tile} at a time: {:?}",
            begin.elapsed()
        );
    }
    cpu.prime(0, &prompt);
    cpu.copy(0, 1);
    same_codes(&mut [cpu, gpu], &[0, 1], steps(500));
}

/// A kernel that writes where there is no memory.
const ASTRAY: &str = "
.version 7.0
.target sm_70
.address_size 64
.visible .entry astray() {
    .reg .b64 %rd<2>;
    .reg .b32 %r<2>;
    mov.u64 %rd1, 8;
    mov.u32 %r1, 1;
    st.global.u32 [%rd1], %r1;
    ret;
}";

/// Leaves the GPU as a real fault does: whatever this process asks its driver from then on fails.
#[allow(unsafe_code)]
fn wreck() {
    let context = CudaContext::new(0).unwrap();
    let module = context.load_module(Ptx::from_src(ASTRAY)).unwrap();
    let astray = module.load_function("astray").unwrap();
    let queue = context.default_stream();
    // SAFETY: it takes no arguments, and what it writes to is nobody's, which is what is wanted.
    unsafe {
        queue
            .launch_builder(&astray)
            .launch(LaunchConfig::for_num_elems(1))
    }
    .unwrap();
    assert!(queue.synchronize().is_err(), "it has not failed");
}

/// The GPU, until it is wrecked.
struct Wrecked {
    gpu: CudaDecoder,
    n_left: usize,
}

impl Fallible for Wrecked {
    type Error = GpuError;

    fn attempt(&mut self, work: &mut Work<'_, '_>) -> Result<(), GpuError> {
        if self.n_left == 0 {
            wreck();
        }
        self.n_left = self.n_left.wrapping_sub(1);
        self.gpu.attempt(work)
    }

    fn n_lanes(&self) -> usize {
        Fallible::n_lanes(&self.gpu)
    }

    fn state_len(&self) -> usize {
        Fallible::state_len(&self.gpu)
    }

    fn position(&self, lane: usize) -> u64 {
        Fallible::position(&self.gpu, lane)
    }

    fn isa(&self) -> &'static str {
        Fallible::isa(&self.gpu)
    }
}

/// The name of the next test, and what it is when it is a process of its own: a driver that has failed
/// serves no other test of the process.
const WRECK: &str = "a_gpu_that_fails_while_it_plays_is_played_on_by_the_cpu";

#[test]
fn a_gpu_that_fails_while_it_plays_is_played_on_by_the_cpu() {
    if std::env::var_os("LONGWAVE_GPU_WRECK").is_none() {
        let this = std::env::current_exe().unwrap();
        let mut child = std::process::Command::new(this);
        child.args(["--exact", WRECK, "--nocapture"]);
        let status = child.env("LONGWAVE_GPU_WRECK", "1").status().unwrap();
        assert!(status.success());
        return;
    }
    let model = model("piano-16k");
    let gpu = match CudaDecoder::open(&model, 0, 3) {
        Ok(gpu) => gpu,
        Err(GpuError::NoDriver) => return,
        Err(error) => panic!("{error}"),
    };
    let settings = Settings::default();
    let mut gpu = Fallback::new(Wrecked { gpu, n_left: 5 }, &model, &settings, 2);
    let mut cpu = engine::open(&model, &settings, 3).unwrap();
    let omen = Decoder::omen(&gpu).unwrap();
    for engine in [&mut *cpu, &mut gpu as &mut dyn Decoder] {
        engine.prime(0, &some_codes(500));
        engine.prime(1, &some_codes(2_000));
    }
    // Lane 0 is drawn without what drawing remembers of its draws, which is not taken over.
    let lanes = [0];
    for i in 0..12 {
        let expected = generate(&mut *cpu, &lanes, 320);
        let begin = std::time::Instant::now();
        let got = generate(&mut gpu, &lanes, 320);
        if i == 3 {
            eprintln!("the chunk that failed took {:?}", begin.elapsed());
        }
        assert!(expected == got, "chunk {i}");
        assert_eq!(omen.get().is_some(), i >= 3, "chunk {i}");
    }
    let fall = omen.get().unwrap();
    eprintln!("it fell, {fall:?}");
    assert_eq!(Decoder::isa(&gpu), cpu.isa());
    assert!(fall.why.contains("driver says"), "{}", fall.why);
    // A lane that nobody has asked for since.
    assert_eq!(Decoder::position(&gpu, 1), 2_000);
    let state = state_of(&mut gpu, 1);
    cpu.restore(1, &state);
    assert!(generate(&mut gpu, &[1], 320) == generate(&mut *cpu, &[1], 320));
}
