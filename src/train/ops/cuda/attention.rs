//! Rotation and attention: what the kernels are told of heads, windows and who sees whom.

// Kernels are launched by address: no compiler can check what they do there.
#![allow(unsafe_code)]

use candle_core::{Device, Result, Tensor, bail};

use super::launch::{Gpu, int, launch};
use super::parameters::{AttendSizes, GROUPS, Lists, Turns};
use super::{BF16, BLOCK, F32, LINE, U32};
use crate::train::ops::tiles::TILE;
use crate::train::ops::{Attention, CPU_ALONE, Sight, Tiles, Turn};

/// `kTileThreads`: threads of a block that has a tile.
const TILE_THREADS: u32 = 128;

/// Rows of `qkv`, once it fits the attention.
fn check_attention(qkv: &Tensor, a: &Attention) -> Result<usize> {
    let n = qkv.dims2()?.0;
    if ![16, 32, 64].contains(&a.head_size) {
        bail!("heads of 16, 32 or 64 are possible, not of {}", a.head_size);
    }
    if a.n_kv_heads == 0 || a.n_heads == 0 || !a.n_heads.is_multiple_of(a.n_kv_heads) {
        bail!("{} heads do not share {}", a.n_heads, a.n_kv_heads);
    }
    if n == 0 || a.window == 0 || !n.is_multiple_of(a.window) {
        bail!("attention: {n} rows are no windows of {}", a.window);
    }
    match &a.sight {
        Sight::Even(s) if s.stride == 0 || s.rows == 0 => {
            bail!("attention of {} rows, {} apart", s.rows, s.stride)
        }
        Sight::Tiled(tiles) if tiles.window() != a.window || tiles.n_groups() != a.n_kv_heads => {
            bail!("tiles of another window or of other heads")
        }
        Sight::Hashed(_) | Sight::Sorted(_) => bail!("{CPU_ALONE}"),
        _ => Ok(n),
    }
}

/// What a kernel is told of the rotation of each KV head.
fn turns(a: &Attention) -> Result<Turns> {
    if a.n_kv_heads > GROUPS {
        bail!("{} KV heads; {GROUPS} are possible", a.n_kv_heads);
    }
    let mut of = [1; GROUPS];
    for (group, turn) in of.iter_mut().enumerate().take(a.n_kv_heads) {
        *turn = int(a.sight.turn(group))?;
    }
    Ok(Turns {
        of,
        queries: int(a.n_heads)?,
        per_group: int(a.n_heads / a.n_kv_heads)?,
    })
}

/// Writes to `qkv` although others may hold it: see above.
pub fn rotate(qkv: &Tensor, a: &Attention, angles: &Tensor, turn: Turn) -> Result<()> {
    let gpu = Gpu::of(qkv)?;
    let n = check_attention(qkv, a)?;
    let (half, heads) = (a.head_size / 2, a.n_heads + a.n_kv_heads);
    let period = angles.dims2()?.0;
    let units = n * heads * (half / 8);
    int(units + BLOCK)?;
    launch!(
        gpu,
        &gpu.kernels.rotate,
        (units.div_ceil(BLOCK), 1),
        LINE,
        0,
        gpu.address(qkv, "qkv", BF16, &[n, a.qkv_width()])?,
        gpu.address(angles, "angles", F32, &[period, a.head_size])?,
        int(n)?,
        int(a.qkv_width())?,
        int(heads)?,
        int(half)?,
        int(a.window)?,
        turns(a)?,
        int(period)?,
        if turn == Turn::Back { -1.0f32 } else { 1.0f32 },
    );
    Ok(())
}

/// What the kernels of attention are told, and the blocks there are for a head.
fn attend_sizes(a: &Attention, n: usize) -> Result<(AttendSizes, usize)> {
    let (stride, rows) = match &a.sight {
        Sight::Even(spacing) => (spacing.stride, spacing.rows),
        Sight::Tiled(_) => (1, a.window),
        Sight::Hashed(_) | Sight::Sorted(_) => bail!("{CPU_ALONE}"),
    };
    let tiles = a.window.div_ceil(stride).div_ceil(TILE);
    let root = 1.0 / (a.head_size as f32).sqrt();
    let sizes = AttendSizes {
        window: int(a.window)?,
        stride: int(stride)?,
        reach: int(rows.min(a.window))?,
        heads: int(a.n_heads)?,
        groups: int(a.n_kv_heads)?,
        tiles: int(tiles)?,
        scale: root * std::f32::consts::LOG2_E,
        root,
    };
    Ok((sizes, n / a.window * stride * tiles))
}

/// The lists of queries, and those of keys.
fn lists(gpu: &Gpu<'_>, tiles: &Tiles, device: &Device) -> Result<[Lists; 2]> {
    let tables = tiles.tables(device)?;
    let mut at = [0; 5];
    for (at, table) in at.iter_mut().zip(tables) {
        *at = gpu.address(table, "tiles", U32, table.dims())?;
    }
    let [starts, entries, key_starts, key_entries, masks] = at;
    let of = |starts, entries| Lists {
        starts,
        entries,
        masks,
    };
    Ok([of(starts, entries), of(key_starts, key_entries)])
}

