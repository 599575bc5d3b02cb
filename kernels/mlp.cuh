// The element-wise work around the matrices: gelu, the residual stream, and column sums.
#pragma once
#include "common.cuh"

// gelu_tanh(z) = z · σ(y) with y = 2·sqrt(2/π)·(z + 0.044715·z³): tanh by way of the logistic
// function, which needs one exp and one division and loses nothing at either end.
__device__ inline float gate(float z) {
    const float y = 1.5957691216057308f * fmaf(0.044715f * z * z, z, z);
    return __fdividef(1.0f, 1.0f + __expf(-y));
}

__device__ inline float gate_slope(float z, float s) {
    const float inner = 1.5957691216057308f * fmaf(3.0f * 0.044715f * z, z, 1.0f);
    return fmaf(z * s * (1.0f - s), inner, s);
}

// gelu — the activation of the MLP.
// in    u [n, f] bf16;  bias [f] f32
// out   out [n, f] bf16
// math  z = u + bias; out = 0.5·z·(1 + tanh(sqrt(2/π)·(z + 0.044715·z³))); f32
// grid  ceil(count / 256), count = n·f/8, block 256 (a thread: 8 elements)
// needs f % 8 == 0, count < 2^31
// twin  train/ops/cpu.rs::gelu   test gpu::gelu   bench train_ops_bench
// after —
// bytes 4·n·f
// meas  H200, driver 580.159.04, 131,072 rows of piano-16k: 69 us, 3.9 TB/s (406d2a2,
//       2026-11-24)
extern "C" __global__ void __launch_bounds__(kBlock)
gelu(const uint4* __restrict__ u, const float* __restrict__ bias, uint4* __restrict__ out,
     int count, int f) {
    const int id = blockIdx.x * kBlock + threadIdx.x;
    if (id >= count) return;
    float z[8], b[8];
    unpack8(u[id], z);
    load8(bias + id % (f / 8) * 8, b);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        z[i] += b[i];
        z[i] *= gate(z[i]);
    }
    out[id] = pack8(z);
}

// Sums of columns over a block: every thread has those of its PER columns over its rows; threads
// `columns` apart have the same ones. Strands are added in their order.
template <int PER>
__device__ inline void store_column_sums(const float (&sums)[PER], int columns, int strands,
                                         float* partials) {
    __shared__ float shared[kBlock * PER];
    const int column = threadIdx.x % columns, strand = threadIdx.x / columns;
    if (strand < strands) {
#pragma unroll
        for (int i = 0; i < PER; i++) {
            shared[(strand * columns + column) * PER + i] = sums[i];
        }
    }
    __syncthreads();
    const int n = columns * PER;
    for (int c = threadIdx.x; c < n; c += kBlock) {
        float sum = 0.0f;
        for (int s = 0; s < strands; s++) sum += shared[s * n + c];
        partials[(size_t)blockIdx.x * n + c] = sum;
    }
}

// gelu_backward — the gradients of gelu, and its result once more for the matrix behind it.
// in    u, d_g [n, f] bf16;  bias [f] f32
// out   d_u, g [n, f] bf16;  partials [blocks, f] f32 of the bias's gradient
// math  z = u + bias; d_u = d_g · gelu'(z); d_bias = Σ_n d_u before rounding; f32
// grid  persistent over rows; block 256: f/8 columns of threads, as many rows as fit; smem 8 KiB
// needs f % 8 == 0, f <= 2048; sum_partials follows
// twin  train/ops/cpu.rs::gelu_backward   test gpu::gelu   bench train_ops_bench
// after —
// bytes 8·n·f
// meas  H200, driver 580.159.04, 131,072 rows of piano-16k: 147 us, 3.7 TB/s (406d2a2,
//       2026-11-24)
extern "C" __global__ void __launch_bounds__(kBlock, 4)
gelu_backward(const uint4* __restrict__ u, const float* __restrict__ bias,
              const uint4* __restrict__ d_g, uint4* __restrict__ d_u, uint4* __restrict__ g,
              float* __restrict__ partials, int n, int f) {
    const int columns = f / 8, strands = kBlock / columns;
    const int column = threadIdx.x % columns, strand = threadIdx.x / columns;
    float sums[8] = {};
    if (strand < strands) {
        float b[8];
        load8(bias + column * 8, b);
#pragma unroll 2
        for (int row = blockIdx.x * strands + strand; row < n; row += gridDim.x * strands) {
            const size_t at = (size_t)row * columns + column;
            float z[8], d[8];
            unpack8(u[at], z);
            unpack8(d_g[at], d);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                z[i] += b[i];
                const float s = gate(z[i]);
                d[i] *= gate_slope(z[i], s);
                z[i] *= s;
                sums[i] += d[i];
            }
            d_u[at] = pack8(d);
            g[at] = pack8(z);
        }
    }
    store_column_sums<8>(sums, columns, strands, partials);
}

// add_residual — the residual stream after a branch.
// in    x [n, d] f32;  branch [n, d] bf16;  bias [d] f32 or null
// out   out [n, d] f32
// math  x + branch + bias; f32
// grid  ceil(count / 256), count = n·d/4, block 256 (a thread: 4 elements)
// needs d % 4 == 0, count < 2^31
// twin  train/ops/cpu.rs::add_residual   test gpu::residual   bench train_ops_bench
// after —
// bytes 10·n·d
// meas  H200, driver 580.159.04, 131,072 rows of piano-16k: 44 us, 3.8 TB/s (406d2a2,
//       2026-11-24)
extern "C" __global__ void __launch_bounds__(kBlock)
add_residual(const float4* __restrict__ x, const uint2* __restrict__ branch,
             const float4* __restrict__ bias, float4* __restrict__ out, int count, int d) {
    const int id = blockIdx.x * kBlock + threadIdx.x;
    if (id >= count) return;
    float4 sum = plus(x[id], unpack4(branch[id]));
    if (bias != nullptr) sum = plus(sum, bias[id % (d / 4)]);
    out[id] = sum;
}

// branch_gradient — the residual stream's gradient as the matrices of a branch take it.
// in    d_x [n, d] f32
// out   out [n, d] bf16;  partials [blocks, d] f32 of its sum over n
// math  rounding; sums of the unrounded; f32
// grid  persistent over rows; block 256: d/4 columns of threads, as many rows as fit; smem 4 KiB
// needs d % 4 == 0, d <= 1024; sum_partials follows
// twin  train/ops/cpu.rs::branch_gradient   test gpu::residual   bench train_ops_bench
// after —
// bytes 6·n·d
// meas  H200, driver 580.159.04, 131,072 rows of piano-16k: 34 us, 2.9 TB/s (406d2a2,
//       2026-11-24)
extern "C" __global__ void __launch_bounds__(kBlock)
branch_gradient(const float4* __restrict__ d_x, uint2* __restrict__ out,
                float* __restrict__ partials, int n, int d) {
    const int columns = d / 4, strands = kBlock / columns;
    const int column = threadIdx.x % columns, strand = threadIdx.x / columns;
    float4 sum = make_float4(0, 0, 0, 0);
    if (strand < strands) {
#pragma unroll 4
        for (int row = blockIdx.x * strands + strand; row < n; row += gridDim.x * strands) {
            const size_t at = (size_t)row * columns + column;
            const float4 v = d_x[at];
            sum = plus(sum, v);
            out[at] = pack4(v);
        }
    }
    const float sums[4] = {sum.x, sum.y, sum.z, sum.w};
    store_column_sums<4>(sums, columns, strands, partials);
}
