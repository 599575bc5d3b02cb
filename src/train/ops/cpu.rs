//! The naive twins, in f32: what every CUDA kernel is compared with, and what trains small models
//! on a CPU. Plain loops over rows, spread over the cores by rayon.

use candle_core::{Device, Result, Storage, Tensor, bail};
use rayon::prelude::*;

use super::attention_cpu::Strand;
use super::paired_cpu::{Back, Paired, Pairs};
use super::{AdamW, Attention, Moments, NormConv, Sight, Turn};
use crate::model::Spacing;

const SQRT_2_OVER_PI: f32 = 0.797_884_6;

/// Rows that one core sums up alone.
const BLOCK_ROWS: usize = 256;

pub fn norm_conv(x: &Tensor, p: &NormConv) -> Result<Tensor> {
    let (n, d) = x.dims2()?;
    let (x, gain) = (values(x)?, values(p.gain)?);
    let mut h = vec![0.0; n * d];
    h.par_chunks_mut(d).zip(x.par_chunks(d)).for_each(|(h, x)| {
        let scale = inverse_rms(x, p.eps);
        for ((h, x), gain) in h.iter_mut().zip(x).zip(&gain) {
            *h = gain * x * scale;
        }
    });
    let Some(conv) = p.conv else {
        return tensor(h, &[n, d]);
    };
    let taps = Taps::new(conv, d)?;
    let mut c = vec![0.0; n * d];
    c.par_chunks_mut(d).enumerate().for_each(|(t, c)| {
        for (back, weights) in taps.0.iter().enumerate().take(t % p.window + 1) {
            multiply_add(c, weights, &h[(t - back) * d..][..d]);
        }
    });
    tensor(c, &[n, d])
}

pub fn norm_conv_backward(
    x: &Tensor,
    p: &NormConv,
    d_out: &Tensor,
    past: &Tensor,
) -> Result<(Tensor, Tensor, Option<Tensor>)> {
    let (n, d) = x.dims2()?;
    let (x, d_out, gain) = (values(x)?, values(d_out)?, values(p.gain)?);
    let (d_h, d_conv) = match p.conv {
        None => (d_out, None),
        Some(conv) => {
            let taps = Taps::new(conv, d)?;
            let d_conv = taps.gradient(&x, &gain, p, &d_out);
            (taps.backward(p.window, &d_out), Some(d_conv))
        }
    };
    let mut d_x = values(past)?;
    let blocks = d_x
        .par_chunks_mut(d * BLOCK_ROWS)
        .zip(x.par_chunks(d * BLOCK_ROWS))
        .zip(d_h.par_chunks(d * BLOCK_ROWS));
    let d_gain = ordered_sum(d, blocks, |d_gain, ((d_x, x), d_h)| {
        for ((d_x, x), d_h) in d_x.chunks_mut(d).zip(x.chunks(d)).zip(d_h.chunks(d)) {
            norm_backward(x, &gain, p.eps, d_h, d_x, d_gain);
        }
    });
    let d_conv = match d_conv {
        None => None,
        Some(d_conv) => Some(tensor(d_conv, &[d, p.conv.map_or(1, |c| c.dims()[1])])?),
    };
    Ok((tensor(d_x, &[n, d])?, tensor(d_gain, &[d])?, d_conv))
}

/// The weights `[W][D]` of a depthwise convolution, the present position first.
struct Taps(Vec<Vec<f32>>);

impl Taps {
    fn new(conv: &Tensor, d: usize) -> Result<Self> {
        let conv = values(conv)?;
        let width = conv.len() / d;
        let tap = |back| (0..d).map(|i| conv[i * width + width - 1 - back]).collect();
        Ok(Self((0..width).map(tap).collect()))
    }

    /// The gradient `[N, D]` of what was convolved.
    fn backward(&self, window: usize, d_out: &[f32]) -> Vec<f32> {
        let d = self.0[0].len();
        let mut d_h = vec![0.0; d_out.len()];
        d_h.par_chunks_mut(d).enumerate().for_each(|(t, d_h)| {
            let n_after = window - t % window;
            for (ahead, weights) in self.0.iter().enumerate().take(n_after) {
                multiply_add(d_h, weights, &d_out[(t + ahead) * d..][..d]);
            }
        });
        d_h
    }