/// Bytes of one tile in shared memory: 16 more than a row from row to row.
fn tile_bytes(a: &Attention) -> usize {
    2 * TILE * (a.head_size + 8)
}

pub fn attend(qkv: &Tensor, a: &Attention) -> Result<(Tensor, Tensor)> {
    let gpu = Gpu::of(qkv)?;
    let n = check_attention(qkv, a)?;
    let k = gpu.kernels;
    let (sizes, blocks) = attend_sizes(a, n)?;
    let out = gpu.fresh(BF16, (n, a.n_heads * a.head_size))?;
    let lse = gpu.fresh(F32, (n, a.n_heads))?;
    let (grid, block) = ((blocks * a.n_heads, 1), (TILE_THREADS, 1));
    let bytes = 5 * tile_bytes(a) as u32;
    let from = gpu.address(qkv, "qkv", BF16, &[n, a.qkv_width()])?;
    let (to, lse_at) = (out.address, lse.address);
    match &a.sight {
        Sight::Even(_) => {
            let kernel = of_size(a, [&k.attend_16, &k.attend_32, &k.attend_64]);
            launch!(gpu, kernel, grid, block, bytes, from, to, lse_at, sizes);
        }
        Sight::Hashed(_) | Sight::Sorted(_) => bail!("{CPU_ALONE}"),
        Sight::Tiled(tiles) => {
            let kernels = [&k.attend_tiles_16, &k.attend_tiles_32, &k.attend_tiles_64];
            let [seen, _] = lists(&gpu, tiles, qkv.device())?;
            let kernel = of_size(a, kernels);
            launch!(
                gpu, kernel, grid, block, bytes, from, to, lse_at, sizes, seen
            );
        }
    }
    Ok((out.tensor(), lse.tensor()))
}

pub fn attend_backward(
    qkv: &Tensor,
    a: &Attention,
    out: &Tensor,
    lse: &Tensor,
    d_out: &Tensor,
) -> Result<Tensor> {
    let gpu = Gpu::of(qkv)?;
    let n = check_attention(qkv, a)?;
    let k = gpu.kernels;
    let (sizes, blocks) = attend_sizes(a, n)?;
    let (width, device) = (a.n_heads * a.head_size, qkv.device());
    let qkv = gpu.address(qkv, "qkv", BF16, &[n, a.qkv_width()])?;
    let out = gpu.address(out, "out", BF16, &[n, width])?;
    let lse = gpu.address(lse, "lse", F32, &[n, a.n_heads])?;
    let d_out = gpu.address(d_out, "d_out", BF16, &[n, width])?;
    let d_qkv = gpu.fresh(BF16, (n, a.qkv_width()))?;
    let delta = gpu.partials(n, a.n_heads)?;
    let (shared, to, delta_at) = (6 * tile_bytes(a), d_qkv.address, delta.address);
    let (grid, block) = ((blocks * a.n_heads, 1), (TILE_THREADS, 1));
    let key_grid = (blocks * a.n_kv_heads, 1);
    let (bytes, key_bytes) = ((shared + 4 * TILE) as u32, (shared + 16 * TILE) as u32);
    match &a.sight {
        Sight::Even(_) => {
            let queries = [
                &k.attend_queries_16,
                &k.attend_queries_32,
                &k.attend_queries_64,
            ];
            let keys = [&k.attend_keys_16, &k.attend_keys_32, &k.attend_keys_64];
            let (queries, keys) = (of_size(a, queries), of_size(a, keys));
            launch!(
                gpu, queries, grid, block, bytes, qkv, out, lse, d_out, to, delta_at, sizes
            );
            launch!(
                gpu, keys, key_grid, block, key_bytes, qkv, lse, d_out, delta_at, to, sizes
            );
        }
        Sight::Hashed(_) | Sight::Sorted(_) => bail!("{CPU_ALONE}"),
        Sight::Tiled(tiles) => {
            let queries = [
                &k.attend_tiles_queries_16,
                &k.attend_tiles_queries_32,
                &k.attend_tiles_queries_64,
            ];
            let keys = [
                &k.attend_tiles_keys_16,
                &k.attend_tiles_keys_32,
                &k.attend_tiles_keys_64,
            ];
            let (queries, keys) = (of_size(a, queries), of_size(a, keys));
            let [seen, reached] = lists(&gpu, tiles, device)?;
            launch!(
                gpu, queries, grid, block, bytes, qkv, out, lse, d_out, to, delta_at, sizes, seen
            );
            launch!(
                gpu, keys, key_grid, block, key_bytes, qkv, lse, d_out, delta_at, to, sizes,
                reached
            );
        }
    }
    Ok(d_qkv.tensor())
}

/// Of the kernels for heads of 16, 32 and 64 the one for these.
fn of_size<T>(a: &Attention, kernels: [T; 3]) -> T {
    let [k16, k32, k64] = kernels;
    match a.head_size {
        16 => k16,
        32 => k32,
        _ => k64,
    }
}
