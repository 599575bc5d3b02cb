//! Attention and its gradient on the CPU, strand by strand.

use std::f32::consts::LOG2_E;

use super::Attention;
use crate::model::Spacing;

/// The rows of one window that see each other, and one KV head: a phase of a strided layer, the
/// whole window of a local one. Row i of it sees rows i − `rows` + 1 ..= i.
pub struct Strand<'a> {
    a: &'a Attention,
    spacing: Spacing,
    /// Row of the first position in the batch.
    first: usize,
    n: usize,
    /// The KV head.
    pub group: usize,
}

/// What a strand's forward pass makes.
pub struct Attended {
    /// `[n, H/G·K]`
    pub out: Vec<f32>,
    /// `[n, H/G]`, base 2.
    pub lse: Vec<f32>,
}

/// Gradients of a strand's queries `[n, H/G·K]`, keys and values `[n, K]`.
pub struct Gradients {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

impl<'a> Strand<'a> {
    /// Every strand of `n` rows.
    pub fn all(a: &'a Attention, spacing: Spacing, n: usize) -> Vec<Self> {
        let mut all = Vec::new();
        for first in (0..n).step_by(a.window) {
            for phase in 0..spacing.stride.min(a.window) {
                let n = (a.window - phase).div_ceil(spacing.stride);
                all.extend((0..a.n_kv_heads).map(|group| Self {
                    a,
                    spacing,
                    first: first + phase,
                    n,
                    group,
                }));
            }
        }
        all
    }

    /// Puts a strand's rows `[n, w]` into columns `column..column + w` of the batch `[N, width]`.
    pub fn scatter(&self, part: &[f32], all: &mut [f32], width: usize, column: usize) {
        for (i, row) in part.chunks(part.len() / self.n).enumerate() {
            let start = (self.first + i * self.spacing.stride) * width + column;
            all[start..start + row.len()].copy_from_slice(row);
        }
    }

    /// The opposite: `[n, w]`.
    fn gather(&self, all: &[f32], width: usize, column: usize, w: usize) -> Vec<f32> {
        (0..self.n)
            .flat_map(|i| {
                let start = (self.first + i * self.spacing.stride) * width + column;
                &all[start..start + w]
            })
            .copied()
            .collect()
    }

    fn keys_and_values(&self, qkv: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (a, width) = (self.a, self.a.qkv_width());
        let at = |head| self.gather(qkv, width, head * a.head_size, a.head_size);
        (
            at(a.n_heads + self.group),
            at(a.n_heads + a.n_kv_heads + self.group),
        )
    }

    /// The batch's heads that share this strand's keys.
    fn heads(&self) -> std::ops::Range<usize> {
        let per_group = self.a.n_heads / self.a.n_kv_heads;
        self.group * per_group..(self.group + 1) * per_group
    }

    /// Scores are products of a query with columns of `across` `[K, n]`: long sums side by side.
    fn products(&self, query: &[f32], across: &[f32], i: usize) -> Vec<f32> {
        let first = (i + 1).saturating_sub(self.spacing.rows);
        let mut sums = vec![0.0; i + 1 - first];
        for (x, row) in query.iter().zip(across.chunks(self.n)) {
            for (sum, y) in sums.iter_mut().zip(&row[first..=i]) {
                *sum += x * y;
            }
        }
        sums
    }

    /// Of scores to probabilities times 2^score: the factor of q·k.
    fn scale(&self) -> f32 {
        LOG2_E / (self.a.head_size as f32).sqrt()
    }

    pub fn attend(&self, qkv: &[f32]) -> Attended {
        let (a, size) = (self.a, self.a.head_size);
        let (k, v) = self.keys_and_values(qkv);
        let across = transposed(&k, size);
        let heads = self.heads();
        let (mut out, mut lse) = (vec![0.0; self.n * heads.len() * size], Vec::new());
        for (slot, out) in out.chunks_mut(size).enumerate() {
            let (i, head) = (slot / heads.len(), heads.start + slot % heads.len());
            let row = self.first + i * self.spacing.stride;
            let query = &qkv[row * a.qkv_width() + head * size..][..size];
            let mut weights = self.products(query, &across, i);
            let most = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for w in &mut weights {
                *w = ((*w - most) * self.scale()).exp2();
                sum += *w;
            }
            for (w, v) in weights
                .iter()
                .zip(v.chunks(size).skip(i + 1 - weights.len()))
            {
                multiply_add(out, w / sum, v);
            }
            lse.push(sum.log2() + most * self.scale());
        }
        Attended { out, lse }
    }

    pub fn backward(&self, qkv: &[f32], out: &[f32], lse: &[f32], d_out: &[f32]) -> Gradients {
        let (a, size, heads) = (self.a, self.a.head_size, self.heads());
        let (k, v) = self.keys_and_values(qkv);
        let (k_across, v_across) = (transposed(&k, size), transposed(&v, size));
        let mut g = Gradients {
            q: vec![0.0; self.n * heads.len() * size],
            k: vec![0.0; k.len()],
            v: vec![0.0; v.len()],
        };
        for (slot, d_q) in g.q.chunks_mut(size).enumerate() {
            let (i, head) = (slot / heads.len(), heads.start + slot % heads.len());
            let row = self.first + i * self.spacing.stride;
            let query = &qkv[row * a.qkv_width() + head * size..][..size];
            let at = (row * a.n_heads + head) * size;
            let (out, d_out) = (&out[at..at + size], &d_out[at..at + size]);
            let delta: f32 = out.iter().zip(d_out).map(|(a, b)| a * b).sum();
            let scores = self.products(query, &k_across, i);
            let d_weights = self.products(d_out, &v_across, i);
            let first = i + 1 - scores.len();
            for (j, (score, d_weight)) in scores.iter().zip(&d_weights).enumerate() {
                let at = (first + j) * size;
                let weight = (score * self.scale() - lse[row * a.n_heads + head]).exp2();
                let d_score = weight * (d_weight - delta) / (size as f32).sqrt();
                multiply_add(d_q, d_score, &k[at..at + size]);
                multiply_add(&mut g.k[at..at + size], d_score, query);
                multiply_add(&mut g.v[at..at + size], weight, d_out);
            }
        }
        g
    }
}

/// `[n, size]` to `[size, n]`.
fn transposed(rows: &[f32], size: usize) -> Vec<f32> {
    let n = rows.len() / size;
    (0..size)
        .flat_map(|d| (0..n).map(move |i| rows[i * size + d]))
        .collect()
}

/// sum += factor · x
pub fn multiply_add(sum: &mut [f32], factor: f32, x: &[f32]) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += factor * x;
    }
}
