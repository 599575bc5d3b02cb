//! The CUDA kernels of training against their CPU twins, on random inputs.
//!
//! Needs the feature `train-cuda` and a GPU: without the one there is no test here, without the
//! other each says that it was skipped. Activations are rounded to bf16 before either side sees
//! them, and the error is that of the whole result: |cuda − cpu| / |cpu|.
#![cfg(feature = "train-cuda")]

#[path = "gpu/support.rs"]
mod support;

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use longwave::model::pattern::Defaults;
use longwave::model::{Layer, Model, ModelConfig, Spacing, Weights};
use longwave::train::Scorer;
use longwave::train::ops::{self, AdamW, Attention, Moments, NormConv, Sight, Tiles, Turn};
use serde_json::{Value, json};

use support::{ACTIVATION, Bench, EXACT, SUM};

#[test]
fn norm() -> Result<()> {
    let Some(mut b) = Bench::new() else {
        return Ok(());
    };
    // Windows that are no multiple of a tile, one shorter than the convolution, a single row.
    let shapes = [(3, 70), (2, 256), (5, 2), (1, 1), (1, 333)];
    for d in [32, 64, 128, 192, 256, 512] {
        for width in [None, Some(1), Some(3), Some(4), Some(6), Some(16)] {
            for (windows, window) in shapes {
                norm_case(&mut b, d, width, windows, window)?;
            }
        }
    }
    Ok(())
}

fn norm_case(
    b: &mut Bench,
    d: usize,
    width: Option<usize>,
    windows: usize,
    window: usize,
) -> Result<()> {
    let n = windows * window;
    let case = format!("d {d} taps {width:?} windows {windows}·{window}");
    let (x, gain) = (b.normal(&[n, d])?, b.normal(&[d])?);
    let (d_out, past) = (b.active(&[n, d])?, b.normal(&[n, d])?);
    let conv = width.map(|w| b.normal(&[d, w])).transpose()?;
    let p = |gpu: bool| NormConv {
        gain: gain.on(gpu),
        conv: conv.as_ref().map(|conv| conv.on(gpu)),
        window: if width.is_none() { 1 } else { window },
        eps: 1e-5,
    };
    let want = ops::norm_conv(&x.cpu, &p(false))?;
    b.poison(&[(n * d, DType::BF16)])?;
    let got = ops::norm_conv(&x.gpu, &p(true))?;
    b.check(&format!("norm_conv {case}"), &want, &got, ACTIVATION)?;

    let want = ops::norm_conv_backward(&x.cpu, &p(false), &d_out.cpu, &past.cpu)?;
    b.poison(&[(n * d, DType::F32)])?;
    let got = ops::norm_conv_backward(&x.gpu, &p(true), &d_out.gpu, &past.gpu)?;
    b.check(&format!("d_x {case}"), &want.0, &got.0, EXACT)?;
    b.check(&format!("d_gain {case}"), &want.1, &got.1, SUM)?;
    assert_eq!(want.2.is_some(), got.2.is_some(), "{case}");
    if let (Some(want), Some(got)) = (want.2, got.2) {
        b.check(&format!("d_conv {case}"), &want, &got, SUM)?;
    }
    Ok(())
}

/// Heads, their groups and sizes, as the model may have them.
const HEADS: [(usize, usize, usize); 5] =
    [(4, 2, 32), (4, 4, 16), (4, 1, 32), (2, 1, 64), (8, 2, 64)];

/// Windows, their length, stride and rows.
const PATTERNS: [(usize, usize, usize, usize); 10] = [
    (2, 300, 1, 256),
    (3, 70, 1, 7),
    (1, 1, 1, 1),
    (1, 513, 1, 64),
    (2, 200, 1, 1),
    (1, 130, 1, 1000),
    (2, 301, 4, 20),
    (1, 1024, 4, 256),
    (2, 600, 256, 3),
    (1, 10, 16, 4),
];

/// Windows, their length, and the entry of the layer, for keys that do not lie evenly.
fn uneven() -> [(usize, usize, Value); 6] {
    [
        (
            2,
            300,
            json!({"kind": "fixed", "block": 32, "blocks": 7, "summary": 5}),
        ),
        (
            1,
            700,
            json!({"kind": "random", "block": 64, "blocks": 8, "r": 2, "seed": 3}),
        ),
        (3, 70, json!({"kind": "memory", "segment": 20})),
        (
            1,
            1024,
            json!({"kind": "block_sparse", "block": 48, "layout": [[0, 1], [0, 2, 7]]}),
        ),
        (
            1,
            513,
            json!({"kind": "global", "anchors": 9, "beside":
            {"kind": "strided", "stride": 8, "rows": 11}}),
        ),
        (1, 1, json!("fixed")),
    ]
}

