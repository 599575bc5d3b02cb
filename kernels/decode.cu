// decode_{one,many}_{D} — a chunk of codes in every lane of a batch, one launch, no host in the
// loop: step, attention over the lane's caches, logits, draw, next step. `one` has one lane to a
// cluster, `many` up to 24; D says which shape was compiled.
// in    plan (`decode_plan.cuh`): weights int8 as [8 blocks][image_bytes], embed [V, D], angles
//       [rope_period, K] and samples [V] f32; a turn for each lane: uniforms [n] f32, or codes
//       [n] u8 to take in, and how to draw
// out   codes [n] u8 and, where they are asked for, logits [n, V] f32 of each turn; the lane
//       itself: head, convolutions [L, W, D] f32, filters f32, caches int8 in blocks of 16 slots
// math  that of the CPU engine to the last bit: integer sums are exact in any order, floats are
//       added in the CPU's sixteen lanes and fused where it fuses; hence -fmad=false. Denormals
//       are kept
// grid  clusters · 8 blocks of 512 threads; clusters do not know of each other, and any number of
//       them may wait for room. Shared memory: `Rooms`, the block's eighth of the weights with all
//       norms and taps, with one lane the filters too. Registers: 128, of which `many` wants more
// needs sm_90 (clusters), D = H·K a multiple of 32, K <= 32, one KV head, 256 visible slots at most
// twin  src/engine/cpu   test gpu_decode   bench `longwave bench --device cuda`
//
// A step of piano-16k
// bytes 1.09 MB of weights from the shared memory of eight blocks, however many lanes there are; for
//       each lane 97 KiB of keys, values and scales from the GPU's memory, 32 KiB of filters from
//       L2 (`many`) or shared memory (`one`)
// sums  1.09 M products of weights and 0.3 M of attention a lane; a tensor core takes 4,096 at once,
//       and sixteen lanes cost it what one costs
// meets `one`: the cluster 4·L + 2 = 26 times, whenever rows have come back. `many`: 54 times, for
//       inputs must go out, too. The block five times more in each layer
// floor `one`: 26 ways there and back of 0.25 us, a cluster's barrier (503 clocks of 1.98 GHz,
//       measured by 64 of them in a row, H200, 2026-11-26), is 6.6 us: bytes and sums hide behind.
//       What it takes is far above, for every float stage is one warp's chain of dependent
//       instructions: a norm with its quantising takes some 1,000 clocks, of which there are 13
//
// Who waits for whom. `Rooms::input` and `scale` are written by the leaders of lanes, before
// `meet_inputs`, and read by all warps of a product, before `meet_outputs`. `returned` is written
// by the products of all blocks, before `meet_outputs`, and read by the leader's block until it
// comes to the next `meet_inputs` (`many`) or `meet_outputs` (`one`: hence two of them in turn). In
// `many` both are barriers of the cluster. In `one` the first is one of the block, and at the second
// each block waits until as many bytes have come as the product has rows: who sends them has had
// all that it will overwrite, for it needs this block's rows of the product between. What a step
// writes to a lane in the GPU's memory (the new slots, the convolutions' inputs) other blocks read
// after the cluster's barrier that the step ends with, waited for in the next. Nobody polls memory.
//
// In `one` compute-sanitizer's racecheck warns of `Rooms::input` and `scale`, read by `multiply` and
// written by the next `quantise`: a row that has come back was computed from what its sender had
// read, so all reads are over, but racecheck knows no order by what a value was made of. And of a
// filter's newest place, which `Tap::pass` reads beside the lane that writes it, and does not use.
#include "decode_attend.cuh"
#include "decode_draw.cuh"

// Positions before the present one that a convolution reads ahead of time.
constexpr int kRecalled = 3;

template <class S, bool kSolo>
struct Step {
    Site<S, kSolo>& site;
    Prediction<S, kSolo> prediction;
    Stream<S> stream;
    // Which of the convolution's places is the present one's, and what is read of the others ahead
    // of time.
    int now = 0;
    float past[kRecalled][S::kOwn];

    __device__ Step(Site<S, kSolo>& site, float* staged) : site(site), prediction{site, staged} {
        if (site.is_leader()) now = site.led().head.position % site.plan.conv_width;
    }

    __device__ void embed() {
        if (site.is_leader()) {
            stream.load(site.plan.embed + site.led().head.last * S::D);
        }
        if (site.plan.n_filters > 0) prediction.hear();
        // What the last step wrote to the lane, all may read now.
        if (kSolo) cluster_wait();
        recall(0);
        if (site.plan.n_filters == 0) return;
        site.meet_inputs();
        const int columns = 32 * (site.plan.n_filters + 1);
        const Product p = site.product(site.tail() + S::kExpectedAt, S::D, columns);
        site.template multiply<0>(p, columns / 32, [](float y) { return y; }, [] {});
        take_back();
    }

