// Sparse attention, backward: one kernel whose blocks own queries, one whose blocks own keys, so
// that every element of the gradient is written once and nothing is added atomically.
//
// With p = exp2(scale · q·k − lse): dv = Σ p·do; ds = p · (do·v − delta), delta = do·out;
// dq = Σ ds·k / sqrt(K); dk = Σ ds·q / sqrt(K).
#pragma once
#include "attend.cuh"

// attend_queries_{16,32,64}, attend_tiles_queries_{…} — the gradient of 64 queries of a head, and their deltas.
// in    qkv, out, d_out bf16, lse f32 as attend has them
// out   d_qkv [n, (H + 2G)·K] bf16, its queries;  delta [n, H] f32
// math  above; products bf16 with f32 accumulators, ds rounded to bf16
// grid  as attend  smem 6·64·(K+8)·2 + 256 B
// needs as attend; d_qkv no part of the inputs
// twin  train/ops/cpu.rs::attend_backward   test gpu::attention   bench train_ops_bench
// after FlashAttention-2 (arXiv 2307.08691); idea only
// bytes 2·n·(5H + 2G)·K + 8·n·H; arithmetic 6·n·H·K·reach
// meas  H200, driver 580.159.04, 131,072 rows of piano-16k, both kernels: local 341 us, 176
//       TFLOP/s; stride 256 219 us (406d2a2, 2026-11-24)
template <int K, class Sight>
__device__ void attend_queries(const bf16* __restrict__ qkv, const bf16* __restrict__ out,
                               const float* __restrict__ lse, const bf16* __restrict__ d_out,
                               bf16* __restrict__ d_qkv, float* __restrict__ delta,
                               const AttendSizes& s, const Lists& lists) {
    bf16* q_tile = reinterpret_cast<bf16*>(dynamic);
    bf16* d_tile = q_tile + kTileElements<K>;
    bf16* k_tiles = d_tile + kTileElements<K>;
    bf16* v_tiles = k_tiles + 2 * kTileElements<K>;
    float* deltas = reinterpret_cast<float*>(v_tiles + 2 * kTileElements<K>);
    const Place at = place(s, s.heads);
    if (at.row0 >= at.rows) return;

    const int group = at.head / (s.heads / s.groups);
    const size_t width = (s.heads + 2 * s.groups) * K, pitch = width * s.stride;
    const size_t out_width = s.heads * K, out_pitch = out_width * s.stride;
    const bf16* queries = qkv + at.first * width + at.head * K;
    const bf16* keys = qkv + at.first * width + (s.heads + group) * K;
    const bf16* values = keys + s.groups * K;
    const size_t out_at = at.first * out_width + at.head * K;
    Sight sight(s, at, group, lists, Rows::kQueries);
    const int start = sight.start, first = sight.tile(start) * kTile;

    copy_tile<K>(q_tile, queries, pitch, at.row0, at.rows);
    copy_tile<K>(d_tile, d_out + out_at, out_pitch, at.row0, at.rows);
    copy_tile<K>(k_tiles, keys, pitch, first, at.rows);
    copy_tile<K>(v_tiles, values, pitch, first, at.rows);
    copies_end();

    // Two threads a row.
    {
        const int row = threadIdx.x / 2, part = threadIdx.x % 2 * (K / 2);
        const bool there = at.row0 + row < at.rows;
        float product = 0.0f;
        if (there) {
            const size_t from = out_at + (at.row0 + row) * out_pitch + part;
#pragma unroll
            for (int i = 0; i < K / 2; i += 8) {
                float a[8], b[8];
                unpack8(*reinterpret_cast<const uint4*>(out + from + i), a);
                unpack8(*reinterpret_cast<const uint4*>(d_out + from + i), b);
#pragma unroll
                for (int j = 0; j < 8; j++) product = fmaf(a[j], b[j], product);
            }
        }
        product += __shfl_xor_sync(~0u, product, 1);
        if (part == 0) {
            deltas[row] = product;
            if (there) {
                delta[(at.first + (size_t)(at.row0 + row) * s.stride) * s.heads + at.head] =
                    product;
            }
        }
    }

    const int strip = warp_id() * kStrip, query0 = at.row0 + strip;
    const int g = lane_id() / 4, t = lane_id() % 4;
    uint32_t q[K / 16][4], d[K / 16][4];
    float dq[K / 8][4] = {};
    float row_lse[2], row_delta[2];

    for (int visit = start; visit < sight.end; visit++) {
        const int stage = (visit - start) % 2;
        if (visit + 1 < sight.end) {
            const int next = (1 - stage) * kTileElements<K>, row = sight.tile(visit + 1) * kTile;
            copy_tile<K>(k_tiles + next, keys, pitch, row, at.rows);
            copy_tile<K>(v_tiles + next, values, pitch, row, at.rows);
            copies_end();
            copies_wait<1>();
        } else {
            copies_wait<0>();
        }
        __syncthreads();
        if (visit == start) {
            load_strip<K>(q, q_tile, strip);
            load_strip<K>(d, d_tile, strip);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int row = query0 + g + 8 * h;
                // Behind the end queries and d_out are zeros: with these p = 1 and ds = 0.
                row_lse[h] = 0.0f;
                if (row < at.rows) {
                    row_lse[h] = lse[(at.first + (size_t)row * s.stride) * s.heads + at.head];
                }
                row_delta[h] = deltas[strip + g + 8 * h];
            }
        }
        sight.look(visit, strip);
        const bf16* k_tile = k_tiles + stage * kTileElements<K>;
        const bf16* v_tile = v_tiles + stage * kTileElements<K>;
        const int tile0 = sight.tile(visit) * kTile;

#pragma unroll
        for (int c = 0; c < kTile / kStrip; c++) {
            const int key0 = tile0 + c * kStrip;
            if (!sight.any(c, query0, key0)) continue;
            float p[2][4] = {}, dp[2][4] = {};
            multiply_rows<K>(p, q, k_tile, c * kStrip);
            multiply_rows<K>(dp, d, v_tile, c * kStrip);
            if (!sight.all(c, query0, key0)) {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    const int column = c * kStrip + i / 4 * 8 + 2 * t + i % 2, h = i % 4 / 2;
                    const bool seen = sight.sees(h, column, query0 + g + h * 8, tile0 + column);
                    if (!seen) p[i / 4][i % 4] = -INFINITY;
                }
            }
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const int h = i % 4 / 2;
                const float share = exp2_approx(fmaf(p[i / 4][i % 4], s.scale, -row_lse[h]));
                dp[i / 4][i % 4] = share * (dp[i / 4][i % 4] - row_delta[h]);
            }
            uint32_t a[4];
            pack_tile(a, dp);
            multiply_columns<K>(dq, a, k_tile, c * kStrip);
        }
        __syncthreads();  // Everybody has read this stage: the next round overwrites it.
    }
    write_strip<K>(dq, s.root, s.root, q_tile, strip, d_qkv + at.first * width + at.head * K,
                   pitch, at.row0, at.rows);
}

