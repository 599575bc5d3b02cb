// Sparse attention, forward.
//
// Who sees whom is a `Sight`: it names the tiles of keys that a tile of queries visits, and hides
// pairs only where a warp's 16 queries do not all see all of 16 keys.
//
// `Band`: rows t = i·stride + phase of a window are a sequence of their own, i = 0, 1, …; a local
// layer is the case of stride 1 with a single phase. Row i sees the rows i − reach + 1 … i.
// `Tiled`: any pattern, as lists of tiles and masks (train/ops/tiles.rs); stride 1.
#pragma once
#include "tensor.cuh"

// The sizes of a layer's attention, as every kernel of it is given them.
struct AttendSizes {
    int window, stride, reach;
    int heads, groups;
    int tiles;    // of 64 rows in the longest phase
    float scale;  // log2(e) / sqrt(K)
    float root;   // 1 / sqrt(K)
};

// Where a block works: a sequence, a tile of it, and a head or group.
struct Place {
    size_t first;  // row of N that is the sequence's row 0
    int rows;      // of the sequence
    int row0;      // the tile's first
    int head;      // or group
};

// Heads lie next to each other in the grid: those of a group share keys through L2. Then come the
// tiles of a sequence, which share keys with their neighbours.
__device__ inline Place place(const AttendSizes& s, int heads) {
    const int id = blockIdx.x / heads, sequence = id / s.tiles;
    const int phase = sequence % s.stride;
    Place p;
    p.first = (size_t)(sequence / s.stride) * s.window + phase;
    p.rows = (s.window - phase + s.stride - 1) / s.stride;
    p.row0 = id % s.tiles * kTile;
    p.head = blockIdx.x % heads;
    return p;
}

// For each tile of a group's rows: the tiles it meets, and the mask between the two.
struct Lists {
    const uint32_t* starts;  // [groups · tiles + 1]
    const uint2* entries;    // (tile, mask); mask 0 hides nothing
    const uint64_t* masks;   // [masks, 64]: for each row the columns it meets
};

// Whose rows a block owns, and so the masks have.
enum class Rows { kQueries, kKeys };

struct Band {
    int start, end;  // of the visits
    int reach;

    __device__ Band(const AttendSizes& s, const Place& at, int, const Lists&, Rows rows)
        : reach(s.reach) {
        const int own = at.row0 / kTile;
        if (rows == Rows::kQueries) {
            start = max(0, at.row0 - reach + 1) / kTile;
            end = own + 1;
        } else {
            start = own;
            end = min(at.rows - 1, at.row0 + kTile - 1 + reach - 1) / kTile + 1;
        }
    }
    __device__ int tile(int visit) const { return visit; }
    __device__ void look(int, int) {}
    // Whether any, and whether all, of 16 queries see any, all, of 16 keys, which are columns
    // 16·c … of the tile.
    __device__ bool any(int, int query, int key) const {
        return key <= query + kStrip - 1 && key + kStrip - 1 > query - reach;
    }
    __device__ bool all(int, int query, int key) const {
        return key + kStrip - 1 <= query && key > query + kStrip - 1 - reach;
    }
    // Of one pair: the lower or upper of this lane's rows, and a column of the tile.
    __device__ bool sees(int, int, int query, int key) const {
        return key <= query && key > query - reach;
    }
};

struct Tiled {
    const Lists lists;
    int start, end;
    uint64_t low, high;  // what this lane's two rows of a strip meet: g and g + 8

    __device__ Tiled(const AttendSizes& s, const Place& at, int group, const Lists& lists, Rows)
        : lists(lists) {
        const uint32_t* own = lists.starts + (size_t)group * s.tiles + at.row0 / kTile;
        start = own[0];
        end = own[1];
    }
    __device__ int tile(int visit) const { return lists.entries[visit].x; }
    // Before the questions about a visit: `strip` is the warp's first row of the tile.
    __device__ void look(int visit, int strip) {
        const uint64_t* mask = lists.masks + (size_t)lists.entries[visit].y * kTile + strip;
        low = mask[lane_id() / 4];
        high = mask[lane_id() / 4 + 8];
    }
    __device__ bool any(int c, int, int) const {
        return __any_sync(~0u, (((low | high) >> (c * kStrip)) & 0xffff) != 0);
    }
    __device__ bool all(int c, int, int) const {
        return __all_sync(~0u, (((low & high) >> (c * kStrip)) & 0xffff) == 0xffff);
    }
    __device__ bool sees(int half, int column, int, int) const {
        return ((half == 0 ? low : high) >> column) & 1;
    }
};

