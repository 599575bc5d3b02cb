// Attention of a piece of a prompt: all its positions at once, for the keys and values of all are there.
//
// A phase's positions see each other and nobody else, each the `rows` before it. They are counted in
// wraps: rows of one wrap overwrite those of the one before. A block takes positions of one wrap of one
// phase; what they see is this wrap up to their row and the last wrap behind it, which lie in shared
// memory as slots of a run would, so that everything is added up in the order of a step.
#pragma once
#include "prefill_plan.cuh"

constexpr int kAttendWarps = 4;
constexpr int kAttendRows = 64;  // positions of a block, at most

// One wrap's slots. Values lie as a product takes in what scores give out: for each block and dim four
// words of the slots 2t, 2t + 1, 2t + 8 and 2t + 9.
struct Wrap {
    alignas(16) unsigned char keys[kSlots][32];
    alignas(16) unsigned char values[kSlots / 16][32][16];
    float2 scales[kSlots];  // of the key, of the value

    // A thread puts in what a position has: a key, and the value's bytes by their dims.
    template <class Value>
    __device__ void put(int slot, const unsigned char* key, Value value, float2 scale) {
        const int at = slot % 16, place = at % 8 / 2 * 4 + at / 8 * 2 + at % 2;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            reinterpret_cast<uint4*>(keys[slot])[i] = reinterpret_cast<const uint4*>(key)[i];
        }
#pragma unroll
        for (int dim = 0; dim < 32; dim++) values[slot / 16][dim][place] = value(dim);
        scales[slot] = scale;
    }

    // Or nothing.
    __device__ void clear(int slot) {
        const uint4 nothing[2] = {};
        put(slot, reinterpret_cast<const unsigned char*>(nothing), [](int) { return 0; },
            make_float2(0.0f, 0.0f));
    }
};

// Which positions a block takes.
struct Part {
    uint32_t stride, rows;
    uint32_t phase;
    uint64_t wrap;
    int low, high;  // rows, the last included; none if it is smaller
    int first;      // slot of row 0

    __device__ Part(const Prompt& prompt, uint32_t x, uint32_t y) {
        const LayerPlan& layer = prompt.plan.layers[prompt.layer];
        stride = layer.stride;
        rows = layer.rows;
        phase = x;
        first = phase * rows % 16;
        const uint32_t per_wrap = (rows + kAttendRows - 1) / kAttendRows;
        const uint64_t begin = prompt.start / stride;
        const uint64_t index = begin / rows * per_wrap + begin % rows / kAttendRows + y;
        wrap = index / per_wrap;
        const int64_t base = (int64_t)wrap * rows, from = prompt.start, end = from + prompt.n;
        // Of the phase's positions in the piece, those of this part.
        const int64_t oldest = (from - (int64_t)phase + stride - 1) / (int64_t)stride;
        const int64_t newest = (end - 1 - (int64_t)phase + stride) / (int64_t)stride - 1;
        low = (int)(index % per_wrap) * kAttendRows;
        high = low + kAttendRows < (int)rows ? low + kAttendRows - 1 : (int)rows - 1;
        if (oldest - base > low) low = oldest - base > high ? high + 1 : (int)(oldest - base);
        if (newest - base < high) high = newest - base < low ? low - 1 : (int)(newest - base);
    }

    // The position of a row of this wrap, or of the last one.
    __device__ uint64_t position(int row, bool is_last) const {
        return ((wrap - is_last) * rows + row) * stride + phase;
    }
};

// Brings what is seen of a wrap; all threads share the slots out.
template <class S>
__device__ void bring_wrap(const Prompt& prompt, const Part& part, bool is_last, Wrap& wrap) {
    const LayerPlan& layer = prompt.plan.layers[prompt.layer];
    for (int slot = thread_index(); slot < kSlots; slot += 32 * kAttendWarps) {
        const int row = slot - part.first;
        const bool is_seen = is_last ? part.wrap > 0 && row > part.low && row < (int)part.rows
                                     : row >= 0 && row <= part.high;
        const uint64_t position = is_seen ? part.position(row, is_last) : 0;
        if (!is_seen) {
            wrap.clear(slot);
        } else if (position >= prompt.start) {
            const size_t at = (position - prompt.start) * (S::H + 2) + S::H;
            const unsigned char* key = prompt.heads + 32 * at;
            uint32_t value[8];
#pragma unroll
            for (int i = 0; i < 8; i++) value[i] = reinterpret_cast<const uint32_t*>(key + 32)[i];
            wrap.put(slot, key, [&](int dim) { return value[dim / 4] >> 8 * (dim % 4); },
                     make_float2(prompt.head_scales[at], prompt.head_scales[at + 1]));
        } else {
            const uint32_t there = part.phase * part.rows + row, in_block = there % 16;
            const unsigned char* block = prompt.lane + layer.cache + (size_t)(there / 16) * kSlotBlock;
            const float* scales = reinterpret_cast<const float*>(block + 1024) + in_block;
            wrap.put(slot, block + 32 * in_block, [&](int dim) { return block[512 + 16 * dim + in_block]; },
                     make_float2(scales[0], scales[16]));
        }
    }
}

