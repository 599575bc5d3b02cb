// decode_{cluster,one,two}_{D} — a chunk of codes in every lane of a batch, one launch, no host in the
// loop: step, attention over the lane's caches, logits, draw, next step. D says which shape was compiled. A
// block decodes one lane (`one`) or two (`two`), and all weights pass through it; or the eight blocks of a
// cluster decode one lane together (`cluster`).
// in    plan (`decode_plan.cuh`): weights int8, embed [V, D], angles [rope_period, K] and samples [V]
//       f32; a turn for each lane: uniforms [n] f32, or codes [n] u8 to take in, and how to draw
// out   codes [n] u8 and, where they are asked for, logits [n, V] f32 of each turn; the lane
//       itself: head, convolutions [L, W, D] f32, filters f32, caches int8 in blocks of 16 slots
// math  that of the CPU engine to the last bit: integer sums are exact in any order, floats are
//       added in the CPU's sixteen lanes and fused where it fuses; hence -fmad=false. Denormals
//       are kept. `quotient` says which numbers may differ: none that a model in order comes to
// grid  blocks of 512 threads, in a cluster of 256, and a few warps that bring the weights (`Deal`); blocks do
//       not know of others but those of their cluster, and any number of them may wait for room. Shared memory,
//       nearly all of it: `Rooms`, norms and taps, the lanes' filters, one to eight pieces of matrices.
//       On sm_90 96 registers, and 26 bytes of them at most spilt where D = 128, 106 where D = 256; in a
//       cluster 168, and 4 bytes
// needs sm_80, and for clusters sm_90; fetches by themselves since sm_90 (`decode_fetch.cuh`). D = H·K a multiple
//       of 32, K <= 32, one KV head, 256 visible slots and 4 of a convolution at most
// twin  src/engine/cpu   test gpu_decode   bench `longwave bench --device cuda`
//
// A step of piano-16k
// bytes 1.14 MB of weights from L2, for one lane or two: 132 blocks ask it for 3.2 TB/s together. For
//       each lane 97 KiB of keys, values and scales from the GPU's memory, and 32 KiB of filters in
//       shared memory
// sums  1.09 M products of weights and 0.3 M of attention a lane; a tensor core takes 4,096 at once,
//       eight lanes as soon as one
// meets the warps of a block nine times in each layer, thirteen where matrices come by pieces; the blocks of a
//       cluster four times: what one has multiplied takes a quarter of a microsecond or more to be everywhere
// floor 1.14 MB at the 64 bytes that a multiprocessor may ask of L2 in a clock of 1.98 GHz: 9 us; in a cluster
//       26 times what the others' results are on their way, some 7 us. What it takes is above, for a step is a
//       chain of some hundred stages that wait for each other, each a handful of dependent instructions
//
// Who waits for whom. `Rooms::input` and `scale` are written by the leaders of lanes and read by all
// warps of a product, `returned` is written by the product and read by the lane's crew: all of a block meet before
// the product, and behind it but for clusters. `Own::run` and `past` are fetched when the crew is done with the
// last layer's, and awaited by the leader's convolution, after which all meet. What a step writes to a lane in the
// GPU's memory (the new slots, the convolutions' inputs) fetches read in the next step: the writer shows it to
// them, and barriers lie between. The newest key and value go into the run as soon as they are known, and before
// the next layer's run is asked for into registers of those who write them to the lane. A piece of a matrix is
// written over when all warps have said that they are done with it.
//
// In a cluster every block does everything of its lane but products, with the same numbers and so to the same
// result. What its part of a product comes to a block sends to all, into one of two rooms in turn. Two are enough:
// a block sends of the next product but one when it has heard of the next from all; each block has a part of
// every product, and sends it when its own warps have met, behind which none of them reads what the product
// before gave back. (So nobody may read `returned` behind the next product's meeting.) Behind a product the
// warps of a block do not meet: who has heard from all knows that they have read what they multiplied.
// All blocks write the same bytes to the lane's caches and convolutions. Nobody writes a new slot while another
// still fetches it, for he has heard from all by then, who fetch before they multiply. A new input may change
// under a fetch, and nobody looks at it there.
//
// compute-sanitizer's racecheck does not see that one lane says so for its warp (`free_piece`) and calls
// what the others have read a race: it found none when every lane said so (H200, 2026-11-27). Of a cluster it
// also names what lies on the two sides of a block's own barrier (2026-11-28), as if its blocks had one shared
// memory; that this is why is believed, not shown.
#include "decode_attend.cuh"
#include "decode_draw.cuh"

