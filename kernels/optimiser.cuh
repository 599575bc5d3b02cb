// The optimiser: the length of all gradients, and one step of AdamW.
#pragma once
#include "common.cuh"

// The sum over a block, in thread 0; always in the same order.
__device__ inline float block_sum(float v) {
    __shared__ float strands[kWarp];
    v = warp_sum(v);
    if (lane_id() == 0) strands[warp_id()] = v;
    __syncthreads();
    const int warps = blockDim.x / kWarp;
    return warp_sum(lane_id() < warps ? strands[lane_id()] : 0.0f);
}

__device__ inline float squares_of(const float* v, size_t n, int wide) {
    const size_t id = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    const size_t step = (size_t)gridDim.x * blockDim.x;
    const size_t vecs = wide ? n / 4 : 0;
    float sum = 0.0f;
#pragma unroll 4
    for (size_t i = id; i < vecs; i += step) {
        const float4 a = reinterpret_cast<const float4*>(v)[i];
        sum += dot(a, a);
    }
    for (size_t i = 4 * vecs + id; i < n; i += step) sum = fmaf(v[i], v[i], sum);
    return sum;
}

// squares_partials — sums of squares, one a block.
// in    v [n] f32; wide: 1 when v lies on 16 bytes
// out   partials [blocks] f32
// math  Σ v² over the block's share; f32
// grid  at most 1024 blocks, block 256
// needs nothing; add_total follows
// twin  train/ops/cpu.rs::add_squares   test gpu::optimiser   bench train_ops_bench
// after —
// bytes 4·n
// meas  H200: with add_total 26 us for 16 M numbers, 2.5 TB/s (406d2a2, 2026-11-24)
extern "C" __global__ void __launch_bounds__(kBlock)
squares_partials(const float* __restrict__ v, float* __restrict__ partials, size_t n, int wide) {
    const float sum = block_sum(squares_of(v, n, wide));
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// add_total — the second half of add_squares for long tensors.
// in    partials [n] f32
// out   sum [1] f32, its own value included
// math  sum += Σ partials; f32
// grid  1 block 1024
// needs n <= 1024; ordered after squares_partials
// twin  train/ops/cpu.rs::add_squares   test gpu::optimiser
// after —
// bytes 4·n
// meas  with squares_partials
extern "C" __global__ void __launch_bounds__(1024)
add_total(const float* __restrict__ partials, float* sum, int n) {
    const float total = block_sum(threadIdx.x < n ? partials[threadIdx.x] : 0.0f);
    if (threadIdx.x == 0) sum[0] += total;
}

// add_squares — all of it in one block, for short tensors.
// in    v [n] f32; wide: 1 when v lies on 16 bytes
// out   sum [1] f32, its own value included
// math  sum += Σ v²; f32
// grid  1 block 1024
// needs nothing
// twin  train/ops/cpu.rs::add_squares   test gpu::optimiser   bench train_ops_bench
// after —
// bytes 4·n
// meas  H200: 7 us for 200,000 numbers (406d2a2, 2026-11-24)
extern "C" __global__ void __launch_bounds__(1024)
add_squares(const float* __restrict__ v, float* sum, size_t n, int wide) {
    const float total = block_sum(squares_of(v, n, wide));
    if (threadIdx.x == 0) sum[0] += total;
}

// One iteration's numbers, as the kernel uses them.
struct AdamWStep {
    float lr, beta1, beta2, eps;
    float decay;        // learning rate · weight decay
    float clip, ema;
    float correction1;  // 1 / (1 − beta1^iteration)
    float correction2;  // 1 / (1 − beta2^iteration)
};

struct AdamWTensors {
    float* value;
    const float* gradient;
    float* first;
    float* second;
    float* average;
    const float* decayed;
};

__device__ inline void adamw_element(const AdamWStep& s, float factor, float gradient,
                                     float decayed, float& value, float& first, float& second,
                                     float& average) {
    const float g = gradient * factor;
    first = fmaf(s.beta1, first, (1.0f - s.beta1) * g);
    second = fmaf(s.beta2, second, (1.0f - s.beta2) * g * g);
    const float step = first * s.correction1 / (sqrtf(second * s.correction2) + s.eps);
    value -= s.lr * step + s.decay * decayed * value;
    average = fmaf(s.ema, average, (1.0f - s.ema) * value);
}

// adamw — one step of the optimiser, in place.
// in    gradient, decayed [n] f32;  squares [1] f32; wide: 1 when all lie on 16 bytes
// out   value, first, second, average [n] f32, their own values included
// math  g = gradient · min(1, clip / sqrt(squares)); first, second: moving means of g, g²;
//       value −= lr · ĝ / (sqrt(ŝ) + eps) + lr · decay · decayed · value, the means corrected for
//       their start; average = ema · average + (1 − ema) · value; squares not finite: nothing
// grid  ceil(n / 1024) block 256 (a thread: 4 elements, and one of the rest behind them)
// needs n > 0; ordered after every add_squares of the iteration
// twin  train/ops/cpu.rs::adamw   test gpu::optimiser   bench train_ops_bench
// after AdamW (arXiv 1711.05101)
// bytes 40·n
// meas  H200: 5 us for 200,000 numbers, 154 us for 16 M, 4.2 TB/s (406d2a2, 2026-11-24)
extern "C" __global__ void __launch_bounds__(kBlock)
adamw(AdamWTensors p, const float* __restrict__ squares, AdamWStep s, size_t n, int wide) {
    const float total = squares[0];
    if (!isfinite(total)) return;
    const float length = sqrtf(total);
    const float factor = length > s.clip ? s.clip / length : 1.0f;
    const size_t id = (size_t)blockIdx.x * kBlock + threadIdx.x;
    const size_t step = (size_t)gridDim.x * kBlock, vecs = wide ? n / 4 : 0;
    if (id < vecs) {
        float4 value = reinterpret_cast<float4*>(p.value)[id];
        float4 first = reinterpret_cast<float4*>(p.first)[id];
        float4 second = reinterpret_cast<float4*>(p.second)[id];
        float4 average = reinterpret_cast<float4*>(p.average)[id];
        const float4 g = reinterpret_cast<const float4*>(p.gradient)[id];
        const float4 d = reinterpret_cast<const float4*>(p.decayed)[id];
        adamw_element(s, factor, g.x, d.x, value.x, first.x, second.x, average.x);
        adamw_element(s, factor, g.y, d.y, value.y, first.y, second.y, average.y);
        adamw_element(s, factor, g.z, d.z, value.z, first.z, second.z, average.z);
        adamw_element(s, factor, g.w, d.w, value.w, first.w, second.w, average.w);
        reinterpret_cast<float4*>(p.value)[id] = value;
        reinterpret_cast<float4*>(p.first)[id] = first;
        reinterpret_cast<float4*>(p.second)[id] = second;
        reinterpret_cast<float4*>(p.average)[id] = average;
    }
    for (size_t i = 4 * vecs + id; i < n; i += step) {
        adamw_element(s, factor, p.gradient[i], p.decayed[i], p.value[i], p.first[i],
                      p.second[i], p.average[i]);
    }
}