    // Adds what a product gave back to the stream.
    __device__ void take_back() {
        if (site.is_leader()) stream.add(site.returned(site.warp));
    }

    __device__ float* kept(int layer) const {
        return reinterpret_cast<float*>(site.led().turn.lane + site.plan.taps) +
               layer * site.plan.conv_width * S::D;
    }

    // Asks for what a layer's convolution will want of the past.
    __device__ void recall(int layer) {
        if (!site.is_leader() || layer >= (int)site.plan.n_layers) return;
        const float* from = kept(layer);
        const int width = site.plan.conv_width;
#pragma unroll
        for (int j = 1; j <= kRecalled; j++) {
            const int then = now >= j ? now - j : now - j + width;
#pragma unroll
            for (int i = 0; i < S::kOwn; i++) {
                if (j < width) past[j - 1][i] = load_fresh(from + then * S::D + element<S>(i));
            }
        }
    }

    // The input of a layer's queries, keys and values: normed, and convolved with what came before.
    __device__ void convolve(int layer) {
        const unsigned char* weights = site.layer(layer);
        float normed[S::kOwn], sum[S::kOwn];
        stream.norm(reinterpret_cast<const float*>(weights + S::kAttnGainAt), site.plan.norm_eps,
                    normed);
        const int width = site.plan.conv_width;
        const float* taps = reinterpret_cast<const float*>(weights + S::kTapsAt);
        float* all = kept(layer);
#pragma unroll
        for (int i = 0; i < S::kOwn; i++) sum[i] = fmaf(taps[element<S>(i)], normed[i], 0.0f);
#pragma unroll
        for (int j = 1; j <= kRecalled; j++) {
#pragma unroll
            for (int i = 0; i < S::kOwn; i++) {
                if (j >= width) continue;
                sum[i] = fmaf(taps[j * S::D + element<S>(i)], past[j - 1][i], sum[i]);
            }
        }
        for (int j = kRecalled + 1; j < width; j++) {
            const int then = now >= j ? now - j : now - j + width;
#pragma unroll
            for (int i = 0; i < S::kOwn; i++) {
                const int e = element<S>(i);
                sum[i] = fmaf(taps[j * S::D + e], load_fresh(all + then * S::D + e), sum[i]);
            }
        }
        site.quantise(sum);
        if (!kSolo || site.rank == 0) {
#pragma unroll
            for (int i = 0; i < S::kOwn; i++) all[now * S::D + element<S>(i)] = normed[i];
        }
    }

    __device__ void norm(const unsigned char* gain) {
        float normed[S::kOwn];
        stream.norm(reinterpret_cast<const float*>(gain), site.plan.norm_eps, normed);
        site.quantise(normed);
    }

    __device__ void attend(int layer) {
        const unsigned char* weights = site.layer(layer);
        Attention<S, kSolo> attention(site, layer);
        if (site.is_leader()) convolve(layer);
        site.meet_inputs();
        site.template multiply<S::D>(site.product(weights + S::kQkvAt, S::kQkv, S::D),
                                     [&] { attention.foresee(); });
        attention.attend();
        site.meet_inputs();
        site.template multiply<S::D>(site.product(weights + S::kOutAt, S::D, S::D),
                                     [&] { attention.append(); });
        take_back();
    }

    __device__ void mlp(int layer) {
        const unsigned char* weights = site.layer(layer);
        if (site.is_leader()) norm(weights + S::kMlpGainAt);
        site.meet_inputs();
        site.template multiply<S::D / 32>(site.product(weights + S::kUpAt, S::F, S::D), 0,
                                          [](float y) { return gelu(y); },
                                          [&] { recall(layer + 1); });
        constexpr int kPer = (S::F / 4 + 31) / 32;
        site.template quantise_long<kPer>(S::F, [&](int r) { return site.returned(r); });
        site.meet_inputs();
        site.template multiply<S::F>(site.product(weights + S::kDownAt, S::D, S::F), [] {});
        take_back();
    }

    __device__ void unembed() {
        if (site.is_leader()) norm(site.tail() + S::kGainAt);
        site.meet_inputs();
        site.template multiply<S::D>(site.product(site.tail(), kCodes, S::D), [] {});
    }

    // Says which code comes next in the lane that this warp leads.
    __device__ uint32_t choose(int at, float uniform, bool is_drawn) {
        Own<S, kSolo>& own = site.led();
        const Turn& turn = own.turn;
        const int n_filters = site.plan.n_filters;
        const float* logits = site.returned(site.warp);
        if (is_drawn && turn.logits && (!kSolo || site.rank == 0)) {
            for (int c = site.lane; c < kCodes; c += 32) turn.logits[at * kCodes + c] = logits[c];
        }
        if (turn.forced) return turn.forced[at];
        Draw draw{turn, logits, own.scratch, own.scratch + kCodes, Codes(), own.head};
        if (n_filters) {
            const bool may_leap = turn.leveling == 0.0f;
            draw.codes = Codes(own.head, n_filters, site.rooms().samples, may_leap);
        }
        return draw.draw(uniform, reinterpret_cast<uint64_t*>(own.scratch + 2 * kCodes));
    }

