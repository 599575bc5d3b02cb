// Tensor cores and asynchronous copies, as the attention kernels use them.
//
// A warp's 16×8 product (mma.m16n8k16): with g = lane / 4 and t = lane % 4, a lane holds
//   A 16×16  a0 (g, 2t…)  a1 (g+8, 2t…)  a2 (g, 2t+8…)  a3 (g+8, 2t+8…), two columns a register
//   B 16×8   b0 (2t…, g)  b1 (2t+8…, g), two rows a register
//   C 16×8   c0 c1 (g, 2t…)  c2 c3 (g+8, 2t…)
// so that two C tiles beside each other, rounded to bf16, are an A tile. ldmatrix hands lane
// (g, t) the elements (g, 2t) and (g, 2t+1) of an 8×8 matrix, or with .trans (2t, g), (2t+1, g);
// the rows' addresses come from the lanes 8i … 8i+7 for matrix i.
#pragma once
#include "common.cuh"

// Queries and keys of a tile, and of one warp's share of it.
constexpr int kTile = 64;
constexpr int kTileThreads = 128;
constexpr int kStrip = 16;

// Elements from one row of a tile in shared memory to the next: 16 bytes more than a row, so that
// eight rows at one column lie in eight different groups of banks.
template <int K>
constexpr int kPitch = K + 8;

template <int K>
constexpr int kTileElements = kTile * kPitch<K>;

__device__ inline uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes, or zeros where there is nothing to copy; `from` must be a valid address all the same.
__device__ inline void copy16(void* to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}

__device__ inline void copy4(void* to, const void* from, bool there) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(there ? 4 : 0)
                 : "memory");
}

__device__ inline void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most N groups of this thread's copies are on their way.
template <int N>
__device__ inline void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ inline void load_matrices(uint32_t (&r)[4], const bf16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ inline void load_matrices_turned(uint32_t (&r)[4], const bf16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// A warp's 16 rows from `row` on as A tiles. Matrices: rows 0–7, rows 8–15 of columns 0–7, then
// the same of columns 8–15.
template <int K>
__device__ inline void load_strip(uint32_t (&a)[K / 16][4], const bf16* tile, int row) {
    const bf16* at = tile + (row + lane_id() % 16) * kPitch<K> + lane_id() / 16 * 8;
#pragma unroll
    for (int k = 0; k < K / 16; k++) load_matrices(a[k], at + k * 16);
}

// c (16×16) += strip · (16 rows of a tile from `row` on)ᵀ: the tile's rows are the columns of the
// product. Matrices: rows 0–7 with depth 0–7, with depth 8–15, then rows 8–15 likewise.
template <int K>
__device__ inline void multiply_rows(float (&c)[2][4], const uint32_t (&strip)[K / 16][4],
                                     const bf16* tile, int row) {
    const int lane = lane_id();
    const bf16* at = tile + (row + lane % 8 + lane / 16 * 8) * kPitch<K> + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < K / 16; k++) {
        uint32_t b[4];
        load_matrices(b, at + k * 16);
        multiply_add(c[0], strip[k], b[0], b[1]);
        multiply_add(c[1], strip[k], b[2], b[3]);
    }
}

// c (16×K) += a (16×16) · (16 rows of a tile from `row` on): the tile's rows are the depth.
// Matrices, turned: rows 0–7, rows 8–15 of columns 0–7, then the same of columns 8–15.
template <int K>
__device__ inline void multiply_columns(float (&c)[K / 8][4], const uint32_t (&a)[4],
                                        const bf16* tile, int row) {
    const bf16* at = tile + (row + lane_id() % 16) * kPitch<K> + lane_id() / 16 * 8;
#pragma unroll
    for (int k = 0; k < K / 16; k++) {
        uint32_t b[4];
        load_matrices_turned(b, at + k * 16);
        multiply_add(c[2 * k], a, b[0], b[1]);
        multiply_add(c[2 * k + 1], a, b[2], b[3]);
    }
}

// Two C tiles beside each other as one A tile.
__device__ inline void pack_tile(uint32_t (&a)[4], const float (&c)[2][4]) {
    a[0] = pack(c[0][0], c[0][1]);
    a[1] = pack(c[0][2], c[0][3]);
    a[2] = pack(c[1][0], c[1][1]);
    a[3] = pack(c[1][2], c[1][3]);
}

// Starts copying the rows row0 … row0 + 63 of a sequence of `rows` into a tile, zeros behind its
// end. `pitch`: elements from one row of the sequence to the next.
template <int K>
__device__ inline void copy_tile(bf16* tile, const bf16* sequence, size_t pitch, int row0,
                                 int rows) {
    constexpr int kPieces = K / 8;
#pragma unroll
    for (int i = 0; i < kTile * kPieces / kTileThreads; i++) {
        const int id = threadIdx.x + i * kTileThreads;
        const int row = id / kPieces, column = id % kPieces * 8;
        const bool there = row0 + row < rows;
        copy16(tile + row * kPitch<K> + column,
               sequence + (there ? row0 + row : 0) * pitch + column, there);
    }
}

// Writes a warp's 16×K result, times `by`, by way of the 16 rows from `row` on of a tile that no
// other warp touches any more.
template <int K>
__device__ inline void write_strip(const float (&c)[K / 8][4], float by_low, float by_high,
                                   bf16* tile, int row, bf16* sequence, size_t pitch, int row0,
                                   int rows) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    __syncwarp();
#pragma unroll
    for (int k = 0; k < K / 8; k++) {
        bf16* at = tile + (row + g) * kPitch<K> + k * 8 + 2 * t;
        *reinterpret_cast<uint32_t*>(at) = pack(c[k][0] * by_low, c[k][1] * by_low);
        *reinterpret_cast<uint32_t*>(at + 8 * kPitch<K>) =
            pack(c[k][2] * by_high, c[k][3] * by_high);
    }
    __syncwarp();
    constexpr int kPieces = K / 8;
#pragma unroll
    for (int i = 0; i < kStrip * kPieces / kWarp; i++) {
        const int id = lane_id() + i * kWarp;
        const int r = row + id / kPieces, column = id % kPieces * 8;
        if (row0 + r < rows) {
            *reinterpret_cast<uint4*>(sequence + (row0 + r) * pitch + column) =
                *reinterpret_cast<const uint4*>(tile + r * kPitch<K> + column);
        }
    }
}
