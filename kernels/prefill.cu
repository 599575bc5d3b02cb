// prefill_hear; prefill_{embed,project,attend,keep,finish}_{D} — a lane takes in a piece of a prompt, all
// codes of a layer at once: what `decode.cu` does step by step, to the last bit. Launched in this order,
// the last four for each layer; D says which shape was compiled.
// in    prompt (`prefill_plan.cuh`): the plan of decode.cu, codes [n] u8, the lane
// out   the lane as after n steps of decode.cu that took in the codes: head, convolutions, filters, caches;
//       and scratch, of each code: heard u8, predictions [filters] f32, spread f32, x [D] f32, heads
//       [H + 2, 32] int8 and their scales, attended [D] f32
// math  that of decode.cu to the last bit, hence -fmad=false: what is added in floats is added in the same
//       order, integer sums are exact in any
// grid  hear: one block of a warp that is the ear and two for each filter; 128 registers, which hold
//       the weights; shared memory: `Told`, and twice what the filters have heard. embed, project,
//       finish: a block of 8 warps for each 32 positions, 16 where D = 256; shared memory: `Embedding`,
//       `Projection`, `Finishing`. attend: blocks of 4 warps, [stride, parts] of 64 positions of a
//       phase. keep: a warp for each position
// needs sm_80. Shapes as decode.cu; 7 filters of 1,024 taps at most
// twin  src/engine/cpu   test gpu_decode   bench `longwave bench --device cuda`
//
// 65,536 codes of piano-16k
// sums  71 G products of weights (1.09 M a code), 20 G of attention (0.3 M): 0.2 ms of the tensor cores
// bytes weights from L2, 184 KB a layer for each 32 codes: 2.3 GB, 0.5 ms; through the GPU's memory, of each layer and
//       code, the stream read twice and written (1.5 KB), heads and scales written and read (0.4), what they give out
//       written and read (1.0): 1.2 GB, 0.3 ms
// floor the filters: a code's weights are the next one's. The longest has 1,024 taps in 32 lanes, which is
//       a chain of 64 additions of four clocks each, a hundred of shuffles and some two hundred around it:
//       550 clocks, 65,536 times, at 1.98 GHz: 18 ms
// takes 47.0 ms (`longwave bench --device cuda`, H200, 2026-11-28), of which the layers 6: some 1,250 clocks a
//       code in hear. By Nsight Compute's samples the filters' warps have the greater half of them and the ear the
//       other, one after the other. Where each of ten warps found by itself what a code says, hear took 73 ms; with
//       the weights in shared memory, and both sums by one warp, 92
//
// compute-sanitizer's memcheck finds nothing. Its racecheck calls all that `Told` and the echoes carry over a
// meeting a race (H200, 2026-11-28). All of it lies across barriers that one side only arrives at
// (`barrier.arrive`), which racecheck is believed not to follow; that is not shown.
#include "prefill_attend.cuh"
#include "prefill_hear.cuh"

// A tile of positions, which a block takes.
template <class S>
struct Tile {
    static constexpr int kSize = tile_of<S>();
    static constexpr int kOwnRows = kSize / kPartyWarps;  // of a warp

    int first = blockIdx.x * kSize;  // in the piece
    int n;                           // positions there are

    __device__ explicit Tile(const Prompt& prompt) : n(min(kSize, (int)prompt.n - first)) {}

    // This warp's row of that number.
    __device__ int row(int i) const { return warp_index() * kOwnRows + i; }
    __device__ size_t at(int row) const { return first + row; }
};

template <class S>
struct Embedding {
    Inputs<S, 32 * kMostPlaces> in;
    alignas(16) float waves[kPartyWarps][32 * kMostPlaces];
    alignas(16) float out[tile_of<S>() * S::D];
    float samples[kCodes];
};

