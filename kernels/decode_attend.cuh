// Attention of decode.cu, with the tensor cores: scores are a product of queries [H, K] and keys
// [K, 8 slots], what they mix is one of weights [H, 32 slots] and values [32 slots, 8 dims].
//
// What a layer wants of the past comes from the GPU's memory while the layer before is at work: where it
// lies depends on the position alone. A lane's crew shares its slots out, and meets between the parts.
#pragma once
#include "decode_product.cuh"

// What a lane sees of a run of slots, which is widened to whole blocks as in `src/compute/cache.rs`.
struct Seen {
    int n_blocks;
    int first;   // of the visible slots, counted from the first block's start
    int end;     // one behind the last
    int newest;  // the present position's
};

// A lane's run in one layer.
struct Run {
    Seen seen;
    unsigned char* blocks;  // the first

    template <class O>
    __device__ Run(const O& own, const Plan& plan, int layer) {
        const LayerPlan& l = plan.layers[layer];
        const Spot spot = own.spots[layer];
        const uint32_t start = spot.phase * l.rows;
        blocks = own.turn.lane + l.cache + (size_t)(start / 16) * kSlotBlock;
        seen.first = start % 16;
        seen.end = seen.first + spot.seen;
        seen.newest = seen.first + spot.row;
        seen.n_blocks = (seen.end + 15) / 16;
    }
};

template <class S>
struct Attention {
    static constexpr int kCrew = Site<S>::kCrew;
    static constexpr int kBlocksOwn = kSlots / 16 / kCrew;  // blocks of slots of a warp
    static constexpr int kColumns = S::K / 8;          // of eight dims
    static constexpr int kMixers = S::kMixers;
    // Pairs of blocks whose values a warp takes, of one column.
    static constexpr int kPairs = kSlots / 32 / S::kMixedRows;
    // A product with keys has eight rows and four heads or less fill only half of them: then the
    // queries lie there twice, and thread (g, t) looks at half g / 4 of a block, else at both.
    static constexpr int kHeads = S::H <= 4 ? 4 : 8;
    static constexpr int kHalves = kHeads / 4;

    Site<S>& site;
    const int layer;
    const int g = site.lane / 4, t = site.lane % 4;
    // The head whose scores this thread looks at.
    const int head = g % kHeads;
    const bool is_head = head < S::H;
    Seen seen;
    // The scores of two slots in each half; what becomes of them.
    float2 scores[kBlocksOwn][kHalves];
    // Of the head that this half warp turns.
    float cos, sin;

    __device__ Attention(Site<S>& site, int layer) : site(site), layer(layer) {}

    // Asks for what a layer wants of the past; nobody reads the last layer's any more.
    __device__ static void ask(Site<S>& site, int layer) {
        constexpr int kCould = 32 * kCrew;
        // Where one thread asks, it is neither the leader's nor of a warp that appends or multiplies soon.
        const int who = 32 * ((site.member + kCrew - 2) % kCrew) + site.lane;
        if (who >= fetchers_of(kCould) || !site.is_on()) return;
        const Plan& plan = site.plan;
        Own<S>& own = site.crewed();
        const Run run(own, plan, layer);
        const int run_bytes = run.seen.n_blocks * kSlotBlock;
        const int past_bytes = plan.conv_width * (int)sizeof(own.past[0]);
        fetch(own.past, own.turn.lane + plan.taps + layer * past_bytes, past_bytes,
              &own.past_is_there, who, kCould);
        fetch(own.run, run.blocks, run_bytes, &own.past_is_there, who, kCould);
        end_fetches(&own.past_is_there, run_bytes + past_bytes);
    }

    __device__ static void await_past(const Site<S>& site) {
        wait_arrivals(&site.crewed().past_is_there, site.n_pasts % 2);
    }

    // Queries, the key and the value fall to half warps, from the crew's end.
    __device__ int turned() const { return 2 * (kCrew - 1 - site.member) + site.lane / 16; }

