//! Times every CUDA kernel of training, and the matrix products between them, on one GPU.
//!
//! `cargo run --release --features train-cuda --example train_ops_bench -- [windows] [length]`
//!
//! For each: the median of 20 runs between events, bytes that must move at least, and what share
//! of a plain copy's bandwidth that is. A long copy goes ahead of the runs, so that the host has
//! launched them all before the first begins: the figures are the GPU's alone.

use std::cell::RefCell;

use candle_core::cuda::cudarc::driver::sys::CUevent_flags;
use candle_core::cuda::{CudaDevice, WrapErr};
use candle_core::{DType, Device, Result, Tensor};
use longwave::model::Spacing;
use longwave::train::ops::{self, AdamW, Attention, Moments, NormConv, Sight, Turn};

const D: usize = 128;
const F: usize = 512;
const V: usize = 256;
const TAPS: usize = 4;
const RUNS: usize = 20;
/// Numbers in the copy that all is held against.
const COPIED: usize = 1 << 26;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter_map(|a| a.parse().ok());
    let windows: usize = arguments.next().unwrap_or(2);
    let window = arguments.next().unwrap_or(65_536);
    let device = Device::new_cuda(0)?;
    let clock = Clock::new(device.as_cuda_device()?.clone())?;
    let case = Case {
        clock,
        device,
        n: windows * window,
        window,
    };
    case.element_wise()?;
    for stride in [1, 256] {
        case.attention(stride)?;
    }
    case.both_ends()?;
    case.optimiser()?;
    for (name, inner, outer) in [
        ("qkv", D, 2 * D),
        ("o", D, D),
        ("up", D, F),
        ("down", F, D),
        ("head", D, V),
    ] {
        case.products(name, inner, outer)?;
    }
    Ok(())
}

/// Times on the GPU, beside a copy's.
struct Clock {
    device: CudaDevice,
    /// 1 GiB, copied ahead of every measurement.
    filler: Tensor,
    /// Bytes a microsecond.
    copied: f64,
}

impl Clock {
    fn new(device: CudaDevice) -> Result<Self> {
        let on = Device::Cuda(device.clone());
        let filler = Tensor::zeros(1 << 28, DType::F32, &on)?;
        // Any operation: the first loads the kernels, and keeps the pool's memory.
        ops::add_squares(&Tensor::zeros(1, DType::F32, &on)?, &filler)?;
        let mut clock = Self {
            device,
            filler,
            copied: 0.0,
        };
        // Into memory that is there: an allocation would be timed with it.
        let from = clock.device.alloc_zeros::<f32>(COPIED)?;
        let to = RefCell::new(clock.device.alloc_zeros::<f32>(COPIED)?);
        let copy = || clock.device.memcpy_dtod(&from, &mut *to.borrow_mut());
        let us = clock.median_us(&copy)?;
        clock.copied = (2 * 4 * COPIED) as f64 / us;
        let name = clock.device.cuda_stream().context().name().w()?;
        println!(
            "{name}: a copy of 256 MiB moves {:.0} GB/s",
            clock.copied / 1e3
        );
        Ok(clock)
    }

    fn median_us(&self, op: &dyn Fn() -> Result<()>) -> Result<f64> {
        let stream = self.device.cuda_stream();
        let mark = || {
            stream
                .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
                .w()
        };
        for _ in 0..3 {
            op()?;
        }
        for _ in 0..4 {
            self.filler.copy()?;
        }
        let mut marks = Vec::with_capacity(RUNS);
        for _ in 0..RUNS {
            let start = mark()?;
            op()?;
            marks.push((start, mark()?));
        }
        let mut times = Vec::with_capacity(RUNS);
        for (start, end) in &marks {
            times.push(start.elapsed_ms(end).w()?);
        }
        times.sort_by(f32::total_cmp);
        Ok(1e3 * f64::from((times[RUNS / 2 - 1] + times[RUNS / 2]) / 2.0))
    }

