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

    // A thread's part of the newest key and value.
    struct Newest {
        unsigned char key, value;
        float scale;
    };

    Site<S>& site;
    const int layer;
    const int g = site.lane / 4, t = site.lane % 4;
    // The head whose scores this thread looks at.
    const int head = g % kHeads;
    const bool is_head = head < S::H;
    Seen seen;
    // Of the head that this half warp turns.
    float cos, sin;
    Newest newest;

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
        leave_to_fetches();
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

    // The block of the run that the newest slot lies in, and where in a block a thread's part of it lies.
    __device__ unsigned char* newest_block() const {
        return site.crewed().run + seen.newest / 16 * kSlotBlock;
    }
    __device__ int newest_slot() const { return seen.newest % 16; }
    __device__ int key_at() const { return 32 * newest_slot() + site.lane; }
    __device__ int value_at() const { return 512 + 16 * site.lane + newest_slot(); }
    __device__ static int scale_at(int of_values, int slot) { return 1024 + 64 * of_values + 4 * slot; }

    // Half a warp turns and quantises a query or the key, or quantises the value. The key, and what the last two
    // are worth, go into the run, where what they replace still lies.
    __device__ void quantise_heads() {
        static_assert(S::H + 2 <= 2 * kCrew && S::D <= 32 * kCrew);
        Own<S>& own = site.crewed();
        const int head = turned();
        if (2 * (kCrew - 1 - site.member) >= S::H + 2) return;
        Head<S> v(site.returned(site.crew) + head * S::K, head < S::H + 2);
        if (v.is_pair && head <= S::H) v.turn(cos, sin);
        unsigned char* bytes = own.heads[head < S::H ? head : S::H];
        float* worth = own.query_scales + (head < S::H ? head : 0);
        if (head == S::H) bytes = newest_block() + 32 * newest_slot();
        if (head >= S::H) {
            unsigned char* at = newest_block() + scale_at(head - S::H, newest_slot());
            worth = reinterpret_cast<float*>(at);
        }
        v.quantise(bytes, worth, head < S::H, site.plan.score_unit);
    }

    // This warp brings the newest key and value to where they belong. It is one of those that mix.
    static_assert(kMixers > 1);
    __device__ bool appends() const { return site.is_on() && site.member == 1; }

    // The value goes into the run, each of its dims into another line.
    __device__ void insert_value() const {
        if (site.lane < S::K) newest_block()[value_at()] = site.crewed().heads[S::H][site.lane];
    }

    // What the lane wants of the run, which is about to be written over.
    __device__ void hold_newest() {
        const unsigned char* block = newest_block();
        newest.key = block[key_at()];
        newest.value = block[value_at()];
        const int scale = scale_at(site.lane % 2, newest_slot());
        newest.scale = *reinterpret_cast<const float*>(block + scale);
    }

    // The lane gets it.
    __device__ void append() const {
        if (!appends()) return;
        const Run run(site.crewed(), site.plan, layer);
        unsigned char* block = run.blocks + seen.newest / 16 * kSlotBlock;
        if (site.lane < S::K) {
            block[key_at()] = newest.key;
            block[value_at()] = newest.value;
        }
        if (site.lane < 2) {
            *reinterpret_cast<float*>(block + scale_at(site.lane, newest_slot())) = newest.scale;
        }
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

    // The scores of this warp's slots, as powers of two, minus infinity where none is seen. All is read before any
    // is multiplied.
    __device__ void score() const {
        Own<S>& own = site.crewed();
        const int known = is_head ? head : 0;
        const uint2 q = reinterpret_cast<const uint2*>(own.heads[known])[t];
        const float q_scale = own.query_scales[known];
        uint2 keys[kBlocksOwn][2];
        float2 worth[kBlocksOwn][kHalves];
#pragma unroll
        for (int i = 0; i < kBlocksOwn; i++) {
            const unsigned char* block = own.run + block_of_own(i) * kSlotBlock;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                keys[i][half] = reinterpret_cast<const uint2*>(block + 32 * (8 * half + g))[t];
            }
#pragma unroll
            for (int h = 0; h < kHalves; h++) {
                worth[i][h] = *reinterpret_cast<const float2*>(block + scale_at(0, slot_of(i, h) % 16));
            }
        }
        int sums[kBlocksOwn][2][4] = {};
#pragma unroll
        for (int i = 0; i < kBlocksOwn; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const uint2 k = keys[i][half];
                multiply_signed(sums[i][half], q.x, 0, q.y, 0, k.x, k.y);
            }
        }
