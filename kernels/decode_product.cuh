// Matrix products of decode.cu. All matrices pass through a block's shared memory, step after step,
// piece after piece; it decodes one lane or two with them.
//
// Blocks of a cluster decode the same lanes, each all of it but for products: there a block multiplies its
// tiles and sends what they come to to all, which is the same to the last bit everywhere.
//
// The warps that work for one lane are its crew: all of the block, or half. The first of a crew leads:
// it holds the residual stream and norms it.
#pragma once
#include "decode_float.cuh"

// What a thread of the kernel knows of its place.
template <class S>
struct Site {
    static constexpr int kCrew = S::kWarps / S::kLanes;

    const Plan& plan;
    const int warp = warp_index(), lane = thread_index() % 32;
    // Of which own lane's crew this warp is, and its number there.
    const int crew = warp / kCrew, member = warp % kCrew;
    const int n_own;  // lanes of this block
    // The room of the next piece of a matrix, counted down to 0, and which phase that is in.
    int piece, phase = 0;
    uint32_t n_pasts = 0;  // that have come, so far
    const int rank;  // of this block in its cluster
    uint32_t n_products = 0;  // so far

    __device__ Site(const Plan& plan, int n_own)
        : plan(plan), n_own(n_own), piece(plan.n_pieces - 1),
          rank(S::kIsCluster ? block_in_cluster() : 0) {}

    __device__ Rooms<S>& rooms() const {
        return *reinterpret_cast<Rooms<S>*>(shared_memory());
    }
    __device__ Own<S>& own(int r) const { return rooms().own[r]; }

    __device__ bool is_on() const { return crew < n_own; }
    __device__ bool is_leader() const { return is_on() && member == 0; }
    // The own lane that this warp's crew works for.
    __device__ Own<S>& crewed() const { return own(crew); }

    // All warps that compute meet, or those of a crew.
    __device__ void sync() const { block_sync<S::kThreads>(); }
    __device__ void crew_sync() const {
        if (S::kLanes == 1) {
            sync();
        } else {
            part_sync<32 * kCrew>(crew);
        }
    }

    // Norms and taps, which stay. Behind them copies of the filters, then the pieces.
    __device__ unsigned char* kept() const { return shared_memory() + sizeof(Rooms<S>); }
    __device__ const float* layer(int i) const {
        return reinterpret_cast<const float*>(kept()) + i * (2 + plan.conv_width) * S::D;
    }
    __device__ float* filters(int r) const {
        return reinterpret_cast<float*>(kept() + plan.kept_bytes) + r * plan.filter_floats;
    }
    __device__ unsigned char* pieces() const {
        return reinterpret_cast<unsigned char*>(filters(S::kLanes));
    }

    // What the last product gave back to an own lane.
    __device__ const float* returned(int r) const { return own(r).returned[room_of(n_products - 1)]; }

    // Which of the rooms a product gives back to.
    __device__ static int room_of(uint32_t product) { return S::kIsCluster ? product % 2 : 0; }

    // The first tile of a matrix that a block of the cluster multiplies; its last comes before the next's first.
    __device__ static int first_tile(int n_rows, int rank) {
        return n_rows / kTileRows * rank / S::kBlocks;
    }

    // Four bytes of an own lane's input.
    __device__ void hand_out(int r, int at, uint32_t word) const {
        reinterpret_cast<uint32_t*>(rooms().input[r])[at] = word;
    }

    // What the bytes are worth; `who` is one of a warp's threads.
    __device__ void hand_out(int r, int who, const Range& range) const {
        if (who == 0) rooms().scale[r] = range.entry();
    }

    // A tile's product with the inputs of all own lanes, which come in turn in the columns: of thread
    // (g, t) the rows 2g and 2g + 1, each of own lane 0 and 1, or of the only one twice.
    template <int kSteps>
    __device__ void multiply_tile(int (&c)[4], const unsigned char* tile, int n_steps) const {
        const int n = kSteps ? kSteps : n_steps;
        const uint4* a = reinterpret_cast<const uint4*>(tile) + lane;
        const unsigned char* b = rooms().input[lane / 4 % S::kLanes] + 8 * (lane % 4);
        int other[4] = {};
        const auto step = [&](int (&c)[4], int s) {
            multiply_weights(c, a[32 * s], *reinterpret_cast<const uint2*>(b + 32 * s));
        };
        int s = 0;
#pragma unroll 4
        for (; s + 1 < n; s += 2) {
            step(c, s);
            step(other, s + 1);
        }
        if (s < n) step(c, s);
#pragma unroll
        for (int i = 0; i < 4; i++) c[i] += other[i];
    }