    fn moves(&self, name: &str, bytes: usize, op: &dyn Fn() -> Result<()>) -> Result<()> {
        let us = self.median_us(op)?;
        let speed = bytes as f64 / us;
        println!(
            "{name:34} {us:8.1} us  {:7.1} MB  {:5.0} GB/s  {:3.0} % of a copy",
            bytes as f64 / 1e6,
            speed / 1e3,
            100.0 * speed / self.copied
        );
        Ok(())
    }

    fn computes(&self, name: &str, flops: usize, op: &dyn Fn() -> Result<()>) -> Result<()> {
        let us = self.median_us(op)?;
        let (gflop, speed) = (flops as f64 / 1e9, flops as f64 / us / 1e6);
        println!("{name:34} {us:8.1} us  {gflop:7.1} GFLOP  {speed:5.0} TFLOP/s");
        Ok(())
    }
}

struct Case {
    clock: Clock,
    device: Device,
    n: usize,
    window: usize,
}

impl Case {
    fn normal(&self, shape: &[usize]) -> Result<Tensor> {
        Tensor::randn(0f32, 1.0, shape, &self.device)
    }

    fn active(&self, shape: &[usize]) -> Result<Tensor> {
        self.normal(shape)?.to_dtype(DType::BF16)
    }

    fn codes(&self) -> Result<Tensor> {
        Tensor::rand(0f32, 255.99, self.n, &self.device)?.to_dtype(DType::U8)
    }

    fn element_wise(&self) -> Result<()> {
        let (n, c) = (self.n, &self.clock);
        let (x, past, branch) = (
            self.normal(&[n, D])?,
            self.normal(&[n, D])?,
            self.active(&[n, D])?,
        );
        let (gain, conv) = (self.normal(&[D])?, self.normal(&[D, TAPS])?);
        for conv in [None, Some(&conv)] {
            let p = NormConv {
                gain: &gain,
                conv,
                window: if conv.is_some() { self.window } else { 1 },
                eps: 1e-5,
            };
            let name = if conv.is_some() { "norm_conv" } else { "norm" };
            c.moves(name, 6 * n * D, &|| ops::norm_conv(&x, &p).map(drop))?;
            c.moves(&format!("{name} backward"), 14 * n * D, &|| {
                ops::norm_conv_backward(&x, &p, &branch, &past).map(drop)
            })?;
        }
        c.moves("add_residual", 10 * n * D, &|| {
            ops::add_residual(&x, &branch, Some(&gain)).map(drop)
        })?;
        c.moves("branch_gradient", 6 * n * D, &|| {
            ops::branch_gradient(&x).map(drop)
        })?;
        let (u, d_g, bias) = (
            self.active(&[n, F])?,
            self.active(&[n, F])?,
            self.normal(&[F])?,
        );
        c.moves("gelu", 4 * n * F, &|| ops::gelu(&u, &bias).map(drop))?;
        c.moves("gelu backward", 8 * n * F, &|| {
            ops::gelu_backward(&u, &bias, &d_g).map(drop)
        })
    }

    fn attention(&self, stride: usize) -> Result<()> {
        let (n, c) = (self.n, &self.clock);
        let rows = 256;
        let a = Attention {
            n_heads: 4,
            n_kv_heads: 2,
            head_size: 32,
            window: self.window,
            sight: Sight::Even(Spacing { stride, rows }),
        };
        let (qkv, d_out) = (self.active(&[n, a.qkv_width()])?, self.active(&[n, D])?);
        let angles = self.normal(&[rows, a.head_size])?;
        let turned = (a.n_heads + a.n_kv_heads) * a.head_size;
        c.moves(&format!("rotate, stride {stride}"), 4 * n * turned, &|| {
            ops::rotate(&qkv, &a, &angles, Turn::Forward)
        })?;
        // Turned over and over they grow: fresh ones.
        let qkv = self.active(&[n, a.qkv_width()])?;
        let (out, lse) = ops::attend(&qkv, &a)?;
        // Pairs of a query and a key that it sees, times a multiplication and an addition each.
        let length = self.window / stride;
        let seen: usize = (1..=length).map(|i| i.min(rows)).sum();
        let product = 2 * D * seen * n / length;
        c.computes(&format!("attend, stride {stride}"), 2 * product, &|| {
            ops::attend(&qkv, &a).map(drop)
        })?;
        let name = format!("attend backward, stride {stride}");
        c.computes(&name, 7 * product, &|| {
            ops::attend_backward(&qkv, &a, &out, &lse, &d_out).map(drop)
        })
    }