#pragma unroll
        for (int i = 0; i < kBlocksOwn; i++) {
#pragma unroll
            for (int h = 0; h < kHalves; h++) {
                const int first = slot_of(i, h), (&c)[4] = sums[i][h];
                const bool is_upper = kHalves == 1 && half_of(h) == 1;
                const int x = is_upper ? sums[i][1][0] : c[0], y = is_upper ? sums[i][1][1] : c[1];
                const float2 pair = make_float2(score_of(first, x, worth[i][h].x * q_scale),
                                                score_of(first + 1, y, worth[i][h].y * q_scale));
                if (is_head) *reinterpret_cast<float2*>(own.scratch + kSharePitch * head + first) = pair;
            }
        }
    }

    __device__ float score_of(int slot, int sum, float unit) const {
        const float score = (float)sum * unit;
        return slot >= seen.first && slot < seen.end ? score : -INFINITY;
    }

    // A warp turns the scores of one head into shares of the likeliest, for the sum, and these times the scales
    // of the values into weights, as bytes.
    __device__ void weigh() const {
        static_assert(S::H <= kCrew && kSlots == 2 * 4 * 32);
        if (site.member >= S::H) return;
        Own<S>& own = site.crewed();
        using Four = Few<float, 4>;
        Four* of_head = reinterpret_cast<Four*>(own.scratch + kSharePitch * site.member);
        // Four slots beside each other, and four in the other half.
        Four v[2], worth[2];
        float tops[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int number = 32 * i + site.lane;
            v[i] = of_head[number];
            const unsigned char* block = own.run + number / 4 * kSlotBlock;
            worth[i] = *reinterpret_cast<const Four*>(block + scale_at(1, 4 * number % 16));
            tops[i] = largest_of(v[i]);
        }
        const float top = largest_of_all(larger(tops[0], tops[1]));
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int number = 32 * i + site.lane;
#pragma unroll
            for (int k = 0; k < 4; k++) v[i].v[k] = exp2_within(larger(v[i].v[k] - top, -126.0f));
            of_head[number] = v[i];
            const bool is_seen = number / 4 < seen.n_blocks;
#pragma unroll
            for (int k = 0; k < 4; k++) v[i].v[k] = is_seen ? v[i].v[k] * worth[i].v[k] : 0.0f;
            tops[i] = largest_of(v[i]);
        }
        const float heaviest = largest_of_warp(larger(tops[0], tops[1]));
        if (site.lane == 0) own.heaviest[site.member] = heaviest;
        const float inverse = heaviest > kTiny ? quotient(255.0f, heaviest) : 0.0f;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            Few<unsigned char, 4> bytes;
#pragma unroll
            for (int k = 0; k < 4; k++) bytes.v[k] = __float_as_uint(fmaf(v[i].v[k], inverse, kMagic));
            reinterpret_cast<Few<unsigned char, 4>*>(own.weights[site.member])[32 * i + site.lane] = bytes;
        }
    }

    __device__ static float largest_of(const Few<float, 4>& x) {
        return larger(larger(x.v[0], x.v[1]), larger(x.v[2], x.v[3]));
    }

    // The sum of each head's shares, and what a step of a weight is worth: half a warp for a head.
    __device__ void add_up() const {
        static_assert(S::H <= 2 * (kCrew - kMixers));
        Own<S>& own = site.crewed();
        const int j = site.lane % 16, h = 2 * (site.member - kMixers) + site.lane / 16;
        const bool has_head = h < S::H;
        const float* of_head = own.scratch + kSharePitch * (has_head ? h : 0) + j;
        // So many are read before they are added. The share of what is not seen is 2^-126: a sum that it changes is
        // below 2^-101, and lost beside the likeliest's share, which is 1, in the four additions that follow.
        constexpr int kAtOnce = 8;
        float sum = 0.0f;
#pragma unroll
        for (int start = 0; start < kSlots / 16; start += kAtOnce) {
            float shares[kAtOnce];
#pragma unroll
            for (int b = 0; b < kAtOnce; b++) shares[b] = of_head[16 * (start + b)];
#pragma unroll
            for (int b = 0; b < kAtOnce; b++) sum = sum + shares[b];
        }
        sum = sum_of_sixteen(sum);
        if (has_head && j == 0) own.units[h] = quotient(quotient(own.heaviest[h], 255.0f), sum);
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
        const int2 mixed = make_int2(c[0][0] + c[1][0], c[0][1] + c[1][1]);
        *reinterpret_cast<int2*>(own.mixed[site.member / kColumns][g] + dim() - g + 2 * t) = mixed;
    }

    // From queries, key and value to what the heads give out, handed out.
    __device__ void attend() {
        if (site.is_on()) {
            quantise_heads();
            site.crew_sync();
            if (appends()) insert_value();
            score();
            site.crew_sync();
            weigh();
            site.crew_sync();
            if (site.member < kMixers) {
                mix();
                if (appends()) hold_newest();
            } else {
                add_up();
            }
            site.crew_sync();
            if (layer + 1 < (int)site.plan.n_layers) ask(site, layer + 1);
        }
        site.n_pasts++;
        if (site.is_leader()) give_out();
        append();
    }

    // What the heads have come to, quantised.
    __device__ void give_out() const {
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
