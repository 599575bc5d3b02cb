// decode_{one,two}_{D} — a chunk of codes in every lane of a batch, one launch, no host in the
// loop: step, attention over the lane's caches, logits, draw, next step. A block decodes one lane
// (`one`) or two (`two`), and all weights pass through it; D says which shape was compiled.
// in    plan (`decode_plan.cuh`): weights int8, embed [V, D], angles [rope_period, K] and samples [V]
//       f32; a turn for each lane: uniforms [n] f32, or codes [n] u8 to take in, and how to draw
// out   codes [n] u8 and, where they are asked for, logits [n, V] f32 of each turn; the lane
//       itself: head, convolutions [L, W, D] f32, filters f32, caches int8 in blocks of 16 slots
// math  that of the CPU engine to the last bit: integer sums are exact in any order, floats are
//       added in the CPU's sixteen lanes and fused where it fuses; hence -fmad=false. Denormals
//       are kept
// grid  blocks of 512 threads, and four warps that bring the weights; blocks do not know of each other, and
//       any number of them may wait for room. Shared memory, nearly all of it: `Rooms`, norms and taps,
//       the lanes' filters, one to eight pieces of matrices. Registers: 96, none spilt where D = 128
//       on sm_90, 72 bytes at most elsewhere
// needs sm_80; fetches by themselves since sm_90 (`decode_fetch.cuh`). D = H·K a multiple of 32, K <= 32,
//       one KV head, 256 visible slots and 4 of a convolution at most
// twin  src/engine/cpu   test gpu_decode   bench `longwave bench --device cuda`
//
// A step of piano-16k
// bytes 1.14 MB of weights from L2, for one lane or two: 132 blocks ask it for 3.2 TB/s together. For
//       each lane 97 KiB of keys, values and scales from the GPU's memory, and 32 KiB of filters in
//       shared memory
// sums  1.09 M products of weights and 0.3 M of attention a lane; a tensor core takes 4,096 at once,
//       eight lanes as soon as one
// meets the warps of a block some ten times in each layer
// floor 1.14 MB at the 64 bytes that a multiprocessor may ask of L2 in a clock of 1.98 GHz: 9 us. What it
//       takes is above, for a step is a chain of some hundred stages that wait for each other, each a
//       handful of dependent instructions in up to sixteen warps, of which four go on at a time
//
// A cluster of eight blocks that shared the weights out, and a stream, was no faster for one (44.0 us
// beside 44.2, H200, 2026-11-27): it multiplies sooner and waits longer, 26 times 0.25 us for what the
// others have computed. And fifteen clusters fill the GPU.
//
// Who waits for whom. `Rooms::input` and `scale` are written by the leaders of lanes and read by all
// warps of a product, `returned` is written by the product and read by the lane's crew: barriers of the
// block stand before the product and behind it. `Own::run` and `past` are fetched when the crew is done
// with the last layer's, and awaited by the leader's convolution and by the scores. What a step writes to
// a lane in the GPU's memory (the new slots, the convolutions' inputs) fetches read in the next step:
// the writer shows it to them, and barriers lie between. A piece of a matrix is written over when all
// sixteen warps have said that they are done with it.
//
// compute-sanitizer's racecheck does not see that one lane says so for its warp (`free_piece`) and calls
// what the others have read a race: it finds none when every lane says so (H200, 2026-11-27). It warns of
// `Tap::pass`, where both halves of a warp read a weight before one of them writes it.
#include "decode_attend.cuh"
#include "decode_draw.cuh"

template <class S, int kLanes>
struct Step {
    Site<S, kLanes>& site;
    Prediction<S, kLanes> prediction;
    Stream<S> stream;
    int now = 0;  // which of the convolution's places is the present one's

    __device__ explicit Step(Site<S, kLanes>& site) : site(site), prediction{site} {
        if (site.is_leader()) now = site.crewed().head.position % site.plan.conv_width;
    }

