//! Attention over any pairs of a query and a key, and its gradient, on the CPU: row by row, key by key.

use std::f32::consts::LOG2_E;

use rayon::prelude::*;

use super::Attention;
use super::attention_cpu::multiply_add;

/// Who sees whom in a batch. Rows are those of the batch; what is seen several times comes several
/// times.
pub trait Pairs: Sync {
    /// The keys that a query sees.
    fn keys(&self, group: usize, query: usize) -> impl Iterator<Item = usize>;

    /// The queries whose gradients reach a key.
    fn queries(&self, group: usize, key: usize) -> impl Iterator<Item = usize>;
}

/// What both passes know.
pub struct Paired<'a, P> {
    pub a: &'a Attention,
    pub pairs: &'a P,
    /// `[N, (H + 2·G)·K]`, rotated.
    pub qkv: &'a [f32],
}

/// What the way back has of the forward pass, and the gradient of its result.
pub struct Back<'a> {
    /// `[N, H·K]`
    pub out: &'a [f32],
    /// `[N, H]`, base 2.
    pub lse: &'a [f32],
    /// `[N, H·K]`
    pub d_out: &'a [f32],
}

impl<P: Pairs> Paired<'_, P> {
    /// Column of a head of `qkv`: queries, then keys, then values.
    fn of(&self, row: usize, head: usize) -> &[f32] {
        let size = self.a.head_size;
        &self.qkv[row * self.a.qkv_width() + head * size..][..size]
    }

    fn key(&self, row: usize, group: usize) -> &[f32] {
        self.of(row, self.a.n_heads + group)
    }

    fn value(&self, row: usize, group: usize) -> &[f32] {
        self.of(row, self.a.n_heads + self.a.n_kv_heads + group)
    }

    fn group(&self, head: usize) -> usize {
        head / (self.a.n_heads / self.a.n_kv_heads)
    }

    /// Of q·k to the exponent of 2.
    fn scale(&self) -> f32 {
        LOG2_E / (self.a.head_size as f32).sqrt()
    }

    /// `out` and `lse`, see [`Back`].
    pub fn attend(&self) -> (Vec<f32>, Vec<f32>) {
        let (h, size) = (self.a.n_heads, self.a.head_size);
        let n = self.qkv.len() / self.a.qkv_width();
        let (mut out, mut lse) = (vec![0.0; n * h * size], vec![0.0; n * h]);
        let heads = out.par_chunks_mut(size).zip(lse.par_iter_mut());
        heads.enumerate().for_each(|(at, (out, lse))| {
            let (row, head) = (at / h, at % h);
            let (group, query) = (self.group(head), self.of(row, head));
            let seen = self.pairs.keys(group, row);
            let scores: Vec<(usize, f32)> = seen
                .map(|key| (key, dot(query, self.key(key, group)) * self.scale()))
                .collect();
            let most = scores.iter().map(|(_, s)| *s).fold(f32::MIN, f32::max);
            let sum: f32 = scores.iter().map(|(_, s)| (s - most).exp2()).sum();
            for (key, score) in scores {
                let weight = (score - most).exp2() / sum;
                multiply_add(out, weight, self.value(key, group));
            }
            *lse = sum.log2() + most;
        });
        (out, lse)
    }

    /// The gradient of `qkv`.
    pub fn backward(&self, back: &Back<'_>) -> Vec<f32> {
        let (h, g, size) = (self.a.n_heads, self.a.n_kv_heads, self.a.head_size);
        let results = back.out.chunks(size).zip(back.d_out.chunks(size));
        let along: Vec<f32> = results.map(|(out, d_out)| dot(out, d_out)).collect();
        let mut d_qkv = vec![0.0; self.qkv.len()];
        let rows = d_qkv.par_chunks_mut(self.a.qkv_width()).enumerate();
        rows.for_each(|(row, d_row)| {
            let (d_q, d_kv) = d_row.split_at_mut(h * size);
            for (head, d_q) in d_q.chunks_mut(size).enumerate() {
                let group = self.group(head);
                for key in self.pairs.keys(group, row) {
                    let (_, d_score) = self.share(back, &along, row, key, head);
                    multiply_add(d_q, d_score, self.key(key, group));
                }
            }
            let (d_k, d_v) = d_kv.split_at_mut(g * size);
            let heads = d_k.chunks_mut(size).zip(d_v.chunks_mut(size));
            for (group, (d_k, d_v)) in heads.enumerate() {
                for query in self.pairs.queries(group, row) {
                    for head in group * (h / g)..(group + 1) * (h / g) {
                        let (weight, d_score) = self.share(back, &along, query, row, head);
                        multiply_add(d_k, d_score, self.of(query, head));
                        multiply_add(
                            d_v,
                            weight,
                            &back.d_out[(query * h + head) * size..][..size],
                        );
                    }
                }
            }
        });
        d_qkv
    }

    /// The weight that a query gives a key, and the gradient of their product; `along` [N, H] are the
    /// products of each result and its gradient.
    fn share(
        &self,
        back: &Back<'_>,
        along: &[f32],
        query: usize,
        key: usize,
        head: usize,
    ) -> (f32, f32) {
        let (group, size) = (self.group(head), self.a.head_size);
        let at = query * self.a.n_heads + head;
        let score = dot(self.of(query, head), self.key(key, group)) * self.scale();
        let weight = (score - back.lse[at]).exp2();
        let d_weight = dot(&back.d_out[at * size..][..size], self.value(key, group)) - along[at];
        (weight, weight * d_weight / (size as f32).sqrt())
    }
}

/// In eight sums side by side: one alone would wait for each addition.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}