template <class S>
__device__ void embed_prompt(const Prompt& prompt) {
    const Plan& plan = prompt.plan;
    Embedding<S>& room = *reinterpret_cast<Embedding<S>*>(shared_memory());
    const Tile<S> tile(prompt);
    const int lane = thread_index() % 32, n_filters = plan.n_filters, n_places = n_filters + 1;
    for (int i = thread_index(); i < kCodes; i += kParty) room.samples[i] = plan.samples[i];
    __syncthreads();
    float* waves = room.waves[warp_index()];
    for (int i = 0; i < Tile<S>::kOwnRows && n_filters > 0; i++) {
        const int row = tile.row(i);
        if (row >= tile.n) break;
        const float* predictions = prompt.predictions + tile.at(row) * n_filters;
        float expected = 0.0f;
        for (int place = 0; place < n_places; place++) {
            float y;
            if (place < n_filters) {
                expected = expected + predictions[place];
                y = place_of(room.samples, expected);
            } else {
                y = place_of_spread(prompt.spreads[tile.at(row)]);
            }
            const float turns = y * harmonic(lane % 16);
            waves[32 * place + lane] = cos_of_turns(lane < 16 ? turns : turns - 0.25f);
        }
        warp_sync();
        room.in.put(row, waves, 32 * n_places);
        warp_sync();
    }
    __syncthreads();
    if (n_filters > 0) {
        multiply<S>(Matrices<S>(prompt).predictor, S::D, n_places, room.in, room.out, plainly);
    }
    __syncthreads();
    for (int i = thread_index(); i < tile.n * S::D; i += kParty) {
        const float own = plan.embed[prompt.heard[tile.at(i / S::D)] * S::D + i % S::D];
        prompt.x[tile.at(0) * S::D + i] = n_filters > 0 ? own + room.out[i] : own;
    }
}

// Inputs of a convolution that come before a tile's, at most.
constexpr int kBefore = kMostTaps - 1;

template <class S>
struct Projection {
    alignas(16) float normed[kBefore + tile_of<S>()][S::D];
    Inputs<S, S::D> in;
    alignas(16) float out[tile_of<S>() * S::kQkv];
};

// Where a lane keeps the normed input of a position: `conv_width` places in turn, zeros before a stream begins.
template <class S>
__device__ float* kept_input(const Prompt& prompt, uint64_t position) {
    const int width = prompt.plan.conv_width;
    float* kept = reinterpret_cast<float*>(prompt.lane + prompt.plan.taps);
    return kept + (prompt.layer * width + position % width) * S::D;
}

// What a warp's threads own of the normed stream at a position of the piece.
template <class S>
__device__ void norm_of(const Prompt& prompt, size_t at, float (&own)[S::kOwn]) {
    Stream<S> stream;
    stream.load(prompt.x + at * S::D);
    stream.norm(Matrices<S>(prompt).norms, prompt.plan.norm_eps, own);
}

// Turns and quantises a query, the key or the value of a position: half a warp does.
template <class S>
__device__ void turn_head(const Prompt& prompt, size_t at, int head, const float* floats) {
    Head<S> v(floats, true);
    if (v.is_pair && head <= S::H) {
        const uint64_t count = (prompt.start + at) / prompt.plan.layers[prompt.layer].stride;
        const float* angles = prompt.plan.angles + count % prompt.plan.rope_period * S::K;
        v.turn(load_constant(angles + v.j), load_constant(angles + S::K / 2 + v.j));
    }
    const size_t to = at * (S::H + 2) + head;
    v.quantise(prompt.heads + 32 * to, prompt.head_scales + to, head < S::H, prompt.plan.score_unit);
}

// Norms the stream of a tile's positions, and brings the inputs of a convolution that lie before them.
template <class S>
__device__ void norm_tile(const Prompt& prompt, const Tile<S>& tile, Projection<S>& room) {
    const int width = prompt.plan.conv_width;
    for (int i = warp_index(); i < kBefore + tile.n; i += kPartyWarps) {
        const int at = tile.first + i - kBefore;
        if (at < 0 && at + width <= 0) continue;
        float own[S::kOwn];
        if (at >= 0) norm_of<S>(prompt, at, own);
        // A width more is the same place, and never before the stream.
        const float* kept = at < 0 ? kept_input<S>(prompt, prompt.start + width + at) : nullptr;
#pragma unroll
        for (int e = 0; e < S::kOwn; e++) {
            room.normed[i][element<S>(e)] = kept ? kept[element<S>(e)] : own[e];
        }
    }
}

