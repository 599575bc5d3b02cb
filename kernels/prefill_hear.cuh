// The predictor walks through a piece of a prompt: what each filter says of every code, which the other
// kernels take from there. It is the one part of a prompt that cannot be shared out, for a filter's
// weights depend on all codes before: what it costs is how long a code takes, 65,536 times.
//
// One warp is the ear: from what all filters expect it finds what a code says to each of them, thread i
// to filter i. Two warps work for each filter, one that predicts and one that adds up the energy of what
// is seen. Of 32 taps a warp's lower half has sixteen and the upper half the next sixteen; sums are the
// lower half's, in the order of the taps. The ear and the others take turns.
#pragma once
#include "prefill_plan.cuh"

// Filters: with the ear fifteen warps, four of a scheduler at most. An eighth would make a fifth there, and
// leave none the registers for its weights.
constexpr int kMostHeard = 7;
constexpr int kHeardRoom = 8;  // of what is read as vectors of four
constexpr int kMostPairs = 32;  // times 32 taps of a filter
constexpr int kHearThreads = 32 * (2 * kMostHeard + 1);

// How a filter's weights are corrected: by what it has heard times the gain, and what is kept of them.
struct Correction {
    float gain, kept;
};

// What the ear and the filters' warps tell each other of a code.
struct Told {
    alignas(16) Correction corrections[kHeardRoom];
    alignas(16) float predictions[kHeardRoom], energies[kHeardRoom];
    float samples[kCodes];
};
static_assert(sizeof(Told) == 4 * (4 * kHeardRoom + kCodes), "as in prefill.rs");

inline __device__ LaneHead& lane_head(const Prompt& prompt) {
    return *reinterpret_cast<LaneHead*>(prompt.lane);
}

// Where the ear and the filters' warps meet, by the number of a barrier of this kernel: when it has said what a
// code says, and when they have found what they make of it. Before `kSaid` only the ear writes, corrections and
// echoes, and nobody reads them; from then to `kFound` only the others do, predictions and energies. It says
// what the first code says while the others still load: what they load then is the lane's, in the GPU's memory.
enum class Meeting { kSaid = 1, kFound = 2 };

template <Meeting kWhich>
__device__ inline void meet(int n_filters) {
    asm volatile("barrier.sync.aligned %0, %1;" ::"n"((int)kWhich), "r"(32 * (2 * n_filters + 1))
                 : "memory");
}

// What a filter has heard: everything is there twice, so that nothing seen lies beyond an end.
struct Echo {
    float* ring;     // [2 · places]
    int places, at;  // of the newest

    __device__ Echo(const Prompt& prompt, Told& told, int filter) : ring(reinterpret_cast<float*>(&told + 1)) {
        const Plan& plan = prompt.plan;
        for (int i = 0; i < filter; i++) ring += 2 * plan.filter[i].ring;
        places = plan.filter[filter].ring;
        at = lane_head(prompt).newest[filter];
    }

    // One more is heard.
    __device__ void advance() { at = (at + places - 1) & (places - 1); }

    __device__ void put(float newest) { ring[at] = ring[at + places] = newest; }
};

// Has a number computed here rather than where it is wanted.
__device__ inline float at_once(float x) {
    asm volatile("" : "+f"(x));
    return x;
}

// The warp that finds what codes say, to so many filters at most.
template <int kFilters>
struct Ear {
    const Prompt& prompt;
    Told& told;
    const int lane = thread_index() % 32, n_filters = prompt.plan.n_filters;
    // Thread i's filter, the last one's for those that have none.
    const int own = lane < n_filters ? lane : n_filters - 1;
    const float rate, kept, quiet;
    Echo echo;
    float predictions[kFilters];
    float comes_before[kFilters];  // 1 for each filter before the own one, else 0
    float own_prediction, energy;
    Known known;
    Around code;

    __device__ Ear(const Prompt& prompt, Told& told)
        : prompt(prompt), told(told), rate(prompt.plan.filter[own].rate),
          kept(prompt.plan.filter[own].kept),
          quiet(kQuiet * (float)prompt.plan.filter[own].taps), echo(prompt, told, own),
          energy(lane_head(prompt).energy[own]), known(lane_head(prompt), n_filters),
          code(lane_head(prompt).last, told.samples) {
#pragma unroll
        for (int i = 0; i < kFilters; i++) {
            predictions[i] = i < n_filters ? lane_head(prompt).prediction[i] : 0.0f;
            comes_before[i] = i < own ? 1.0f : 0.0f;
        }
        own_prediction = lane_head(prompt).prediction[own];
    }

