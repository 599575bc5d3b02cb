//! Every hand-written gradient against finite differences of what it is the gradient of.
//!
//! A case is an operation on random inputs of a random small shape; its loss is the sum of its
//! outputs, each times a random factor, added up in f64. For each input with a gradient the slope
//! of the loss along random directions of length 1, and along single coordinates, must be what the
//! gradient says.
//!
//! The slope is the five-point central difference: with steps of h = 1/32 its own error is
//! h⁴ / 30 = 3·10⁻⁸ of a fifth derivative, and what f32 rounds in each output, 6·10⁻⁸ of some
//! units, becomes 10⁻⁵ where hundreds of them are added and the sum is divided by h. Directions and
//! coordinates alike have slopes of about the root mean square of the gradient; [`TOLERANCE`] of
//! that is ten times the rounding, and a factor, a sign or a term that is wrong is far more.

use std::sync::Arc;

use candle_core::{CpuStorage, Device, Result, Storage, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use serde_json::json;

use super::blocks::{AttentionBlock, EmbedBlock, HeadBlock, MlpBlock};
use super::ops::{self, Attention, NormConv, Sight, Tiles, Turn};
use crate::model::pattern::{Defaults, Hasher};
use crate::model::{Layer, Spacing, V};

/// How far a slope may be from the gradient's, as a share of the gradient's root mean square.
const TOLERANCE: f64 = 2e-3;
/// Of the differences.
const STEP: f64 = 1.0 / 32.0;
/// Shapes for each case, and for each input directions and coordinates.
const SHAPES: u64 = 4;
const DIRECTIONS: usize = 4;
const COORDINATES: usize = 6;
/// Of kinds that are only a word.
const REACH: Defaults = Defaults {
    stride: 4,
    context: 16,
};
/// So much that a norm bends little within a step, even of a row near zero.
const EPS: f32 = 0.25;

/// Outputs of inputs.
type Forward = dyn Fn(&[Tensor]) -> Result<Vec<Tensor>>;
/// Gradients of inputs, given those of the outputs.
type Backward = dyn Fn(&[Tensor], &[Tensor]) -> Result<Vec<Tensor>>;

/// What is differentiated.
struct Case {
    /// Inputs that have a gradient.
    inputs: Vec<(&'static str, Tensor)>,
    /// The factors of the outputs.
    factors: Vec<Tensor>,
    forward: Box<Forward>,
    backward: Box<Backward>,
}

/// Draws a case.
type Draw = fn(&mut Random) -> Case;

/// Every case, with the operations whose way back it checks.
const CASES: &[(&[&str], Draw)] = &[
    (&["norm_conv", "norm_conv_backward"], convolved),
    (&["norm_conv", "norm_conv_backward"], normed),
    (&["rotate"], rotated),
    (&["attend", "attend_backward"], attended),
    (&["attend", "attend_backward"], attended_by_tiles),
    (&["sort", "attend", "attend_backward"], attended_by_buckets),
    (&["norm_keys", "norm_keys_backward"], keys_normed),
    (&["gelu", "gelu_backward"], activated),
    (&["add_residual", "branch_gradient"], added),
    (&["embed", "embed_backward"], embedded),
    (&["cross_entropy"], surprised),
    (&["AttentionPass"], attention_block),
    (&["MlpPass"], mlp_block),
    (&["EmbedPass"], embedding),
    (&["EmbedPass"], foreseeing),
    (&["HeadPass"], head),
];

/// Operations that no gradient passes through.
const WITHOUT: [&str; 2] = ["add_squares", "adamw"];

#[test]
fn every_gradient_is_that_of_finite_differences() {
    let mut faults = Vec::new();
    for (names, draw) in CASES {
        for seed in 0..SHAPES {
            let random = &mut Random(ChaCha8Rng::seed_from_u64(seed));
            let case = draw(random);
            let own = case.faults(random).unwrap().into_iter();
            faults.extend(own.map(|fault| format!("{names:?}, seed {seed}: {fault}")));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_operation_has_a_case() {
    let after = |text: &'static str, begin: &'static str, end: char| {
        let all = text.split(begin).skip(1);
        all.filter_map(move |rest| rest.split(end).next())
    };
    let ops = after(include_str!("ops/mod.rs"), "    dispatch!(", ')')
        .filter_map(|call| call.split('(').next()?.split_whitespace().last());
    let blocks = after(include_str!("blocks.rs"), "\nimpl CustomOp", ' ').count();
    let passes = after(include_str!("blocks.rs"), " for ", ' ').filter(|it| it.ends_with("Pass"));
    let passes: Vec<&str> = passes.collect();
    assert_eq!(
        passes.len(),
        blocks,
        "a block whose name this test cannot read"
    );
    let has_case = |name: &&str| CASES.iter().any(|(names, _)| names.contains(name));
    let without = ops
        .chain(passes)
        .filter(|name| !has_case(name) && !WITHOUT.contains(name));
    assert_eq!(without.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn a_gradient_that_is_a_little_wrong_is_noticed() {
    let random = &mut Random(ChaCha8Rng::seed_from_u64(1));
    for (i, factor) in [(0, 1.01), (1, 0.99)] {
        let case = activated(random);
        let right = case.backward;
        let case = Case {
            backward: Box::new(move |x, d| {
                let mut gradients = right(x, d)?;
                gradients[i] = (&gradients[i] * factor)?;
                Ok(gradients)
            }),
            ..case
        };
        assert!(!case.faults(random).unwrap().is_empty());
    }
}

impl Case {
    /// Where the slopes are not the gradients', in words.
    fn faults(&self, random: &mut Random) -> Result<Vec<String>> {
        let inputs: Vec<Tensor> = self.inputs.iter().map(|(_, x)| x.clone()).collect();
        let gradients = (self.backward)(&inputs, &self.factors)?;
        assert_eq!(gradients.len(), inputs.len());
        let mut faults = Vec::new();
        for (i, ((name, input), gradient)) in self.inputs.iter().zip(&gradients).enumerate() {
            assert_eq!(input.dims(), gradient.dims(), "{name}");
            let gradient = values(gradient)?;
            let typical = root_mean_square(&gradient);
            assert!(typical > 0.0, "{name} changes nothing");
            for direction in directions(gradient.len(), random) {
                let expected = dot(&gradient, &direction);
                let slope = self.slope(&inputs, i, &direction)?;
                if (slope - expected).abs() > TOLERANCE * typical {
                    faults.push(format!("{name}: {slope}, not {expected} (of {typical})"));
                }
            }
        }
        Ok(faults)
    }

    /// Of the loss along a direction of one input.
    fn slope(&self, inputs: &[Tensor], i: usize, direction: &[f64]) -> Result<f64> {
        let before = values(&inputs[i])?;
        let at = |steps: f64| {
            let moved = before.iter().zip(direction);
            let moved = moved.map(|(x, d)| (x + steps * STEP * d) as f32).collect();
            let mut inputs = inputs.to_vec();
            inputs[i] = Tensor::from_vec::<_, f32>(moved, inputs[i].shape(), &Device::Cpu)?;
            self.loss(&inputs)
        };
        let near = at(1.0)? - at(-1.0)?;
        let far = at(2.0)? - at(-2.0)?;
        Ok((8.0 * near - far) / (12.0 * STEP))
    }

    fn loss(&self, inputs: &[Tensor]) -> Result<f64> {
        let outputs = (self.forward)(inputs)?;
        assert_eq!(outputs.len(), self.factors.len());
        let products = outputs.iter().zip(&self.factors);
        products
            .map(|(out, factor)| Ok(dot(&values(out)?, &values(factor)?)))
            .sum()
    }
}

/// Of length 1: some in which all coordinates move, and some coordinates.
fn directions(n: usize, random: &mut Random) -> Vec<Vec<f64>> {
    let mut all: Vec<Vec<f64>> = (0..DIRECTIONS)
        .map(|_| {
            let any: Vec<f64> = (0..n).map(|_| random.normal()).collect();
            let length = dot(&any, &any).sqrt();
            any.iter().map(|x| x / length).collect()
        })
        .collect();
    all.extend((0..COORDINATES).map(|_| {
        let mut one = vec![0.0; n];
        one[random.below(n)] = 1.0;
        one
    }));
    all
}

fn values(t: &Tensor) -> Result<Vec<f64>> {
    let values = t.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.into_iter().map(f64::from).collect())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn root_mean_square(x: &[f64]) -> f64 {
    (dot(x, x) / x.len() as f64).sqrt()
}

/// Where shapes and values come from.
struct Random(ChaCha8Rng);

impl Random {
    fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.0)
    }

    /// From 0 to n − 1.
    fn below(&mut self, n: usize) -> usize {
        self.0.next_u64() as usize % n
    }

    fn from(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most + 1 - least)
    }

    fn codes(&mut self, n: usize) -> Tensor {
        let codes: Vec<u8> = (0..n).map(|_| self.below(V) as u8).collect();
        Tensor::from_vec(codes, n, &Device::Cpu).unwrap()
    }

    fn tensor(&mut self, shape: &[usize]) -> Tensor {
        self.around(0.0, 1.0, shape)
    }

    fn around(&mut self, mean: f64, deviation: f64, shape: &[usize]) -> Tensor {
        let n = shape.iter().product();
        let values: Vec<f32> = (0..n)
            .map(|_| (mean + deviation * self.normal()) as f32)
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// Local or strided, with a window that the rows reach across or not.
    fn attention(&mut self) -> Attention {
        let n_kv_heads = self.from(1, 2);
        Attention {
            n_heads: n_kv_heads * self.from(1, 2),
            n_kv_heads,
            head_size: 2 * self.from(1, 3),
            window: self.from(5, 9),
            sight: Sight::Even(Spacing {
                stride: self.from(1, 3),
                rows: self.from(1, 6),
            }),
        }
    }

    /// The same with keys that lie unevenly.
    fn tiled_attention(&mut self) -> Attention {
        let even = self.attention();
        let kinds = ["fixed", "random", "block_sparse", "global"];
        let entry = json!(kinds[self.below(kinds.len())]);
        let layer = Layer::parse(&entry, &REACH, even.n_kv_heads).unwrap();
        let heads = layer.placed(even.n_kv_heads).unwrap();
        // More than a tile, now and then.
        let window = self.from(5, 9) + 64 * self.below(2);
        Attention {
            window,
            sight: Sight::Tiled(Arc::new(Tiles::new(&heads, window))),
            ..even
        }
    }
}

/// The residual stream passes by a norm, and its gradient comes back to be added.
fn convolved(random: &mut Random) -> Case {
    let (window, d, width) = (random.from(3, 8), random.from(2, 6), random.from(1, 4));
    let n = 2 * window;
    Case {
        inputs: vec![
            ("x", random.tensor(&[n, d])),
            ("gain", random.around(1.0, 0.3, &[d])),
            ("conv", random.tensor(&[d, width])),
        ],
        factors: vec![random.tensor(&[n, d]), random.tensor(&[n, d])],
        forward: Box::new(move |x| {
            let p = norm(&x[1], Some(&x[2]), window);
            Ok(vec![ops::norm_conv(&x[0], &p)?, x[0].clone()])
        }),
        backward: Box::new(move |x, d| {
            let p = norm(&x[1], Some(&x[2]), window);
            let (d_x, d_gain, d_conv) = ops::norm_conv_backward(&x[0], &p, &d[0], &d[1])?;
            Ok(vec![d_x, d_gain, d_conv.expect("there is a convolution")])
        }),
    }
}

fn normed(random: &mut Random) -> Case {
    let (n, d) = (random.from(1, 9), random.from(2, 6));
    Case {
        inputs: vec![
            ("x", random.tensor(&[n, d])),
            ("gain", random.around(1.0, 0.3, &[d])),
        ],
        factors: vec![random.tensor(&[n, d]), random.tensor(&[n, d])],
        forward: Box::new(|x| {
            let p = norm(&x[1], None, 1);
            Ok(vec![ops::norm_conv(&x[0], &p)?, x[0].clone()])
        }),
        backward: Box::new(|x, d| {
            let p = norm(&x[1], None, 1);
            let (d_x, d_gain, _) = ops::norm_conv_backward(&x[0], &p, &d[0], &d[1])?;
            Ok(vec![d_x, d_gain])
        }),
    }
}

fn norm<'a>(gain: &'a Tensor, conv: Option<&'a Tensor>, window: usize) -> NormConv<'a> {
    NormConv {
        gain,
        conv,
        window,
        eps: EPS,
    }
}

fn rotated(random: &mut Random) -> Case {
    let a = random.attention();
    let shape = [2 * a.window, a.qkv_width()];
    let angles = angles(&a, random);
    let turned = move |qkv: &Tensor, turn| {
        let qkv = qkv.copy()?;
        ops::rotate(&qkv, &a, &angles, turn)?;
        Ok(vec![qkv])
    };
    let back = turned.clone();
    Case {
        inputs: vec![("qkv", random.tensor(&shape))],
        factors: vec![random.tensor(&shape)],
        forward: Box::new(move |x| turned(&x[0], Turn::Forward)),
        backward: Box::new(move |_, d| back(&d[0], Turn::Back)),
    }
}

/// Some turns, fewer than there are places.
fn angles(a: &Attention, random: &mut Random) -> Tensor {
    let half = a.head_size / 2;
    let angles = random.tensor(&[4, half]);
    Tensor::cat(&[angles.cos().unwrap(), angles.sin().unwrap()], 1).unwrap()
}

fn attended(random: &mut Random) -> Case {
    let a = random.attention();
    attending(a, random)
}

fn attended_by_tiles(random: &mut Random) -> Case {
    let a = random.tiled_attention();
    attending(a, random)
}

/// Buckets are told once: a step of the differences does not change them.
fn attended_by_buckets(random: &mut Random) -> Case {
    let even = random.attention();
    let entry = json!({"kind": "hashed", "window": 2 + random.below(9), "rounds": 2, "buckets": 4,
        "keys": 1, "seed": random.below(99)});
    let layer = Layer::parse(&entry, &REACH, even.n_kv_heads).unwrap();
    let heads = layer.hashed(even.n_kv_heads).unwrap();
    let hashers = heads.iter().map(|of| Hasher::new(of, even.head_size));
    let hashed = Attention {
        sight: Sight::Hashed(hashers.collect()),
        ..even
    };
    let qkv = random.tensor(&[2 * hashed.window, hashed.qkv_width()]);
    let a = Attention {
        sight: ops::sort(&qkv, &hashed).unwrap(),
        ..hashed
    };
    attending(a, random)
}

/// The way back knows what was made, and what it was multiplied by.
fn keys_normed(random: &mut Random) -> Case {
    let a = random.attention();
    let shape = [2 * a.window, a.qkv_width()];
    let again = a.clone();
    let normed = move |qkv: &Tensor| {
        let qkv = qkv.copy()?;
        let scales = ops::norm_keys(&qkv, &again, EPS)?;
        Ok::<_, candle_core::Error>((qkv, scales))
    };
    let forward = normed.clone();
    Case {
        inputs: vec![("qkv", random.tensor(&shape))],
        factors: vec![random.tensor(&shape)],
        forward: Box::new(move |x| Ok(vec![forward(&x[0])?.0])),
        backward: Box::new(move |x, d| {
            let ((qkv, scales), d) = (normed(&x[0])?, d[0].copy()?);
            ops::norm_keys_backward(&qkv, &a, &scales, &d)?;
            Ok(vec![d])
        }),
    }
}

fn attending(a: Attention, random: &mut Random) -> Case {
    let n = 2 * a.window;
    let again = a.clone();
    Case {
        inputs: vec![("qkv", random.tensor(&[n, a.qkv_width()]))],
        factors: vec![random.tensor(&[n, a.n_heads * a.head_size])],
        forward: Box::new(move |x| Ok(vec![ops::attend(&x[0], &again)?.0])),
        backward: Box::new(move |x, d| {
            let (out, lse) = ops::attend(&x[0], &a)?;
            Ok(vec![ops::attend_backward(&x[0], &a, &out, &lse, &d[0])?])
        }),
    }
}

fn activated(random: &mut Random) -> Case {
    let (n, f) = (random.from(1, 9), random.from(1, 9));
    Case {
        inputs: vec![("u", random.tensor(&[n, f])), ("bias", random.tensor(&[f]))],
        factors: vec![random.tensor(&[n, f])],
        forward: Box::new(|x| Ok(vec![ops::gelu(&x[0], &x[1])?])),
        backward: Box::new(|x, d| {
            let (d_u, again, d_bias) = ops::gelu_backward(&x[0], &x[1], &d[0])?;
            let first = ops::gelu(&x[0], &x[1])?;
            assert_eq!(values(&again)?, values(&first)?);
            Ok(vec![d_u, d_bias])
        }),
    }
}

/// The gradient of the stream is the one that came; a branch and its bias have theirs from it.
fn added(random: &mut Random) -> Case {
    let (n, d) = (random.from(1, 9), random.from(1, 9));
    Case {
        inputs: vec![
            ("x", random.tensor(&[n, d])),
            ("branch", random.tensor(&[n, d])),
            ("bias", random.tensor(&[d])),
        ],
        factors: vec![random.tensor(&[n, d])],
        forward: Box::new(|x| match ops::add_residual(&x[0], &x[1], Some(&x[2]))? {
            Storage::Cpu(CpuStorage::F32(sum)) => {
                Ok(vec![Tensor::from_vec(sum, x[0].shape(), &Device::Cpu)?])
            }
            other => panic!("{other:?}"),
        }),
        backward: Box::new(|_, d| {
            let (d_branch, d_bias) = ops::branch_gradient(&d[0])?;
            Ok(vec![d[0].clone(), d_branch, d_bias])
        }),
    }
}

/// Some codes are there more than once, most not at all.
fn embedded(random: &mut Random) -> Case {
    let (n, d) = (random.from(300, 400), random.from(1, 4));
    let codes = random.codes(n);
    let again = codes.clone();
    Case {
        inputs: vec![("table", random.tensor(&[V, d]))],
        factors: vec![random.tensor(&[n, d])],
        forward: Box::new(move |x| Ok(vec![ops::embed(&codes, &x[0])?])),
        backward: Box::new(move |_, d| Ok(vec![ops::embed_backward(&again, &d[0])?])),
    }
}

/// The gradients are those of the mean.
fn surprised(random: &mut Random) -> Case {
    let n = random.from(1, 9);
    let targets = random.codes(n);
    let again = targets.clone();
    Case {
        inputs: vec![
            ("logits", random.around(0.0, 2.0, &[n, V])),
            ("bias", random.tensor(&[V])),
        ],
        factors: vec![Tensor::full(1.0 / n as f32, n, &Device::Cpu).unwrap()],
        forward: Box::new(move |x| Ok(vec![ops::cross_entropy(&x[0], &x[1], &targets)?.0])),
        backward: Box::new(move |x, _| {
            let (_, d_logits, d_bias) = ops::cross_entropy(&x[0], &x[1], &again)?;
            Ok(vec![d_logits, d_bias])
        }),
    }
}

/// A node of candle's autograd between tensors that are variables.
fn node(
    inputs: Vec<(&'static str, Tensor)>,
    factors: Vec<Tensor>,
    forward: impl Fn(&[Tensor]) -> Result<Tensor> + Clone + 'static,
) -> Case {
    let again = forward.clone();
    Case {
        inputs,
        factors,
        forward: Box::new(move |x| Ok(vec![forward(x)?])),
        backward: Box::new(move |x, d| {
            let variables = x.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
            let x: Vec<Tensor> = variables.iter().map(|x| x.as_tensor().clone()).collect();
            let gradients = (again(&x)? * &d[0])?.sum_all()?.backward()?;
            let of = |x| gradients.get(x).expect("it has a gradient").clone();
            Ok(x.iter().map(of).collect())
        }),
    }
}

fn attention_block(random: &mut Random) -> Case {
    let attention = random.attention();
    let (d, width) = (random.from(2, 5), random.from(1, 4));
    let block = AttentionBlock {
        d_model: d,
        conv_width: width,
        eps: EPS,
        angles: angles(&attention, random),
        attention: attention.clone(),
    };
    let values = attention.n_heads * attention.head_size;
    let matrices = attention.qkv_width() * d + d * values;
    let shape = [2 * attention.window, d];
    let x = random.tensor(&shape);
    let parameter = random.around(0.0, 0.7, &[d + d * width + matrices]);
    let factors = vec![random.tensor(&shape)];
    let inputs = vec![("x", x), ("parameter", parameter)];
    node(inputs, factors, move |x| block.forward(&x[0], &x[1]))
}

fn mlp_block(random: &mut Random) -> Case {
    let (n, d, width) = (random.from(1, 9), random.from(2, 5), random.from(1, 9));
    let block = MlpBlock {
        d_model: d,
        width,
        eps: EPS,
    };
    let x = random.tensor(&[n, d]);
    let parameter = random.around(0.0, 0.7, &[d + width + d + 2 * width * d]);
    let factors = vec![random.tensor(&[n, d])];
    let inputs = vec![("x", x), ("parameter", parameter)];
    node(inputs, factors, move |x| block.forward(&x[0], &x[1]))
}

fn embedding(random: &mut Random) -> Case {
    let (n, d) = (random.from(300, 400), random.from(1, 4));
    let codes = random.codes(n);
    let inputs = vec![("parameter", random.tensor(&[V * d]))];
    let factors = vec![random.tensor(&[n, d])];
    node(inputs, factors, move |x| {
        let block = EmbedBlock {
            d_model: d,
            codes: codes.clone(),
            waves: None,
        };
        block.forward(&x[0])
    })
}

/// The same with what a predictor expects.
fn foreseeing(random: &mut Random) -> Case {
    let (n, d, width) = (random.from(300, 400), random.from(1, 4), random.from(1, 9));
    let (codes, waves) = (random.codes(n), random.tensor(&[n, width]));
    let inputs = vec![("parameter", random.tensor(&[V * d + d * width]))];
    let factors = vec![random.tensor(&[n, d])];
    node(inputs, factors, move |x| {
        let block = EmbedBlock {
            d_model: d,
            codes: codes.clone(),
            waves: Some(waves.clone()),
        };
        block.forward(&x[0])
    })
}

fn head(random: &mut Random) -> Case {
    let (n, d) = (random.from(1, 9), random.from(2, 5));
    let block = HeadBlock {
        d_model: d,
        eps: EPS,
    };
    let targets = random.codes(n);
    let x = random.tensor(&[n, d]);
    let inputs = vec![
        ("x", x),
        ("parameter", random.around(0.0, 0.7, &[d + V + V * d])),
    ];
    // A loss is a number, and so is its factor.
    let factors = vec![random.tensor(&[])];
    node(inputs, factors, move |x| block.loss(&x[0], &x[1], &targets))
}
