//! What every engine promises, on the tiny model: right for ever, alone as in company, the same on
//! every instruction set, and without allocating.

use std::path::Path;
use std::sync::Arc;

use assert_no_alloc::{AllocDisabler, assert_no_alloc};
use longwave::compute::Plain;
use longwave::engine::{self, Decoder, DrawParams, Isa, NaiveDecoder, Settings, Turn, uniform};
use longwave::model::{Model, V};
use longwave::predictor::Predictor;
use longwave::train::forward;

#[global_allocator]
static ALLOCATOR: AllocDisabler = AllocDisabler;

const DRAW: DrawParams = DrawParams {
    temperature: 1.0,
    max_entropy: 3.0,
    max_rise: 0.5,
    leveling: 0.02,
    max_click: 2.0,
    min_entropy: 8.0,
    top_p: 0.95,
    min_p: 0.01,
};

/// The tiny model; its first filter sees enough to know a click by.
fn tiny() -> Arc<Model> {
    let mut model = Model::load(Path::new("models/tiny")).unwrap();
    model.config.predictor[0].taps = 48;
    Arc::new(model)
}

fn on(isa: Isa) -> Settings {
    Settings {
        isa: Some(isa),
        ..Settings::default()
    }
}

fn shared(isa: Isa, n_threads: usize) -> Settings {
    Settings {
        isa: Some(isa),
        threads: Some(n_threads),
        ..Settings::default()
    }
}

/// The tiny model without its predictor, whose filters remember more than any ring.
fn tiny_of_rings() -> Arc<Model> {
    let mut model = Model::load(Path::new("models/tiny")).unwrap();
    model.config.predictor.clear();
    model.weights.predictor.clear();
    Arc::new(model)
}

/// The tiny model with a second KV head, so that two threads can share it.
fn tiny_for_two() -> Arc<Model> {
    let mut model = Model::load(Path::new("models/tiny")).unwrap();
    model.config.n_kv_heads = 2;
    for layer in &mut model.weights.layers {
        for matrix in [&mut layer.k, &mut layer.v] {
            matrix.extend(matrix.clone().iter().rev());
        }
    }
    Arc::new(model)
}

/// The same with a convolution of another width.
fn convolving(width: usize) -> Arc<Model> {
    let mut model = Arc::into_inner(tiny_for_two()).unwrap();
    model.config.conv_width = width;
    for (i, layer) in (0..).zip(&mut model.weights.layers) {
        let taps = (0..(width * model.config.d_model) as u64).map(|at| uniform(i, at) - 0.5);
        layer.conv = taps.collect();
    }
    Arc::new(model)
}

/// Draws in all lanes together.
fn generate_batch(engine: &mut dyn Decoder, n: usize) -> Vec<Vec<u8>> {
    let mut all = vec![vec![0; n]; engine.n_lanes()];
    let uniforms: Vec<f32> = (0..n as u64).map(|t| uniform(11, t)).collect();
    let turn = |(lane, codes)| Turn {
        lane,
        draw: DRAW,
        uniforms: &uniforms,
        codes,
    };
    let mut turns: Vec<Turn<'_>> = (0..)
        .zip(all.iter_mut().map(|codes| &mut codes[..]))
        .map(turn)
        .collect();
    engine.generate(&mut turns);
    drop(turns);
    all
}

/// Codes that wander over all 256.
fn codes(n: usize) -> Vec<u8> {
    (0..n as u64)
        .map(|t| (uniform(99, t) * 256.0) as u8)
        .collect()
}

fn generate(engine: &mut dyn Decoder, lane: usize, seed: u64, n: usize, chunk: usize) -> Vec<u8> {
    let mut all = vec![0; n];
    for part in all.chunks_mut(chunk) {
        let from = engine.position(lane);
        let uniforms: Vec<f32> = (from..from + part.len() as u64)
            .map(|t| uniform(seed, t))
            .collect();
        engine.generate(&mut [Turn {
            lane,
            draw: DRAW,
            uniforms: &uniforms,
            codes: part,
        }]);
    }
    all
}

/// Largest difference between an engine's logits and `expected` [T, V], over three cycles.
fn worst_difference(engine: &mut dyn Decoder, codes: &[u8], expected: &[Vec<f32>]) -> f32 {
    let mut worst = 0.0f32;
    engine.score(0, codes, &mut |at, logits| {
        for (own, expected) in logits.iter().zip(&expected[at]) {
            worst = worst.max((own - expected).abs());
        }
    });
    worst
}

