// Drawing in decode.cu: `src/engine/draw.rs` once more, a warp for a lane.
#pragma once
#include "decode_predict.cuh"

// The codes that are looked at.
struct Codes {
    int first, end;  // one behind the last

    __device__ Codes() : first(0), end(kCodes) {}

    // Within reach of what a predictor expects, and near where a sample goes on that has stood out.
    __device__ Codes(const LaneHead& head, const float* samples, const Going& going, bool may_leap) {
        const float error = may_leap ? head.error : smaller(head.error, head.usual);
        const float reach = kReach * (error + kFaint);
        const float least = head.expected - reach, most = head.expected + reach;
        const float towards = larger(smaller(head.expected, going.most), going.least);
        const float nearest = larger(smaller(towards, most), least);
        const int code = code_of(samples, nearest);
        const int below = samples_below<false>(samples, larger(least, smaller(going.least, nearest)));
        const int above = samples_below<false>(samples, smaller(most, larger(going.most, nearest)));
        const int low = below < 255 ? below : 255, high = (above > 1 ? above : 1) - 1;
        first = low < code ? low : code;
        end = (high > code ? high : code) + 1;
    }
};

// How fast a stream forgets how uncertain it has been, and the bits that a draw may always hold.
constexpr float kForgets = 1.0f / 48.0f, kAlways = 2.8f;
// How fast it forgets how uncertain it has been in the long run, and by how many times itself the temperature
// grows for each bit that those draws lack.
constexpr float kForgetsLong = 1.0f / 16384.0f, kLift = 4.0f;
// How fast it forgets how loud it has been; the loudness at which the temperature is what it is said
// to be, in codes from the middle; codes of an octave.
constexpr float kLoudnessRate = 1.0f / 2048.0f, kMiddling = 64.0f, kOctave = 16.0f;

// Straight between powers of two: what a float's bits are, read as a number.
__device__ inline float straight_log2(float x) {
    return (float)__float_as_uint(x) / 8388608.0f - 127.0f;
}

struct Draw {
    static constexpr int kOwn = kCodes / 32;  // codes that a thread looks at

    const Turn& turn;
    const float* logits;  // [V]
    float* shares;        // [V]
    float* sums;          // [V]
    Codes codes;
    LaneHead& head;
    const int lane = thread_index() % 32;

    // The first of the likeliest codes.
    __device__ int likeliest() const {
        float own[kOwn], top = -INFINITY;
#pragma unroll
        for (int i = 0; i < kOwn; i++) {
            const int code = lane + 32 * i;
            own[i] = code >= codes.first && code < codes.end ? logits[code] : -INFINITY;
            top = larger(top, own[i]);
        }
        top = largest_of_all(top);
        unsigned best = kCodes;
#pragma unroll
        for (int i = kOwn - 1; i >= 0; i--) {
            const int code = lane + 32 * i;
            if (own[i] == top && code >= codes.first && code < codes.end) best = code;
        }
        best = warp_min(best);
        return best < kCodes ? best : codes.first;
    }

    // The bits that this draw may hold.
    __device__ float cap() const {
        const float risen = larger(head.recent + turn.max_rise, kAlways);
        return risen < turn.max_entropy ? risen : turn.max_entropy;
    }

    // Takes in how many bits a draw held, before it is narrowed.
    __device__ void take_in(float bits) const {
        const float before = head.recent, long_before = head.long_recent;
        warp_sync();
        if (lane > 0) return;
        head.recent = before + kForgets * (bits - before);
        head.long_recent = long_before + kForgetsLong * (bits - long_before);
    }

    __device__ float temperature() const {
        const float octaves_down = (kMiddling - head.loudness) / kOctave;
        const float bits_lacking = larger(turn.min_entropy - head.long_recent, 0.0f);
        return turn.temperature * (1.0f + turn.leveling * octaves_down + kLift * bits_lacking);
    }

    // Takes in a code that was drawn.
    __device__ void hear(int code) const {
        const float before = head.loudness, distance = fabsf((float)code - 127.5f);
        warp_sync();
        if (lane == 0) head.loudness = before + kLoudnessRate * (distance - before);
    }

