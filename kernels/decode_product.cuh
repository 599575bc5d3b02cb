// Matrix products of decode.cu: every block holds some rows of each matrix and computes them for
// all lanes of its cluster.
//
// One warp leads a lane: it holds the residual stream and norms it. With one lane to a cluster
// (`kSolo`) the first warp of every block leads it: a product's input is there already, and its rows
// go to all blocks. With more, lane b is led by warp b / 8 of block b % 8: the input goes to all
// blocks, they meet, and the rows go back to the leader. All meet after either.
#pragma once
#include "decode_float.cuh"

// A block's part of a matrix.
struct Product {
    const unsigned char* tiles;
    const unsigned char* rows;
    int n_rows;   // of the whole matrix
    int first;    // row
    int n_tiles;  // of eight rows
};

// What a thread of the kernel knows of its place.
template <class S, bool kSolo>
struct Site {
    const Plan& plan;
    const int warp = warp_index(), lane = thread_index() % 32;
    const int rank = block_rank();
    const int n_lanes;  // of the cluster
    const int n_own;    // lanes that this block leads
    // Products so far; with one lane, where the last gave back.
    uint32_t n_products = 0;

    __device__ Site(const Plan& plan, int n_lanes)
        : plan(plan),
          n_lanes(n_lanes),
          n_own(kSolo ? 1 : (n_lanes - block_rank() + kBlocks - 1) / kBlocks) {}

    __device__ Rooms<S, kSolo>& rooms() const {
        return *reinterpret_cast<Rooms<S, kSolo>*>(shared_memory());
    }
    __device__ Own<S, kSolo>& own(int r) const { return rooms().own[kSolo ? 0 : r]; }

    // Whether this warp leads a lane; it is the block's own of the warp's number.
    __device__ bool is_leader() const { return warp < n_own; }
    __device__ Own<S, kSolo>& led() const { return own(warp); }

    __device__ unsigned char* image() const { return shared_memory() + sizeof(Rooms<S, kSolo>); }
    __device__ const unsigned char* layer(int i) const { return image() + i * plan.layer_bytes; }
    __device__ const unsigned char* tail() const { return layer(plan.n_layers); }

    __device__ Product product(const unsigned char* at, int rows, int columns) const {
        Product p;
        const int most = S::tiles(rows), first = rank * most;
        p.tiles = at;
        p.rows = at + most * (columns / 32) * kStepBytes;
        p.n_rows = rows;
        p.first = 8 * first;
        p.n_tiles = rows / 8 - first;
        p.n_tiles = p.n_tiles < 0 ? 0 : p.n_tiles < most ? p.n_tiles : most;
        return p;
    }

    // The row of `Rooms::input` of an own lane.
    __device__ int row(int r) const { return kSolo ? 0 : r * kBlocks + rank; }

    // What the last product gave back to an own lane.
    __device__ const float* returned(int r) const {
        return own(r).returned[kSolo ? (n_products - 1) % 2 : 0];
    }

    // Four bytes of a lane's input, to wherever they are multiplied.
    __device__ void hand_out(int r, int at, uint32_t word) const {
        uint32_t* to = reinterpret_cast<uint32_t*>(rooms().input[row(r)]) + at;
        if (kSolo) {
            *to = word;
        } else {
#pragma unroll
            for (int k = 0; k < kBlocks; k++) store_peer(to, (rank + k) % kBlocks, word);
        }
    }

    // What the bytes are worth; `who` is one of eight threads.
    __device__ void hand_out(int r, int who, const Range& range) const {
        float2* to = &rooms().scale[row(r)];
        if (kSolo) {
            if (who == 0) *to = range.entry();
        } else if (who < kBlocks) {
            store_peer(to, who, range.entry());
        }
    }

    // Between handing out and multiplying.
    __device__ void meet_inputs() const {
        if (kSolo) {
            block_sync();
        } else {
            cluster_sync();
        }
    }

    // Gives the rows `at` and `at + 1` of lane b to its leader.
    __device__ void give_back(int b, int at, float2 y) const {
        if (kSolo) {
            Own<S, kSolo>& to = own(0);
            send_peer(reinterpret_cast<float2*>(&to.returned[n_products % 2][at]), lane / 4, y,
                      &to.arrivals[n_products % 2]);
        } else if (b < n_lanes) {
            float* to = &own(b / kBlocks).returned[0][at];
            store_peer(reinterpret_cast<float2*>(to), b % kBlocks, y);
        }
    }

    // All have given back; what was returned may be read until the next product's end.
    __device__ void meet_outputs() {
        if (kSolo) {
            wait_arrivals(&own(0).arrivals[n_products % 2], n_products / 2 % 2);
        } else {
            cluster_sync();
        }
        n_products++;
    }

    // Rows 2t and 2t + 1 of a tile, of one lane.
    template <class Finish>
    __device__ void finish(const Product& p, int tile, int b, int sum0, int sum1, Finish f) const {
        const int t = lane % 4;
        const float2* rows = reinterpret_cast<const float2*>(p.rows + tile * kRowsBytes) + t;
        const float2 scale = rows[0], bias = rows[8];
        const int2 sums = *reinterpret_cast<const int2*>(rows + 4);
        const float2 input = rooms().scale[b];
        const int zero = __float_as_int(input.y);
        const float y0 = fmaf((float)(sum0 - zero * sums.x), scale.x * input.x, bias.x);
        const float y1 = fmaf((float)(sum1 - zero * sums.y), scale.y * input.x, bias.y);
        give_back(b, p.first + 8 * tile + 2 * t, make_float2(f(y0), f(y1)));
    }