// Sixteen queries at a time, of as many heads of as many positions as that makes: a warp's. With
// g = thread / 4 and t = thread % 4, a thread has the queries g and g + 8, and of each eight slots the
// two from 2t on.
template <class S>
struct Queries {
    static constexpr int kPositions = 16 / S::H;
    static constexpr int kEights = kSlots / 8;

    const Prompt& prompt;
    const Part& part;
    const Wrap (&wraps)[2];  // this one, the last
    const int g = thread_index() % 32 / 4, t = thread_index() % 4;
    int row[2];      // of both queries
    int n_blocks[2];
    size_t head[2];  // of their bytes and scales
    int end;         // of the slots that any of the sixteen sees
    int low, high;   // the first and the last of the sixteen's rows
    float scores[kEights][4];  // two slots of query g, two of g + 8
    float heaviest[2], unit[2];

    __device__ Queries(const Prompt& prompt, const Part& part, const Wrap (&wraps)[2], int first_row)
        : prompt(prompt), part(part), wraps(wraps) {
        low = first_row;
        high = min(first_row + kPositions - 1, part.high);
        end = part.first + (part.wrap > 0 ? (int)part.rows : high + 1);
#pragma unroll
        for (int q = 0; q < 2; q++) {
            row[q] = min(first_row + (g + 8 * q) / S::H, high);
            const int seen = part.wrap > 0 ? (int)part.rows : row[q] + 1;
            n_blocks[q] = (part.first + seen + 15) / 16;
            const uint64_t at = part.position(row[q], false) - prompt.start;
            head[q] = at * (S::H + 2) + (g + 8 * q) % S::H;
        }
    }

    // Whether query q sees a slot in this wrap; else it may in the last.
    __device__ bool is_of_this(int q, int slot) const { return slot - part.first <= row[q]; }

    __device__ bool sees(int q, int slot) const {
        const int at = slot - part.first;
        return at >= 0 && (at <= row[q] || (part.wrap > 0 && at < (int)part.rows));
    }

    // Whether any of the sixteen may see one of `n` slots in this wrap, or in the last.
    __device__ bool meets_this(int slot) const { return slot - part.first <= high; }
    __device__ bool meets_last(int slot, int n) const {
        return part.wrap > 0 && slot + n - 1 - part.first > low;
    }

    // Powers of two, minus infinity where nothing is seen.
    __device__ void score() {
        uint2 bytes[2];
        float scale[2];
#pragma unroll
        for (int q = 0; q < 2; q++) {
            bytes[q] = load_constant(reinterpret_cast<const uint2*>(prompt.heads + 32 * head[q]) + t);
            scale[q] = load_constant(prompt.head_scales + head[q]);
        }
#pragma unroll
        for (int j = 0; j < kEights; j++) {
#pragma unroll
            for (int i = 0; i < 4; i++) scores[j][i] = -INFINITY;
            if (8 * j >= end) continue;
            int sums[2][4] = {};
#pragma unroll
            for (int w = 0; w < 2; w++) {
                if (!(w ? meets_last(8 * j, 8) : meets_this(8 * j))) continue;
                const uint2 k = reinterpret_cast<const uint2*>(wraps[w].keys[8 * j + g])[t];
                multiply_signed(sums[w], bytes[0].x, bytes[1].x, bytes[0].y, bytes[1].y, k.x, k.y);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int q = i / 2, slot = 8 * j + 2 * t + i % 2;
                if (!sees(q, slot)) continue;
                const int w = is_of_this(q, slot) ? 0 : 1;
                const int sum = w ? sums[1][i] : sums[0][i];
                scores[j][i] = (float)sum * (wraps[w].scales[slot].x * scale[q]);
            }
        }
    }