    // What all filters up to one expect.
    __device__ float expected_by(int last) const {
        float expected = 0.0f;
#pragma unroll
        for (int i = 0; i < kFilters; i++) expected = expected + (i <= last ? predictions[i] : 0.0f);
        return expected;
    }

    // Tells each filter what it hears, which is what those before it have left over, and how far off it
    // has been.
    __device__ void say(float heard) {
        // A prediction of 0 leaves over all that is heard, but for what is inaudible.
        float newest = heard;
#pragma unroll
        for (int i = 0; i + 1 < kFilters; i++) newest = left_over(newest, predictions[i] * comes_before[i]);
        if (own == 0) newest = heard;
        const float error = left_over(newest, own_prediction);
        const float gain = rate * error / (energy + quiet);
        echo.advance();
        if (lane < n_filters) {
            told.corrections[lane] = Correction{gain, error == 0.0f ? 1.0f : kept};
            echo.put(newest);
        }
    }

    // Takes in what all have found; filters that there are not expect nothing.
    __device__ void take_in() {
#pragma unroll
        for (int i = 0; i < kFilters; i++) predictions[i] = told.predictions[i];
        own_prediction = told.predictions[own];
        energy = told.energies[own];
        const float expected = expected_by(kFilters - 1);
        known.place = place_of(told.samples, expected);
        known.expected = held(expected, 1.0f);
    }

    __device__ void listen() {
        int next = load_constant(prompt.codes);
        for (int at = 0; at < (int)prompt.n; at++) {
            const Heard heard(code, known);
            say(heard.rest);
            meet<Meeting::kSaid>(n_filters);
            if (lane == 0) {
                prompt.spreads[at] = heard.spread;
                prompt.heard[at] = code.code;
            }
            code = Around(next, told.samples);
            // What all expect of it follows when they have found it.
            known = Known(0.0f, 0.0f, heard.error, heard.usual, heard.spread);
            known.trust = at_once(known.trust);
            // Fetched a code ahead: the GPU's memory is far away.
            next = load_constant(prompt.codes + min(at + 1, (int)prompt.n - 1));
            meet<Meeting::kFound>(n_filters);
            take_in();
        }
    }

    // What a lane keeps of all this but the filters themselves.
    __device__ void leave() const {
        LaneHead& head = lane_head(prompt);
        for (int i = 0; i < n_filters; i++) {
            const float place = place_of(told.samples, expected_by(i));
            if (lane == 0) head.places[i] = place;
        }
        if (lane < n_filters) {
            head.prediction[lane] = own_prediction;
            head.energy[lane] = energy;
            head.newest[lane] = echo.at;
        }
        if (lane > 0) return;
        head.places[n_filters] = place_of_spread(known.spread);
        head.expected = known.expected;
        head.error = known.error;
        head.usual = known.usual;
        head.spread = known.spread;
        head.last = code.code;
        head.position = prompt.start + prompt.n;
    }
};

// What a thread has of a filter: of every 32 taps one, `kPairs` in all; where `kIsWhole`, every thread has
// all of them.
template <int kPairs, bool kIsWhole>
struct Taps {
    static constexpr int kAhead = 4;  // products on their way to the lower half

    const FilterPlan& plan;
    const int lane = thread_index() % 32;
    float weights[kPairs], before[kPairs];

    __device__ explicit Taps(const FilterPlan& plan) : plan(plan) {}

    __device__ bool is_tap(int i) const { return kIsWhole || 32 * i + lane < (int)plan.taps; }

    __device__ void load(const float* filters, const Echo& echo) {
#pragma unroll
        for (int i = 0; i < kPairs; i++) {
            weights[i] = is_tap(i) ? filters[plan.weights + 32 * i + lane] : 0.0f;
            const int place = (echo.at + 32 * i + lane) & (echo.places - 1);
            before[i] = is_tap(i) ? filters[plan.heard + place] : 0.0f;
        }
    }

    __device__ void keep(float* filters, const Echo& echo) const {
#pragma unroll
        for (int i = 0; i < kPairs; i++) {
            if (is_tap(i)) filters[plan.weights + 32 * i + lane] = weights[i];
        }
        for (int i = lane; i < echo.places; i += 32) filters[plan.heard + i] = echo.ring[i];
    }

    // The sum of what `term` makes of each tap and of what is seen there.
    template <class Term>
    __device__ float sum_of(const Echo& echo, Term term) const {
        const float* seen = echo.ring + echo.at + lane;
        float own[kPairs], others[kPairs], sum = 0.0f;
#pragma unroll
        for (int i = 0; i < kPairs + kAhead; i++) {
            if (i < kPairs) {
                own[i] = term(i, is_tap(i) ? seen[32 * i] : 0.0f);
                others[i] = shuffle_xor(own[i], 16);
            }
            if (i >= kAhead) {
                sum = own[i - kAhead] + sum;
                sum = others[i - kAhead] + sum;
            }
        }
        return sum_of_sixteen(sum);
    }