fn attentions() -> impl Iterator<Item = (usize, Attention)> {
    let even = PATTERNS.into_iter().map(|(windows, window, stride, rows)| {
        let sight = move |_| Sight::Even(Spacing { stride, rows });
        (
            windows,
            window,
            Box::new(sight) as Box<dyn Fn(usize) -> Sight>,
        )
    });
    let uneven = uneven().into_iter().map(|(windows, window, entry)| {
        let reach = Defaults {
            stride: 16,
            context: 64,
        };
        let sight = move |n_kv_heads| {
            // With several KV heads the last sees otherwise than the rest.
            let mut list = vec![entry.clone(); n_kv_heads];
            if n_kv_heads > 1 {
                list[n_kv_heads - 1] = json!("fixed");
            }
            let layer = Layer::parse(&Value::Array(list), &reach, n_kv_heads).unwrap();
            let heads = layer.placed(n_kv_heads).unwrap();
            Sight::Tiled(Arc::new(Tiles::new(&heads, window)))
        };
        (
            windows,
            window,
            Box::new(sight) as Box<dyn Fn(usize) -> Sight>,
        )
    });
    even.chain(uneven).flat_map(|(windows, window, sight)| {
        HEADS.map(|(n_heads, n_kv_heads, head_size)| {
            let a = Attention {
                n_heads,
                n_kv_heads,
                head_size,
                window,
                sight: sight(n_kv_heads),
            };
            (windows * window, a)
        })
    })
}

#[test]
fn rotate() -> Result<()> {
    let Some(mut b) = Bench::new() else {
        return Ok(());
    };
    for (n, a) in attentions() {
        let angles = b.normal(&[a.window.clamp(5, 300) - 2, a.head_size])?;
        for turn in [Turn::Forward, Turn::Back] {
            let qkv = b.active(&[n, a.qkv_width()])?;
            ops::rotate(&qkv.cpu, &a, &angles.cpu, turn)?;
            ops::rotate(&qkv.gpu, &a, &angles.gpu, turn)?;
            b.check(&format!("{turn:?} {a:?}"), &qkv.cpu, &qkv.gpu, ACTIVATION)?;
        }
    }
    Ok(())
}

#[test]
fn attention() -> Result<()> {
    let Some(mut b) = Bench::new() else {
        return Ok(());
    };
    for (n, a) in attentions() {
        let width = a.n_heads * a.head_size;
        let (qkv, d_out) = (b.active(&[n, a.qkv_width()])?, b.active(&[n, width])?);
        let want = ops::attend(&qkv.cpu, &a)?;
        b.poison(&[(n * width, DType::BF16), (n * a.n_heads, DType::F32)])?;
        let got = ops::attend(&qkv.gpu, &a)?;
        b.check(&format!("attend {a:?}"), &want.0, &got.0, ACTIVATION)?;
        b.check(&format!("lse {a:?}"), &want.1, &got.1, EXACT)?;

        // From the same point on, or the twin would differ by what the forward pass rounded.
        let out = got.0.to_dtype(DType::F32)?.to_device(&b.cpu)?;
        let want = ops::attend_backward(&qkv.cpu, &a, &out, &want.1, &d_out.cpu)?;
        b.poison(&[(n * a.qkv_width(), DType::BF16)])?;
        let got = ops::attend_backward(&qkv.gpu, &a, &got.0, &got.1, &d_out.gpu)?;
        for (part, first, count) in [
            ("d_q", 0, a.n_heads),
            ("d_k", a.n_heads, a.n_kv_heads),
            ("d_v", a.n_heads + a.n_kv_heads, a.n_kv_heads),
        ] {
            let cut = |t: &Tensor| t.narrow(1, first * a.head_size, count * a.head_size);
            let (want, got) = (cut(&want)?, cut(&got)?);
            // Where each query sees one key alone both are nothing but rounding.
            if b.is_below(&want, 1e-5)? {
                assert!(b.is_below(&got, 1e-4)?, "{part} {a:?}");
                continue;
            }
            b.check(&format!("{part} {a:?}"), &want, &got, ACTIVATION)?;
        }
    }
    Ok(())
}