    // 32 columns of a tile.
    __device__ void multiply_step(int (&c)[4], const unsigned char* a, const uint2* b, int s) const {
        const uint2 w = b[32 * s + lane];
        const uint2 low = *reinterpret_cast<const uint2*>(a + 32 * s);
        uint2 high = low;
        if (!kSolo) {
            high = *reinterpret_cast<const uint2*>(a + 8 * Rooms<S, kSolo>::kPitch + 32 * s);
        }
        multiply_unsigned(c, low.x, high.x, low.y, high.y, w.x, w.y);
    }

    // y = f(matrix · input + bias) for every lane of the cluster, then all meet. Warps take tiles
    // in turn. `kSteps` columns of 32, or `n_steps` if it is 0.
    // `meanwhile` is done while the others' rows are on their way.
    template <int kSteps, class Finish, class Meanwhile>
    __device__ void multiply(const Product& p, int n_steps, Finish f, Meanwhile meanwhile) {
        const int g = lane / 4, t = lane % 4;
        const int n_halves = kSolo ? 1 : (n_lanes + 15) / 16;
        const int n = kSteps ? kSteps : n_steps;
        if (kSolo && thread_index() == 0) {
            expect_arrivals(&own(0).arrivals[n_products % 2], 4 * p.n_rows);
        }
        for (int task = warp; task < p.n_tiles * n_halves; task += kWarps) {
            const int half = n_halves > 1 && task >= p.n_tiles, tile = task - half * p.n_tiles;
            const uint2* b = reinterpret_cast<const uint2*>(p.tiles + tile * n * kStepBytes);
            const unsigned char* a = rooms().input[kSolo ? 0 : 16 * half + g] + 8 * t;
            int c0[4] = {}, c1[4] = {}, c2[4] = {}, c3[4] = {};
            int s = 0;
#pragma unroll kSolo ? 2 : 1
            for (; s + 3 < n; s += 4) {
                multiply_step(c0, a, b, s);
                multiply_step(c1, a, b, s + 1);
                multiply_step(c2, a, b, s + 2);
                multiply_step(c3, a, b, s + 3);
            }
            for (; s < n; s++) multiply_step(c0, a, b, s);
#pragma unroll
            for (int i = 0; i < 4; i++) c0[i] += c1[i] + c2[i] + c3[i];
            finish(p, tile, kSolo ? 0 : 16 * half + g, c0[0], c0[1], f);
            if (!kSolo) finish(p, tile, 16 * half + g + 8, c0[2], c0[3], f);
        }
        meanwhile();
        meet_outputs();
    }

    template <int kColumns, class Meanwhile>
    __device__ void multiply(const Product& p, Meanwhile meanwhile) {
        multiply<kColumns / 32>(p, 0, [](float y) { return y; }, meanwhile);
    }

    // The leader quantises the elements that its threads own, and hands them out.
    __device__ void quantise(const float (&v)[S::kOwn]) const {
        float low = 0.0f, high = 0.0f;
#pragma unroll
        for (int i = 0; i < S::kOwn; i++) {
            low = larger(low, -v[i]);
            high = larger(high, v[i]);
        }
        const Range range(largest_of_warp(low), largest_of_warp(high));
        unsigned char* bytes = rooms().input[row(warp)];
#pragma unroll
        for (int i = 0; i < S::kOwn; i++) bytes[element<S>(i)] = range.byte(v[i]);
        hand_out(warp, lane, range);
        if (kSolo) return;
        warp_sync();
        if (lane < S::D / 4) hand_out(warp, lane, reinterpret_cast<const uint32_t*>(bytes)[lane]);
    }

    // The same of `n` floats of each own lane, with as many warps for a lane as `kPer`, four floats
    // a thread. `of` says where a lane's lie.
    template <int kPer, class Of>
    __device__ void quantise_long(int n, Of of) const {
        static_assert(kPer <= 4 && kPer * kMostOwn <= kWarps);
        const int r = warp / kPer, part = warp % kPer, i = 32 * part + lane;
        const bool is_on = r < n_own, has = is_on && 4 * i < n;
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (has) v = reinterpret_cast<const float4*>(of(r))[i];
        float low = larger(larger(-v.x, -v.y), larger(-v.z, -v.w));
        float high = larger(larger(v.x, v.y), larger(v.z, v.w));
        low = largest_of_warp(low);
        high = largest_of_warp(high);
        if (kPer > 1) {
            if (is_on && lane == 0) {
                own(r).ranges[0][part] = low;
                own(r).ranges[1][part] = high;
            }
            block_sync();
            if (is_on) {
#pragma unroll
                for (int k = 0; k < kPer; k++) {
                    low = larger(low, own(r).ranges[0][k]);
                    high = larger(high, own(r).ranges[1][k]);
                }
            }
        }
        if (!is_on) return;
        const Range range(low, high);
        const uint32_t word = range.byte(v.x) | range.byte(v.y) << 8 | range.byte(v.z) << 16 |
                              (uint32_t)range.byte(v.w) << 24;
        if (has) hand_out(r, i, word);
        if (part == 0) hand_out(r, lane, range);
    }
};