    // Takes in every lane's last code and leaves the next one in its place.
    __device__ void step(int at, bool is_drawn) {
        float uniform = 0.0f;
        if (site.is_leader() && site.led().turn.uniforms) {
            uniform = load_constant(site.led().turn.uniforms + at);
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
            const Turn& turn = site.led().turn;
            if (site.lane == 0) {
                site.led().head.last = code;
                site.led().head.position++;
                if (turn.codes && (!kSolo || site.rank == 0)) turn.codes[at] = code;
            }
        }
        advance_spots();
        now = now + 1 == (int)site.plan.conv_width ? 0 : now + 1;
        block_sync();
        if (kSolo) cluster_arrive();
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

// Brings weights and the lanes' heads into shared memory.
template <class S, bool kSolo>
__device__ void begin(const Site<S, kSolo>& site, const Turn* turns, float* staged) {
    const Plan& plan = site.plan;
    Rooms<S, kSolo>& rooms = site.rooms();
    copy_block(site.image(), plan.image + (size_t)site.rank * plan.image_bytes, plan.image_bytes);
    for (int i = thread_index(); i < (int)sizeof(rooms.input) / 4; i += kThreads) {
        reinterpret_cast<uint32_t*>(rooms.input)[i] = 0;
    }
    for (int i = thread_index(); i < kCodes; i += kThreads) rooms.samples[i] = plan.samples[i];
    for (int r = 0; r < site.n_own; r++) {
        const Turn& turn = turns[kSolo ? 0 : r * kBlocks + site.rank];
        const LaneHead* head = reinterpret_cast<const LaneHead*>(turn.lane);
        Own<S, kSolo>& own = site.own(r);
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
    }
    if (kSolo) copy_block(staged, turns[0].lane + plan.filters, 4 * (size_t)plan.filter_floats);
}

// Brings the lanes' heads back.
template <class S, bool kSolo>
__device__ void end(const Site<S, kSolo>& site, const float* staged) {
    if (kSolo && site.rank != 0) return;
    for (int r = 0; r < site.n_own; r++) {
        const Own<S, kSolo>& own = site.own(r);
        copy_words(reinterpret_cast<LaneHead*>(own.turn.lane), &own.head);
    }
    const Plan& plan = site.plan;
    if (kSolo) {
        copy_block(site.own(0).turn.lane + plan.filters, staged, 4 * (size_t)plan.filter_floats);
    }
}

// Lanes are dealt to the clusters in turn.
template <class S, bool kSolo>
__device__ void decode(const Plan& plan, const Turn* turns, int n_turns) {
    const int most = plan.lanes_per_cluster;
    turns += cluster_index() * most;
    n_turns -= cluster_index() * most;
    Site<S, kSolo> site(plan, n_turns < most ? n_turns : most);
    float* staged = reinterpret_cast<float*>(site.image() + plan.image_bytes);
    begin(site, turns, staged);
    bool is_drawn = false;
    for (int b = 0; b < site.n_lanes; b++) is_drawn |= turns[b].is_drawn != 0;
    if (kSolo && thread_index() == 0) {
        for (Arrivals& arrivals : site.own(0).arrivals) begin_arrivals(&arrivals);
    }
    cluster_sync();
    if (kSolo) cluster_arrive();
    Step<S, kSolo> step(site, staged);
    for (int at = 0; at < (int)plan.n_steps; at++) step.step(at, is_drawn);
    // No block goes while another may still write to its memory.
    if (kSolo) cluster_wait();
    cluster_sync();
    end(site, staged);
}

#define DECODE(name, is_solo, rooms, ...)                                                    \
    static_assert(sizeof(Rooms<Shape<__VA_ARGS__>, is_solo>) <= rooms);                      \
    extern "C" __global__ void __cluster_dims__(kBlocks, 1, 1) __launch_bounds__(kThreads, 1) \
        name(const __grid_constant__ Plan plan, const Turn* turns, int n_turns) {             \
        decode<Shape<__VA_ARGS__>, is_solo>(plan, turns, n_turns);                            \
    }

DECODE(decode_one_128, true, 24576, 128, 512, 4, 32)
DECODE(decode_many_128, false, 53248, 128, 512, 4, 32)
DECODE(decode_one_32, true, 24576, 32, 64, 2, 16)
DECODE(decode_many_32, false, 53248, 32, 64, 2, 16)
