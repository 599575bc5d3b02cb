// Both ends of the network: codes into rows of a table, logits into a loss.
#pragma once
#include "common.cuh"

// Codes there are, and logits a position.
constexpr int kCodes = 256;
// Tables of 32 columns a block of embed_backward keeps: 160 KiB of shared memory.
constexpr int kTables = 5;

// embed — rows of a table.
// in    codes [n] u8;  table [256, d] f32
// out   out [n, d] f32
// math  a copy
// grid  ceil(count / 256), count = n·d/4, block 256 (a thread: 4 elements)
// needs d % 4 == 0, count < 2^31
// twin  train/ops/cpu.rs::embed   test gpu::embed   bench train_ops_bench
// after —
// bytes 4·n·d + n
// meas  H200, driver 580.159.04, 131,072 rows of piano-16k: 23 us, 2.9 TB/s (406d2a2,
//       2026-11-24)
extern "C" __global__ void __launch_bounds__(kBlock)
embed(const uint8_t* __restrict__ codes, const float4* __restrict__ table,
      float4* __restrict__ out, int count, int d) {
    const int id = blockIdx.x * kBlock + threadIdx.x;
    if (id >= count) return;
    const int vecs = d / 4;
    out[id] = table[codes[id / vecs] * vecs + id % vecs];
}

// embed_backward — sums of gradients by code, as partial tables.
// in    codes [n] u8;  d_x [n, d] f32
// out   partials [gridDim.y, 256, d] f32
// math  partials[b, code, :] = Σ d_x[t, :] over the block's t with that code; f32
// grid  (d / 32, chunks) block 160: each of the 5 warps owns 32 columns of a table of its own in
//       shared memory and takes 32 rows at a time; no lane ever touches another's column
//       smem 5·32 KiB
// needs d % 32 == 0; sum_partials follows
// twin  train/ops/cpu.rs::embed_backward   test gpu::embed   bench train_ops_bench
// after —
// bytes 4·n·d + 8·gridDim.y·256·d
// meas  H200, driver 580.159.04, 131,072 rows of piano-16k: 57 us, 1.2 TB/s (406d2a2,
//       2026-11-24)
extern "C" __global__ void __launch_bounds__(kTables * kWarp, 1)
embed_backward(const uint8_t* __restrict__ codes, const float* __restrict__ d_x,
               float* __restrict__ partials, int n, int d) {
    const int lane = lane_id(), column = blockIdx.x * kWarp + lane;
    float* tables = reinterpret_cast<float*>(dynamic);
    float* table = tables + warp_id() * kCodes * kWarp + lane;
    for (int c = 0; c < kCodes; c++) table[c * kWarp] = 0.0f;

    const int step = gridDim.y * kTables * kWarp;
    for (int row = (blockIdx.y * kTables + warp_id()) * kWarp; row < n; row += step) {
        // A row behind the end adds 0 to some code's sum.
        const int code = row + lane < n ? codes[row + lane] : 0;
        float v[kWarp];
#pragma unroll
        for (int r = 0; r < kWarp; r++) {
            v[r] = row + r < n ? d_x[(size_t)(row + r) * d + column] : 0.0f;
        }
#pragma unroll
        for (int r = 0; r < kWarp; r++) {
            table[__shfl_sync(~0u, code, r) * kWarp] += v[r];
        }
    }
    __syncthreads();
    float* to = partials + (size_t)blockIdx.y * kCodes * d + column;
    for (int c = warp_id(); c < kCodes; c += kTables) {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < kTables; i++) sum += tables[(i * kCodes + c) * kWarp + lane];
        to[(size_t)c * d] = sum;
    }
}

// cross_entropy — the loss of every position and the gradients of the mean loss.
// in    logits [n, 256] bf16;  bias [256] f32;  targets [n] u8
// out   loss [n] f32;  d_logits [n, 256] bf16;  partials [blocks, 256] f32 of the bias's gradient
// math  z = logits + bias; loss = max + ln Σ exp(z − max) − z[target];
//       d_logits = (softmax(z) − onehot(target)) / n; sums of the unrounded; f32
// grid  persistent over rows; block 256 (a warp a row, 8 logits a lane)  smem 8 KiB
// needs rows of 16 bytes; sum_partials follows
// twin  train/ops/cpu.rs::cross_entropy   test gpu::cross_entropy   bench train_ops_bench
// after —
// bytes 4·n·256 + 5·n
// meas  H200, driver 580.159.04, 131,072 rows of piano-16k: 53 us, 2.5 TB/s (406d2a2,
//       2026-11-24)
extern "C" __global__ void __launch_bounds__(kBlock, 4)
cross_entropy(const uint4* __restrict__ logits, const float* __restrict__ bias,
              const uint8_t* __restrict__ targets, float* __restrict__ loss,
              uint4* __restrict__ d_logits, float* __restrict__ partials, int n) {
    __shared__ float strands[kWarps][kCodes];
    constexpr float kLog2e = 1.4426950408889634f;
    const int lane = lane_id();
    const float share = 1.0f / n;
    float b[8], sums[8] = {};
    load8(bias + lane * 8, b);
#pragma unroll 2
    for (int row = blockIdx.x * kWarps + warp_id(); row < n; row += gridDim.x * kWarps) {
        const size_t at = (size_t)row * kWarp + lane;
        const int target = targets[row];
        float z[8];
        unpack8(logits[at], z);
        float top = -INFINITY, aimed = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            z[i] += b[i];
            top = fmaxf(top, z[i]);
            if (target == lane * 8 + i) aimed = z[i];
        }
        top = warp_max(top);
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            z[i] = exp2_approx((z[i] - top) * kLog2e);
            sum += z[i];
        }
        sum = warp_sum(sum);
        aimed = __shfl_sync(~0u, aimed, target / 8);
        if (lane == 0) loss[row] = top - aimed + logf(sum);
        const float scale = share / sum;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            z[i] = z[i] * scale - (target == lane * 8 + i ? share : 0.0f);
            sums[i] += z[i];
        }
        d_logits[at] = pack8(z);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) strands[warp_id()][lane * 8 + i] = sums[i];
    __syncthreads();
    float sum = 0.0f;
    for (int s = 0; s < kWarps; s++) sum += strands[s][threadIdx.x];
    partials[(size_t)blockIdx.x * kCodes + threadIdx.x] = sum;
}
static_assert(kBlock == kCodes, "a thread sums a column of cross_entropy's");