    // What each code's probability is to that of the likeliest. Half a warp takes the even
    // sixteens of the codes looked at, half the odd ones.
    __device__ void share() {
        const int j = lane % 16, upper = lane / 16, n = codes.end - codes.first;
        const float temperature = this->temperature();
        float powers[kOwn], top = -INFINITY;
#pragma unroll
        for (int c = 0; c < kOwn; c++) {
            const int i = 16 * (2 * c + upper) + j;
            powers[c] = i < n ? logits[codes.first + i] / temperature : -INFINITY;
            top = larger(top, powers[c]);
        }
        top = largest_of_all(top);
        float own[kOwn], sum = 0.0f, product = 0.0f;
#pragma unroll
        for (int c = 0; c < kOwn; c++) {
            const bool is_in = 16 * (2 * c + upper) + j < n;
            powers[c] = is_in ? powers[c] - top : 0.0f;
            own[c] = is_in ? exp2_of(powers[c] * (1.0f * kLog2E)) : 0.0f;
        }
        if (turn.max_entropy < 8.0f || turn.max_rise < 8.0f || turn.min_entropy > 0.0f) {
#pragma unroll
            for (int c = 0; c < kOwn; c++) {
                const float share = shuffle_xor(own[c], 16), power = shuffle_xor(powers[c], 16);
                sum = sum + (upper ? share : own[c]);
                sum = sum + (upper ? own[c] : share);
                product = fmaf(upper ? share : own[c], upper ? power : powers[c], product);
                product = fmaf(upper ? own[c] : share, upper ? powers[c] : power, product);
            }
            sum = sum_of_sixteen(sum);
            product = sum_of_sixteen(product);
            const float mean = product / sum * kLog2E;
            const float cooling = exp2_of(2.0f * (cap() + mean)) / (sum * sum);
            if (isfinite(mean)) take_in(straight_log2(sum) - mean);
            if (cooling < 1.0f) {
                const float unit = 1.0f / cooling * kLog2E;
#pragma unroll
                for (int c = 0; c < kOwn; c++) {
                    if (16 * (2 * c + upper) + j < n) own[c] = exp2_of(powers[c] * unit);
                }
            }
        }
        const float least = larger(turn.min_p, 1.0f / 16777216.0f);
#pragma unroll
        for (int c = 0; c < kCodes; c += 32) shares[c + lane] = 0.0f;
        warp_sync();
#pragma unroll
        for (int c = 0; c < kOwn; c++) {
            const int i = 16 * (2 * c + upper) + j;
            if (i < n && !(own[c] < least)) shares[codes.first + i] = own[c];
        }
        warp_sync();
    }

    // Sums of all shares up to each code, in order; only between the codes given. Sixteen are read
    // at once.
    __device__ float add_up(int first, int last) {
        float sum = 0.0f;
        for (int c = first & ~15; c <= last; c += 16) {
            float4 v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) v[i] = reinterpret_cast<const float4*>(shares + c)[i];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                v[i].x = sum + v[i].x;
                v[i].y = v[i].x + v[i].y;
                v[i].z = v[i].y + v[i].z;
                v[i].w = sum = v[i].z + v[i].w;
            }
            if (lane < 4) {
                const float4 own = lane < 2 ? (lane == 0 ? v[0] : v[1]) : (lane == 2 ? v[2] : v[3]);
                reinterpret_cast<float4*>(sums + c)[lane] = own;
            }
        }
        warp_sync();
        return sum;
    }

    // Keeps the likeliest codes, the lower first among equals, until they reach the sum. Shares and
    // codes are sorted as one number: the bits of positive floats order as the floats do.
    __device__ void keep_top_p(float all, uint64_t* order) {
        for (int c = lane; c < kCodes; c += 32) {
            order[c] = (uint64_t)__float_as_uint(shares[c]) << 8 | (kCodes - 1 - c);
        }
        warp_sync();
        for (int size = 2; size <= kCodes; size *= 2) {
            for (int gap = size / 2; gap > 0; gap /= 2) {
                for (int i = lane; i < kCodes / 2; i += 32) {
                    const int low = 2 * gap * (i / gap) + i % gap, high = low + gap;
                    const uint64_t a = order[low], b = order[high];
                    if ((a < b) == ((low & size) == 0)) {
                        order[low] = b;
                        order[high] = a;
                    }
                }
                warp_sync();
            }
        }
        const float enough = turn.top_p * all;
        float sum = 0.0f;
        int n_kept = 0;
        for (; n_kept < kCodes; n_kept++) {
            const float share = __uint_as_float(order[n_kept] >> 8);
            if (!(share > 0.0f) || sum >= enough) break;
            sum = sum + share;
        }
        for (int i = lane; i < kCodes; i += 32) {
            if (i >= n_kept) shares[kCodes - 1 - (int)(order[i] & 0xff)] = 0.0f;
        }
        warp_sync();
    }

    // `order` is room for [V].
    __device__ int draw(float uniform, uint64_t* order) {
        const int code = choose(uniform, order);
        hear(code);
        return code;
    }

    __device__ int choose(float uniform, uint64_t* order) {
        if (turn.temperature == 0.0f) return likeliest();
        share();
        unsigned least = kCodes, most = 0;
#pragma unroll
        for (int i = 0; i < kOwn; i++) {
            const unsigned c = lane + 32 * i;
            if (shares[c] > 0.0f) {
                least = min(least, c);
                most = c + 1;
            }
        }
        const int first = warp_min(least), last = (int)warp_max(most) - 1;
        if (last < 0) return likeliest();
        float all = add_up(first, last);
        if (turn.top_p < 1.0f) {
            keep_top_p(all, order);
            all = add_up(first, last);
        }
        const float target = uniform * all;
        unsigned code = kCodes, kept = 0;
#pragma unroll
        for (int i = 0; i < kOwn; i++) {
            const unsigned c = lane + 32 * i;
            if (c < first || c > last || !(shares[c] > 0.0f)) continue;
            kept = c;
            if (sums[c] > target) code = min(code, c);
        }
        code = warp_min(code);
        return code < kCodes ? code : warp_max(kept);
    }
};