#[test]
fn who_looks_on_while_codes_are_drawn_sees_what_they_are_drawn_from() {
    const N: usize = 200;
    let uniforms: Vec<f32> = (0..N as u64).map(|t| uniform(5, t)).collect();
    let engines: [Box<dyn Decoder>; 2] = [
        engine::open(&tiny(), &Settings::default(), 1).unwrap(),
        Box::new(NaiveDecoder::new(tiny(), 1)),
    ];
    for mut engine in engines {
        let alone = generate(&mut *engine, 0, 5, N, N);
        engine.open(0);
        let mut codes = vec![0; N];
        let turn = Turn {
            lane: 0,
            draw: DRAW,
            uniforms: &uniforms,
            codes: &mut codes,
        };
        let mut seen = Vec::new();
        engine.generate_seen(turn, &mut |at, logits| seen.push((at, logits.to_vec())));
        assert_eq!(codes, alone);
        engine.open(0);
        let mut expected = Vec::new();
        engine.score(0, &codes, &mut |at, logits| {
            expected.push((at, logits.to_vec()))
        });
        assert_eq!(seen, expected);
    }
}

#[test]
fn through_three_cycles_of_every_ring_and_rotation_the_engines_equal_the_dense_mask() {
    let model = tiny();
    let cycle = model.config.cycle().unwrap() as usize;
    let codes = codes(3 * cycle + 100);
    let expected: Vec<Vec<f32>> = forward::logits(&model, &codes).unwrap().to_vec2().unwrap();
    let naive = worst_difference(&mut NaiveDecoder::new(model.clone(), 1), &codes, &expected);
    assert!(
        naive < 1e-3,
        "naive differs by {naive} over {} positions",
        codes.len()
    );
    let spread = expected
        .iter()
        .flatten()
        .fold(0.0f32, |most, logit| most.max(logit.abs()));
    let mut int8 = engine::open(&model, &Settings::default(), 1).unwrap();
    let int8 = worst_difference(int8.as_mut(), &codes, &expected);
    assert!(
        int8 < 0.05 * spread,
        "int8 differs by {int8} where logits reach {spread}"
    );
}

#[test]
fn after_a_whole_cycle_with_the_same_input_the_state_is_the_same() {
    let model = tiny_of_rings();
    let cycle = model.config.cycle().unwrap() as usize;
    let seen = model.config.receptive_field() as usize;
    let past = codes(seen);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let mut engine = engine::open(&model, &on(isa), 2).unwrap();
        // Two lanes, a cycle apart in age, that have heard the same for as long as they remember.
        engine.prime(0, &past);
        engine.prime(1, &codes(cycle));
        engine.prime(1, &past);
        let (mut young, mut old) = (Vec::new(), Vec::new());
        engine.score(0, &past, &mut |_, logits| {
            young.extend(logits.iter().map(|l| l.to_bits()))
        });
        engine.score(1, &past, &mut |_, logits| {
            old.extend(logits.iter().map(|l| l.to_bits()))
        });
        assert_eq!(young, old, "{isa:?}");
    }
}

#[test]
fn every_code_drawn_is_within_the_reach_of_the_predictor() {
    let plan = tiny().config.predictor.clone();
    let naive: Box<dyn Decoder> = Box::new(NaiveDecoder::new(tiny(), 1));
    let available = Isa::ALL.into_iter().filter(|isa| isa.is_available());
    let engines = available.map(|isa| engine::open(&tiny(), &on(isa), 1).unwrap());
    for mut engine in engines.chain([naive]) {
        // A held code narrows the reach; a model that draws noise would leave it.
        engine.prime(0, &[128; 400]);
        let drawn = generate(engine.as_mut(), 0, 3, 60, 60);
        let mut predictor = Predictor::of(&plan).unwrap();
        let (mut n_narrow, mut n_followed) = (0, 0);
        let heard = [vec![128; 401], drawn.clone()].concat();
        for (at, code) in heard.iter().enumerate() {
            let reach = predictor.within_reach::<Plain>(DRAW.may_leap(), DRAW.click_limit());
            if at > 400 {
                assert!(reach.contains(code), "{}, {at}: {code}", engine.isa());
                n_narrow += u32::from(reach.end() - reach.start() < 40);
                let free = predictor.within_reach::<Plain>(DRAW.may_leap(), None);
                n_followed += u32::from(reach != free);
            }
            predictor.hear::<Plain>(*code);
        }
        assert!(n_narrow > 0 && n_followed > 0, "{}", engine.isa());
    }
}