    fn both_ends(&self) -> Result<()> {
        let (n, c) = (self.n, &self.clock);
        let (codes, table) = (self.codes()?, self.normal(&[V, D])?);
        let x = self.normal(&[n, D])?;
        c.moves("embed", 4 * n * D, &|| ops::embed(&codes, &table).map(drop))?;
        c.moves("embed backward", 4 * n * D, &|| {
            ops::embed_backward(&codes, &x).map(drop)
        })?;
        let (logits, bias) = (self.active(&[n, V])?, self.normal(&[V])?);
        c.moves("cross_entropy", 4 * n * V, &|| {
            ops::cross_entropy(&logits, &bias, &codes).map(drop)
        })
    }

    fn optimiser(&self) -> Result<()> {
        let c = &self.clock;
        for n in [200_000, 1_600_000, 16_000_000] {
            let (value, gradient) = (self.normal(&[n])?, self.normal(&[n])?);
            let moments = Moments {
                first: value.zeros_like()?,
                second: value.zeros_like()?,
                average: value.zeros_like()?,
            };
            let (decayed, squares) = (
                value.ones_like()?,
                Tensor::zeros(1, DType::F32, &self.device)?,
            );
            c.moves(&format!("add_squares of {n}"), 4 * n, &|| {
                ops::add_squares(&squares, &gradient)
            })?;
            let step = AdamW {
                lr: 1e-3,
                beta1: 0.9,
                beta2: 0.98,
                eps: 1e-8,
                decay: 0.05,
                clip: 1.0,
                ema: 0.999,
                iteration: 10,
            };
            c.moves(&format!("adamw of {n}"), 40 * n, &|| {
                ops::adamw(&value, &gradient, &moments, &decayed, &squares, &step)
            })?;
        }
        Ok(())
    }

    /// A product with a matrix and the two of its way back; that of the weights also in chunks of
    /// rows, which are summed: a library may not split such a long sum by itself.
    fn products(&self, name: &str, inner: usize, outer: usize) -> Result<()> {
        let (n, c) = (self.n, &self.clock);
        let (x, d) = (self.active(&[n, inner])?, self.active(&[n, outer])?);
        let weights = self.active(&[outer, inner])?;
        let flops = 2 * n * inner * outer;
        let turned = weights.t()?;
        c.computes(name, flops, &|| x.matmul(&turned).map(drop))?;
        c.computes(&format!("{name}: inputs' gradient"), flops, &|| {
            d.matmul(&weights).map(drop)
        })?;
        let across = d.t()?;
        c.computes(&format!("{name}: weights' gradient"), flops, &|| {
            across.matmul(&x).map(drop)
        })?;
        for chunks in [16, 64, 256] {
            if !n.is_multiple_of(chunks) {
                continue;
            }
            let x = x.reshape((chunks, n / chunks, inner))?;
            let across = d.reshape((chunks, n / chunks, outer))?.t()?;
            c.computes(&format!("{name}: … in {chunks} chunks"), flops, &|| {
                let parts = across.matmul(&x)?.to_dtype(DType::F32)?;
                parts.sum(0).map(drop)
            })?;
        }
        Ok(())
    }
}
