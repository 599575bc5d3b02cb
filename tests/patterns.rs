//! Every kind of attention: who sees whom by the dense mask is what every engine decodes, through
//! three cycles of its rings, and a step costs the same for ever.

use std::sync::Arc;
use std::time::Duration;

use assert_no_alloc::{AllocDisabler, assert_no_alloc};
use longwave::engine::{self, Decoder, DrawParams, Isa, NaiveDecoder, Settings, Turn, uniform};
use longwave::machine;
use longwave::model::pattern::{Buckets, Defaults};
use longwave::model::{Head, Layer, Model, ModelConfig, Pattern, Weights};
use longwave::train::forward;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: AllocDisabler = AllocDisabler;

/// Positions of a long run; ten million take some minutes.
const POSITIONS: &str = "LONGWAVE_PATTERN_POSITIONS";
/// Of a long run: the kind alone whose name this is.
const KIND: &str = "LONGWAVE_PATTERN_KIND";

/// One small layer of every kind, and mixtures.
fn entries() -> Vec<Value> {
    vec![
        json!("local"),
        json!("strided"),
        json!({"kind": "fixed", "block": 24, "blocks": 3, "summary": 5}),
        json!([{"kind": "fixed", "block": 16, "blocks": 3, "summary": 4},
            {"kind": "fixed", "block": 16, "blocks": 3, "summary": 4, "sub_block": 1}]),
        json!([{"kind": "dilated", "window": 9, "dilation": 1},
            {"kind": "dilated", "window": 5, "dilation": 7}]),
        json!({"kind": "global", "anchors": 7, "beside": {"kind": "strided", "stride": 3, "rows": 8}}),
        json!({"kind": "random", "block": 8, "blocks": 7, "r": 3, "seed": 2}),
        json!({"kind": "block_sparse", "block": 6, "layout": [[0, 1], [0, 2, 7], [0]]}),
        json!({"kind": "memory", "segment": 20}),
        json!({"kind": "latent", "inputs": 40, "latents": 8}),
        json!(["strided", {"kind": "global", "anchors": 20, "beside": "memory"}]),
        json!({"kind": "hashed", "window": 90, "rounds": 2, "buckets": 8, "keys": 17, "seed": 3}),
        json!([{"kind": "hashed", "window": 60, "rounds": 1, "buckets": 4, "keys": 20, "seed": 1},
            {"kind": "hashed", "window": 96, "rounds": 3, "buckets": 16, "keys": 5, "seed": 2}]),
    ]
}

/// A tiny model whose first layer is this one, with random weights.
fn model(entry: &Value) -> Arc<Model> {
    let config = json!({
        "d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "mlp_ratio": 2,
        "conv_width": 2, "stride": 4, "context": 32, "pattern": [entry, "local"],
        "rope_period": 96, "rope_harmonics": [13, 7, 3, 1],
        "sample_rate": 16000, "codec": "mulaw8", "norm_eps": 1e-5,
    });
    let config = ModelConfig::parse(&config.to_string()).unwrap();
    let mut at = 0;
    let weights = Weights::gather(&config, |name, shape| {
        let n: usize = shape.iter().product();
        at += n as u64;
        let noise = (at - n as u64..at).map(|i| uniform(8, i) - 0.5);
        let values = noise.map(|x| if name.contains("norm") { 1.0 + x } else { x });
        Ok::<_, ()>(values.collect())
    });
    Arc::new(Model {
        name: "random".into(),
        config,
        weights: weights.unwrap(),
        sha256: String::new(),
    })
}

fn codes(n: usize) -> Vec<u8> {
    let code = |t| (uniform(99, t) * 256.0) as u8;
    (0..n as u64).map(code).collect()
}

/// Three times until slots and rotations are where they were; of what never repeats, enough.
fn three_cycles(model: &Model) -> usize {
    3 * model.config.cycle().map_or(700, |cycle| cycle.min(700)) as usize
}

fn logits(engine: &mut dyn Decoder, codes: &[u8]) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    engine.score(0, codes, &mut |_, logits| all.push(logits.to_vec()));
    all
}

