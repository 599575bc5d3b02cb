// Attention of decode.cu: the block that leads a lane reads its cache from the GPU's memory, with
// the tensor cores: scores are a product of queries [H, K] and keys [K, 8 slots], what they mix is
// one of weights [H, 32 slots] and values [32 slots, 8 dims].
//
// Of each lane's run a warp takes sixteen slots, and asks for their keys before the queries are
// known. All warps of the block meet between the parts.
#pragma once
#include "decode_product.cuh"

// A lane's run of slots in one layer, widened to whole blocks as in `src/compute/cache.rs`.
struct Run {
    unsigned char* blocks;  // the first
    int n_blocks;
    int first;   // of the visible slots, counted from the first block's start
    int end;     // one behind the last
    int newest;  // the present position's

    template <class O>
    __device__ Run(const O& own, const Plan& plan, int layer) {
        const LayerPlan& l = plan.layers[layer];
        const Spot spot = own.spots[layer];
        const uint32_t start = spot.phase * l.rows;
        blocks = own.turn.lane + l.cache + (size_t)(start / 16) * kSlotBlock;
        first = start % 16;
        end = first + spot.seen;
        newest = first + spot.row;
        n_blocks = (end + 15) / 16;
    }
};

template <class S, bool kSolo>
struct Attention {
    static constexpr int kLanes = kSolo ? 1 : kMostOwn;
    static constexpr int kColumns = S::K / 8;  // of eight dims
    // Pairs of blocks whose values a warp takes, of one column.
    static constexpr int kPairs = kSlots / 32 / (kWarps / kColumns);

    Site<S, kSolo>& site;
    const int layer;
    const int g, t;
    // Of each lane: eight slots' keys, twice; the scales of two slots' keys and values, twice.
    uint2 keys[kLanes][2];
    float2 key_scales[kLanes][2], value_scales[kLanes][2];
    // The scores of two slots, twice; what becomes of them.
    float2 scores[kLanes][2];
    uint32_t values[kLanes][kPairs][2];

    // Of the head that this half warp turns.
    float cos, sin;

    __device__ Attention(Site<S, kSolo>& site, int layer)
        : site(site), layer(layer), g(site.lane / 4), t(site.lane % 4) {}

