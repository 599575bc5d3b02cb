// Matrix products of decode.cu. All matrices pass through a block's shared memory, step after step,
// piece after piece; it decodes one lane or two with them.
//
// The warps that work for one lane are its crew: all of the block, or half. The first of a crew leads:
// it holds the residual stream and norms it.
#pragma once
#include "decode_float.cuh"

// What a thread of the kernel knows of its place.
template <class S, int kLanes>
struct Site {
    static constexpr int kCrew = kWarps / kLanes;

    const Plan& plan;
    const int warp = warp_index(), lane = thread_index() % 32;
    // Of which own lane's crew this warp is, and its number there.
    const int crew = warp / kCrew, member = warp % kCrew;
    const int n_own;  // lanes of this block
    // The room of the next piece of a matrix, counted down to 0, and which phase that is in.
    int piece, phase = 0;
    uint32_t n_pasts = 0;  // that have come, so far

    __device__ Site(const Plan& plan, int n_own)
        : plan(plan), n_own(n_own), piece(plan.n_pieces - 1) {}

    __device__ Rooms<S, kLanes>& rooms() const {
        return *reinterpret_cast<Rooms<S, kLanes>*>(shared_memory());
    }
    __device__ Own<S>& own(int r) const { return rooms().own[r]; }

    __device__ bool is_on() const { return crew < n_own; }
    __device__ bool is_leader() const { return is_on() && member == 0; }
    // The own lane that this warp's crew works for.
    __device__ Own<S>& crewed() const { return own(crew); }

    __device__ void crew_sync() const {
        if (kLanes == 1) {
            block_sync();
        } else {
            part_sync<32 * kCrew>(crew);
        }
    }

    // Norms and taps, which stay. Behind them copies of the filters, then the pieces.
    __device__ unsigned char* kept() const { return shared_memory() + sizeof(Rooms<S, kLanes>); }
    __device__ const float* layer(int i) const {
        return reinterpret_cast<const float*>(kept()) + i * (2 + plan.conv_width) * S::D;
    }
    __device__ float* filters(int r) const {
        return reinterpret_cast<float*>(kept() + plan.kept_bytes) + r * plan.filter_floats;
    }
    __device__ unsigned char* pieces() const {
        return reinterpret_cast<unsigned char*>(filters(kLanes));
    }

    // What the last product gave back to an own lane.
    __device__ const float* returned(int r) const { return own(r).returned; }

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
        const unsigned char* b = rooms().input[lane / 4 % kLanes] + 8 * (lane % 4);
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

    // What a row of a tile is worth: its bytes' sum, and what belongs to it.
    struct Row {
        int sum, bytes;
        float scale, bias;

        __device__ Row(int sum, const unsigned char* of_rows, int row) : sum(sum) {
            const float* at = reinterpret_cast<const float*>(of_rows) + row;
            scale = at[0];
            bytes = __float_as_int(at[kTileRows]);
            bias = at[2 * kTileRows];
        }

        __device__ float value(float2 input) const {
            const int zero = __float_as_int(input.y);
            return fmaf((float)(sum - zero * bytes), scale * input.x, bias);
        }
    };

    // y = f(matrix · input + bias) for every own lane, of the next matrix; then all meet. `kSteps`
    // columns of 32, or `n_steps` if it is 0. A warp takes a tile of each piece at most, a thread one
    // row of one lane.
    template <int kSteps, class Finish>
    __device__ void multiply(int n_rows, int n_steps, Finish f) {
        const int g = lane / 4, t = lane % 4, n = kSteps ? kSteps : n_steps, bytes = tile_bytes(n);
        const int most = piece_tiles(n), n_tiles = n_rows / kTileRows;
        const int row = 2 * g + t / 2, b = t % 2;
        for (int start = 0; start < n_tiles; start += most) {
            const unsigned char* tiles = await_piece();
            const int tile = (warp - start) & (kWarps - 1);
            if (tile < most && start + tile < n_tiles) {
                int sums[4] = {};
                multiply_tile<kSteps>(sums, tiles + tile * bytes, n_steps);
                const int sum = t < 2 ? (b ? sums[1] : sums[0]) : (b ? sums[3] : sums[2]);
                const Row mine(sum, tiles + tile * bytes + n * kStepBytes, row);
                const float y = f(mine.value(rooms().scale[b % kLanes]));
                if (b < n_own) own(b).returned[kTileRows * (start + tile) + row] = y;
            }
            free_piece();
        }
        block_sync();
    }

    template <int kColumns>
    __device__ void multiply(int n_rows) {
        multiply<kColumns / 32>(n_rows, 0, [](float y) { return y; });
    }

    // The next piece of a matrix, when it is there.
    __device__ const unsigned char* await_piece() const {
        wait_arrivals(&rooms().is_there[piece], phase);
        return pieces() + piece * kPieceBytes;
    }

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