fn worst(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn through_three_cycles_the_engines_equal_the_dense_mask() {
    for entry in entries() {
        let model = model(&entry);
        let codes = codes(three_cycles(&model));
        let expected: Vec<Vec<f32>> = forward::logits(&model, &codes).unwrap().to_vec2().unwrap();
        let naive = logits(&mut NaiveDecoder::new(model.clone(), 1), &codes);
        let naive = worst(&naive, &expected);
        assert!(naive < 1e-3, "{entry}: naive differs by {naive}");
        let mut int8 = engine::open(&model, &Settings::default(), 1).unwrap();
        let int8 = logits(int8.as_mut(), &codes);
        let spread = expected
            .iter()
            .flatten()
            .fold(0.0f32, |most, l| most.max(l.abs()));
        let pairs = int8.chunks(1).zip(expected.chunks(1));
        let is_off = |(a, b): &(&[Vec<f32>], &[Vec<f32>])| worst(a, b) >= 0.05 * spread;
        let off = pairs.filter(is_off).count() as f64 / codes.len() as f64;
        // A key that is a little off may fall into another bucket, whose keys are others: of weights
        // that are noise, at more than a quarter of all positions.
        let may_be = match model.config.layers[0].shares_queries() {
            true => 0.4,
            false => 0.0,
        };
        assert!(
            off <= may_be,
            "{entry}: int8 differs at {off} of all positions"
        );
    }
}

#[test]
fn stepped_or_by_tiles_on_any_instruction_set_and_threads_the_bits_are_the_same() {
    for entry in entries() {
        let model = model(&entry);
        let codes = codes(700);
        let open = |isa, threads| {
            let settings = Settings {
                isa: Some(isa),
                threads: Some(threads),
                ..Settings::default()
            };
            engine::open(&model, &settings, 1)
        };
        let expected = logits(open(Isa::best(), 1).unwrap().as_mut(), &codes);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for threads in [1, 2] {
                let mut engine = open(isa, threads).unwrap();
                let stepped: Vec<Vec<f32>> = codes
                    .chunks(50)
                    .flat_map(|codes| logits(engine.as_mut(), codes))
                    .collect();
                assert!(stepped == expected, "{entry} on {isa:?}, {threads} threads");
            }
        }
    }
}

#[test]
fn the_models_of_the_comparisons_see_as_many_keys_each() {
    // Where a row of the farthest stride would reach beyond the context, there are fewer.
    for (dir, keys) in [
        ("examples/patterns", 1344..=1536),
        ("examples/patterns-cpu", 256..=256),
    ] {
        for file in std::fs::read_dir(dir).unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let config =
                ModelConfig::parse(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
            let seen: usize = config.layers.iter().map(Layer::max_visible).sum();
            assert!(keys.contains(&seen), "{}: {seen}", path.display());
        }
    }
}

/// Tells how many slots a step at a position reads; positions whose buckets matter come one by one.
fn reads(head: &Head) -> Box<dyn FnMut(u64) -> usize + '_> {
    match head {
        Head::Placed(head) => Box::new(|position| {
            let mut now = 0;
            assert!(head.slot(position) < head.n_slots());
            head.visible(position, &mut |run| {
                assert!(run.end <= head.n_slots());
                now += run.len();
            });
            now
        }),
        Head::Hashed(head) => {
            let mut rings = head.rings();
            Box::new(move |position| {
                let mut now = 0;
                let draw = uniform(4, position % 9_973);
                let buckets: Buckets =
                    std::array::from_fn(|i| (draw * (1 << i) as f32 * 64.0) as u16 % 4);
                head.visible(&rings, position, &buckets, &mut |run| {
                    assert!(run.end <= head.n_slots());
                    now += run.len();
                });
                head.write(&mut rings, position, &buckets, &mut |slot| {
                    assert!(slot < head.n_slots());
                });
                now
            })
        }
    }
}

