// The norm before each matrix, and the short convolution after it.
#pragma once
#include "common.cuh"

// So many float4 of a row a lane may hold: D <= 512.
constexpr int kMaxVecs = 4;
// Taps whose gradient one launch of the backward kernel gathers in registers.
constexpr int kTapGroup = 4;

// rms_norm — the RMS norm alone.
// in    x [n, d] f32;  gain [d] f32
// out   out [n, d] bf16
// math  out = gain · x · rsqrt(mean(x²) + eps); f32
// grid  ceil(n / 8) block 256 (a warp a row)
// needs d % 4 == 0, d <= 512, rows of 16 bytes
// twin  train/ops/cpu.rs::norm_conv   test gpu::norm   bench train_ops_bench
// after —
// bytes 6·n·d
// meas  H200, driver 580.159.04, 131,072 rows of piano-16k: 31 us, 3.3 TB/s (406d2a2,
//       2026-11-24)
extern "C" __global__ void __launch_bounds__(kBlock)
rms_norm(const float* __restrict__ x, const float* __restrict__ gain, bf16* __restrict__ out,
         int n, int d, float eps) {
    const int row = blockIdx.x * kWarps + warp_id(), lane = lane_id(), vecs = d / 4;
    if (row >= n) return;
    const float4* from = reinterpret_cast<const float4*>(x + (size_t)row * d);
    float4 v[kMaxVecs];
    float squares = 0.0f;
#pragma unroll
    for (int k = 0; k < kMaxVecs; k++) {
        const int c = lane + k * kWarp;
        v[k] = c < vecs ? from[c] : make_float4(0, 0, 0, 0);
        squares += dot(v[k], v[k]);
    }
    const float scale = rsqrtf(warp_sum(squares) / d + eps);
    uint2* to = reinterpret_cast<uint2*>(out + (size_t)row * d);
#pragma unroll
    for (int k = 0; k < kMaxVecs; k++) {
        const int c = lane + k * kWarp;
        if (c < vecs) {
            to[c] = pack4(scaled(times(v[k], reinterpret_cast<const float4*>(gain)[c]), scale));
        }
    }
}

// Taps into shared memory by lag: taps[j][c] = conv[c, w − 1 − j]; without a convolution, 1.
__device__ inline void load_taps(float* taps, const float* conv, int d, int w) {
    for (int i = threadIdx.x; i < d * w; i += kBlock) {
        const int c = i / w, j = w - 1 - i % w;
        taps[j * d + c] = conv != nullptr ? conv[i] : 1.0f;
    }
}

// norm_conv — the RMS norm and the causal depthwise convolution of what it gives.
// in    x [n, d] f32;  gain [d] f32;  conv [d, w] f32, the tap of the present last
// out   out [n, d] bf16
// math  h = gain · x · rsqrt(mean(x²) + eps), 0 before each window;
//       out[t] = Σ_j conv[w−1−j] · h[t−j]; f32
// grid  windows · ceil(window / rows) block 256  smem 4·d·(rows + w − 1 + w) B
// needs d % 4 == 0, d <= 512, n a multiple of window
// twin  train/ops/cpu.rs::norm_conv   test gpu::norm   bench train_ops_bench
// after a block normalises its rows and the w − 1 before them once, into shared memory
// bytes 6·n·d (the halo comes from L2)
// meas  H200, driver 580.159.04, 131,072 rows of piano-16k: 54 us, 1.9 TB/s (406d2a2,
//       2026-11-24)
extern "C" __global__ void __launch_bounds__(kBlock)
norm_conv(const float* __restrict__ x, const float* __restrict__ gain,
          const float* __restrict__ conv, bf16* __restrict__ out, int window, int tiles, int rows,
          int d, int w, float eps) {
    float* taps = reinterpret_cast<float*>(dynamic);
    float4* h = reinterpret_cast<float4*>(taps + w * d);
    const int lane = lane_id(), vecs = d / 4;
    const int first = (blockIdx.x % tiles) * rows;
    const size_t base = (size_t)(blockIdx.x / tiles) * window;
    load_taps(taps, conv, d, w);

    const int count = min(rows, window - first);
    for (int r = warp_id(); r < count + w - 1; r += kWarps) {
        const int t = first + r - (w - 1);
        float4 v[kMaxVecs];
        float squares = 0.0f;
#pragma unroll
        for (int k = 0; k < kMaxVecs; k++) {
            const int c = lane + k * kWarp;
            const bool there = c < vecs && t >= 0;
            v[k] = there ? reinterpret_cast<const float4*>(x + (base + t) * d)[c]
                         : make_float4(0, 0, 0, 0);
            squares += dot(v[k], v[k]);
        }
        const float scale = rsqrtf(warp_sum(squares) / d + eps);
#pragma unroll
        for (int k = 0; k < kMaxVecs; k++) {
            const int c = lane + k * kWarp;
            if (c < vecs) {
                h[r * vecs + c] =
                    scaled(times(v[k], reinterpret_cast<const float4*>(gain)[c]), scale);
            }
        }
    }
    __syncthreads();

    for (int r = warp_id(); r < count; r += kWarps) {
        uint2* to = reinterpret_cast<uint2*>(out + (base + first + r) * d);
        for (int c = lane; c < vecs; c += kWarp) {
            float4 sum = make_float4(0, 0, 0, 0);
            for (int j = 0; j < w; j++) {
                const float4 tap = reinterpret_cast<const float4*>(taps + j * d)[c];
                add_product(sum, tap, h[(r + w - 1 - j) * vecs + c]);
            }
            to[c] = pack4(sum);
        }
    }
}