    // What follows, after the weights are corrected.
    __device__ float predict(const Echo& echo, const Correction& by) {
        const float sum = sum_of(echo, [&](int i, float now) {
            weights[i] = before[i] * by.gain + weights[i] * by.kept;
            before[i] = now;
            return weights[i] * now;
        });
        return held(sum, 2.0f);
    }

    // The energy of what is seen.
    __device__ float energy(const Echo& echo) const {
        return sum_of(echo, [](int, float now) { return now * now; });
    }
};

// Takes in all codes of the piece, as the warp of a filter that predicts or as the one that adds up.
template <int kPairs, bool kIsWhole, bool kIsPredictor>
__device__ void follow(const Prompt& prompt, Told& told, int f) {
    const int n_filters = prompt.plan.n_filters;
    float* filters = reinterpret_cast<float*>(prompt.lane + prompt.plan.filters);
    Echo echo(prompt, told, f);
    Taps<kPairs, kIsWhole> taps(prompt.plan.filter[f]);
    if (kIsPredictor) taps.load(filters, echo);
    float* found = (kIsPredictor ? told.predictions : told.energies) + f;
    for (int at = 0; at < (int)prompt.n; at++) {
        meet<Meeting::kSaid>(n_filters);
        echo.advance();
        const Correction by = told.corrections[f];
        const float sum = kIsPredictor ? taps.predict(echo, by) : taps.energy(echo);
        if (thread_index() % 32 == 0) *found = sum;
        meet<Meeting::kFound>(n_filters);
        if (kIsPredictor && thread_index() % 32 == 0) {
            prompt.predictions[(size_t)at * n_filters + f] = sum;
        }
    }
    if (kIsPredictor) taps.keep(filters, echo);
}

// By how many taps the filter has; `Prefill` has seen to it that there are no more.
template <bool kIsPredictor>
__device__ void follow(const Prompt& prompt, Told& told, int f) {
    const int taps = prompt.plan.filter[f].taps;
    if (taps == 32 * kMostPairs) return follow<kMostPairs, true, kIsPredictor>(prompt, told, f);
    if (taps > 512) return follow<kMostPairs, false, kIsPredictor>(prompt, told, f);
    if (taps == 512) return follow<16, true, kIsPredictor>(prompt, told, f);
    if (taps > 128) return follow<16, false, kIsPredictor>(prompt, told, f);
    return follow<4, false, kIsPredictor>(prompt, told, f);
}

template <class Ear>
__device__ void listen_as(const Prompt& prompt, Told& told) {
    Ear ear(prompt, told);
    ear.listen();
    ear.leave();
}

// Shared memory: `Told`, then what every filter has heard. Warps are dealt to a multiprocessor's four schedulers in
// turn, so those of two filters come together, in the next four the other way round: then the long filters,
// which are the first, do not wait for each other. The ear has the last place, or that which an odd number of
// filters leaves free.
__device__ inline void hear_prompt(const Prompt& prompt) {
    const Plan& plan = prompt.plan;
    Told& told = *reinterpret_cast<Told*>(shared_memory());
    const int lane = thread_index() % 32, n_filters = plan.n_filters, warp = warp_index();
    const int f = warp / 4 * 2 + warp % 2;
    const bool is_ear = warp == 2 * n_filters - n_filters % 2;
    const bool is_predictor = (warp % 4 < 2) == (warp / 4 % 2 == 0);
    if (!is_ear && is_predictor) {
        const Echo echo(prompt, told, f);
        const float* of_lane = reinterpret_cast<float*>(prompt.lane + plan.filters) + plan.filter[f].heard;
        for (int i = lane; i < echo.places; i += 32) echo.ring[i] = echo.ring[i + echo.places] = of_lane[i];
    }
    if (is_ear) {
        for (int i = lane; i < kCodes; i += 32) told.samples[i] = plan.samples[i];
        if (lane < kHeardRoom) told.predictions[lane] = told.energies[lane] = 0.0f;
    }
    __syncthreads();
    if (is_ear) {
        // A filter more takes some seventeen clocks of a code's 1,250, by reckoning; the shipped model has five.
        n_filters > 5 ? listen_as<Ear<kMostHeard>>(prompt, told) : listen_as<Ear<5>>(prompt, told);
    } else {
        is_predictor ? follow<true>(prompt, told, f) : follow<false>(prompt, told, f);
    }
}

// The same of a model without a predictor, by one warp.
__device__ inline void pass_codes(const Prompt& prompt) {
    LaneHead& head = lane_head(prompt);
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