#[test]
fn a_seed_plays_the_same_alone_in_a_batch_and_in_any_chunks() {
    let model = tiny();
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let mut alone = engine::open(&model, &on(isa), 1).unwrap();
        let expected = generate(alone.as_mut(), 0, 7, 960, 320);
        alone.open(0);
        assert_eq!(
            generate(alone.as_mut(), 0, 7, 960, 41),
            expected,
            "in other chunks"
        );

        let mut batch = engine::open(&model, &on(isa), 11).unwrap();
        batch.prime(3, &codes(55));
        let mut of_lane: Vec<Vec<u8>> = vec![vec![0; 960]; 11];
        let all_uniforms: Vec<Vec<f32>> = (0..11u64)
            .map(|lane| {
                (0..960)
                    .map(|t| uniform(if lane == 4 { 7 } else { lane }, t))
                    .collect()
            })
            .collect();
        let mut turns: Vec<Turn<'_>> = of_lane
            .iter_mut()
            .zip(&all_uniforms)
            .enumerate()
            .map(|(lane, (codes, uniforms))| Turn {
                lane,
                draw: DRAW,
                uniforms,
                codes,
            })
            .collect();
        batch.generate(&mut turns);
        assert_eq!(of_lane[4], expected, "among ten others");
    }
}

#[test]
fn a_seed_plays_the_same_on_every_instruction_set() {
    let model = tiny();
    let plays = |isa: Isa| {
        let mut engine = engine::open(&model, &on(isa), 1).unwrap();
        generate(engine.as_mut(), 0, 3, 4000, 320)
    };
    let expected = plays(Isa::Portable);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        assert_eq!(plays(isa), expected, "{isa:?}");
    }
}

#[test]
fn priming_equals_scoring_and_an_opened_lane_has_forgotten() {
    let model = tiny();
    let past = codes(300);
    let mut engine = engine::open(&model, &Settings::default(), 2).unwrap();
    engine.prime(0, &past);
    engine.score(1, &past, &mut |_, _| ());
    let primed = generate(engine.as_mut(), 0, 1, 200, 50);
    assert_eq!(generate(engine.as_mut(), 1, 1, 200, 50), primed);
    assert_eq!(engine.position(0), 500);
    engine.open(0);
    engine.prime(0, &past);
    assert_eq!(generate(engine.as_mut(), 0, 1, 200, 50), primed);
}

#[test]
fn a_copied_lane_goes_on_as_the_lane_does() {
    let naive = |model| Box::new(NaiveDecoder::new(model, 3)) as Box<dyn Decoder>;
    let fast = |model: &Arc<Model>, n_threads| {
        engine::open(model, &shared(Isa::best(), n_threads), 3).unwrap()
    };
    let engines = [
        fast(&tiny(), 1),
        fast(&tiny_of_rings(), 1),
        fast(&tiny_for_two(), 2),
        naive(tiny()),
        naive(tiny_of_rings()),
    ];
    for mut engine in engines {
        engine.prime(0, &codes(333));
        engine.prime(2, &codes(77));
        engine.copy(0, 2);
        assert_eq!(engine.position(2), 333);
        let n = if engine.isa() == "naive" { 100 } else { 900 };
        let expected = generate(engine.as_mut(), 2, 4, n, 60);
        assert_eq!(generate(engine.as_mut(), 0, 4, n, 50), expected);
        // And the other way, over what has grown apart.
        generate(engine.as_mut(), 0, 5, 40, 40);
        engine.copy(2, 0);
        let expected = generate(engine.as_mut(), 2, 6, n, 60);
        assert_eq!(generate(engine.as_mut(), 0, 6, n, 60), expected);
        assert_eq!(engine.position(1), 0);
    }
}

#[test]
fn a_kept_lane_goes_on_in_another_engine_as_if_nothing_had_been() {
    let model = tiny_for_two();
    let settings = |isa| [shared(isa, 1), shared(isa, 2)];
    let isas = Isa::ALL.into_iter().filter(|isa| isa.is_available());
    let settings: Vec<Settings> = isas.flat_map(settings).collect();
    let mut first = engine::open(&model, &settings[0], 2).unwrap();
    let mut bytes = vec![0; first.state_len()];
    first.prime(1, &codes(3_000));
    assert_no_alloc(|| first.save(1, &mut bytes));
    let expected = generate(&mut *first, 1, 7, 500, 100);
    for settings in &settings {
        let mut other = engine::open(&model, settings, 2).unwrap();
        other.prime(0, &codes(200));
        assert_eq!(other.restore(0, &bytes), 3_000);
        let mut kept = vec![0; bytes.len()];
        other.save(0, &mut kept);
        assert!(kept == bytes, "{settings:?} keeps something else");
        let drawn = generate(&mut *other, 0, 7, 500, 100);
        assert!(drawn == expected, "{settings:?} plays something else");
    }
}