    // Of what a thread has of a tile's product, the sum of row lane / 2 for own lane lane % 2.
    __device__ int sum_of_own(const int (&c)[4]) const {
        const bool is_second = lane % 2;
        return lane % 4 < 2 ? (is_second ? c[1] : c[0]) : (is_second ? c[3] : c[2]);
    }

    // What the sum of that row's products is worth.
    struct Row {
        int bytes;  // their sum
        float scale, bias;

        Row() = default;
        __device__ Row(const unsigned char* of_rows, int row) {
            const float* at = reinterpret_cast<const float*>(of_rows) + row;
            scale = at[0];
            bytes = __float_as_int(at[kTileRows]);
            bias = at[2 * kTileRows];
        }

        __device__ float value(int sum, float2 input) const {
            const int zero = __float_as_int(input.y);
            return fmaf((float)(sum - zero * bytes), scale * input.x, bias);
        }
    };

    // y = f(matrix · input + bias) for every own lane, of the next matrix. All of a block meet before it; behind
    // it they meet, or in a cluster have heard from all blocks. `kSteps` columns of 32, or `n_steps` if it is 0.
    template <int kSteps, class Finish>
    __device__ void multiply(int n_rows, int n_steps, Finish f) {
        const int first = first_tile(n_rows, rank), n_tiles = first_tile(n_rows, rank + 1) - first;
        if constexpr (S::kIsCluster && kSteps > 0) {
            multiply_part<kSteps>(first, n_tiles, f);
        } else {
            multiply_pieces<kSteps>(first, n_tiles, n_steps, f);
        }
        await_returned(n_rows);
    }

    // Piece after piece. A warp takes a tile of each at most, a thread one row of one lane.
    template <int kSteps, class Finish>
    __device__ void multiply_pieces(int first, int n_tiles, int n_steps, Finish f) {
        const int n = kSteps ? kSteps : n_steps, most = S::piece_tiles(n), bytes = tile_bytes(n);
        // The leader, for whom the others wait, looks for weights later.
        if (!is_leader()) await_piece();
        sync();
        if (is_leader()) await_piece();
        for (int start = 0;;) {
            const int tile = (S::kWarps - 1 - warp - start) & (S::kWarps - 1);
            if (tile < most && start + tile < n_tiles) {
                const unsigned char* at = pieces() + piece * S::kPieceBytes + tile * bytes;
                const Row row(at + n * kStepBytes, lane / 2);
                const float2 worth = rooms().scale[lane % 2 % S::kLanes];
                int sums[4] = {};
                multiply_tile<kSteps>(sums, at, n_steps);
                give_back(first + start + tile, f(row.value(sum_of_own(sums), worth)));
            }
            free_piece();
            start += most;
            if (start >= n_tiles) break;
            await_piece();
        }
    }

    // All that this block of a cluster multiplies, which is one piece, with as few steps between the input and
    // the result as can be: weights are in registers before all meet, and the columns of a long tile fall to
    // several warps, of which the first adds up.
    template <int kSteps, class Finish>
    __device__ void multiply_part(int first, int n_tiles, Finish f) {
        constexpr int kPartSteps = S::D / 32, kParts = kSteps / kPartSteps;
        static_assert(kSteps % kPartSteps == 0);
        const int number = S::kWarps - 1 - warp, tile = number / kParts, part = number % kParts;
        const unsigned char* at = pieces() + piece * S::kPieceBytes + tile * tile_bytes(kSteps);
        const bool has_tile = tile < n_tiles;
        uint4 a[kPartSteps];
        Row row;
        const auto load = [&] {
            await_piece();
            if (!has_tile) return;
            row = Row(at + kSteps * kStepBytes, lane / 2);
            const uint4* of_part = reinterpret_cast<const uint4*>(at) + 32 * kPartSteps * part + lane;
#pragma unroll
            for (int s = 0; s < kPartSteps; s++) a[s] = of_part[32 * s];
        };
        // The leader, for whom the others wait, looks for weights later.
        if (!is_leader()) load();
        sync();
        if (is_leader()) load();
        if (has_tile) {
            const unsigned char* b = rooms().input[lane / 4 % S::kLanes] + 8 * (lane % 4);
            b += 32 * kPartSteps * part;
            const float2 worth = rooms().scale[lane % 2 % S::kLanes];
            int c[2][4] = {};
#pragma unroll
            for (int s = 0; s < kPartSteps; s++) {
                multiply_weights(c[s % 2], a[s], *reinterpret_cast<const uint2*>(b + 32 * s));
            }
#pragma unroll
            for (int i = 0; i < 4; i++) c[0][i] += c[1][i];
            int sum = sum_of_own(c[0]);
            if constexpr (kParts > 1) {
                int(*sums)[32] = rooms().sums[tile];
                if (part > 0) sums[part][lane] = sum;
                part_sync<32 * kParts>(tile);
#pragma unroll
                for (int p = 1; p < kParts; p++) sum += sums[p][lane];
            }
            if (part == 0) {
                give_back(first + tile, f(row.value(sum, worth)));
            }
        }
        free_piece();
    }