    /// The gradient `[D, W]` of the weights, in the model's order.
    fn gradient(&self, x: &[f32], gain: &[f32], p: &NormConv, d_out: &[f32]) -> Vec<f32> {
        let (d, width) = (gain.len(), self.0.len());
        let blocks = d_out.par_chunks(d * BLOCK_ROWS).enumerate();
        ordered_sum(d * width, blocks, |sum, (block, d_out)| {
            for (t, d_out) in (block * BLOCK_ROWS..).zip(d_out.chunks(d)) {
                for back in 0..width.min(t % p.window + 1) {
                    let x = &x[(t - back) * d..][..d];
                    let scale = inverse_rms(x, p.eps);
                    for i in 0..d {
                        sum[i * width + width - 1 - back] += d_out[i] * gain[i] * x[i] * scale;
                    }
                }
            }
        })
    }
}

/// One row: adds to `d_x` and to `d_gain`.
fn norm_backward(
    x: &[f32],
    gain: &[f32],
    eps: f32,
    d_h: &[f32],
    d_x: &mut [f32],
    d_gain: &mut [f32],
) {
    let scale = inverse_rms(x, eps);
    let along: f32 = x
        .iter()
        .zip(gain)
        .zip(d_h)
        .map(|((x, gain), d)| x * gain * d)
        .sum();
    let pull = along * scale * scale * scale / x.len() as f32;
    for i in 0..x.len() {
        d_x[i] += gain[i] * d_h[i] * scale - pull * x[i];
        d_gain[i] += d_h[i] * x[i] * scale;
    }
}

fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let square: f32 = x.iter().map(|x| x * x).sum();
    1.0 / (square / x.len() as f32 + eps).sqrt()
}

pub fn rotate(qkv: &Tensor, a: &Attention, angles: &Tensor, turn: Turn) -> Result<()> {
    let (half, period) = (a.head_size / 2, angles.dims()[0]);
    let (angles, mut rows) = (values(angles)?, values(qkv)?);
    let sign = if turn == Turn::Back { -1.0 } else { 1.0 };
    rows.par_chunks_mut(a.qkv_width())
        .enumerate()
        .for_each(|(t, row)| {
            let n_turned = (a.n_heads + a.n_kv_heads) * a.head_size;
            for (i, head) in row[..n_turned].chunks_mut(a.head_size).enumerate() {
                let p = t % a.window / a.sight.turn(a.group(i)) % period;
                let (cos, sin) = angles[p * a.head_size..][..a.head_size].split_at(half);
                for i in 0..half {
                    let (x, y, sin) = (head[i], head[i + half], sign * sin[i]);
                    head[i] = x * cos[i] - y * sin;
                    head[i + half] = x * sin + y * cos[i];
                }
            }
        });
    qkv.slice_set(&tensor(rows, qkv.dims())?, 0, 0)
}

pub fn attend(qkv: &Tensor, a: &Attention) -> Result<(Tensor, Tensor)> {
    let n = qkv.dims()[0];
    let qkv = values(qkv)?;
    match &a.sight {
        Sight::Even(spacing) => attend_evenly(&qkv, a, *spacing, n),
        Sight::Tiled(tiles) => attend_pairs(&qkv, a, tiles.as_ref()),
        Sight::Hashed(_) => bail!("{UNSORTED}"),
        Sight::Sorted(sorted) => attend_pairs(&qkv, a, &sorted.pairs(a.window)),
    }
}

const UNSORTED: &str = "what sees by buckets is sorted first";

fn attend_pairs(qkv: &[f32], a: &Attention, pairs: &impl Pairs) -> Result<(Tensor, Tensor)> {
    let (out, lse) = Paired { a, pairs, qkv }.attend();
    let (n, width) = (qkv.len() / a.qkv_width(), a.n_heads * a.head_size);
    Ok((tensor(out, &[n, width])?, tensor(lse, &[n, a.n_heads])?))
}

fn attend_evenly(
    qkv: &[f32],
    a: &Attention,
    spacing: Spacing,
    n: usize,
) -> Result<(Tensor, Tensor)> {
    let strands = Strand::all(a, spacing, n);
    let parts: Vec<_> = strands
        .par_iter()
        .map(|strand| strand.attend(qkv))
        .collect();
    let (width, per_group) = (a.n_heads * a.head_size, a.n_heads / a.n_kv_heads);
    let (mut out, mut lse) = (vec![0.0; n * width], vec![0.0; n * a.n_heads]);
    for (strand, part) in strands.iter().zip(&parts) {
        let first = strand.group * per_group;
        strand.scatter(&part.out, &mut out, width, first * a.head_size);
        strand.scatter(&part.lse, &mut lse, a.n_heads, first);
    }
    Ok((tensor(out, &[n, width])?, tensor(lse, &[n, a.n_heads])?))
}

