// Rotary positions.
#pragma once
#include "common.cuh"

// How many positions share a rotation, for each KV head; and how many heads of queries there are, so
// many to a KV head.
constexpr int kGroups = 16;
struct Turns {
    int of[kGroups];
    int queries, per_group;
};

// rotate — turns queries and keys by the angles of their position, in place.
// in    qkv [n, width] bf16;  angles [period, 2·half] f32: cosines, then sines; sign 1 or −1
// out   qkv: its first `heads` heads turned, the values behind them untouched
// math  row = floor(t / turn) mod period, t = row index mod window, turn of the head's group; f32
//       (a, b) = (a·cos − b·sin·sign, b·cos + a·sin·sign), a and b half a head apart
// grid  ceil(n · heads · half/8 / 256) block 256 (a thread: 8 pairs)
// needs half % 8 == 0, kGroups KV heads at most, rows of 16 bytes, n · heads · half/8 < 2^31
// twin  train/ops/cpu.rs::rotate   test gpu::rotate   bench train_ops_bench
// after —
// bytes 8·n·heads·half (angles from L2)
// meas  H200, driver 580.159.04, 131,072 rows of piano-16k: 28 us, 3.5 TB/s (406d2a2,
//       2026-11-24)
extern "C" __global__ void __launch_bounds__(kBlock)
rotate(bf16* qkv, const float* __restrict__ angles, int n, int width, int heads, int half,
       int window, Turns turns, int period, float sign) {
    const int eighths = half / 8, units = heads * eighths;
    const int id = blockIdx.x * kBlock + threadIdx.x;
    const int row = id / units, unit = id % units;
    if (row >= n) return;
    const int head = unit / eighths, first = unit % eighths * 8;
    const int group = head < turns.queries ? head / turns.per_group : head - turns.queries;
    const int turn = row % window / turns.of[group] % period;

    bf16* at = qkv + (size_t)row * width + head * 2 * half + first;
    float a[8], b[8], cosine[8], sine[8], out_a[8], out_b[8];
    unpack8(*reinterpret_cast<const uint4*>(at), a);
    unpack8(*reinterpret_cast<const uint4*>(at + half), b);
    load8(angles + (size_t)turn * 2 * half + first, cosine);
    load8(angles + (size_t)turn * 2 * half + half + first, sine);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float s = sine[i] * sign;
        out_a[i] = a[i] * cosine[i] - b[i] * s;
        out_b[i] = b[i] * cosine[i] + a[i] * s;
    }
    *reinterpret_cast<uint4*>(at) = pack8(out_a);
    *reinterpret_cast<uint4*>(at + half) = pack8(out_b);
}