// attend_{16,32,64}, attend_tiles_{16,32,64} — softmax(q·kᵀ)·v of one head for 64 rows; the suffix is K.
// in    qkv [n, (H + 2G)·K] bf16, q and k rotated
// out   out [n, H·K] bf16;  lse [n, H] f32: log2 of the sum of exp2(scale · q·k)
// math  flash attention: running maximum and sum, exp2 with log2(e) in the scale; products bf16
//       with f32 accumulators, probabilities rounded to bf16
// grid  windows · stride · tiles · H block 128 (4 warps of 16 queries)  smem 5·64·(K+8)·2 B
// needs K in {16, 32, 64}, rows of 16 bytes, G divides H, n a multiple of window; of tiles: lists
//       that name tiles of the window, and at least one for each
// twin  train/ops/cpu.rs::attend   test gpu::attention   bench train_ops_bench
// after FlashAttention-2 (arXiv 2307.08691); idea only
// bytes 2·n·(2H + 2G)·K + 4·n·H; arithmetic 4·n·H·K·reach
// meas  H200, driver 580.159.04, 131,072 rows of piano-16k: local 159 us, 108 TFLOP/s; stride
//       256 98 us, 88 (406d2a2, 2026-11-24)
template <int K, class Sight>
__device__ void attend(const bf16* __restrict__ qkv, bf16* __restrict__ out,
                       float* __restrict__ lse, const AttendSizes& s, const Lists& lists) {
    bf16* q_tile = reinterpret_cast<bf16*>(dynamic);
    bf16* k_tiles = q_tile + kTileElements<K>;
    bf16* v_tiles = k_tiles + 2 * kTileElements<K>;
    const Place at = place(s, s.heads);
    if (at.row0 >= at.rows) return;

    const int group = at.head / (s.heads / s.groups);
    const size_t width = (s.heads + 2 * s.groups) * K, pitch = width * s.stride;
    const bf16* queries = qkv + at.first * width + at.head * K;
    const bf16* keys = qkv + at.first * width + (s.heads + group) * K;
    const bf16* values = keys + s.groups * K;
    Sight sight(s, at, group, lists, Rows::kQueries);
    const int start = sight.start, first = sight.tile(start) * kTile;

    copy_tile<K>(q_tile, queries, pitch, at.row0, at.rows);
    copy_tile<K>(k_tiles, keys, pitch, first, at.rows);
    copy_tile<K>(v_tiles, values, pitch, first, at.rows);
    copies_end();

    const int strip = warp_id() * kStrip, query0 = at.row0 + strip;
    const int g = lane_id() / 4, t = lane_id() % 4;
    uint32_t q[K / 16][4];
    float o[K / 8][4] = {};
    float high[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};

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
        if (visit == start) load_strip<K>(q, q_tile, strip);
        sight.look(visit, strip);
        const int tile0 = sight.tile(visit) * kTile;
        const bf16* k_tile = k_tiles + stage * kTileElements<K>;
        const bf16* v_tile = v_tiles + stage * kTileElements<K>;

        float p[kTile / kStrip][2][4];
        float tops[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (int c = 0; c < kTile / kStrip; c++) {
            const int key0 = tile0 + c * kStrip;
#pragma unroll
            for (int i = 0; i < 8; i++) p[c][i / 4][i % 4] = 0.0f;
            const bool any = sight.any(c, query0, key0);
            if (any) multiply_rows<K>(p[c], q, k_tile, c * kStrip);
            if (!sight.all(c, query0, key0)) {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    const int column = c * kStrip + i / 4 * 8 + 2 * t + i % 2, h = i % 4 / 2;
                    const bool seen = sight.sees(h, column, query0 + g + h * 8, tile0 + column);
                    if (!seen) p[c][i / 4][i % 4] = -INFINITY;
                }
            }
#pragma unroll
            for (int i = 0; i < 8; i++) {
                tops[i % 4 / 2] = fmaxf(tops[i % 4 / 2], p[c][i / 4][i % 4]);
            }
        }

        float base[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            tops[h] = fmaxf(tops[h], __shfl_xor_sync(~0u, tops[h], 1));
            tops[h] = fmaxf(tops[h], __shfl_xor_sync(~0u, tops[h], 2));
            const float top = fmaxf(high[h], tops[h] * s.scale);
            // A row that has seen no key yet: −∞ − −∞ would be no number.
            base[h] = top == -INFINITY ? 0.0f : top;
            const float shrink = exp2_approx(high[h] - base[h]);
            high[h] = top;
            sum[h] *= shrink;
#pragma unroll
            for (int k = 0; k < K / 8; k++) {
                o[k][2 * h] *= shrink;
                o[k][2 * h + 1] *= shrink;
            }
        }
#pragma unroll
        for (int c = 0; c < kTile / kStrip; c++) {
            if (!sight.any(c, query0, tile0 + c * kStrip)) continue;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const int h = i % 4 / 2;
                float& value = p[c][i / 4][i % 4];
                value = exp2_approx(fmaf(value, s.scale, -base[h]));
                sum[h] += value;
            }
            uint32_t a[4];
            pack_tile(a, p[c]);
            multiply_columns<K>(o, a, v_tile, c * kStrip);
        }
        __syncthreads();  // Everybody has read this stage: the next round overwrites it.
    }

    float share[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
        sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
        share[h] = 1.0f / sum[h];
        const int row = query0 + g + 8 * h;
        if (t == 0 && row < at.rows) {
            lse[(at.first + (size_t)row * s.stride) * s.heads + at.head] =
                high[h] + __log2f(sum[h]);
        }
    }
    const size_t out_width = s.heads * K;
    write_strip<K>(o, share[0], share[1], q_tile, strip,
                   out + at.first * out_width + at.head * K, out_width * s.stride, at.row0,
                   at.rows);
}

#define ATTEND(K, BLOCKS)                                                                  \
    extern "C" __global__ void __launch_bounds__(kTileThreads, BLOCKS)                     \
    attend_##K(const bf16* qkv, bf16* out, float* lse, AttendSizes s) {                    \
        attend<K, Band>(qkv, out, lse, s, {});                                             \
    }                                                                                      \
    extern "C" __global__ void __launch_bounds__(kTileThreads, BLOCKS)                     \
    attend_tiles_##K(const bf16* qkv, bf16* out, float* lse, AttendSizes s, Lists l) {     \
        attend<K, Tiled>(qkv, out, lse, s, l);                                             \
    }
ATTEND(16, 5)
ATTEND(32, 4)
ATTEND(64, 3)
#undef ATTEND
