// The predictor of decode.cu: `src/predictor.rs` once more. A warp takes a filter; all of a cascade
// step at once, for what each leaves over is known from what it predicted.
#pragma once
#include "decode_product.cuh"

constexpr float kQuiet = 1e-7f, kErrorRate = 1.0f / 8.0f, kUsualRate = 1.0f / 64.0f, kReach = 8.0f, kFaint = 2e-4f;
constexpr float kInaudible = 1e-12f;
// Samples whose distances from the cubics through their neighbours are the usual ones; half the distance
// of two codes, of a sample of 1.
constexpr int kCurves = 32;
constexpr float kHalfStep = 0.021745794f;
// From here on all clicks are let pass.
constexpr float kAnyClick = 100.0f;

__device__ inline float harmonic(int i) {
    // 1, 2, 3, 4, 6, 8, 12, …: octaves and the fifths between them.
    return i == 0 ? 1.0f : (float)((i % 2 ? 2 : 3) << (i - 1) / 2);
}

__device__ inline float moved(float mean, float error, float rate) {
    return larger(mean + rate * (error - mean), kInaudible);
}

__device__ inline float held(float x, float most) { return smaller(larger(x, -most), most); }

// How many samples of codes lie below x, or at it; the same for all threads of a warp.
template <bool kOrAt>
__device__ inline int samples_below(const float* samples, float x) {
    const float* own = samples + thread_index() % 32;
    // In pairs, for a chain of eight sums takes longer; as floats, which a comparison leaves by itself.
    float n[8];
#pragma unroll
    for (int i = 0; i < 8; i++) n[i] = (kOrAt ? own[32 * i] <= x : own[32 * i] < x) ? 1.0f : 0.0f;
    static_assert(kCodes == 8 * 32);
    return warp_sum((unsigned)(((n[0] + n[1]) + (n[2] + n[3])) + ((n[4] + n[5]) + (n[6] + n[7]))));
}

__device__ inline float place_of(const float* samples, float x) {
    const int below = samples_below<true>(samples, x);
    const int upper = min(max(below, 1), kCodes - 1);
    const float low = samples[upper - 1], high = samples[upper];
    const float place = ((float)(upper - 1) + (x - low) / (high - low)) / 256.0f;
    return below == 0 ? 0.0f : below == kCodes ? 255.0f / 256.0f : place;
}

// The code whose sample is the nearest.
__device__ inline int code_of(const float* samples, float x) {
    return (int)(place_of(samples, x) * 256.0f + 0.5f);
}

__device__ inline float place_of_spread(float spread) {
    const float kept = smaller(larger(spread, 1.0f / 16.0f), 256.0f);
    const float octaves = (float)__float_as_uint(kept) / 8388608.0f - 127.0f;
    return (octaves + 4.0f) / 16.0f;
}

// What the predictor holds of the past when a code comes: where all filters expect it, as a place and as
// a sample, the mean errors, and how far such a place is trusted.
struct Known {
    float place, expected, error, usual, spread, trust;

    __device__ Known(float place, float expected, float error, float usual, float spread)
        : place(place), expected(expected), error(error), usual(usual), spread(spread),
          trust(1.0f / (1.0f + 4.0f * spread * spread)) {}

    __device__ Known(const LaneHead& head, int n_filters)
        : Known(head.places[n_filters - 1], head.expected, head.error, head.usual, head.spread) {}
};

// A code's sample, and those of the codes below and above it.
struct Around {
    int code;
    float below, own, above;

    __device__ Around(int code, const float* samples) : code(code), own(samples[code]) {
        below = samples[code > 0 ? code - 1 : 0];
        above = samples[code < 255 ? code + 1 : 255];
    }
};

// What a code says: the first filter's input, and the mean errors after it.
struct Heard {
    float rest, error, usual, spread;

    __device__ Heard(const Around& around, const Known& known) {
        const float missed = known.place * 256.0f - (float)around.code;
        const float shift = known.trust * held(missed, 0.5f);
        const float neighbour = shift < 0.0f ? around.below : around.above;
        const float finer = around.own + fabsf(shift) * (neighbour - around.own);
        spread = moved(known.spread, fabsf(missed), kErrorRate);
        const float off = finer - known.expected, most = kReach * (known.error + kFaint);
        error = moved(known.error, fabsf(off), kErrorRate);
        usual = moved(known.usual, fabsf(off), kUsualRate);
        rest = known.expected + held(off, most);
    }
};

// Where a stream may go on without what it has just drawn being a click.
struct Going {
    float least, most;

    __device__ Going() : least(-INFINITY), most(INFINITY) {}

    // After a ring's newest samples, from `head` on.
    __device__ Going(const float* ring, int head, int mask, float max_click) {
        const int j = thread_index() % 16;
        float sum = 0.0f;
#pragma unroll
        for (int c = 0; c < kCurves; c += 16) {
            const int at = head + c + j;
            const float a = ring[at & mask], b = ring[(at + 1) & mask], x = ring[(at + 2) & mask];
            const float d = ring[(at + 3) & mask], e = ring[(at + 4) & mask];
            sum = sum + fabsf((a + e) - 4.0f * (b + d) + 6.0f * x);
        }
        const float mean = sum_of_sixteen(sum) / (6.0f * (float)kCurves);
        const float a = ring[head & mask], b = ring[(head + 1) & mask], c = ring[(head + 2) & mask];
        const float at = 2.5f * a - 2.0f * b + 0.5f * c;
        const float half_step = kHalfStep * (fabsf(a) + 1.0f / 255.0f);
        const float width = 3.0f * max_click * (mean + half_step);
        least = at - width;
        most = at + width;
    }
};