    __device__ void embed() {
        if (site.is_leader()) {
            stream.load(site.plan.embed + site.crewed().head.last * S::D);
        }
        if (site.plan.n_filters > 0) prediction.hear();
        Attention<S, kLanes>::ask(site, 0);
        if (site.plan.n_filters == 0) return;
        block_sync();
        const int n_steps = site.plan.n_filters + 1;
        site.template multiply<0>(S::D, n_steps, [](float y) { return y; });
        take_back();
    }

    // Adds what a product gave back to the stream.
    __device__ void take_back() {
        if (site.is_leader()) stream.add(site.returned(site.crew));
    }

    // The input of a layer's queries, keys and values: normed, and convolved with what came before.
    __device__ void convolve(int layer) {
        const Own<S>& own = site.crewed();
        float normed[S::kOwn], sum[S::kOwn];
        stream.norm(site.layer(layer), site.plan.norm_eps, normed);
        const int width = site.plan.conv_width;
        const float* taps = site.layer(layer) + 2 * S::D;
#pragma unroll
        for (int i = 0; i < S::kOwn; i++) sum[i] = fmaf(taps[element<S>(i)], normed[i], 0.0f);
        Attention<S, kLanes>::await_past(site);
#pragma unroll
        for (int j = 1; j < kMostTaps; j++) {
            const float* past = own.past[now >= j ? now - j : now - j + width];
            if (j >= width) continue;
#pragma unroll
            for (int i = 0; i < S::kOwn; i++) {
                const int e = element<S>(i);
                sum[i] = fmaf(taps[j * S::D + e], past[e], sum[i]);
            }
        }
        site.quantise(sum);
        float* kept = reinterpret_cast<float*>(own.turn.lane + site.plan.taps);
        kept += (layer * width + now) * S::D;
#pragma unroll
        for (int i = 0; i < S::kOwn; i++) kept[element<S>(i)] = normed[i];
        show_to_fetches();
    }

    __device__ void norm(const float* gain) {
        float normed[S::kOwn];
        stream.norm(gain, site.plan.norm_eps, normed);
        site.quantise(normed);
    }

    __device__ void attend(int layer) {
        Attention<S, kLanes> attention(site, layer);
        if (site.is_leader()) convolve(layer);
        // The leader, for whom the others wait, looks later.
        if (!site.is_leader()) attention.foresee();
        block_sync();
        site.template multiply<S::D>(S::kQkv);
        if (site.is_leader()) attention.foresee();
        attention.attend();
        attention.append();
        block_sync();
        site.template multiply<S::D>(S::D);
        take_back();
    }

    __device__ void mlp(int layer) {
        if (site.is_leader()) norm(site.layer(layer) + S::D);
        block_sync();
        site.template multiply<S::D / 32>(S::F, 0, [](float y) { return gelu(y); });
        constexpr int kPer = (S::F / 4 + 31) / 32;
        site.template quantise_long<kPer>(S::F, [&](int r) { return site.returned(r); });
        block_sync();
        site.template multiply<S::F>(S::D);
        take_back();
    }

    __device__ void unembed() {
        if (site.is_leader()) norm(site.layer(site.plan.n_layers));
        block_sync();
        site.template multiply<S::D>(kCodes);
    }

    // Says which code comes next in the lane that this warp leads.
    __device__ uint32_t choose(int at, float uniform, bool is_drawn) {
        Own<S>& own = site.crewed();
        const Turn& turn = own.turn;
        const float* logits = site.returned(site.crew);
        if (is_drawn && turn.logits) {
            for (int c = site.lane; c < kCodes; c += 32) turn.logits[at * kCodes + c] = logits[c];
        }
        if (turn.forced) return turn.forced[at];
        Draw draw{turn, logits, own.scratch, own.scratch + kCodes, Codes(), own.head};
        if (site.plan.n_filters) {
            const bool may_leap = turn.leveling == 0.0f;
            const FilterPlan& first = site.plan.filter[0];
            Going going;
            if (turn.max_click < kAnyClick && first.taps >= kCurves + 4) {
                const float* ring = site.filters(site.crew) + first.heard;
                going = Going(ring, own.head.newest[0], first.ring - 1, turn.max_click);
            }
            draw.codes = Codes(own.head, site.rooms().samples, going, may_leap);
        }
        return draw.draw(uniform, reinterpret_cast<uint64_t*>(own.scratch + 2 * kCodes));
    }