pub fn attend_backward(
    qkv: &Tensor,
    a: &Attention,
    out: &Tensor,
    lse: &Tensor,
    d_out: &Tensor,
) -> Result<Tensor> {
    let (qkv, out, lse, d_out) = (values(qkv)?, values(out)?, values(lse)?, values(d_out)?);
    let back = Back {
        out: &out,
        lse: &lse,
        d_out: &d_out,
    };
    let d_qkv = match &a.sight {
        Sight::Even(spacing) => evenly_backward(&qkv, a, *spacing, &back),
        Sight::Tiled(tiles) => pairs_backward(&qkv, a, tiles.as_ref(), &back),
        Sight::Hashed(_) => bail!("{UNSORTED}"),
        Sight::Sorted(sorted) => pairs_backward(&qkv, a, &sorted.pairs(a.window), &back),
    };
    tensor(d_qkv, &[qkv.len() / a.qkv_width(), a.qkv_width()])
}

fn pairs_backward(qkv: &[f32], a: &Attention, pairs: &impl Pairs, back: &Back<'_>) -> Vec<f32> {
    Paired { a, pairs, qkv }.backward(back)
}

fn evenly_backward(qkv: &[f32], a: &Attention, spacing: Spacing, back: &Back<'_>) -> Vec<f32> {
    let width = a.qkv_width();
    let n = qkv.len() / width;
    let strands = Strand::all(a, spacing, n);
    let parts: Vec<_> = strands
        .par_iter()
        .map(|strand| strand.backward(qkv, back.out, back.lse, back.d_out))
        .collect();
    let (per_group, size) = (a.n_heads / a.n_kv_heads, a.head_size);
    let mut d_qkv = vec![0.0; n * width];
    for (strand, part) in strands.iter().zip(&parts) {
        let group = strand.group;
        strand.scatter(&part.q, &mut d_qkv, width, group * per_group * size);
        strand.scatter(&part.k, &mut d_qkv, width, (a.n_heads + group) * size);
        let values = a.n_heads + a.n_kv_heads + group;
        strand.scatter(&part.v, &mut d_qkv, width, values * size);
    }
    d_qkv
}

pub fn gelu(u: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (n, f) = u.dims2()?;
    let (mut u, bias) = (values(u)?, values(bias)?);
    u.par_chunks_mut(f).for_each(|row| {
        for (u, bias) in row.iter_mut().zip(&bias) {
            *u = gelu_and_slope(*u + bias).0;
        }
    });
    tensor(u, &[n, f])
}

pub fn gelu_backward(u: &Tensor, bias: &Tensor, d_g: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let (n, f) = u.dims2()?;
    let (mut g, mut d_u, bias) = (values(u)?, values(d_g)?, values(bias)?);
    let blocks = g
        .par_chunks_mut(f * BLOCK_ROWS)
        .zip(d_u.par_chunks_mut(f * BLOCK_ROWS));
    let d_bias = ordered_sum(f, blocks, |d_bias, (g, d_u)| {
        for (g, d_u) in g.chunks_mut(f).zip(d_u.chunks_mut(f)) {
            for i in 0..f {
                let (value, slope) = gelu_and_slope(g[i] + bias[i]);
                g[i] = value;
                d_u[i] *= slope;
                d_bias[i] += d_u[i];
            }
        }
    });
    let shape = [n, f];
    Ok((
        tensor(d_u, &shape)?,
        tensor(g, &shape)?,
        tensor(d_bias, &[f])?,
    ))
}

fn gelu_and_slope(z: f32) -> (f32, f32) {
    // tanh by way of exp, which the C library computes in a third of the time.
    let e = (2.0 * SQRT_2_OVER_PI * (z + 0.044_715 * z * z * z)).exp();
    let t = 1.0 - 2.0 / (e + 1.0);
    let inner = SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044_715 * z * z);
    let slope = 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * inner;
    (0.5 * z * (1.0 + t), slope)
}

pub fn add_residual(x: &Tensor, branch: &Tensor, bias: Option<&Tensor>) -> Result<Storage> {
    let sum = match bias {
        Some(bias) => (x + branch)?.broadcast_add(bias)?,
        None => (x + branch)?,
    };
    let (storage, layout) = sum.storage_and_layout();
    storage.try_clone(layout)
}

pub fn branch_gradient(d: &Tensor) -> Result<(Tensor, Tensor)> {
    Ok((d.detach(), d.sum(0)?))
}

pub fn embed(codes: &Tensor, table: &Tensor) -> Result<Tensor> {
    table.index_select(codes, 0)
}