    // Looks where things lie, and asks for angles.
    __device__ void foresee() {
        if (!site.is_on()) return;
        const Own<S>& own = site.crewed();
        seen = Run(own, site.plan, layer).seen;
        if (turned() <= S::H && site.lane % 16 < S::K / 2) {
            const float* angles = site.plan.angles + own.spots[layer].rotation * S::K;
            cos = load_constant(angles + site.lane % 16);
            sin = load_constant(angles + S::K / 2 + site.lane % 16);
        }
    }

    // Half a warp turns and quantises a query or the key, or quantises the value.
    __device__ void quantise_heads() {
        static_assert(S::H + 2 <= 2 * kCrew && S::D <= 32 * kCrew);
        Own<S>& own = site.crewed();
        const int head = turned();
        if (2 * (kCrew - 1 - site.member) >= S::H + 2) return;
        Head<S> v(site.returned(site.crew) + head * S::K, head < S::H + 2);
        if (v.is_pair && head <= S::H) v.turn(cos, sin);
        v.quantise(own.heads[head], own.head_scales + head, head < S::H, site.plan.score_unit);
    }

    // Stores the newest key and value.
    __device__ void append() const {
        if (site.member != 1 || !site.is_on()) return;
        const Own<S>& own = site.crewed();
        const Run run(own, site.plan, layer);
        unsigned char* block = run.blocks + seen.newest / 16 * kSlotBlock;
        const int at = seen.newest % 16, i = site.lane;
        if (i < S::K) {
            block[32 * at + i] = own.heads[S::H][i];
            block[512 + 16 * i + at] = own.heads[S::H + 1][i];
        }
        if (i < 2) reinterpret_cast<float*>(block + 1024)[16 * i + at] = own.head_scales[S::H + i];
        show_to_fetches();
    }

    // This warp's block of that number.
    __device__ int block_of_own(int i) const { return site.member + kCrew * i; }

    // Which half of a block this thread looks at.
    __device__ int half_of(int h) const { return kHalves == 1 ? g / 4 : h; }

    // The first of the two slots that it looks at, in this warp's block i.
    __device__ int slot_of(int i, int h) const {
        return 16 * block_of_own(i) + 8 * half_of(h) + 2 * t;
    }