#[test]
fn after_ten_million_positions_a_step_reads_what_it_read_in_the_first() {
    const MILLION: u64 = 1_000_000;
    let reach = Defaults {
        stride: 4,
        context: 32,
    };
    for entry in entries() {
        let layer = Layer::parse(&entry, &reach, 2).unwrap();
        for head in layer.patterns() {
            let (begin, mut read) = (head.reach(), reads(head));
            let (first, last) = (
                begin..begin + MILLION,
                begin + 9 * MILLION..begin + 10 * MILLION,
            );
            let mut counts = [(0, 0); 2];
            for position in 0..last.end {
                let part = match position {
                    p if first.contains(&p) => Some(&mut counts[0]),
                    p if last.contains(&p) => Some(&mut counts[1]),
                    _ => None,
                };
                if part.is_some() || matches!(head, Head::Hashed(_)) {
                    let now = read(position);
                    if let Some((slots, most)) = part {
                        (*slots, *most) = (*slots + now, now.max(*most));
                    }
                }
            }
            let [first, last] = counts;
            assert_eq!(first.1, last.1, "{head:?}");
            // A million is no multiple of every block.
            let share = first.0 as f64 / last.0 as f64;
            assert!((share - 1.0).abs() < 1e-3, "{head:?}: {first:?}, {last:?}");
        }
    }
}

#[test]
fn a_lane_that_is_kept_copied_or_opened_anew_goes_on_to_the_bit() {
    for entry in entries() {
        let model = model(&entry);
        let codes = codes(600);
        let open = |threads| {
            let settings = Settings {
                threads: Some(threads),
                ..Settings::default()
            };
            engine::open(&model, &settings, 2).unwrap()
        };
        let mut engine = open(1);
        let expected = logits(engine.as_mut(), &codes);
        // What the lane was before leaves nothing behind.
        engine.open(0);
        engine.prime(0, &codes[..333]);
        let mut kept = vec![0; engine.state_len()];
        engine.save(0, &mut kept);
        engine.copy(0, 1);
        let mut other = open(2);
        other.prime(0, &codes[100..150]);
        assert_eq!(other.restore(0, &kept), 333);
        assert!(
            logits(engine.as_mut(), &codes[333..]) == expected[333..],
            "{entry}"
        );
        assert!(
            logits(other.as_mut(), &codes[333..]) == expected[333..],
            "{entry}"
        );
        let mut copied = Vec::new();
        engine.score(1, &codes[333..], &mut |_, logits| {
            copied.push(logits.to_vec())
        });
        assert!(copied == expected[333..], "{entry}");
    }
}

#[test]
fn a_long_stream_is_drawn_without_allocating_and_as_fast_as_a_young_one() {
    const CHUNK: u64 = 1000;
    let asked: Option<u64> = std::env::var(POSITIONS).ok().map(|n| n.parse().unwrap());
    let n = asked.unwrap_or(20_000);
    let kind = std::env::var(KIND).unwrap_or_default();
    let mut chosen = entries();
    chosen.retain(|entry| entry.to_string().contains(&kind));
    assert!(!chosen.is_empty(), "no entry is {kind}");
    for entry in chosen {
        let model = model(&entry);
        let mut engine = engine::open(&model, &Settings::default(), 2).unwrap();
        let mut codes = [0; CHUNK as usize];
        let mut uniforms = [0.0; CHUNK as usize];
        // The time of the thread alone: others share the machine.
        let mut draw = |lane, first: u64| {
            for (t, uniform_of) in (first..).zip(&mut uniforms) {
                *uniform_of = uniform(3, t);
            }
            let turn = Turn {
                lane,
                draw: DrawParams::default(),
                uniforms: &uniforms,
                codes: &mut codes,
            };
            let begin = machine::thread_time();
            engine.generate(&mut [turn]);
            machine::thread_time() - begin
        };
        let (young, old) = assert_no_alloc(|| {
            let age = n / 10 * 9;
            for first in (0..age).step_by(CHUNK as usize) {
                draw(0, first);
            }
            // The end of the one stream beside the beginning of another: whatever disturbs, disturbs both.
            let turns = (0..n / 10).step_by(CHUNK as usize);
            turns.fold(
                Default::default(),
                |(young, old): (Duration, Duration), first| {
                    (young + draw(1, first), old + draw(0, age + first))
                },
            )
        });
        println!("{entry}: the first tenth of {n} in {young:?}, the last in {old:?}");
        // Short parts do not tell.
        if asked.is_some() {
            assert!(10 * old <= 12 * young, "{entry}: {young:?}, then {old:?}");
        }
    }
}