    // Takes in every lane's last code and leaves the next one in its place.
    __device__ void step(int at, bool is_drawn) {
        float uniform = 0.0f;
        if (site.is_leader() && site.crewed().turn.uniforms) {
            uniform = load_constant(site.crewed().turn.uniforms + at);
        }
        embed();
#pragma unroll 1
        for (int layer = 0; layer < (int)site.plan.n_layers; layer++) {
            attend(layer);
            mlp(layer);
        }
        if (is_drawn) unembed();
        if (site.is_leader()) {
            const uint32_t code = choose(at, uniform, is_drawn);
            const Turn& turn = site.crewed().turn;
            if (site.lane == 0) {
                site.crewed().head.last = code;
                site.crewed().head.position++;
                if (turn.codes) turn.codes[at] = code;
            }
        }
        advance_spots();
        now = now + 1 == (int)site.plan.conv_width ? 0 : now + 1;
        block_sync();
    }

    // The next position's places in every layer.
    __device__ void advance_spots() {
        const int n_layers = site.plan.n_layers;
        for (int i = kThreads - 1 - thread_index(); i < site.n_own * n_layers; i += kThreads) {
            const LayerPlan& layer = site.plan.layers[i % n_layers];
            Spot& spot = site.own(i / n_layers).spots[i % n_layers];
            if (++spot.phase < layer.stride) continue;
            spot.phase = 0;
            if (spot.seen < layer.rows) spot.seen++;
            if (++spot.row == layer.rows) spot.row = 0;
            if (++spot.rotation == site.plan.rope_period) spot.rotation = 0;
        }
    }
};

// Copies so many bytes, a multiple of sixteen, with all threads of the block.
__device__ inline void copy_block(void* to, const void* from, size_t n) {
    for (size_t i = thread_index(); i < n / 16; i += kThreads) {
        static_cast<uint4*>(to)[i] = static_cast<const uint4*>(from)[i];
    }
}

// Copies what is a whole number of words.
template <class T>
__device__ inline void copy_words(T* to, const T* from) {
    for (int i = thread_index(); i < (int)sizeof(T) / 4; i += kThreads) {
        reinterpret_cast<uint32_t*>(to)[i] = reinterpret_cast<const uint32_t*>(from)[i];
    }
}

// Brings weights and the lanes' heads and filters into shared memory.
template <class S, int kLanes>
__device__ void begin(const Site<S, kLanes>& site, const Turn* turns) {
    const Plan& plan = site.plan;
    Rooms<S, kLanes>& rooms = site.rooms();
    copy_block(site.kept(), plan.image, plan.kept_bytes);
    for (int i = thread_index(); i < (int)sizeof(rooms.input) / 4; i += kThreads) {
        reinterpret_cast<uint32_t*>(rooms.input)[i] = 0;
    }
    for (int i = thread_index(); i < kCodes; i += kThreads) rooms.samples[i] = plan.samples[i];
    for (int r = 0; r < site.n_own; r++) {
        const Turn& turn = turns[r];
        const LaneHead* head = reinterpret_cast<const LaneHead*>(turn.lane);
        Own<S>& own = site.own(r);
        copy_words(&own.turn, &turn);
        copy_words(&own.head, head);
        for (int l = thread_index(); l < (int)plan.n_layers; l += kThreads) {
            const LayerPlan& layer = plan.layers[l];
            const uint64_t count = head->position / layer.stride;
            Spot& spot = own.spots[l];
            spot.phase = head->position % layer.stride;
            spot.row = count % layer.rows;
            spot.seen = count + 1 < layer.rows ? count + 1 : layer.rows;
            spot.rotation = count % plan.rope_period;
        }
        copy_block(site.filters(r), turn.lane + plan.filters, 4 * (size_t)plan.filter_floats);
    }
}