#[test]
fn gelu() -> Result<()> {
    let Some(mut b) = Bench::new() else {
        return Ok(());
    };
    for (n, f) in [(1, 256), (1000, 512), (77, 768), (4099, 384), (300, 2048)] {
        let case = format!("gelu {n}·{f}");
        let (u, d_g, bias) = (b.active(&[n, f])?, b.active(&[n, f])?, b.normal(&[f])?);
        let want = ops::gelu(&u.cpu, &bias.cpu)?;
        b.poison(&[(n * f, DType::BF16)])?;
        let got = ops::gelu(&u.gpu, &bias.gpu)?;
        b.check(&case, &want, &got, ACTIVATION)?;

        let want = ops::gelu_backward(&u.cpu, &bias.cpu, &d_g.cpu)?;
        b.poison(&[(n * f, DType::BF16), (n * f, DType::BF16)])?;
        let got = ops::gelu_backward(&u.gpu, &bias.gpu, &d_g.gpu)?;
        b.check(&format!("d_u {case}"), &want.0, &got.0, ACTIVATION)?;
        b.check(&format!("g again {case}"), &want.1, &got.1, ACTIVATION)?;
        b.check(&format!("d_bias {case}"), &want.2, &got.2, SUM)?;
    }
    // Where exp overflows, either way.
    let ends = Tensor::new(
        &[[-3e4f32, -90.0, -30.0, 0.0, 30.0, 90.0, 3e4, 3e38]],
        &b.cpu,
    )?;
    let bias = Tensor::zeros(8, DType::F32, &b.cpu)?;
    let (ends, bias) = (b.pair_active(&ends)?, b.pair(&bias)?);
    let want = ops::gelu(&ends.cpu, &bias.cpu)?;
    let got = ops::gelu(&ends.gpu, &bias.gpu)?;
    b.check("gelu at its ends", &want, &got, ACTIVATION)
}

#[test]
fn residual() -> Result<()> {
    let Some(mut b) = Bench::new() else {
        return Ok(());
    };
    for (n, d) in [(1, 64), (1000, 128), (77, 192), (5003, 512)] {
        let case = format!("{n}·{d}");
        let (x, branch, bias) = (b.normal(&[n, d])?, b.active(&[n, d])?, b.normal(&[d])?);
        for with in [false, true] {
            let bias = |gpu| with.then(|| bias.on(gpu));
            let want = ops::add_residual(&x.cpu, &branch.cpu, bias(false))?;
            b.poison(&[(n * d, DType::F32)])?;
            let got = ops::add_residual(&x.gpu, &branch.gpu, bias(true))?;
            let (want, got) = (
                support::tensor(want, &[n, d]),
                support::tensor(got, &[n, d]),
            );
            b.check(&format!("add_residual {case} {with}"), &want, &got, EXACT)?;
        }
        let want = ops::branch_gradient(&x.cpu)?;
        b.poison(&[(n * d, DType::BF16)])?;
        let got = ops::branch_gradient(&x.gpu)?;
        b.check(&format!("rounded {case}"), &want.0, &got.0, ACTIVATION)?;
        b.check(&format!("column sums {case}"), &want.1, &got.1, SUM)?;
    }
    Ok(())
}

#[test]
fn embed() -> Result<()> {
    let Some(mut b) = Bench::new() else {
        return Ok(());
    };
    for (n, d) in [
        (1, 128),
        (31, 64),
        (10_000, 192),
        (70_001, 128),
        (1000, 512),
    ] {
        let case = format!("{n}·{d}");
        let (codes, table) = (b.codes(n)?, b.normal(&[256, d])?);
        let d_x = b.normal(&[n, d])?;
        let want = ops::embed(&codes.cpu, &table.cpu)?;
        b.poison(&[(n * d, DType::F32)])?;
        let got = ops::embed(&codes.gpu, &table.gpu)?;
        b.check(&format!("embed {case}"), &want, &got, EXACT)?;
        let want = ops::embed_backward(&codes.cpu, &d_x.cpu)?;
        b.poison(&[(256 * d, DType::F32)])?;
        let got = ops::embed_backward(&codes.gpu, &d_x.gpu)?;
        b.check(&format!("d_table {case}"), &want, &got, SUM)?;
    }
    Ok(())
}

#[test]
fn cross_entropy() -> Result<()> {
    let Some(mut b) = Bench::new() else {
        return Ok(());
    };
    for n in [1, 9, 1000, 20_003] {
        let (logits, bias) = (b.active(&[n, 256])?, b.normal(&[256])?);
        let targets = b.codes(n)?;
        let want = ops::cross_entropy(&logits.cpu, &bias.cpu, &targets.cpu)?;
        b.poison(&[(n, DType::F32), (n * 256, DType::BF16)])?;
        let got = ops::cross_entropy(&logits.gpu, &bias.gpu, &targets.gpu)?;
        b.check(&format!("loss {n}"), &want.0, &got.0, EXACT)?;
        b.check(&format!("d_logits {n}"), &want.1, &got.1, ACTIVATION)?;
        b.check(&format!("d_bias {n}"), &want.2, &got.2, SUM)?;
    }
    Ok(())
}