pub fn embed_backward(codes: &Tensor, d_x: &Tensor) -> Result<Tensor> {
    let d = d_x.dims()[1];
    Tensor::zeros((crate::model::V, d), d_x.dtype(), d_x.device())?.index_add(codes, d_x, 0)
}

pub fn cross_entropy(
    logits: &Tensor,
    bias: &Tensor,
    targets: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (n, v) = logits.dims2()?;
    let (mut rows, bias) = (values(logits)?, values(bias)?);
    let targets = targets.flatten_all()?.to_vec1::<u8>()?;
    let losses: Vec<f32> = rows
        .par_chunks_mut(v)
        .zip(&targets)
        .map(|(row, target)| {
            row.iter_mut().zip(&bias).for_each(|(x, bias)| *x += bias);
            surprise_and_gradient(row, usize::from(*target), 1.0 / n as f32)
        })
        .collect();
    let blocks = rows.par_chunks(v * BLOCK_ROWS);
    let d_bias = ordered_sum(v, blocks, |sum, block| {
        for row in block.chunks(v) {
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    });
    Ok((
        tensor(losses, &[n])?,
        tensor(rows, &[n, v])?,
        tensor(d_bias, &[v])?,
    ))
}

/// −ln of the target's probability; the logits become their gradient times `share`.
fn surprise_and_gradient(logits: &mut [f32], target: usize, share: f32) -> f32 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let aim = logits[target];
    let sum: f32 = logits.iter().map(|x| (x - most).exp()).sum();
    for x in logits.iter_mut() {
        *x = (*x - most).exp() / sum * share;
    }
    logits[target] -= share;
    sum.ln() + most - aim
}

pub fn add_squares(sum: &Tensor, gradient: &Tensor) -> Result<()> {
    let squares = gradient.sqr()?.sum_all()?.reshape(1)?;
    sum.slice_set(&(sum + squares)?, 0, 0)
}

pub fn adamw(
    value: &Tensor,
    gradient: &Tensor,
    moments: &Moments,
    decayed: &Tensor,
    squares: &Tensor,
    s: &AdamW,
) -> Result<()> {
    let length = squares.to_vec1::<f32>()?[0].sqrt();
    if !length.is_finite() {
        return Ok(());
    }
    let shorten = (s.clip / length.max(f32::MIN_POSITIVE)).min(1.0);
    let (mut x, gradient, decayed) = (values(value)?, values(gradient)?, values(decayed)?);
    let (mut first, mut second) = (values(&moments.first)?, values(&moments.second)?);
    let mut average = values(&moments.average)?;
    let correction = |beta: f32| 1.0 - f64::from(beta).powf(s.iteration as f64) as f32;
    let (correct1, correct2) = (correction(s.beta1), correction(s.beta2));
    for i in 0..x.len() {
        let g = gradient[i] * shorten;
        first[i] = s.beta1 * first[i] + (1.0 - s.beta1) * g;
        second[i] = s.beta2 * second[i] + (1.0 - s.beta2) * g * g;
        let step = first[i] / correct1 / ((second[i] / correct2).sqrt() + s.eps);
        x[i] -= s.lr * (step + s.decay * decayed[i] * x[i]);
        average[i] = s.ema * average[i] + (1.0 - s.ema) * x[i];
    }
    for (place, new) in [
        (value, x),
        (&moments.first, first),
        (&moments.second, second),
        (&moments.average, average),
    ] {
        place.slice_set(&tensor(new, place.dims())?, 0, 0)?;
    }
    Ok(())
}

/// Sums of `n` values that `add` collects from each block, added in the order of the blocks: which
/// core was idle must not decide how a training goes on.
fn ordered_sum<I: IndexedParallelIterator>(
    n: usize,
    blocks: I,
    add: impl Fn(&mut [f32], I::Item) + Sync + Send,
) -> Vec<f32> {
    let sums: Vec<_> = blocks
        .map(|block| {
            let mut sum = vec![0.0; n];
            add(&mut sum, block);
            sum
        })
        .collect();
    sums.into_iter().fold(vec![0.0; n], added)
}

pub(super) fn values(t: &Tensor) -> Result<Vec<f32>> {
    t.flatten_all()?.to_vec1()
}

pub(super) fn tensor(values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)
}

fn multiply_add(sum: &mut [f32], a: &[f32], b: &[f32]) {
    for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
        *sum += a * b;
    }
}

fn added(mut a: Vec<f32>, b: Vec<f32>) -> Vec<f32> {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    a
}
