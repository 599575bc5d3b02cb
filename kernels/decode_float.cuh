// The float stages of decode.cu: `src/compute/lanewise.rs` once more, to the last bit. A vector of
// sixteen is there a vector of sixteen threads here; a warp holds it twice.
#pragma once
#include "decode_plan.cuh"

constexpr float kTiny = 1e-30f;
constexpr float kMagic = 12582912.0f;
constexpr float kLog2E = 1.44269504088896340736f;

__device__ inline float larger(float a, float b) { return fmaxf(a, b); }
__device__ inline float smaller(float a, float b) { return fminf(a, b); }

// a / b, rounded to nearest as IEEE says for finite a, 2^-126 <= |b| <= 2^126, and quotients and remainders that
// are normal or 0: what the compiler makes of a division, without the look for all else, for which others wait.
// Beyond that it may be 0 or no number where the CPU has one.
__device__ inline float quotient(float a, float b) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(b));
    r = fmaf(r, fmaf(-b, r, 1.0f), r);
    const float q = a * r;
    return fmaf(r, fmaf(-b, q, a), q);
}

// The same of a square root, from 2^-100 on.
__device__ inline float root(float x) {
    float r;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    const float y = x * r;
    return fmaf(fmaf(-y, y, x), r * 0.5f, y);
}

// Of a power within 126 either way.
__device__ inline float exp2_within(float x) {
    const float shifted = x + kMagic;
    const float rest = x - (shifted - kMagic);
    float p = 1.3300605e-3f;
    p = fmaf(p, rest, 9.669691e-3f);
    p = fmaf(p, rest, 5.5505585e-2f);
    p = fmaf(p, rest, 2.4022283e-1f);
    p = fmaf(p, rest, 0.693147180559945309417232121458f);
    p = fmaf(p, rest, 1.0f);
    return __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
}

// Held within 2^126 either way: `gelu` divides by it.
__device__ inline float exp2_of(float x) {
    return exp2_within(smaller(larger(x, -126.0f), 126.0f));
}

__device__ inline float cos_of_turns(float turns) {
    const float whole = turns + kMagic - kMagic;
    const float x = 0.25f - fabsf(turns - whole);
    const float square = x * x;
    float p = -15.094643f;
    p = fmaf(p, square, 42.058693f);
    p = fmaf(p, square, -76.70586f);
    p = fmaf(p, square, 81.60525f);
    p = fmaf(p, square, -41.3417f);
    p = fmaf(p, square, 6.28318530717958647692528676655900577f);
    return p * x;
}

__device__ inline float gelu(float z) {
    constexpr float kLinear = -2.0f * 0.7978846f * kLog2E;
    constexpr float kCubic = kLinear * 0.044715f;
    const float slope = fmaf(z * z, kCubic, kLinear);
    return quotient(z, exp2_of(z * slope) + 1.0f);
}

// All sixteen added, in each of them: i and i + 8, then 4, 2, 1.
__device__ inline float sum_of_sixteen(float v) {
    v = v + shuffle_xor(v, 8);
    v = v + shuffle_xor(v, 4);
    v = v + shuffle_xor(v, 2);
    return v + shuffle_xor(v, 1);
}

__device__ inline float largest_of_sixteen(float v) {
    v = larger(v, shuffle_xor(v, 8));
    v = larger(v, shuffle_xor(v, 4));
    v = larger(v, shuffle_xor(v, 2));
    return larger(v, shuffle_xor(v, 1));
}

// The largest of the warp's numbers and 0: positive floats order as their bits do.
__device__ inline float largest_of_warp(float v) {
    return __uint_as_float(warp_max(__float_as_uint(v > 0.0f ? v : 0.0f)));
}

// The largest of the warp's numbers: as integers of that order they have their magnitudes turned round
// where they are below 0.
__device__ inline float largest_of_all(float v) {
    const int bits = __float_as_int(v);
    const int most = warp_max(bits < 0 ? bits ^ 0x7fffffff : bits);
    return __int_as_float(most < 0 ? most ^ 0x7fffffff : most);
}

// What quantises a vector over the range that it and 0 span.
struct Range {
    float inverse, zero, scale;

    // `low` without its sign.
    __device__ Range(float low, float high) {
        const float range = high + low;
        inverse = range > kTiny ? quotient(255.0f, range) : 0.0f;
        zero = fmaf(low, inverse, kMagic);
        scale = quotient(range, 255.0f);
    }