// Brings the lanes' heads and filters back.
template <class S, int kLanes>
__device__ void end(const Site<S, kLanes>& site) {
    for (int r = 0; r < site.n_own; r++) {
        const Own<S>& own = site.own(r);
        copy_words(reinterpret_cast<LaneHead*>(own.turn.lane), &own.head);
        copy_block(own.turn.lane + site.plan.filters, site.filters(r),
                   4 * (size_t)site.plan.filter_floats);
    }
}

// All matrices are brought by, piece after piece, as room becomes free.
template <class S, int kLanes>
__device__ void bring(Site<S, kLanes>& site, bool is_drawn, int who) {
    const Plan& plan = site.plan;
    Rooms<S, kLanes>& rooms = site.rooms();
    bool is_first = true;
    for (int at = 0; at < (int)plan.n_steps; at++) {
        const unsigned char* from = plan.image + plan.kept_bytes;
        const auto pass = [&](int n_rows, int n_steps) {
            const int most = piece_tiles(n_steps);
            for (int n = n_rows / kTileRows; n > 0; n -= most) {
                if (!is_first) wait_arrivals(&rooms.is_free[site.piece], site.phase ^ 1);
                const int bytes = (n < most ? n : most) * tile_bytes(n_steps);
                Arrivals* is_there = &rooms.is_there[site.piece];
                fetch(site.pieces() + site.piece * kPieceBytes, from, bytes, is_there, who, kBringers);
                end_fetches(is_there, bytes);
                from += bytes;
                if (site.next_piece()) is_first = false;
            }
        };
        if (plan.n_filters) pass(S::D, plan.n_filters + 1);
        for (int layer = 0; layer < (int)plan.n_layers; layer++) {
            pass(S::kQkv, S::D / 32);
            pass(S::D, S::D / 32);
            pass(S::F, S::D / 32);
            pass(S::D, S::F / 32);
        }
        if (is_drawn) pass(kCodes, S::D / 32);
    }
}

// Lanes are dealt to the blocks in turn.
template <class S, int kLanes>
__device__ void decode(const Plan& plan, const Turn* turns, int n_turns) {
    turns += block_index() * kLanes;
    n_turns -= block_index() * kLanes;
    Site<S, kLanes> site(plan, n_turns < kLanes ? n_turns : kLanes);
    bool is_drawn = false;
    for (int b = 0; b < site.n_own; b++) is_drawn |= turns[b].is_drawn != 0;
    if (thread_index() == 0) {
        constexpr int kCrew = 32 * Site<S, kLanes>::kCrew;
        for (Own<S>& own : site.rooms().own) begin_arrivals(&own.past_is_there, fetchers_of(kCrew));
        for (Arrivals& a : site.rooms().is_there) begin_arrivals(&a, fetchers_of(kBringers));
        for (Arrivals& arrivals : site.rooms().is_free) begin_arrivals(&arrivals, kWarps);
    }
    __syncthreads();
    const int who = thread_index() - kThreads;
    if (who >= 0) {
        if (who < fetchers_of(kBringers)) bring(site, is_drawn, who);
        return;
    }
    begin(site, turns);
    block_sync();
    Step<S, kLanes> step(site);
    for (int at = 0; at < (int)plan.n_steps; at++) step.step(at, is_drawn);
    end(site);
}

#define DECODE(name, n_lanes, rooms, ...)                                          \
    static_assert(sizeof(Rooms<Shape<__VA_ARGS__>, n_lanes>) <= rooms);            \
    extern "C" __global__ void __launch_bounds__(kThreads + kBringers, 1)          \
        name(const __grid_constant__ Plan plan, const Turn* turns, int n_turns) {  \
        decode<Shape<__VA_ARGS__>, n_lanes>(plan, turns, n_turns);                 \
    }

DECODE(decode_one_128, 1, 34816, 128, 512, 4, 32)
DECODE(decode_two_128, 2, 63488, 128, 512, 4, 32)
DECODE(decode_one_256, 1, 43008, 256, 1024, 8, 32)
DECODE(decode_two_256, 2, 84992, 256, 1024, 8, 32)
DECODE(decode_one_32, 1, 34816, 32, 64, 2, 16)
DECODE(decode_two_32, 2, 63488, 32, 64, 2, 16)