template <class S>
struct Step {
    Site<S>& site;
    Prediction<S> prediction;
    Stream<S> stream;
    int now = 0;  // which of the convolution's places is the present one's

    __device__ explicit Step(Site<S>& site) : site(site), prediction{site} {
        if (site.is_leader()) now = site.crewed().head.position % site.plan.conv_width;
    }

    __device__ void embed() {
        if (site.is_leader()) {
            stream.load(site.plan.embed + site.crewed().head.last * S::D);
        }
        if (site.plan.n_filters > 0) prediction.hear();
        Attention<S>::ask(site, 0);
        if (site.plan.n_filters == 0) return;
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
        const int width = site.plan.conv_width;
        const float* taps = site.layer(layer) + 2 * S::D;
        // Before the norm: then what is loaded may be there when it is wanted.
        Attention<S>::await_past(site);
        float normed[S::kOwn], sum[S::kOwn];
        stream.norm(site.layer(layer), site.plan.norm_eps, normed);
#pragma unroll
        for (int i = 0; i < S::kOwn; i++) sum[i] = fmaf(taps[element<S>(i)], normed[i], 0.0f);
#pragma unroll
        for (int j = 1; j < kMostTaps; j++) {
            const bool is_tap = j < width;
            const float* past = own.past[!is_tap ? 0 : now >= j ? now - j : now - j + width];
#pragma unroll
            for (int i = 0; i < S::kOwn; i++) {
                const int e = element<S>(i);
                sum[i] = fmaf(is_tap ? taps[j * S::D + e] : 0.0f, is_tap ? past[e] : 0.0f, sum[i]);
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
        Attention<S> attention(site, layer);
        if (site.is_leader()) convolve(layer);
        // The leader, for whom the others wait, looks later.
        if (!site.is_leader()) attention.foresee();
        site.template multiply<S::D>(S::kQkv);
        if (site.is_leader()) attention.foresee();
        attention.attend();
        site.template multiply<S::D>(S::D);
        take_back();
    }

    __device__ void mlp(int layer) {
        if (site.is_leader()) norm(site.layer(layer) + S::D);
        site.template multiply<S::D / 32>(S::F, 0, [](float y) { return gelu(y); });
        constexpr int kPer = (S::F / 4 + 31) / 32;
        site.template quantise_long<kPer>(S::F, [&](int r) { return site.returned(r); });
        site.template multiply<S::F>(S::D);
        take_back();
    }

    __device__ void unembed() {
        if (site.is_leader()) norm(site.layer(site.plan.n_layers));
        if (site.is_on() && site.member == Site<S>::kCrew - 1 && site.plan.n_filters) look_ahead();
        site.template multiply<S::D>(kCodes);
    }

    // Finds which codes are looked at: nothing of that depends on the logits.
    __device__ void look_ahead() {
        Own<S>& own = site.crewed();
        const Turn& turn = own.turn;
        const bool may_leap = turn.leveling == 0.0f;
        const FilterPlan& first = site.plan.filter[0];
        Going going;
        if (turn.max_click < kAnyClick && first.taps >= kCurves + 4) {
            const float* ring = site.filters(site.crew) + first.heard;
            going = Going(ring, own.head.newest[0], first.ring - 1, turn.max_click);
        }
        const Codes codes(own.head, site.rooms().samples, going, may_leap);
        if (site.lane == 0) own.looked_at = make_int2(codes.first, codes.end);
    }

    // Says which code comes next in the lane that this warp leads.
    __device__ uint32_t choose(int at, float uniform, bool is_drawn) {
        Own<S>& own = site.crewed();
        const Turn& turn = own.turn;
        const float* logits = site.returned(site.crew);
        if (is_drawn && turn.logits && site.rank == 0) {
            for (int c = site.lane; c < kCodes; c += 32) turn.logits[at * kCodes + c] = logits[c];
        }
        if (turn.forced) return turn.forced[at];
        Draw draw{turn, logits, own.scratch, own.scratch + kCodes, Codes(), own.head};
        if (site.plan.n_filters) {
            draw.codes.first = own.looked_at.x;
            draw.codes.end = own.looked_at.y;
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
                if (turn.codes && site.rank == 0) turn.codes[at] = code;
            }
        }
        advance_spots();
        now = now + 1 == (int)site.plan.conv_width ? 0 : now + 1;
        site.sync();
    }

    // The next position's places in every layer.
    __device__ void advance_spots() {
        const int n_layers = site.plan.n_layers;
        for (int i = S::kThreads - 1 - thread_index(); i < site.n_own * n_layers; i += S::kThreads) {
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

// Copies so many bytes, a multiple of sixteen, with all threads that compute.
template <class S>
__device__ void copy_block(void* to, const void* from, size_t n) {
    for (size_t i = thread_index(); i < n / 16; i += S::kThreads) {
        static_cast<uint4*>(to)[i] = static_cast<const uint4*>(from)[i];
    }
}

// Copies what is a whole number of words.
template <class S, class T>
__device__ void copy_words(T* to, const T* from) {
    for (int i = thread_index(); i < (int)sizeof(T) / 4; i += S::kThreads) {
        reinterpret_cast<uint32_t*>(to)[i] = reinterpret_cast<const uint32_t*>(from)[i];
    }
}

// Brings weights and the lanes' heads and filters into shared memory.
template <class S>
__device__ void begin(const Site<S>& site, const Turn* turns) {
    const Plan& plan = site.plan;
    Rooms<S>& rooms = site.rooms();
    copy_block<S>(site.kept(), plan.image, plan.kept_bytes);
    for (int i = thread_index(); i < (int)sizeof(rooms.input) / 4; i += S::kThreads) {
        reinterpret_cast<uint32_t*>(rooms.input)[i] = 0;
    }
    for (int i = thread_index(); i < kCodes; i += S::kThreads) rooms.samples[i] = plan.samples[i];
    for (int r = 0; r < site.n_own; r++) {
        const Turn& turn = turns[r];
        const LaneHead* head = reinterpret_cast<const LaneHead*>(turn.lane);
        Own<S>& own = site.own(r);
        copy_words<S>(&own.turn, &turn);
        copy_words<S>(&own.head, head);
        for (int l = thread_index(); l < (int)plan.n_layers; l += S::kThreads) {
            const LayerPlan& layer = plan.layers[l];
            const uint64_t count = head->position / layer.stride;
            Spot& spot = own.spots[l];
            spot.phase = head->position % layer.stride;
            spot.row = count % layer.rows;
            spot.seen = count + 1 < layer.rows ? count + 1 : layer.rows;
            spot.rotation = count % plan.rope_period;
        }
        copy_block<S>(site.filters(r), turn.lane + plan.filters, 4 * (size_t)plan.filter_floats);
    }
}

// Brings the lanes' heads and filters back.
template <class S>
__device__ void end(const Site<S>& site) {
    for (int r = 0; r < site.n_own; r++) {
        const Own<S>& own = site.own(r);
        copy_words<S>(reinterpret_cast<LaneHead*>(own.turn.lane), &own.head);
        copy_block<S>(own.turn.lane + site.plan.filters, site.filters(r),
                   4 * (size_t)site.plan.filter_floats);
    }
}

// All matrices are brought by, piece after piece, as room becomes free.
template <class S>
__device__ void bring(Site<S>& site, bool is_drawn, int who) {
    const Plan& plan = site.plan;
    Rooms<S>& rooms = site.rooms();
    bool is_first = true;
    for (int at = 0; at < (int)plan.n_steps; at++) {
        const unsigned char* from = plan.image + plan.kept_bytes;
        const auto pass = [&](int n_rows, int n_steps) {
            const int most = S::piece_tiles(n_steps), end = site.first_tile(n_rows, site.rank + 1);
            for (int tile = site.first_tile(n_rows, site.rank); tile < end; tile += most) {
                if (!is_first) wait_arrivals(&rooms.is_free[site.piece], site.phase ^ 1);
                const int bytes = (tile + most < end ? most : end - tile) * tile_bytes(n_steps);
                Arrivals* is_there = &rooms.is_there[site.piece];
                fetch(site.pieces() + site.piece * S::kPieceBytes, from + tile * tile_bytes(n_steps), bytes,
                      is_there, who, S::kBringers);
                end_fetches(is_there, bytes);
                if (site.next_piece()) is_first = false;
            }
            from += n_rows / kTileRows * tile_bytes(n_steps);
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
template <class S>
__device__ void decode(const Plan& plan, const Turn* turns, int n_turns) {
    const int done = block_index() / S::kBlocks * S::kLanes;
    turns += done;
    n_turns -= done;
    Site<S> site(plan, n_turns < S::kLanes ? n_turns : S::kLanes);
    bool is_drawn = false;
    for (int b = 0; b < site.n_own; b++) is_drawn |= turns[b].is_drawn != 0;
    if (thread_index() == 0) {
        constexpr int kCrew = 32 * Site<S>::kCrew;
        for (Own<S>& own : site.rooms().own) begin_arrivals(&own.past_is_there, fetchers_of(kCrew));
        for (Arrivals& a : site.rooms().is_there) begin_arrivals(&a, fetchers_of(S::kBringers));
        for (Arrivals& arrivals : site.rooms().is_free) begin_arrivals(&arrivals, S::kWarps);
        for (Arrivals& a : site.rooms().is_returned) begin_arrivals(&a, 1);
    }
    __syncthreads();
    // Nobody sends before all are there, and nobody leaves while others send.
    if (S::kIsCluster) cluster_sync();
    const int who = thread_index() - S::kThreads;
    if (who >= 0) {
        if (who < fetchers_of(S::kBringers)) bring(site, is_drawn, who);
        return;
    }
    begin(site, turns);
    site.sync();
    Step<S> step(site);
    for (int at = 0; at < (int)plan.n_steps; at++) step.step(at, is_drawn);
    if (S::kIsCluster) cluster_sync();
    if (site.rank == 0) end(site);
}

// Of a block: its threads, KiB of its `Rooms` at most, and bytes of a piece of a matrix, as
// `src/engine/cuda/plan.rs` says.
#define DECODE(name, n_blocks, n_lanes, threads, rooms, piece, ...)                                     \
    using Deal_##name = Deal<Shape<__VA_ARGS__>, n_lanes, n_blocks>;                                    \
    static_assert(sizeof(Rooms<Deal_##name>) <= 1024 * rooms && Deal_##name::kPieceBytes == piece);     \
    static_assert(Deal_##name::kThreads + Deal_##name::kBringers == threads);                           \
    extern "C" __global__ void __launch_bounds__(threads, 1)                                            \
        CLUSTER(n_blocks) name(const __grid_constant__ Plan plan, const Turn* turns, int n_turns) {     \
        decode<Deal_##name>(plan, turns, n_turns);                                                      \
    }

#define CLUSTER(n)
DECODE(decode_one_128, 1, 1, 640, 34, 17920, 128, 512, 4, 32)
DECODE(decode_two_128, 1, 2, 640, 64, 17920, 128, 512, 4, 32)
DECODE(decode_one_256, 1, 1, 640, 45, 17920, 256, 1024, 8, 32)
DECODE(decode_two_256, 1, 2, 640, 85, 17920, 256, 1024, 8, 32)
DECODE(decode_one_32, 1, 1, 640, 30, 17920, 32, 64, 2, 16)
DECODE(decode_two_32, 1, 2, 640, 57, 17920, 32, 64, 2, 16)

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#undef CLUSTER
#define CLUSTER(n) __cluster_dims__(n, 1, 1)
DECODE(decode_cluster_128, 8, 1, 288, 35, 8960, 128, 512, 4, 32)
DECODE(decode_cluster_256, 8, 1, 288, 48, 34304, 256, 1024, 8, 32)
#endif
