// The predictor walks through a piece of a prompt: what each filter says of every code, which the other
// kernels take from there. It is the one part of a prompt that cannot be shared out, for a filter's
// weights depend on all codes before: what it costs is how long a code takes, 65,536 times.
//
// Two warps work for each filter, one that predicts and one that adds up the energy of what is seen. Of
// 32 taps a warp's lower half has sixteen and the upper half the next sixteen; sums are the lower half's,
// in the order of the taps. Once a code all warps meet; each then finds by itself what all filters expect
// and what the next code says.
#pragma once
#include "prefill_plan.cuh"

constexpr int kMostHeard = 8;    // filters
constexpr int kMostPairs = 32;   // times 32 taps of a filter
constexpr int kHearThreads = 2 * 32 * kMostHeard;

// What the warps tell each other, of this code and of the one before.
struct Told {
    alignas(16) float predictions[2][kMostHeard], energies[2][kMostHeard];
    float samples[kCodes];
};

// A warp's place, and what it knows of the stream.
struct Listener {
    const Prompt& prompt;
    const FilterPlan& plan;
    Told& told;
    float* ring;  // [2 · places]: everything is there twice, so that nothing seen lies beyond an end
    int filter, head;
    float predictions[kMostHeard];
    float energy;
    Known known;
    Around code;

    __device__ Listener(const Prompt& prompt, Told& told, float* ring, int filter)
        : prompt(prompt), plan(prompt.plan.filter[filter]), told(told), ring(ring), filter(filter),
          known(lane_head(), prompt.plan.n_filters), code(lane_head().last, told.samples) {
        const LaneHead& of_lane = lane_head();
        head = of_lane.newest[filter];
        energy = of_lane.energy[filter];
#pragma unroll
        for (int i = 0; i < kMostHeard; i++) predictions[i] = of_lane.prediction[i];
    }

    __device__ LaneHead& lane_head() const { return *reinterpret_cast<LaneHead*>(prompt.lane); }

    // What all filters up to one expect.
    __device__ float expected_by(int last) const {
        float expected = 0.0f;
#pragma unroll
        for (int i = 0; i < kMostHeard; i++) {
            if (i <= last) expected = expected + predictions[i];
        }
        return expected;
    }

    // What this filter hears of a code, which is what those before it have left over, and the error of
    // its own prediction.
    __device__ float2 left_over(float newest) const {
        float error = 0.0f;
#pragma unroll
        for (int i = 0; i < kMostHeard; i++) {
            if (i > filter) break;
            if (i > 0) newest = error;
            error = newest - predictions[i];
            if (fabsf(error) < kInaudible) error = 0.0f;
        }
        return make_float2(newest, error);
    }

    // Puts the newest before all that has been seen.
    __device__ void see(float newest) {
        const int places = plan.ring;
        head = (head + places - 1) & (places - 1);
        if (thread_index() % 32 == 0) ring[head] = ring[head + places] = newest;
        warp_sync();
    }

    // All warps have said what they found of the code at `at`: on to the next.
    __device__ void meet(int at, const Heard& heard, int next) {
        const Around following(next, told.samples);
        asm volatile("barrier.sync.aligned 1, %0;" ::"r"(64 * prompt.plan.n_filters) : "memory");
#pragma unroll
        for (int i = 0; i < kMostHeard; i++) predictions[i] = told.predictions[at % 2][i];
        energy = told.energies[at % 2][filter];
        const float expected = expected_by(prompt.plan.n_filters - 1);
        known = Known(place_of(told.samples, expected), held(expected, 1.0f), heard.error, heard.usual,
                    heard.spread);
        code = following;
    }
};

// What a thread has of a filter: of every 32 taps one, `kPairs` in all; where `kIsWhole`, every thread has
// all of them.
template <int kPairs, bool kIsWhole>
struct Taps {
    static constexpr int kAhead = 4;  // products on their way to the lower half

    float weights[kPairs], before[kPairs];

    __device__ static bool is_tap(const Listener& by, int i) {
        return kIsWhole || 32 * i + (int)thread_index() % 32 < (int)by.plan.taps;
    }

    __device__ void load(const Listener& by, const float* of_lane) {
        const int lane = thread_index() % 32;
#pragma unroll
        for (int i = 0; i < kPairs; i++) {
            weights[i] = is_tap(by, i) ? of_lane[by.plan.weights + 32 * i + lane] : 0.0f;
            before[i] = is_tap(by, i) ? by.ring[by.head + 32 * i + lane] : 0.0f;
        }
    }

    __device__ void keep(const Listener& by, float* of_lane) const {
        const int lane = thread_index() % 32;
#pragma unroll
        for (int i = 0; i < kPairs; i++) {
            if (is_tap(by, i)) of_lane[by.plan.weights + 32 * i + lane] = weights[i];
        }
    }

    // The sum of what `term` makes of each tap and of what is seen there.
    template <class Term>
    __device__ static float sum_of(const Listener& by, Term term) {
        const float* seen = by.ring + by.head + thread_index() % 32;
        float own[kPairs], others[kPairs], sum = 0.0f;
#pragma unroll
        for (int i = 0; i < kPairs + kAhead; i++) {
            if (i < kPairs) {
                own[i] = term(i, is_tap(by, i) ? seen[32 * i] : 0.0f);
                others[i] = shuffle_xor(own[i], 16);
            }
            if (i >= kAhead) {
                sum = own[i - kAhead] + sum;
                sum = others[i - kAhead] + sum;
            }
        }
        return sum_of_sixteen(sum);
    }