    // The scores of this warp's slots, as powers of two, minus infinity where none is seen; leaves
    // the largest of each head.
    __device__ void score() {
        Own<S>& own = site.crewed();
        const int known = is_head ? head : 0;
        const uint2 q = reinterpret_cast<const uint2*>(own.heads[known])[t];
        const float q_scale = own.head_scales[known], newest = own.head_scales[S::H];
#pragma unroll
        for (int i = 0; i < kBlocksOwn; i++) {
#pragma unroll
            for (int h = 0; h < kHalves; h++) scores[i][h] = make_float2(-INFINITY, -INFINITY);
            const int number = block_of_own(i);
            int sums[2][4] = {};
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int slot = 8 * half + g;
                const unsigned char* key = own.run + number * kSlotBlock + 32 * slot;
                if (16 * number + slot == seen.newest) key = own.heads[S::H];
                const uint2 k = reinterpret_cast<const uint2*>(key)[t];
                multiply_signed(sums[half], q.x, 0, q.y, 0, k.x, k.y);
            }
#pragma unroll
            for (int h = 0; h < kHalves; h++) {
                const int first = slot_of(i, h), (&c)[4] = sums[h];
                const bool is_upper = kHalves == 1 && half_of(h) == 1;
                const int x = is_upper ? sums[1][0] : c[0], y = is_upper ? sums[1][1] : c[1];
                const float2 scale = scales(first, 0, newest);
                if (first >= seen.first && first < seen.end) {
                    scores[i][h].x = (float)x * (scale.x * q_scale);
                }
                if (first + 1 >= seen.first && first + 1 < seen.end) {
                    scores[i][h].y = (float)y * (scale.y * q_scale);
                }
            }
        }
        leave(own.tops);
    }

    // The scales of the keys, or values, of a slot and the next.
    __device__ float2 scales(int slot, int of_values, float newest) const {
        const unsigned char* from = site.crewed().run + slot / 16 * kSlotBlock + 1024 + 64 * of_values;
        float2 pair = reinterpret_cast<const float2*>(from)[slot % 16 / 2];
        if (slot == seen.newest) pair.x = newest;
        if (slot + 1 == seen.newest) pair.y = newest;
        return pair;
    }

    // The largest of this warp's scores of each head.
    __device__ void leave(float (&of_warps)[8][kWarpPitch]) const {
        float top = -INFINITY;
#pragma unroll
        for (int i = 0; i < kBlocksOwn; i++) {
#pragma unroll
            for (int h = 0; h < kHalves; h++) {
                top = larger(top, larger(scores[i][h].x, scores[i][h].y));
            }
        }
        top = larger(top, shuffle_xor(top, 1));
        top = larger(top, shuffle_xor(top, 2));
        if (kHalves == 1) top = larger(top, shuffle_xor(top, 16));
        if (t == 0 && g == head && is_head) of_warps[head][site.member] = top;
    }

    // Of this thread's head: each of four threads looks at some warps.
    __device__ float largest_of_warps(const float (&of_warps)[8][kWarpPitch]) const {
        const float2* of_head = reinterpret_cast<const float2*>(of_warps[is_head ? head : 0]);
        float2 v = of_head[t];
        float top = larger(v.x, v.y);
        if (kCrew == 16) {
            v = of_head[t + 4];
            top = larger(top, larger(v.x, v.y));
        }
        top = larger(top, shuffle_xor(top, 1));
        return larger(top, shuffle_xor(top, 2));
    }

    // Shares of the likeliest, for the sum; times the scales of the values, for the weights.
    __device__ void share() {
        Own<S>& own = site.crewed();
        const float newest = own.head_scales[S::H + 1];
        float2 worth[kBlocksOwn][kHalves];
#pragma unroll
        for (int i = 0; i < kBlocksOwn; i++) {
#pragma unroll
            for (int h = 0; h < kHalves; h++) worth[i][h] = scales(slot_of(i, h), 1, newest);
        }
        const float top = largest_of_warps(own.tops);
#pragma unroll
        for (int i = 0; i < kBlocksOwn; i++) {
            const bool is_seen = block_of_own(i) < seen.n_blocks;
#pragma unroll
            for (int h = 0; h < kHalves; h++) {
                float2& s = scores[i][h];
                s.x = exp2_of(s.x - top);
                s.y = exp2_of(s.y - top);
                float* to = own.scratch + kSharePitch * head + slot_of(i, h);
                if (is_head) *reinterpret_cast<float2*>(to) = s;
                s = is_seen ? make_float2(s.x * worth[i][h].x, s.y * worth[i][h].y) : make_float2(0.0f, 0.0f);
            }
        }
        leave(own.heaviest);
    }

    // The weights as bytes. The newest value's stands by itself: in the run there still is the one before.
    __device__ void weigh() {
        Own<S>& own = site.crewed();
        const float heaviest = largest_of_warps(own.heaviest);
        const float inverse = heaviest > kTiny ? quotient(255.0f, heaviest) : 0.0f;
#pragma unroll
        for (int i = 0; i < kBlocksOwn; i++) {
#pragma unroll
            for (int h = 0; h < kHalves; h++) {
                uint32_t x = __float_as_uint(fmaf(scores[i][h].x, inverse, kMagic)) & 0xff;
                uint32_t y = __float_as_uint(fmaf(scores[i][h].y, inverse, kMagic)) & 0xff;
                const int slot = slot_of(i, h);
                if (is_head && seen.newest / 2 == slot / 2) {
                    own.newest_weights[head] = slot == seen.newest ? x : y;
                    (slot == seen.newest ? x : y) = 0;
                }
                unsigned char* to = own.weights[is_head ? head : 0] + slot;
                if (is_head) *reinterpret_cast<uint16_t*>(to) = x | y << 8;
            }
        }
    }

    // The sum of each head's shares, and what a step of a weight is worth: half a warp for a head.
    __device__ void add_up() const {
        static_assert(S::H <= 2 * (kCrew - kMixers));
        Own<S>& own = site.crewed();
        const int j = site.lane % 16, h = 2 * (site.member - kMixers) + site.lane / 16;
        const bool has_head = h < S::H;
        const float* of_head = own.scratch + kSharePitch * (has_head ? h : 0) + j;
        // So many are read before they are added; blocks beyond the last add nothing.
        constexpr int kAtOnce = 8;
        float sum = 0.0f;
#pragma unroll
        for (int start = 0; start < kSlots / 16; start += kAtOnce) {
            float shares[kAtOnce];
#pragma unroll
            for (int b = 0; b < kAtOnce; b++) shares[b] = of_head[16 * (start + b)];
#pragma unroll
            for (int b = 0; b < kAtOnce; b++) {
                sum = sum + (start + b < seen.n_blocks ? shares[b] : 0.0f);
            }
        }
        sum = sum_of_sixteen(sum);
        const float heaviest = largest_of_sixteen(own.heaviest[has_head ? h : 0][j % kCrew]);
        if (has_head && j == 0) own.units[h] = quotient(quotient(heaviest, 255.0f), sum);
    }

    // A warp takes eight dims of every so many pairs of blocks.
    __device__ int dim() const { return 8 * (site.member % kColumns) + g; }
    __device__ int pair_of(int i) const {
        return 2 * (site.member / kColumns + i * S::kMixedRows);
    }

    // mixed[h][dim] = sum over slots of weight · value: integers, in any order the same. Slots that nobody
    // sees weigh nothing, whatever lies there; so all are read, before any is multiplied.
    __device__ void mix() {
        Own<S>& own = site.crewed();
        const unsigned char* weights = own.weights[g < S::H ? g : 0] + 4 * t;
        const unsigned char* values = own.run + 512 + 16 * dim() + 4 * t;
        uint32_t w[2 * kPairs], v[2 * kPairs];
#pragma unroll
        for (int i = 0; i < 2 * kPairs; i++) {
            const int block = pair_of(i / 2) + i % 2;
            w[i] = *reinterpret_cast<const uint32_t*>(weights + 16 * block);
            v[i] = *reinterpret_cast<const uint32_t*>(values + block * kSlotBlock);
        }
        // In two sums, for each product waits for the one that it is added to.
        int c[2][4] = {};
#pragma unroll
        for (int i = 0; i < kPairs; i++) {
            multiply_unsigned(c[i % 2], w[2 * i], 0, w[2 * i + 1], 0, v[2 * i], v[2 * i + 1]);
        }
        if (g >= S::H) return;
        const int first = dim() - g + 2 * t, row = site.member / kColumns;
        int2 mixed = make_int2(c[0][0] + c[1][0], c[0][1] + c[1][1]);
        if (row == 0) {
            const int weight = own.newest_weights[g];
            const signed char* value = reinterpret_cast<signed char*>(own.heads[S::H + 1]) + first;
            mixed.x += weight * value[0];
            mixed.y += weight * value[1];
        }
        *reinterpret_cast<int2*>(own.mixed[row][g] + first) = mixed;
    }

    // From queries, key and value to what the heads give out, handed out.
    __device__ void attend() {
        if (site.is_on()) {
            quantise_heads();
            site.crew_sync();
            score();
            site.crew_sync();
            share();
            site.crew_sync();
            weigh();
            site.crew_sync();
            if (site.member < kMixers) {
                mix();
            } else {
                add_up();
            }
            site.crew_sync();
            if (layer + 1 < (int)site.plan.n_layers) ask(site, layer + 1);
        }
        site.n_pasts++;
        if (!site.is_leader()) return;
        const Own<S>& own = site.crewed();
        float v[S::kOwn];
#pragma unroll
        for (int i = 0; i < S::kOwn; i++) {
            const int e = element<S>(i);
            int mixed = 0;
#pragma unroll
            for (int row = 0; row < S::kMixedRows; row++) mixed += own.mixed[row][e / S::K][e % S::K];
            v[i] = (float)mixed * own.units[e / S::K];
        }
        site.quantise(v);
    }
};