// What the backward kernel of the norm is given.
struct NormBack {
    const float* x;
    const float* gain;
    const float* conv;
    const bf16* d_out;
    const float* past;
    float* dx;
    float* gain_partials;
    float* conv_partials;
    int window, tiles, all_tiles, rows, d, w, tap0;
    float eps;
};

// norm_conv_backward_{1,2,4} — the gradients of norm_conv (of norm: conv null, w 1). The suffix
// is how many float4 of a row a lane holds: d <= 128, 256, 512.
// in    x, past [n, d] f32;  gain [d], conv [d, w] f32;  d_out [n, d] bf16
// out   dx [n, d] f32;  gain_partials [blocks, d], conv_partials [blocks, d, w] f32
// math  dh[t] = Σ_j conv[w−1−j] · d_out[t+j] within the window; u = x · rsqrt(mean(x²) + eps);
//       dx = rsqrt(..) · (gain·dh − u · mean(gain·dh·u)) + past; d_gain = Σ_t dh·u;
//       d_conv[w−1−j] = Σ_t gain·u[t] · d_out[t+j]; f32
// grid  persistent over the tiles of `rows` rows; block 256
//       smem 4·d·(w + 5) + 2·d·(rows + w − 1) B
// needs as norm_conv. One launch gathers four taps, tap0 … tap0 + 3; only that with tap0 = 0
//       writes dx and the gain's partials. sum_partials follows.
// twin  train/ops/cpu.rs::norm_conv_backward   test gpu::norm   bench train_ops_bench
// after sums over rows stay in registers from a block's first tile to its last
// bytes 14·n·d
// meas  H200, driver 580.159.04, 131,072 rows of piano-16k: 109 us, 2.2 TB/s; norm alone 97 us,
//       2.4 TB/s (406d2a2, 2026-11-24)
template <int VECS>
__device__ void norm_conv_backward(const NormBack& p) {
    const int d = p.d, w = p.w, vecs = d / 4, lane = lane_id();
    float* taps = reinterpret_cast<float*>(dynamic);
    float4* sums = reinterpret_cast<float4*>(taps + w * d);
    uint2* ahead = reinterpret_cast<uint2*>(sums + (1 + kTapGroup) * vecs);
    load_taps(taps, p.conv, d, w);

    const float4 zero = make_float4(0, 0, 0, 0);
    float4 gain[VECS], d_gain[VECS], d_conv[kTapGroup][VECS];
#pragma unroll
    for (int k = 0; k < VECS; k++) {
        const int c = lane + k * kWarp;
        gain[k] = c < vecs ? reinterpret_cast<const float4*>(p.gain)[c] : zero;
        d_gain[k] = zero;
#pragma unroll
        for (int j = 0; j < kTapGroup; j++) d_conv[j][k] = zero;
    }

    for (int tile = blockIdx.x; tile < p.all_tiles; tile += gridDim.x) {
        const int first = (tile % p.tiles) * p.rows;
        const size_t base = (size_t)(tile / p.tiles) * p.window + first;
        const int left = p.window - first, count = min(p.rows, left);
        __syncthreads();  // The tile before has been read, the taps are there.
        for (int r = warp_id(); r < count + w - 1; r += kWarps) {
            const uint2* from = reinterpret_cast<const uint2*>(p.d_out + (base + r) * d);
            for (int c = lane; c < vecs; c += kWarp) {
                ahead[r * vecs + c] = r < left ? from[c] : make_uint2(0, 0);
            }
        }
        __syncthreads();
        for (int r = warp_id(); r < count; r += kWarps) {
            float4 u[VECS], past[VECS], dh[VECS];
            float squares = 0.0f;
#pragma unroll
            for (int k = 0; k < VECS; k++) {
                const int c = lane + k * kWarp;
                const size_t at = (base + r) * vecs + c;
                u[k] = c < vecs ? reinterpret_cast<const float4*>(p.x)[at] : zero;
                past[k] = c < vecs ? reinterpret_cast<const float4*>(p.past)[at] : zero;
                dh[k] = zero;
            }
#pragma unroll
            for (int k = 0; k < VECS; k++) squares += dot(u[k], u[k]);
            const float scale = rsqrtf(warp_sum(squares) / d + p.eps);
            float along = 0.0f;
#pragma unroll
            for (int k = 0; k < VECS; k++) {
                const int c = lane + k * kWarp;
                u[k] = scaled(u[k], scale);
                if (c >= vecs) continue;
#pragma unroll
                for (int i = 0; i < kTapGroup; i++) {
                    const int j = p.tap0 + i;
                    if (j < w) {
                        const float4 v = unpack4(ahead[(r + j) * vecs + c]);
                        add_product(dh[k], reinterpret_cast<float4*>(taps + j * d)[c], v);
                        add_product(d_conv[i][k], u[k], v);
                    }
                }
                for (int j = 0; j < w; j++) {
                    if (j >= p.tap0 && j < p.tap0 + kTapGroup) continue;
                    const float4 v = unpack4(ahead[(r + j) * vecs + c]);
                    add_product(dh[k], reinterpret_cast<float4*>(taps + j * d)[c], v);
                }
                add_product(d_gain[k], dh[k], u[k]);
                dh[k] = times(dh[k], gain[k]);
                along += dot(dh[k], u[k]);
            }
            if (p.tap0 != 0) continue;
            along = warp_sum(along) / d;
#pragma unroll
            for (int k = 0; k < VECS; k++) {
                const int c = lane + k * kWarp;
                if (c >= vecs) continue;
                const float4 inner = plus(dh[k], scaled(u[k], -along));
                reinterpret_cast<float4*>(p.dx)[(base + r) * vecs + c] =
                    plus(scaled(inner, scale), past[k]);
            }
        }
    }

    // The warps add what they gathered one after the other, so that the order is always the same.
    for (int turn = 0; turn < kWarps; turn++) {
        if (warp_id() == turn) {
#pragma unroll
            for (int k = 0; k < VECS; k++) {
                const int c = lane + k * kWarp;
                if (c >= vecs) continue;
                sums[c] = turn == 0 ? d_gain[k] : plus(sums[c], d_gain[k]);
#pragma unroll
                for (int j = 0; j < kTapGroup; j++) {
                    float4& sum = sums[(1 + j) * vecs + c];
                    const float4 mine = times(d_conv[j][k], gain[k]);
                    sum = turn == 0 ? mine : plus(sum, mine);
                }
            }
        }
        __syncthreads();
    }
    const float* sum = reinterpret_cast<const float*>(sums);
    for (int c = threadIdx.x; c < d; c += kBlock) {
        if (p.tap0 == 0) p.gain_partials[(size_t)blockIdx.x * d + c] = sum[c];
        if (p.conv == nullptr) continue;
        for (int j = p.tap0; j < min(w, p.tap0 + kTapGroup); j++) {
            p.conv_partials[((size_t)blockIdx.x * d + c) * w + w - 1 - j] =
                sum[(1 + j - p.tap0) * d + c];
        }
    }
}

extern "C" __global__ void __launch_bounds__(kBlock, 3)
norm_conv_backward_1(NormBack p) { norm_conv_backward<1>(p); }

extern "C" __global__ void __launch_bounds__(kBlock, 2)
norm_conv_backward_2(NormBack p) { norm_conv_backward<2>(p); }

extern "C" __global__ void __launch_bounds__(kBlock, 1)
norm_conv_backward_4(NormBack p) { norm_conv_backward<4>(p); }