    // A tile's result of this thread: row lane / 2, of own lane lane % 2.
    __device__ void give_back(int tile, float y) const {
        const int room = room_of(n_products);
        if constexpr (!S::kIsCluster) {
            const int b = lane % 2;
            if (b < n_own) own(b).returned[room][kTileRows * tile + lane / 2] = y;
        } else {
            // To each block, four rows from a thread.
            static_assert(4 * S::kBlocks <= 32);
#pragma unroll
            for (int b = 0; b < S::kLanes; b++) {
                if (b >= n_own) break;
                float rows[4];
#pragma unroll
                for (int i = 0; i < 4; i++) rows[i] = shuffle_from(y, 8 * (lane % 4) + 2 * i + b);
                float* to = own(b).returned[room] + kTileRows * tile + 4 * (lane % 4);
                if (lane / 4 < S::kBlocks) {
                    send(to, make_float4(rows[0], rows[1], rows[2], rows[3]),
                         &rooms().is_returned[room], lane / 4);
                }
            }
        }
    }

    // All rows are there, of all blocks.
    __device__ void await_returned(int n_rows) {
        if constexpr (!S::kIsCluster) {
            sync();
        } else {
            Arrivals* is_returned = &rooms().is_returned[room_of(n_products)];
            if (thread_index() == S::kThreads - 1) {
                end_fetches(is_returned, n_own * n_rows * (int)sizeof(float));
            }
            // What comes lies in this block's own shared memory: to acquire it from the whole cluster would
            // throw away the first cache each time, and cost half a microsecond a step.
            wait_arrivals(is_returned, n_products / 2 % 2);
        }
        n_products++;
    }

    template <int kColumns>
    __device__ void multiply(int n_rows) {
        multiply<kColumns / 32>(n_rows, 0, [](float y) { return y; });
    }

    // The next piece of a matrix, when it is there.
    __device__ void await_piece() const { wait_arrivals(&rooms().is_there[piece], phase); }

    // This warp is done with it.
    __device__ void free_piece() {
        warp_sync();
        if (lane == 0) arrive(&rooms().is_free[piece]);
        next_piece();
    }

    // Whether a phase has ended.
    __device__ bool next_piece() {
        if (--piece >= 0) return false;
        piece = plan.n_pieces - 1;
        phase ^= 1;
        return true;
    }

    // The leader quantises the elements that its threads own.
    __device__ void quantise(const float (&v)[S::kOwn]) const {
        const Range range = range_of<S>(v);
        unsigned char* bytes = rooms().input[crew];
#pragma unroll
        for (int i = 0; i < S::kOwn; i++) bytes[element<S>(i)] = range.byte(v[i]);
        hand_out(crew, lane, range);
    }

    // The same of `n` floats of each own lane, with as many warps for a lane as `kPer`, four floats
    // a thread. `of` says where a lane's lie.
    template <int kPer, class Of>
    __device__ void quantise_long(int n, Of of) const {
        static_assert(kPer <= 8 && kPer <= kCrew);
        const int r = crew, part = member, i = 32 * part + lane;
        const bool is_on = r < n_own && part < kPer, has = is_on && 4 * i < n;
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
            crew_sync();
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