// What a filter leaves over of what it hears.
__device__ inline float left_over(float heard, float prediction) {
    const float rest = heard - prediction;
    return fabsf(rest) < kInaudible ? 0.0f : rest;
}

// A thread's way along a filter: of every 32 taps one. Sums are those of the warp's lower half, which has the
// first sixteen of them and adds what the upper half has behind its own.
struct Tap {
    float* weights;
    const float* ring;
    int n, head, mask;
    float gain, kept, newest, sum, energy;

    // So many of them, from `start` on, where `kIsWhole` all of them there: all are read before any is written.
    template <int kTaps, bool kIsWhole>
    __device__ void pass(int start) {
        float w[kTaps], now[kTaps], before[kTaps];
#pragma unroll
        for (int c = 0; c < kTaps; c++) {
            const int at = start + 32 * c;
            const bool is_tap = kIsWhole || at < n;
            w[c] = is_tap ? weights[at] : 0.0f;
            now[c] = is_tap ? ring[(head + at) & mask] : 0.0f;
            before[c] = is_tap ? ring[(head + at + 1) & mask] : 0.0f;
        }
        if (start == 0) now[0] = newest;
#pragma unroll
        for (int c = 0; c < kTaps; c++) {
            const int at = start + 32 * c;
            const float corrected = before[c] * gain + w[c] * kept;
            if (kIsWhole || at < n) weights[at] = corrected;
            const float product = corrected * now[c], square = now[c] * now[c];
            sum = product + sum;
            sum = shuffle_xor(product, 16) + sum;
            energy = square + energy;
            energy = shuffle_xor(square, 16) + energy;
        }
    }
};

template <class S>
struct Prediction {
    // Times 32 taps that are read at once.
    static constexpr int kAtOnce = 4;

    Site<S>& site;

    // Corrects one filter's weights by its error, takes in the newest, predicts what follows.
    __device__ void step(int r, int f) {
        Own<S>& own = site.own(r);
        const FilterPlan& plan = site.plan.filter[f];
        const Known known(own.head, site.plan.n_filters);
        const Heard heard(Around(own.head.last, site.rooms().samples), known);
        float newest = heard.rest, error = 0.0f;
        for (int i = 0; i <= f; i++) {
            if (i > 0) newest = error;
            error = left_over(newest, own.head.prediction[i]);
        }
        const int n = plan.taps, mask = plan.ring - 1;
        const float gain = plan.rate * error / (own.head.energy[f] + kQuiet * (float)n);
        const float kept = error == 0.0f ? 1.0f : plan.kept;
        float* weights = site.filters(r) + plan.weights;
        float* ring = site.filters(r) + plan.heard;
        const int head = (own.head.newest[f] + mask) & mask;
        Tap tap{weights, ring, n, head, mask, gain, kept, newest, 0.0f, 0.0f};
        int start = 0;
#pragma unroll 1
        for (; start + 32 * kAtOnce <= n; start += 32 * kAtOnce) {
            tap.template pass<kAtOnce, true>(start + site.lane);
        }
#pragma unroll 1
        for (; start < n; start += 32) tap.template pass<1, false>(start + site.lane);
        const float sum = sum_of_sixteen(tap.sum), energy = sum_of_sixteen(tap.energy);
        // The newest takes the place of the oldest, which all have read.
        warp_sync();
        if (site.lane == 0) {
            ring[head] = newest;
            own.fresh[f] = held(sum, 2.0f);
            own.fresh[kMostFilters + f] = energy;
            if (f == 0) {
                own.fresh[2 * kMostFilters] = heard.error;
                own.fresh[2 * kMostFilters + 1] = heard.usual;
                own.fresh[2 * kMostFilters + 2] = heard.spread;
            }
        }
    }

    // Where the sum of the filters up to `place` lies, or how far off all have been, and its waves.
    __device__ void expect(Own<S>& own, int place) {
        const int n_filters = site.plan.n_filters;
        LaneHead& head = own.head;
        float y;
        if (place < n_filters) {
            float expected = 0.0f;
            for (int i = 0; i <= place; i++) expected = expected + own.fresh[i];
            y = place_of(site.rooms().samples, expected);
            if (site.lane == 0) {
                head.prediction[place] = own.fresh[place];
                head.energy[place] = own.fresh[kMostFilters + place];
                const int mask = site.plan.filter[place].ring - 1;
                head.newest[place] = (head.newest[place] + mask) & mask;
                if (place == n_filters - 1) head.expected = held(expected, 1.0f);
            }
        } else {
            const float spread = own.fresh[2 * kMostFilters + 2];
            y = place_of_spread(spread);
            if (site.lane == 0) {
                head.error = own.fresh[2 * kMostFilters];
                head.usual = own.fresh[2 * kMostFilters + 1];
                head.spread = spread;
            }
        }
        if (site.lane == 0) head.places[place] = y;
        const float turns = y * harmonic(site.lane % 16);
        own.scratch[32 * place + site.lane] =
            cos_of_turns(site.lane < 16 ? turns : turns - 0.25f);
    }

    // Every own lane's predictor takes in the lane's last code; the waves are handed out.
    __device__ void hear() {
        const int n_filters = site.plan.n_filters, n_places = n_filters + 1;
        for (int task = site.warp; task < site.n_own * n_filters; task += S::kWarps) {
            step(task / n_filters, task % n_filters);
        }
        site.sync();
        for (int task = site.warp; task < site.n_own * n_places; task += S::kWarps) {
            expect(site.own(task / n_places), task % n_places);
        }
        site.sync();
        site.template quantise_long<4>(32 * n_places,
                                       [&](int r) { return (const float*)site.own(r).scratch; });
    }
};