    __device__ unsigned char byte(float x) const {
        const float rounded = fmaf(x, inverse, zero);
        return __float_as_uint(smaller(larger(rounded, kMagic), kMagic + 255.0f));
    }

    // For `Rooms::scale`.
    __device__ float2 entry() const {
        return make_float2(scale, __int_as_float((int)(zero - kMagic)));
    }
};

// Where element `i` of those that a thread owns lies in a vector: half a warp's threads hold the
// first half of it, sixteen beside each other.
template <class S>
__device__ inline int element(int i) {
    const int lane = thread_index() % 32;
    return 16 * (lane / 16 * S::kOwn + i) + lane % 16;
}

// The range of a vector whose elements the threads of a warp own.
template <class S>
__device__ inline Range range_of(const float (&own)[S::kOwn]) {
    float low = 0.0f, high = 0.0f;
#pragma unroll
    for (int i = 0; i < S::kOwn; i++) {
        low = larger(low, -own[i]);
        high = larger(high, own[i]);
    }
    return Range(largest_of_warp(low), largest_of_warp(high));
}

// A query, a key or a value, of which thread j of sixteen has the elements j and j + K / 2; nothing where
// it is not `is_on`.
template <class S>
struct Head {
    static constexpr int kHalf = S::K / 2;

    const int j = thread_index() % 16;
    const bool is_on, is_pair;
    float low, high;

    __device__ Head(const float* v, bool is_on) : is_on(is_on), is_pair(is_on && j < kHalf) {
        low = is_pair ? v[j] : 0.0f;
        high = is_pair ? v[j + kHalf] : 0.0f;
    }

    __device__ void turn(float cos, float sin) {
        const float turned = fmaf(low, cos, high * (0.0f - sin));
        high = fmaf(low, sin, high * cos);
        low = turned;
    }

    // Leaves its 32 bytes, for products are 32 deep, and what one is worth in `unit`s.
    __device__ void quantise(unsigned char* bytes, float* worth, bool has_unit, float unit) const {
        const float largest = largest_of_sixteen(larger(fabsf(low), fabsf(high)));
        const float inverse = largest > kTiny ? quotient(127.0f, largest) : 0.0f;
        float scale = quotient(largest, 127.0f);
        if (has_unit) scale = scale * unit;
        if (is_pair) {
            bytes[j] = __float_as_uint(fmaf(low, inverse, kMagic));
            bytes[kHalf + j] = __float_as_uint(fmaf(high, inverse, kMagic));
        }
        for (int k = S::K + j; is_on && k < 32; k += 16) bytes[k] = 0;
        if (is_on && j == 0) *worth = scale;
    }
};

// The residual stream of a lane, in the registers of each warp that leads it: thread j of sixteen
// holds the elements j, j + 16, …
template <class S>
struct Stream {
    float x[2 * S::kOwn];

    // What a product gave back.
    __device__ void add(const float* y) {
        const int j = thread_index() % 16;
#pragma unroll
        for (int c = 0; c < 2 * S::kOwn; c++) x[c] = x[c] + y[16 * c + j];
    }

    // A row that nobody writes while the kernel runs.
    __device__ void load(const float* row) {
        const int j = thread_index() % 16;
#pragma unroll
        for (int c = 0; c < 2 * S::kOwn; c++) x[c] = load_constant(row + 16 * c + j);
    }

    // A row that this warp writes itself when it is done with it.
    __device__ void load_own(const float* row) {
        const int j = thread_index() % 16;
#pragma unroll
        for (int c = 0; c < 2 * S::kOwn; c++) x[c] = row[16 * c + j];
    }

    // The elements that this thread owns, normed.
    __device__ void norm(const float* gain, float eps, float (&out)[S::kOwn]) const {
        float squares = 0.0f;
#pragma unroll
        for (int c = 0; c < 2 * S::kOwn; c++) squares = fmaf(x[c], x[c], squares);
        const float mean = sum_of_sixteen(squares) / (float)S::D;
        const float scale = quotient(1.0f, root(mean + eps));
        const bool upper = thread_index() % 32 >= 16;
#pragma unroll
        for (int i = 0; i < S::kOwn; i++) {
            const float own = upper ? x[S::kOwn + i] : x[i];
            out[i] = gain[element<S>(i)] * (own * scale);
        }
    }
};