// Convolves and quantises them.
template <class S>
__device__ void convolve_tile(const Prompt& prompt, const Tile<S>& tile, Projection<S>& room) {
    const float* taps = Matrices<S>(prompt).norms + 2 * S::D;
    for (int i = 0; i < Tile<S>::kOwnRows; i++) {
        const int row = tile.row(i);
        if (row >= tile.n) break;
        float sum[S::kOwn];
#pragma unroll
        for (int k = 0; k < S::kOwn; k++) {
            const int e = element<S>(k);
            sum[k] = 0.0f;
            for (int j = 0; j < (int)prompt.plan.conv_width; j++) {
                const float normed = room.normed[kBefore + row - j][e];
                sum[k] = fmaf(load_constant(taps + j * S::D + e), normed, sum[k]);
            }
        }
        room.in.put(row, sum);
    }
}

template <class S>
__device__ void project_prompt(const Prompt& prompt) {
    Projection<S>& room = *reinterpret_cast<Projection<S>*>(shared_memory());
    const Tile<S> tile(prompt);
    norm_tile(prompt, tile, room);
    __syncthreads();
    convolve_tile(prompt, tile, room);
    __syncthreads();
    multiply<S>(Matrices<S>(prompt).qkv, S::kQkv, S::D / 32, room.in, room.out, plainly);
    __syncthreads();
    constexpr int kHeads = S::H + 2;
    static_assert(kHeads % 2 == 0);
    for (int i = thread_index() / 16; i < tile.n * kHeads; i += kParty / 16) {
        const int row = i / kHeads, head = i % kHeads;
        turn_head<S>(prompt, tile.at(row), head, room.out + row * S::kQkv + head * S::K);
    }
}

// Leaves in the lane what later steps want of a layer: the newest key and value of each slot, and the
// newest inputs of its convolution.
template <class S>
__device__ void keep_prompt(const Prompt& prompt) {
    const LayerPlan& layer = prompt.plan.layers[prompt.layer];
    const int lane = thread_index() % 32;
    const uint32_t at = blockIdx.x * kPartyWarps + warp_index();
    if (at >= prompt.n) return;
    const uint64_t position = prompt.start + at;
    if (at + prompt.plan.conv_width >= prompt.n) {
        float own[S::kOwn];
        norm_of<S>(prompt, at, own);
        float* kept = kept_input<S>(prompt, position);
#pragma unroll
        for (int i = 0; i < S::kOwn; i++) kept[element<S>(i)] = own[i];
    }
    if (at + (uint64_t)layer.stride * layer.rows < prompt.n) return;
    const uint64_t slot =
        position % layer.stride * layer.rows + position / layer.stride % layer.rows;
    unsigned char* block = prompt.lane + layer.cache + slot / 16 * kSlotBlock;
    const int in_block = slot % 16;
    const size_t from = (size_t)at * (S::H + 2) + S::H;
    if (lane < S::K) {
        block[32 * in_block + lane] = prompt.heads[32 * from + lane];
        block[512 + 16 * lane + in_block] = prompt.heads[32 * (from + 1) + lane];
    }
    if (lane < 2) {
        reinterpret_cast<float*>(block + 1024)[16 * lane + in_block] = prompt.head_scales[from + lane];
    }
}

template <class S>
struct Finishing {
    Inputs<S, S::D> in;
    Inputs<S, S::F> wide;
    alignas(16) float out[tile_of<S>() * (S::F > S::D ? S::F : S::D)];
};

// What a warp does of a tile from what the heads gave out to the stream behind the MLP.
template <class S>
struct Finish {
    static constexpr int kRows = Tile<S>::kOwnRows;

