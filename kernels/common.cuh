// What the kernels share: bf16 in registers, sums over a warp, and sums of the partial results
// that persistent blocks leave. No float is ever added atomically: the same bits every time.
#pragma once
#include <cuda_bf16.h>
#include <stddef.h>
#include <stdint.h>

using bf16 = __nv_bfloat16;

constexpr int kWarp = 32;
// The block of every kernel that is bound by memory.
constexpr int kBlock = 256;
constexpr int kWarps = kBlock / kWarp;

// A block's dynamic shared memory, whatever a kernel makes of it.
extern __shared__ uint4 dynamic[];

__device__ inline int lane_id() { return threadIdx.x % kWarp; }
__device__ inline int warp_id() { return threadIdx.x / kWarp; }

// A bf16 is the upper half of an f32.
__device__ inline float low_half(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_half(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ inline uint32_t pack(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t*>(&pair);
}

__device__ inline float4 unpack4(uint2 v) {
    return make_float4(low_half(v.x), high_half(v.x), low_half(v.y), high_half(v.y));
}

__device__ inline uint2 pack4(float4 v) { return make_uint2(pack(v.x, v.y), pack(v.z, v.w)); }

__device__ inline void unpack8(uint4 v, float (&out)[8]) {
    const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        out[2 * i] = low_half(pairs[i]);
        out[2 * i + 1] = high_half(pairs[i]);
    }
}

__device__ inline uint4 pack8(const float (&v)[8]) {
    return make_uint4(pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7]));
}

__device__ inline void load8(const float* from, float (&out)[8]) {
    const float4 a = reinterpret_cast<const float4*>(from)[0];
    const float4 b = reinterpret_cast<const float4*>(from)[1];
    out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
    out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
}

__device__ inline float4 scaled(float4 v, float by) {
    return make_float4(v.x * by, v.y * by, v.z * by, v.w * by);
}

__device__ inline float4 plus(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

__device__ inline float4 times(float4 a, float4 b) {
    return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

__device__ inline void add_product(float4& sum, float4 a, float4 b) {
    sum.x = fmaf(a.x, b.x, sum.x);
    sum.y = fmaf(a.y, b.y, sum.y);
    sum.z = fmaf(a.z, b.z, sum.z);
    sum.w = fmaf(a.w, b.w, sum.w);
}

__device__ inline float dot(float4 a, float4 b) {
    return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, a.w * b.w)));
}

__device__ inline float warp_sum(float v) {
#pragma unroll
    for (int step = kWarp / 2; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
    return v;
}

__device__ inline float warp_max(float v) {
#pragma unroll
    for (int step = kWarp / 2; step > 0; step /= 2) {
        v = fmaxf(v, __shfl_xor_sync(~0u, v, step));
    }
    return v;
}

__device__ inline float exp2_approx(float v) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(v));
    return out;
}

// sum_partials — the second half of every sum over N: what the blocks left, added up in order.
// in    partials [blocks, n] f32
// out   out [n] f32
// math  out[i] = sum over blocks; 32 strands, then a tree of fixed shape
// grid  ceil(n / 32) block (32, 32)  smem 4.1 KiB
// needs ordered after the kernel that wrote the partials
// twin  none: a part of its callers   test gpu::* (every gradient of a vector)
// after —
// bytes 4·blocks·n read (from L2), 4·n written
// meas  within the figures of the kernels that it ends
extern "C" __global__ void __launch_bounds__(1024)
sum_partials(const float* __restrict__ partials, float* __restrict__ out, int blocks, int n) {
    __shared__ float strands[32][33];
    const int column = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (column < n) {
#pragma unroll 4
        for (int b = threadIdx.y; b < blocks; b += 32) sum += partials[(size_t)b * n + column];
    }
    strands[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    // Warp y adds up the strands of column y: lane x holds strand x.
    const float total = warp_sum(strands[threadIdx.x][threadIdx.y]);
    const int summed = blockIdx.x * 32 + threadIdx.y;
    if (threadIdx.x == 0 && summed < n) out[summed] = total;
}