#[test]
fn optimiser() -> Result<()> {
    let Some(mut b) = Bench::new() else {
        return Ok(());
    };
    // Short and long, and a view that does not lie on 16 bytes.
    for (n, skip) in [
        (1, 0),
        (7, 0),
        (1000, 1),
        (32_768, 0),
        (300_001, 0),
        (300_001, 3),
    ] {
        optimiser_case(&mut b, n, skip, 1)?;
        optimiser_case(&mut b, n, skip, 1000)?;
    }
    Ok(())
}

fn optimiser_case(b: &mut Bench, n: usize, skip: usize, iteration: u64) -> Result<()> {
    let case = format!("{n} from {skip}, iteration {iteration}");
    let value = b.normal(&[n])?;
    let gradient = b.normal(&[n + skip])?.narrow(skip, n)?;
    let (first, average, second) = (b.normal(&[n])?, b.normal(&[n])?, b.normal(&[n])?);
    let second = b.pair(&second.cpu.sqr()?)?;
    let decayed = b.pair(&value.cpu.ge(0.0)?.to_dtype(DType::F32)?)?;
    let squares = b.pair(&Tensor::new(&[0.5f32], &b.cpu)?)?;
    let step = AdamW {
        lr: 0.1,
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-8,
        decay: 0.05,
        clip: 1.0,
        ema: 0.99,
        iteration,
    };
    for gpu in [false, true] {
        ops::add_squares(squares.on(gpu), gradient.on(gpu))?;
        let moments = Moments {
            first: first.on(gpu).clone(),
            second: second.on(gpu).clone(),
            average: average.on(gpu).clone(),
        };
        let (value, gradient, decayed) = (value.on(gpu), gradient.on(gpu), decayed.on(gpu));
        ops::adamw(value, gradient, &moments, decayed, squares.on(gpu), &step)?;
        // Not finite: nothing may change.
        for wrong in [f32::NAN, f32::INFINITY] {
            let wrong = Tensor::new(&[wrong], value.device())?;
            ops::adamw(value, gradient, &moments, decayed, &wrong, &step)?;
        }
    }
    for (name, t) in [
        ("squares", &squares),
        ("value", &value),
        ("first", &first),
        ("second", &second),
        ("average", &average),
    ] {
        b.check(&format!("{name} {case}"), &t.cpu, &t.gpu, EXACT)?;
    }
    Ok(())
}

#[test]
fn the_same_bits_every_time() -> Result<()> {
    let Some(mut b) = Bench::new() else {
        return Ok(());
    };
    let (n, d) = (20_000, 128);
    let (codes, d_x) = (b.codes(n)?, b.normal(&[n, d])?);
    let sums = || -> Result<Vec<f32>> {
        let mut all = ops::embed_backward(&codes.gpu, &d_x.gpu)?
            .flatten_all()?
            .to_vec1()?;
        all.extend(ops::branch_gradient(&d_x.gpu)?.1.to_vec1::<f32>()?);
        Ok(all)
    };
    assert!(sums()? == sums()?, "sums differ from one run to the next");
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let Some(mut b) = Bench::new() else {
        return Ok(());
    };
    let (x, gain) = (b.normal(&[12, 64])?, b.normal(&[128])?);
    let p = NormConv {
        gain: &gain.gpu,
        conv: None,
        window: 1,
        eps: 1e-5,
    };
    let refused = ops::norm_conv(&x.gpu, &p).err().map(|e| e.to_string());
    assert!(refused.is_some_and(|e| e.contains("gain: expected F32 [64]")));
    assert!(ops::branch_gradient(&x.gpu.t()?).is_err());
    assert!(ops::attend(&x.gpu, &attentions().next().expect("some").1).is_err());
    Ok(())
}

#[test]
fn a_model_with_hashed_layers_is_refused_before_anything_is_computed() -> Result<()> {
    let Some(mut b) = Bench::new() else {
        return Ok(());
    };
    let text = std::fs::read_to_string("examples/patterns/hashed.json")?;
    let config = ModelConfig::parse(&text).expect("a model");
    let zeros = |_: &str, shape: &[usize]| Ok::<_, ()>(vec![0.0; shape.iter().product()]);
    let model = Model {
        name: "hashed".into(),
        weights: Weights::gather(&config, zeros).expect("as many"),
        config,
        sha256: String::new(),
    };
    let refused = Scorer::new(&model, b.normal(&[1])?.gpu.device().clone());
    let why = refused.expect_err("there are no kernels").to_string();
    assert!(why.contains("pattern[1] is hashed") && why.contains("--device cpu"));
    Ok(())
}