    const Prompt& prompt;
    Finishing<S>& room;
    const Tile<S> tile;
    const Matrices<S> matrices;
    Stream<S> streams[kRows];

    __device__ explicit Finish(const Prompt& prompt)
        : prompt(prompt), room(*reinterpret_cast<Finishing<S>*>(shared_memory())), tile(prompt),
          matrices(prompt) {}

    __device__ void load() {
#pragma unroll
        for (int i = 0; i < kRows; i++) {
            // A row that is none is computed as the last one is, and not kept.
            const size_t at = tile.at(min(tile.row(i), tile.n - 1)) * S::D;
            streams[i].load_own(prompt.x + at);
            room.in.put(tile.row(i), prompt.attended + at, S::D);
        }
        __syncthreads();
    }

    // The heads' share, and the norm of the sum.
    __device__ void add_heads() {
        multiply<S>(matrices.o, S::D, S::D / 32, room.in, room.out, plainly);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < kRows; i++) {
            streams[i].add(room.out + tile.row(i) * S::D);
            float own[S::kOwn];
            streams[i].norm(matrices.norms + S::D, prompt.plan.norm_eps, own);
            room.in.put(tile.row(i), own);
        }
        __syncthreads();
    }

    __device__ void add_mlp() {
        multiply<S>(matrices.up, S::F, S::D / 32, room.in, room.out, [](float y) { return gelu(y); });
        __syncthreads();
        for (int i = 0; i < kRows; i++) {
            room.wide.put(tile.row(i), room.out + tile.row(i) * S::F, S::F);
        }
        __syncthreads();
        multiply<S>(matrices.down, S::D, S::F / 32, room.wide, room.out, plainly);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < kRows; i++) streams[i].add(room.out + tile.row(i) * S::D);
    }

    __device__ void store() const {
        const int lane = thread_index() % 32;
#pragma unroll
        for (int i = 0; i < kRows; i++) {
            // Both halves of the warp have all of it.
            if (tile.row(i) >= tile.n || lane >= 16) continue;
            float* x = prompt.x + tile.at(tile.row(i)) * S::D;
            for (int c = 0; c < 2 * S::kOwn; c++) x[16 * c + lane] = streams[i].x[c];
        }
    }
};

template <class S>
__device__ void finish_prompt(const Prompt& prompt) {
    Finish<S> finish(prompt);
    finish.load();
    finish.add_heads();
    finish.add_mlp();
    finish.store();
}

#define PREFILL(D, rooms, ...)                                                                    \
    static_assert(sizeof(Embedding<Shape<__VA_ARGS__>>) <= rooms);                                \
    static_assert(sizeof(Projection<Shape<__VA_ARGS__>>) <= rooms);                               \
    static_assert(sizeof(Finishing<Shape<__VA_ARGS__>>) <= rooms);                                \
    extern "C" __global__ void __launch_bounds__(kParty)                                          \
        prefill_embed_##D(const __grid_constant__ Prompt prompt) {                                \
        embed_prompt<Shape<__VA_ARGS__>>(prompt);                                                 \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(kParty)                                          \
        prefill_project_##D(const __grid_constant__ Prompt prompt) {                              \
        project_prompt<Shape<__VA_ARGS__>>(prompt);                                               \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(32 * kAttendWarps)                               \
        prefill_attend_##D(const __grid_constant__ Prompt prompt) {                               \
        attend_prompt<Shape<__VA_ARGS__>>(prompt);                                                \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(kParty)                                          \
        prefill_keep_##D(const __grid_constant__ Prompt prompt) {                                 \
        keep_prompt<Shape<__VA_ARGS__>>(prompt);                                                  \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(kParty)                                          \
        prefill_finish_##D(const __grid_constant__ Prompt prompt) {                               \
        finish_prompt<Shape<__VA_ARGS__>>(prompt);                                                \
    }

PREFILL(128, 98304, 128, 512, 4, 32)
PREFILL(256, 98304, 256, 1024, 8, 32)
PREFILL(32, 98304, 32, 64, 2, 16)