#[test]
fn no_bytes_that_a_lane_is_made_of_break_the_engine() {
    let model = tiny();
    for seed in [1, 2, 3] {
        let mut engine = engine::open(&model, &Settings::default(), 1).unwrap();
        let len = engine.state_len();
        let bytes: Vec<u8> = (0..len as u64)
            .map(|at| (engine::uniform(seed, at) * 256.0) as u8)
            .collect();
        for bytes in [bytes, vec![0xff; len]] {
            engine.restore(0, &bytes);
            generate(&mut *engine, 0, seed, 2_000, 100);
        }
    }
}

#[test]
fn threads_that_share_a_step_play_what_one_plays() {
    let model = tiny_for_two();
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let mut one = engine::open(&model, &shared(isa, 1), 3).unwrap();
        let mut two = engine::open(&model, &shared(isa, 2), 3).unwrap();
        assert_eq!((one.n_threads(), two.n_threads()), (1, 2));
        for engine in [&mut one, &mut two] {
            engine.prime(1, &codes(33));
            engine.prime(2, &codes(700));
        }
        for lane in 0..3 {
            let expected = generate(one.as_mut(), lane, 5, 1200, 320);
            assert_eq!(
                generate(two.as_mut(), lane, 5, 1200, 77),
                expected,
                "{isa:?}"
            );
        }
        let batch = generate_batch(two.as_mut(), 200);
        assert_eq!(
            batch,
            generate_batch(one.as_mut(), 200),
            "{isa:?}, together"
        );
    }
}

#[test]
fn more_threads_than_kv_heads_are_not_started() {
    let two = engine::open(&tiny_for_two(), &shared(Isa::Portable, 64), 1).unwrap();
    assert_eq!(two.n_threads(), 2);
}

#[test]
fn a_long_prompt_leaves_the_bits_that_stepping_leaves() {
    let model = tiny_for_two();
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for (n_threads, n_codes) in [(1, 64), (1, 513), (1, 1500), (2, 1061)] {
            prime_both_ways(&model, &shared(isa, n_threads), n_codes);
        }
    }
    for width in [1, 40, 64] {
        prime_both_ways(&convolving(width), &Settings::default(), 700);
    }
}

/// One lane hears a prompt at once, another by steps: then both hold the same logits.
fn prime_both_ways(model: &Arc<Model>, settings: &Settings, n_codes: usize) {
    let (prompt, around) = (codes(n_codes), codes(70));
    let mut engine = engine::open(model, settings, 2).unwrap();
    engine.prime(0, &around[..31]);
    engine.prime(0, &prompt);
    // Too few at a time to be taken in by tiles.
    engine.prime(1, &around[..31]);
    prompt.chunks(50).for_each(|codes| engine.prime(1, codes));
    assert_eq!(engine.position(0), engine.position(1));
    let mut logits = |lane, chunk| {
        let mut all = Vec::new();
        for codes in around.chunks(chunk) {
            engine.score(lane, codes, &mut |_, logits| {
                all.extend(logits.iter().map(|logit| logit.to_bits()));
            });
        }
        all
    };
    let stepped = logits(1, 10);
    let by_tiles = logits(0, 70);
    let width = model.config.conv_width;
    assert_eq!(
        by_tiles, stepped,
        "{n_codes} codes, {settings:?}, convolution {width}"
    );
}

#[test]
fn generating_allocates_nothing() {
    let model = tiny();
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let mut engine = engine::open(&model, &on(isa), 3).unwrap();
        let uniforms = vec![0.3; 64];
        let (mut first, mut second) = (vec![0; 64], vec![0; 64]);
        let past = codes(40);
        assert_no_alloc(|| {
            engine.open(2);
            engine.prime(2, &past);
            engine.copy(2, 1);
            engine.generate(&mut [
                Turn {
                    lane: 2,
                    draw: DRAW,
                    uniforms: &uniforms,
                    codes: &mut first,
                },
                Turn {
                    lane: 0,
                    draw: DRAW,
                    uniforms: &uniforms,
                    codes: &mut second,
                },
            ]);
        });
    }
}

#[test]
fn the_logits_of_a_cold_start_are_those_of_code_128() {
    let model = tiny();
    let expected: Vec<Vec<f32>> = forward::logits(&model, &[0]).unwrap().to_vec2().unwrap();
    let mut engine = NaiveDecoder::new(model, 1);
    engine.score(0, &[0], &mut |at, logits| {
        assert_eq!(logits.len(), V);
        assert!(
            logits
                .iter()
                .zip(&expected[at])
                .all(|(a, b)| (a - b).abs() < 1e-4)
        );
    });
}