    // From scores to weights before they are bytes, and what a step of those is worth.
    __device__ void share() {
        float top[2] = {-INFINITY, -INFINITY}, sums[2][4] = {};
        heaviest[0] = heaviest[1] = -INFINITY;
#pragma unroll
        for (int j = 0; j < kEights; j++) {
#pragma unroll
            for (int i = 0; i < 4; i++) top[i / 2] = larger(top[i / 2], scores[j][i]);
        }
#pragma unroll
        for (int q = 0; q < 2; q++) top[q] = largest_of_four(top[q]);
#pragma unroll
        for (int j = 0; j < kEights; j++) {
            if (8 * j >= 16 * n_blocks[0] && 8 * j >= 16 * n_blocks[1]) continue;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int q = i / 2, slot = 8 * j + 2 * t + i % 2;
                if (8 * j >= 16 * n_blocks[q]) continue;
                const float share = exp2_of(scores[j][i] - top[q]);
                float& sum = sums[q][j % 2 * 2 + i % 2];
                sum = sum + share;
                const float scale = wraps[is_of_this(q, slot) ? 0 : 1].scales[slot].y;
                scores[j][i] = sees(q, slot) ? share * scale : 0.0f;
                heaviest[q] = larger(heaviest[q], scores[j][i]);
            }
        }
#pragma unroll
        for (int q = 0; q < 2; q++) {
            heaviest[q] = largest_of_four(heaviest[q]);
            // Sixteen sums, as `sum_of_sixteen` adds them: i and i + 8, then 4, 2, 1.
            float x = sums[q][0] + sums[q][2], y = sums[q][1] + sums[q][3];
            x = x + shuffle_xor(x, 2);
            y = y + shuffle_xor(y, 2);
            x = x + shuffle_xor(x, 1);
            y = y + shuffle_xor(y, 1);
            unit[q] = heaviest[q] / 255.0f / (x + y);
        }
    }

    __device__ static float largest_of_four(float v) {
        v = larger(v, shuffle_xor(v, 1));
        return larger(v, shuffle_xor(v, 2));
    }

    // The weights of query q in block b as bytes, of the slots that it sees in this wrap or in the last.
    __device__ uint32_t weights(int q, int b, bool of_last) const {
        const float inverse = heaviest[q] > kTiny ? 255.0f / heaviest[q] : 0.0f;
        uint32_t word = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int j = 2 * b + i / 2, slot = 8 * j + 2 * t + i % 2;
            const float weight = scores[j][2 * q + i % 2];
            const uint32_t byte = __float_as_uint(fmaf(weight, inverse, kMagic)) & 0xff;
            if (sees(q, slot) && is_of_this(q, slot) != of_last) word |= byte << 8 * i;
        }
        return word;
    }

    // What the heads give out.
    __device__ void mix() {
        int mixed[S::K / 8][4] = {};
#pragma unroll
        for (int b = 0; b < kSlots / 16; b += 2) {
            if (16 * b >= end) continue;
#pragma unroll
            for (int w = 0; w < 2; w++) {
                if (!(w ? meets_last(16 * b, 32) : meets_this(16 * b))) continue;
                const uint32_t a0 = weights(0, b, w), a1 = weights(1, b, w);
                const uint32_t a2 = weights(0, b + 1, w), a3 = weights(1, b + 1, w);
#pragma unroll
                for (int c = 0; c < S::K / 8; c++) {
                    const auto of = [&](int block) {
                        return reinterpret_cast<const uint32_t*>(wraps[w].values[block][8 * c + g])[t];
                    };
                    multiply_unsigned(mixed[c], a0, a1, a2, a3, of(b), of(b + 1));
                }
            }
        }
#pragma unroll
        for (int q = 0; q < 2; q++) {
            // The last row stands for those that are none.
            if (low + (g + 8 * q) / S::H > high) continue;
            float* out = prompt.attended + (part.position(row[q], false) - prompt.start) * S::D;
            out += (g + 8 * q) % S::H * S::K;
#pragma unroll
            for (int c = 0; c < S::K / 8; c++) {
                out[8 * c + 2 * t] = (float)mixed[c][2 * q] * unit[q];
                out[8 * c + 2 * t + 1] = (float)mixed[c][2 * q + 1] * unit[q];
            }
        }
    }
};

template <class S>
__device__ void attend_prompt(const Prompt& prompt) {
    __shared__ Wrap wraps[2];
    const Part part(prompt, blockIdx.x, blockIdx.y);
    if (part.high < part.low) return;
    bring_wrap<S>(prompt, part, false, wraps[0]);
    bring_wrap<S>(prompt, part, true, wraps[1]);
    __syncthreads();
    constexpr int kStep = Queries<S>::kPositions;
    for (int row = part.low + warp_index() * kStep; row <= part.high; row += kAttendWarps * kStep) {
        Queries<S> queries(prompt, part, wraps, row);
        queries.score();
        queries.share();
        queries.mix();
    }
}
