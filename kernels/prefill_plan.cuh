// What a launch of prefill.cu is given, and what its kernels share. `src/engine/cuda/prefill.rs` holds
// the same `Prompt`, in the same order.
#pragma once
#include <cstddef>

#include "decode_predict.cuh"

// A piece of a prompt: `n` codes that a lane takes in, and what is computed of each on the way.
struct Prompt {
    Plan plan;
    unsigned char* lane;
    const unsigned char* codes;  // [n]
    uint64_t start;              // position of the first
    unsigned char* heard;        // [n]: the code before each
    float* predictions;          // [n, filters]
    float* spreads;              // [n]
    float* x;                    // [n, D]: the residual stream
    unsigned char* heads;        // [n, H + 2, 32]: queries, key and value as bytes
    float* head_scales;          // [n, H + 2]
    float* attended;             // [n, D]
    uint32_t n;
    uint32_t layer;
};
static_assert(sizeof(Prompt) == 1040 && offsetof(Prompt, n) == 1032, "as in prefill.rs");

constexpr int kPartyWarps = 8;  // of a block of the kernels that take positions by tiles
constexpr int kParty = 32 * kPartyWarps;

// Positions that a block takes through the matrices together: the columns of its products, by eights.
template <class S>
__host__ __device__ constexpr int tile_of() {
    return S::D > 128 ? 16 : 32;
}

// Bytes of a matrix of the image.
__host__ __device__ constexpr int matrix_bytes(int n_rows, int n_in) {
    return n_rows / kTileRows * tile_bytes(n_in / 32);
}

// Where matrices lie in the image.
template <class S>
struct Matrices {
    static constexpr int kLayer = matrix_bytes(S::kQkv, S::D) + matrix_bytes(S::D, S::D) +
                                  matrix_bytes(S::F, S::D) + matrix_bytes(S::D, S::F);

    const unsigned char *predictor, *qkv, *o, *up, *down;
    const float* norms;  // of the layer: both gains, then the taps of its convolution

    __device__ explicit Matrices(const Prompt& prompt) {
        const Plan& plan = prompt.plan;
        norms = reinterpret_cast<const float*>(plan.image) +
                prompt.layer * (2 + plan.conv_width) * S::D;
        predictor = plan.image + plan.kept_bytes;
        const int n_in = 32 * (plan.n_filters + 1);
        qkv = predictor + (plan.n_filters ? matrix_bytes(S::D, n_in) : 0) + (size_t)prompt.layer * kLayer;
        o = qkv + matrix_bytes(S::kQkv, S::D);
        up = o + matrix_bytes(S::D, S::D);
        down = up + matrix_bytes(S::F, S::D);
    }
};

// Bytes of a tile's positions, as a product takes them in.
template <class S, int kWidth>
struct Inputs {
    static constexpr int kPitch = pitch_of(kWidth);
    alignas(16) unsigned char bytes[tile_of<S>()][kPitch];
    float2 scales[tile_of<S>()];

    // A warp quantises what it calls `own`, the elements that its threads own.
    __device__ void put(int row, const float (&own)[S::kOwn]) {
        const Range range = range_of<S>(own);
#pragma unroll
        for (int i = 0; i < S::kOwn; i++) bytes[row][element<S>(i)] = range.byte(own[i]);
        if (thread_index() % 32 == 0) scales[row] = range.entry();
    }

    // The same of `n` floats beside each other.
    __device__ void put(int row, const float* floats, int n) {
        const int lane = thread_index() % 32;
        float low = 0.0f, high = 0.0f;
        for (int i = lane; i < n; i += 32) {
            low = larger(low, -floats[i]);
            high = larger(high, floats[i]);
        }
        const Range range(largest_of_warp(low), largest_of_warp(high));
        for (int i = lane; i < n; i += 32) bytes[row][i] = range.byte(floats[i]);
        if (lane == 0) scales[row] = range.entry();
    }
};

__device__ inline float plainly(float y) { return y; }

// out[position][row] = f(matrix · input + bias) for a tile's positions: a warp takes sixteen rows at a
// time, and all must have met before and meet again behind it. As `Site::multiply` of decode.cu, with
// positions in the columns.
template <class S, int kWidth, class Finish>
__device__ void multiply(const unsigned char* matrix, int n_rows, int n_steps,
                         const Inputs<S, kWidth>& in, float* out, Finish f) {
    constexpr int kGroups = tile_of<S>() / 8;
    const int lane = thread_index() % 32, g = lane / 4, t = lane % 4;
    for (int tile = warp_index(); tile < n_rows / kTileRows; tile += kPartyWarps) {
        const unsigned char* from = matrix + tile * tile_bytes(n_steps);
        int sums[kGroups][4] = {};
#pragma unroll 4
        for (int s = 0; s < n_steps; s++) {
            const uint4 a = load_constant(reinterpret_cast<const uint4*>(from) + 32 * s + lane);
#pragma unroll
            for (int group = 0; group < kGroups; group++) {
                const unsigned char* b = in.bytes[8 * group + g] + 32 * s + 8 * t;
                multiply_weights(sums[group], a, *reinterpret_cast<const uint2*>(b));
            }
        }
        const float* of_rows = reinterpret_cast<const float*>(from + n_steps * kStepBytes) + 2 * g;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float scale = load_constant(of_rows + h);
            const int bytes = __float_as_int(load_constant(of_rows + h + kTileRows));
            const float bias = load_constant(of_rows + h + 2 * kTileRows);
#pragma unroll
            for (int i = 0; i < 2 * kGroups; i++) {
                const int position = i / 2 * 8 + 2 * t + i % 2;
                const float2 input = in.scales[position];
                const int sum = sums[i / 2][2 * h + i % 2] - __float_as_int(input.y) * bytes;
                out[position * n_rows + kTileRows * tile + 2 * g + h] =
                    f(fmaf((float)sum, scale * input.x, bias));
            }
        }
    }
}