    // Asks for keys, scales and angles.
    __device__ void foresee() {
        const int r = (2 * site.warp + site.lane / 16) / (S::H + 2);
        if (r < site.n_own && site.lane % 16 < S::K / 2) {
            const float* angles = site.plan.angles + site.own(r).spots[layer].rotation * S::K;
            cos = load_constant(angles + site.lane % 16);
            sin = load_constant(angles + S::K / 2 + site.lane % 16);
        }
        each([&](int r) {
            const Run seen = run(r);
            if (site.warp >= seen.n_blocks) return;
            const unsigned char* block = seen.blocks + site.warp * kSlotBlock;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const unsigned char* key = block + 32 * (8 * half + g);
                keys[r][half] = load_fresh(reinterpret_cast<const uint2*>(key) + t);
                const float2* scales = reinterpret_cast<const float2*>(block + 1024) + 4 * half + t;
                key_scales[r][half] = load_fresh(scales);
                value_scales[r][half] = load_fresh(scales + 8);
            }
        });
    }

    template <class F>
    __device__ void each(F f) const {
#pragma unroll
        for (int r = 0; r < kLanes; r++) {
            if (r < site.n_own) f(r);
        }
    }

    __device__ Run run(int r) const { return Run(site.own(r), site.plan, layer); }

    // Half a warp turns and quantises a query or the key, or quantises the value.
    __device__ void quantise_heads() {
        constexpr int kHeads = S::H + 2, kHalf = S::K / 2;
        static_assert(kHeads * kLanes <= 2 * kWarps);
        const int task = 2 * site.warp + site.lane / 16, j = site.lane % 16;
        const int r = task / kHeads, head = task % kHeads;
        if (2 * site.warp < kHeads * site.n_own) {
            const bool is_on = r < site.n_own, is_pair = is_on && j < kHalf;
            Own<S, kSolo>& own = site.own(is_on ? r : 0);
            const float* v = site.returned(is_on ? r : 0) + head * S::K;
            float a = is_pair ? v[j] : 0.0f, b = is_pair ? v[j + kHalf] : 0.0f;
            if (is_pair && head <= S::H) {
                const float low = fmaf(a, cos, b * (0.0f - sin));
                b = fmaf(a, sin, b * cos);
                a = low;
            }
            const float largest = largest_of_sixteen(larger(fabsf(a), fabsf(b)));
            const float inverse = largest > kTiny ? 127.0f / largest : 0.0f;
            float scale = largest / 127.0f;
            if (head < S::H) scale = scale * site.plan.score_unit;
            if (is_pair) {
                own.heads[head][j] = __float_as_uint(fmaf(a, inverse, kMagic));
                own.heads[head][kHalf + j] = __float_as_uint(fmaf(b, inverse, kMagic));
            }
            // Products are 32 deep.
            for (int i = S::K + j; is_on && i < 32; i += 16) own.heads[head][i] = 0;
            if (is_on && j == 0) own.head_scales[head] = scale;
        }
        for (int i = thread_index(); i < site.n_own * S::D; i += kThreads) {
            site.own(i / S::D).mixed[i % S::D] = 0;
        }
    }

    // Stores the newest key and value; of the blocks that lead one lane the first does.
    __device__ void append() const {
        const int r = kWarps - 1 - site.warp;
        if (r >= site.n_own || (kSolo && site.rank != 0)) return;
        const Own<S, kSolo>& own = site.own(r);
        const Run seen = run(r);
        unsigned char* block = seen.blocks + seen.newest / 16 * kSlotBlock;
        const int at = seen.newest % 16, i = site.lane;
        if (i < S::K) {
            block[32 * at + i] = own.heads[S::H][i];
            block[512 + 16 * i + at] = own.heads[S::H + 1][i];
        }
        if (i < 2) reinterpret_cast<float*>(block + 1024)[16 * i + at] = own.head_scales[S::H + i];
    }

    // The scores of this warp's slots, as powers of two, minus infinity where none is seen; leaves
    // the largest of each head. Asks for the values.
    __device__ void score(int r) {
        Own<S, kSolo>& own = site.own(r);
        const Run seen = run(r);
#pragma unroll
        for (int half = 0; half < 2; half++) scores[r][half] = make_float2(-INFINITY, -INFINITY);
        if (site.warp < seen.n_blocks) {
            uint2 q = make_uint2(0, 0);
            if (g < S::H) q = reinterpret_cast<const uint2*>(own.heads[g])[t];
            const float q_scale = own.head_scales[g < S::H ? g : 0];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int first = 16 * site.warp + 8 * half + 2 * t;
                if (first - 2 * t + g == seen.newest) {
                    keys[r][half] = reinterpret_cast<const uint2*>(own.heads[S::H])[t];
                }
                patch(key_scales[r][half], seen.newest - first, own.head_scales[S::H]);
                patch(value_scales[r][half], seen.newest - first, own.head_scales[S::H + 1]);
                int c[4] = {};
                multiply_signed(c, q.x, 0, q.y, 0, keys[r][half].x, keys[r][half].y);
                const float2 scale = key_scales[r][half];
                if (first >= seen.first && first < seen.end) {
                    scores[r][half].x = (float)c[0] * (scale.x * q_scale);
                }
                if (first + 1 >= seen.first && first + 1 < seen.end) {
                    scores[r][half].y = (float)c[1] * (scale.y * q_scale);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < kPairs; i++) {
            const int at = block_of(i);
            values[r][i][0] = values[r][i][1] = 0;
            const unsigned char* from = seen.blocks + at * kSlotBlock + 512 + 16 * dim();
            const uint32_t* block = reinterpret_cast<const uint32_t*>(from) + t;
            if (at < seen.n_blocks) values[r][i][0] = load_fresh(block);
            if (at + 1 < seen.n_blocks) values[r][i][1] = load_fresh(block + kSlotBlock / 4);
        }
        leave(own.tops, largest_of(scores[r]));
    }

    __device__ static void patch(float2& pair, int at, float v) {
        if (at == 0) pair.x = v;
        if (at == 1) pair.y = v;
    }

    __device__ static float largest_of(const float2 (&v)[2]) {
        float top = larger(larger(v[0].x, v[0].y), larger(v[1].x, v[1].y));
        top = larger(top, shuffle_xor(top, 1));
        return larger(top, shuffle_xor(top, 2));
    }

    __device__ void leave(float (&of_warps)[8][kWarps], float v) const {
        if (t == 0 && g < S::H) of_warps[g][site.warp] = v;
    }

    __device__ float largest_of_warps(const float (&of_warps)[8][kWarps]) const {
        const float4* v = reinterpret_cast<const float4*>(of_warps[g < S::H ? g : 0]);
        float top = -INFINITY;
#pragma unroll
        for (int i = 0; i < kWarps / 4; i++) {
            top = larger(top, larger(larger(v[i].x, v[i].y), larger(v[i].z, v[i].w)));
        }
        return top;
    }

    // Shares of the likeliest, for the sum; times the scales of the values, for the weights.
    __device__ void share(int r) {
        Own<S, kSolo>& own = site.own(r);
        const float top = largest_of_warps(own.tops);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float2& s = scores[r][half];
            s.x = exp2_of(s.x - top);
            s.y = exp2_of(s.y - top);
            const int first = 16 * site.warp + 8 * half + 2 * t;
            if (g < S::H) *reinterpret_cast<float2*>(own.scratch + kSlots * g + first) = s;
            s.x = s.x * value_scales[r][half].x;
            s.y = s.y * value_scales[r][half].y;
        }
        if (site.warp >= run(r).n_blocks) {
            scores[r][0] = scores[r][1] = make_float2(0.0f, 0.0f);
        }
        leave(own.heaviest, largest_of(scores[r]));
    }

    // The weights as bytes; and, a warp for each head, the sum of its shares and what a step of a
    // weight is worth.
    __device__ void weigh(int r) {
        Own<S, kSolo>& own = site.own(r);
        const float heaviest = largest_of_warps(own.heaviest);
        const float inverse = heaviest > kTiny ? 255.0f / heaviest : 0.0f;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float2 s = scores[r][half];
            const uint32_t x = __float_as_uint(fmaf(s.x, inverse, kMagic)) & 0xff;
            const uint32_t y = __float_as_uint(fmaf(s.y, inverse, kMagic)) & 0xff;
            unsigned char* to = own.weights[g < S::H ? g : 0] + 16 * site.warp + 8 * half + 2 * t;
            if (g < S::H) *reinterpret_cast<uint16_t*>(to) = x | y << 8;
        }
    }

    __device__ void add_up() const {
        for (int task = site.warp; task < site.n_own * S::H; task += kWarps) {
            Own<S, kSolo>& own = site.own(task / S::H);
            const int head = task % S::H, n_blocks = run(task / S::H).n_blocks;
            const float* shares = own.scratch + kSlots * head + site.lane % 16;
            float sum = 0.0f;
#pragma unroll
            for (int b = 0; b < kWarps; b++) {
                if (b < n_blocks) sum = sum + shares[16 * b];
            }
            sum = sum_of_sixteen(sum);
            const float4* v = reinterpret_cast<const float4*>(own.heaviest[head]);
            float heaviest = 0.0f;
#pragma unroll
            for (int i = 0; i < kWarps / 4; i++) {
                const float4 w = v[i];
                heaviest = larger(heaviest, larger(larger(w.x, w.y), larger(w.z, w.w)));
            }
            if (site.lane == 0) own.units[head] = heaviest / 255.0f / sum;
        }
    }

    // A warp takes eight dims of every so many pairs of blocks.
    __device__ int dim() const { return 8 * (site.warp % kColumns) + g; }
    __device__ int block_of(int i) const {
        return 2 * (site.warp / kColumns + i * (kWarps / kColumns));
    }

    // mixed[h][dim] = sum over slots of weight · value: integers, in any order the same.
    __device__ void mix(int r) {
        Own<S, kSolo>& own = site.own(r);
        const Run seen = run(r);
        const unsigned char* weights = own.weights[g < S::H ? g : 0] + 4 * t;
        int c[4] = {};
#pragma unroll
        for (int i = 0; i < kPairs; i++) {
            if (block_of(i) >= seen.n_blocks) continue;
            uint32_t w[2] = {0, 0};
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int first = 16 * (block_of(i) + half), at = seen.newest - first - 4 * t;
                if (at >= 0 && at < 4) {
                    const uint32_t byte = own.heads[S::H + 1][dim()];
                    values[r][i][half] = (values[r][i][half] & ~(0xffu << 8 * at)) | byte << 8 * at;
                }
                if (g < S::H) w[half] = *reinterpret_cast<const uint32_t*>(weights + first);
            }
            multiply_unsigned(c, w[0], 0, w[1], 0, values[r][i][0], values[r][i][1]);
        }
        if (g < S::H) {
            int* mixed = own.mixed + g * S::K + dim() - g + 2 * t;
            add_shared(mixed, c[0]);
            add_shared(mixed + 1, c[1]);
        }
    }

    // From queries, key and value to what the heads give out, handed out.
    __device__ void attend() {
        quantise_heads();
        block_sync();
        each([&](int r) { score(r); });
        block_sync();
        each([&](int r) { share(r); });
        block_sync();
        each([&](int r) { weigh(r); });
        add_up();
        block_sync();
        each([&](int r) { mix(r); });
        block_sync();
        if (!site.is_leader()) return;
        const Own<S, kSolo>& own = site.led();
        float v[S::kOwn];
#pragma unroll
        for (int i = 0; i < S::kOwn; i++) {
            const int e = element<S>(i);
            v[i] = (float)own.mixed[e] * own.units[e / S::K];
        }
        site.quantise(v);
    }
};