// attend_keys_{16,32,64}, attend_tiles_keys_{…} — the gradients of 64 keys and values of a group.
// in    qkv, d_out bf16, lse f32 as attend has them;  delta [n, H] f32
// out   d_qkv [n, (H + 2G)·K] bf16, its keys and values
// math  above, on the transposed scores; p and ds rounded to bf16
// grid  windows · stride · tiles · G block 128 (4 warps of 16 keys)  smem 6·64·(K+8)·2 + 1024 B
// needs as attend; ordered after attend_queries; lists of queries whose gradients reach the keys
// twin  train/ops/cpu.rs::attend_backward   test gpu::attention   bench train_ops_bench
// after FlashAttention-2 (arXiv 2307.08691); idea only
// bytes 2·n·(2H + 4G)·K + 8·n·H; arithmetic 8·n·H·K·reach
// meas  with attend_queries
template <int K, class Sight>
__device__ void attend_keys(const bf16* __restrict__ qkv, const float* __restrict__ lse,
                            const bf16* __restrict__ d_out, const float* __restrict__ delta,
                            bf16* __restrict__ d_qkv, const AttendSizes& s,
                            const Lists& lists) {
    bf16* k_tile = reinterpret_cast<bf16*>(dynamic);
    bf16* v_tile = k_tile + kTileElements<K>;
    bf16* q_tiles = v_tile + kTileElements<K>;
    bf16* d_tiles = q_tiles + 2 * kTileElements<K>;
    float* lses = reinterpret_cast<float*>(d_tiles + 2 * kTileElements<K>);
    float* deltas = lses + 2 * kTile;
    const Place at = place(s, s.groups);
    if (at.row0 >= at.rows) return;

    const int group = at.head, heads = s.heads / s.groups;
    const size_t width = (s.heads + 2 * s.groups) * K, pitch = width * s.stride;
    const size_t out_width = s.heads * K, out_pitch = out_width * s.stride;
    const size_t keys_at = at.first * width + (s.heads + group) * K;
    const size_t values_at = keys_at + s.groups * K;
    // The queries that see a key of this tile, once for every head of the group.
    Sight sight(s, at, group, lists, Rows::kKeys);
    const int visits = sight.end - sight.start, rounds = visits * heads;
    auto row_of = [&](int round) { return sight.tile(sight.start + round % visits) * kTile; };

    auto copy_queries = [&](int round, int stage) {
        const int head = group * heads + round / visits;
        const int row0 = row_of(round);
        copy_tile<K>(q_tiles + stage * kTileElements<K>, qkv + at.first * width + head * K, pitch,
                     row0, at.rows);
        copy_tile<K>(d_tiles + stage * kTileElements<K>,
                     d_out + at.first * out_width + head * K, out_pitch, row0, at.rows);
        const int row = threadIdx.x % kTile;
        const bool there = row0 + row < at.rows;
        const size_t n = at.first + (size_t)(there ? row0 + row : 0) * s.stride;
        const bool first_half = threadIdx.x < kTile;
        copy4((first_half ? lses : deltas) + stage * kTile + row,
              (first_half ? lse : delta) + n * s.heads + head, there);
        copies_end();
    };
    copy_tile<K>(k_tile, qkv + keys_at, pitch, at.row0, at.rows);
    copy_tile<K>(v_tile, qkv + values_at, pitch, at.row0, at.rows);
    copy_queries(0, 0);

    const int strip = warp_id() * kStrip, key0 = at.row0 + strip;
    const int g = lane_id() / 4, t = lane_id() % 4;
    uint32_t k[K / 16][4], v[K / 16][4];
    float dk[K / 8][4] = {}, dv[K / 8][4] = {};

    for (int round = 0; round < rounds; round++) {
        const int stage = round % 2;
        if (round + 1 < rounds) {
            copy_queries(round + 1, 1 - stage);
            copies_wait<1>();
        } else {
            copies_wait<0>();
        }
        __syncthreads();
        if (round == 0) {
            load_strip<K>(k, k_tile, strip);
            load_strip<K>(v, v_tile, strip);
        }
        const bf16* q_tile = q_tiles + stage * kTileElements<K>;
        const bf16* d_tile = d_tiles + stage * kTileElements<K>;
        const int row0 = row_of(round);
        sight.look(sight.start + round % visits, strip);

#pragma unroll
        for (int c = 0; c < kTile / kStrip; c++) {
            const int query0 = row0 + c * kStrip;
            if (!sight.any(c, query0, key0)) continue;
            float p[2][4] = {}, dp[2][4] = {};
            multiply_rows<K>(p, k, q_tile, c * kStrip);
            multiply_rows<K>(dp, v, d_tile, c * kStrip);
            if (!sight.all(c, query0, key0)) {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    const int column = c * kStrip + i / 4 * 8 + 2 * t + i % 2, h = i % 4 / 2;
                    const bool seen = sight.sees(h, column, row0 + column, key0 + g + h * 8);
                    if (!seen) p[i / 4][i % 4] = -INFINITY;
                }
            }
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const int column = stage * kTile + c * kStrip + n * 8 + 2 * t;
                const float2 l = *reinterpret_cast<const float2*>(lses + column);
                const float2 e = *reinterpret_cast<const float2*>(deltas + column);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    p[n][i] = exp2_approx(fmaf(p[n][i], s.scale, i % 2 == 0 ? -l.x : -l.y));
                    dp[n][i] = p[n][i] * (dp[n][i] - (i % 2 == 0 ? e.x : e.y));
                }
            }
            uint32_t a[4];
            pack_tile(a, p);
            multiply_columns<K>(dv, a, d_tile, c * kStrip);
            pack_tile(a, dp);
            multiply_columns<K>(dk, a, q_tile, c * kStrip);
        }
        __syncthreads();  // Everybody has read this stage: the next round overwrites it.
    }
    write_strip<K>(dk, s.root, s.root, k_tile, strip, d_qkv + keys_at, pitch, at.row0, at.rows);
    write_strip<K>(dv, 1.0f, 1.0f, v_tile, strip, d_qkv + values_at, pitch, at.row0, at.rows);
}