    // What follows, after the weights are corrected by the error.
    __device__ float predict(const Listener& by, float error) {
        const float gain = by.plan.rate * error / (by.energy + kQuiet * (float)by.plan.taps);
        const float kept = error == 0.0f ? 1.0f : by.plan.kept;
        const float sum = sum_of(by, [&](int i, float now) {
            weights[i] = before[i] * gain + weights[i] * kept;
            before[i] = now;
            return weights[i] * now;
        });
        return held(sum, 2.0f);
    }

    // The energy of what is seen.
    __device__ static float energy(const Listener& by) {
        return sum_of(by, [](int, float now) { return now * now; });
    }
};

// Takes in all codes of the piece, as the warp that predicts or as the one that adds up.
template <int kPairs, bool kIsWhole, bool kIsPredictor>
__device__ void listen(Listener& by) {
    const Prompt& prompt = by.prompt;
    const int lane = thread_index() % 32, f = by.filter, n_filters = prompt.plan.n_filters;
    float* of_lane = reinterpret_cast<float*>(prompt.lane + prompt.plan.filters);
    Taps<kPairs, kIsWhole> taps;
    if (kIsPredictor) taps.load(by, of_lane);
    for (int at = 0; at < (int)prompt.n; at++) {
        // Fetched a code ahead: the GPU's memory is far away.
        const int next = load_constant(prompt.codes + at);
        const Heard heard(by.code, by.known);
        const float2 rest = by.left_over(heard.rest);
        by.see(rest.x);
        if (kIsPredictor) {
            const float prediction = taps.predict(by, rest.y);
            if (lane == 0) {
                by.told.predictions[at % 2][f] = prediction;
                prompt.predictions[(size_t)at * n_filters + f] = prediction;
            }
        } else {
            const float energy = taps.energy(by);
            if (lane == 0) by.told.energies[at % 2][f] = energy;
            if (lane == 0 && f == 0) {
                prompt.spreads[at] = heard.spread;
                prompt.heard[at] = by.code.code;
            }
        }
        by.meet(at, heard, next);
    }
    if (kIsPredictor) taps.keep(by, of_lane);
}

// By how many taps the filter has; `Prefill` has seen to it that there are no more.
template <bool kIsPredictor>
__device__ void listen(Listener& by) {
    const int taps = by.plan.taps;
    if (taps == 32 * kMostPairs) return listen<kMostPairs, true, kIsPredictor>(by);
    if (taps > 512) return listen<kMostPairs, false, kIsPredictor>(by);
    if (taps == 512) return listen<16, true, kIsPredictor>(by);
    if (taps > 128) return listen<16, false, kIsPredictor>(by);
    return listen<4, false, kIsPredictor>(by);
}

// What a lane keeps of a filter, as its predictor leaves it.
__device__ inline void leave(const Listener& by) {
    const int f = by.filter, lane = thread_index() % 32, n_filters = by.prompt.plan.n_filters;
    float* of_lane = reinterpret_cast<float*>(by.prompt.lane + by.prompt.plan.filters);
    for (int i = lane; i < (int)by.plan.ring; i += 32) of_lane[by.plan.heard + i] = by.ring[i];
    LaneHead& head = by.lane_head();
    const float place = place_of(by.told.samples, by.expected_by(f));
    if (lane > 0) return;
    head.places[f] = place;
    head.prediction[f] = by.told.predictions[(by.prompt.n + 1) % 2][f];
    head.energy[f] = by.energy;
    head.newest[f] = by.head;
    if (f > 0) return;
    head.places[n_filters] = place_of_spread(by.known.spread);
    head.expected = by.known.expected;
    head.error = by.known.error;
    head.usual = by.known.usual;
    head.spread = by.known.spread;
    head.last = by.code.code;
    head.position = by.prompt.start + by.prompt.n;
}

// Shared memory: `Told`, then every warp's ring.
__device__ inline void hear_prompt(const Prompt& prompt) {
    const Plan& plan = prompt.plan;
    Told& told = *reinterpret_cast<Told*>(shared_memory());
    const int lane = thread_index() % 32, n_filters = plan.n_filters;
    const int f = warp_index() % n_filters;
    const bool is_predictor = warp_index() < n_filters;
    float* ring = reinterpret_cast<float*>(&told + 1);
    for (int i = 0; i < f; i++) ring += 4 * plan.filter[i].ring;
    const int places = plan.filter[f].ring;
    if (!is_predictor) ring += 2 * places;
    const float* of_lane = reinterpret_cast<float*>(prompt.lane + plan.filters) + plan.filter[f].heard;
    for (int i = lane; i < places; i += 32) ring[i] = ring[i + places] = of_lane[i];
    for (int i = thread_index(); i < kCodes; i += 64 * n_filters) told.samples[i] = plan.samples[i];
    for (int i = thread_index(); i < 2 * kMostHeard; i += 64 * n_filters) {
        told.predictions[0][i] = told.energies[0][i] = 0.0f;
    }
    __syncthreads();
    Listener listener(prompt, told, ring, f);
    is_predictor ? listen<true>(listener) : listen<false>(listener);
    if (is_predictor) leave(listener);
}

// The same of a model without a predictor, by one warp.
__device__ inline void pass_codes(const Prompt& prompt) {
    LaneHead& head = *reinterpret_cast<LaneHead*>(prompt.lane);
    const uint32_t before = head.last;
    warp_sync();
    for (int at = thread_index(); at < (int)prompt.n; at += 32) {
        prompt.heard[at] = at ? prompt.codes[at - 1] : before;
    }
    if (thread_index() > 0) return;
    head.last = prompt.codes[prompt.n - 1];
    head.position = prompt.start + prompt.n;
}

extern "C" __global__ void __launch_bounds__(kHearThreads, 1)
    prefill_hear(const __grid_constant__ Prompt prompt) {
    prompt.plan.n_filters ? hear_prompt(prompt) : pass_codes(prompt);
}
