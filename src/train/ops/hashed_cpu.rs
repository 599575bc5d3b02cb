//! What attention by buckets needs beside attention itself, on the CPU: buckets, who sees whom by them,
//! and keys of one length.

use std::ops::Range;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::Attention;
use super::cpu::{tensor, values};
use super::paired_cpu::Pairs;
use crate::model::Pattern;
use crate::model::pattern::{Buckets, Hashed, Hasher};

/// The buckets of a batch.
#[derive(Debug)]
pub struct Sorted {
    /// `[G]`
    heads: Vec<Hasher>,
    /// [G, N]
    buckets: Vec<Vec<Buckets>>,
}

/// Who sees whom in a batch, row by row.
#[derive(Debug)]
pub struct SortedPairs {
    /// [G, N]: for each query its keys.
    keys: Vec<Vec<Vec<u32>>>,
    /// [G, N]: for each key its queries.
    queries: Vec<Vec<Vec<u32>>>,
}

impl Sorted {
    /// By the keys of `qkv`, which have not been rotated.
    pub fn new(heads: &[Hasher], qkv: &Tensor, a: &Attention) -> Result<Self> {
        let (n, qkv) = (qkv.dims2()?.0, values(qkv)?);
        let of_head = |(group, hasher): (usize, &Hasher)| {
            let rows = (0..n).into_par_iter();
            rows.map(|row| hasher.sort(&qkv[key_of(a, row, group)]))
                .collect()
        };
        Ok(Self {
            buckets: heads.iter().enumerate().map(of_head).collect(),
            heads: heads.to_vec(),
        })
    }

    /// In windows of so many positions.
    pub fn pairs(&self, window: usize) -> SortedPairs {
        let of_head = |(hasher, buckets): (&Hasher, &Vec<Buckets>)| {
            let windows = buckets.par_chunks(window).enumerate();
            let keys = windows.flat_map(|(i, buckets)| seen(&hasher.of, buckets, i * window));
            keys.collect::<Vec<_>>()
        };
        let heads = self.heads.iter().zip(&self.buckets);
        let keys: Vec<_> = heads.map(of_head).collect();
        SortedPairs {
            queries: keys.par_iter().map(|keys| turned(keys)).collect(),
            keys,
        }
    }
}

/// What each position of a window sees, its first one being row `first` of the batch.
fn seen(of: &Hashed, buckets: &[Buckets], first: usize) -> Vec<Vec<u32>> {
    let mut rings = of.rings();
    let each = buckets.iter().enumerate().map(|(at, own)| {
        let mut keys = Vec::with_capacity(of.max_visible());
        of.advance(&mut rings, at as u64, own, &mut |key| {
            keys.push((first + key as usize) as u32);
        });
        keys
    });
    each.collect()
}

/// For each key its queries, of the keys of each query.
fn turned(keys: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let mut queries = vec![Vec::new(); keys.len()];
    for (query, keys) in keys.iter().enumerate() {
        keys.iter()
            .for_each(|key| queries[*key as usize].push(query as u32));
    }
    queries
}

impl Pairs for SortedPairs {
    fn keys(&self, group: usize, query: usize) -> impl Iterator<Item = usize> {
        self.keys[group][query].iter().map(|row| *row as usize)
    }

    fn queries(&self, group: usize, key: usize) -> impl Iterator<Item = usize> {
        self.queries[group][key].iter().map(|row| *row as usize)
    }
}

/// Where the key of a KV head lies in `qkv`.
fn key_of(a: &Attention, row: usize, group: usize) -> Range<usize> {
    let start = row * a.qkv_width() + (a.n_heads + group) * a.head_size;
    start..start + a.head_size
}

pub fn norm_keys(qkv: &Tensor, a: &Attention, eps: f32) -> Result<Tensor> {
    let (n, g) = (qkv.dims2()?.0, a.n_kv_heads);
    let (mut rows, mut scales) = (values(qkv)?, vec![0.0; n * g]);
    for (i, scale) in scales.iter_mut().enumerate() {
        let key = &mut rows[key_of(a, i / g, i % g)];
        let square: f32 = key.iter().map(|x| x * x).sum();
        *scale = 1.0 / (square / key.len() as f32 + eps).sqrt();
        key.iter_mut().for_each(|x| *x *= *scale);
    }
    qkv.slice_set(&tensor(rows, qkv.dims())?, 0, 0)?;
    tensor(scales, &[n, g])
}

/// With y = x · s and s of x, d_x = s · (d_y − y · mean(d_y · y)).
pub fn norm_keys_backward(
    qkv: &Tensor,
    a: &Attention,
    scales: &Tensor,
    d_qkv: &Tensor,
) -> Result<()> {
    let g = a.n_kv_heads;
    let (rows, scales, mut d_rows) = (values(qkv)?, values(scales)?, values(d_qkv)?);
    for (i, scale) in scales.iter().enumerate() {
        let at = key_of(a, i / g, i % g);
        let (key, d_key) = (&rows[at.clone()], &mut d_rows[at]);
        let along: f32 = key.iter().zip(&*d_key).map(|(y, d)| y * d).sum();
        let along = along / key.len() as f32;
        for (d, y) in d_key.iter_mut().zip(key) {
            *d = scale * (*d - y * along);
        }
    }
    d_qkv.slice_set(&tensor(d_rows, d_qkv.dims())?, 0, 0)
}