#define ATTEND_BACKWARD(K, BLOCKS)                                                         \
    extern "C" __global__ void __launch_bounds__(kTileThreads, BLOCKS)                     \
    attend_queries_##K(const bf16* qkv, const bf16* out, const float* lse,                 \
                       const bf16* d_out, bf16* d_qkv, float* delta, AttendSizes s) {      \
        attend_queries<K, Band>(qkv, out, lse, d_out, d_qkv, delta, s, {});                \
    }                                                                                      \
    extern "C" __global__ void __launch_bounds__(kTileThreads, BLOCKS)                     \
    attend_tiles_queries_##K(const bf16* qkv, const bf16* out, const float* lse,           \
                             const bf16* d_out, bf16* d_qkv, float* delta, AttendSizes s,  \
                             Lists l) {                                                    \
        attend_queries<K, Tiled>(qkv, out, lse, d_out, d_qkv, delta, s, l);                \
    }                                                                                      \
    extern "C" __global__ void __launch_bounds__(kTileThreads, BLOCKS)                     \
    attend_keys_##K(const bf16* qkv, const float* lse, const bf16* d_out,                  \
                    const float* delta, bf16* d_qkv, AttendSizes s) {                      \
        attend_keys<K, Band>(qkv, lse, d_out, delta, d_qkv, s, {});                        \
    }                                                                                      \
    extern "C" __global__ void __launch_bounds__(kTileThreads, BLOCKS)                     \
    attend_tiles_keys_##K(const bf16* qkv, const float* lse, const bf16* d_out,            \
                          const float* delta, bf16* d_qkv, AttendSizes s, Lists l) {       \
        attend_keys<K, Tiled>(qkv, lse, d_out, delta, d_qkv, s, l);                        \
    }
ATTEND_BACKWARD(16, 5)
ATTEND_BACKWARD(32, 4)
ATTEND_BACKWARD(64, 3)
#undef ATTEND_BACKWARD
