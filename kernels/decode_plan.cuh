// What a launch of decode.cu is given, and where everything lies. `src/engine/cuda/plan.rs` holds
// the same, in the same order.
#pragma once
#include <cstddef>

#include "decode_device.cuh"

constexpr int kCodes = 256;
constexpr int kMostLayers = 32;
constexpr int kMostFilters = 15;
constexpr int kMostPlaces = kMostFilters + 1;
// Slots that a layer sees at most, widened to whole blocks of sixteen.
constexpr int kSlots = 256;
// Positions that a convolution sees, at most.
constexpr int kMostTaps = 4;
// Bytes of sixteen slots of a cache: keys [16 slots][32 dims], values [32 dims][16 slots], the
// scales of the keys [16], those of the values [16].
constexpr int kSlotBlock = 16 * 32 + 32 * 16 + 2 * 16 * 4;
// A matrix is tiles of sixteen rows, one behind the other: for each 32 columns sixteen bytes for each
// thread of a warp, as `multiply_weights` wants them, then what belongs to the rows: scales [16], sums
// of bytes [16], bias [16].
constexpr int kTileRows = 16;
constexpr int kStepBytes = kTileRows * 32;
constexpr int kRowsBytes = 3 * kTileRows * 4;

// Bytes of a tile of so many times 32 columns.
__host__ __device__ constexpr int tile_bytes(int n_steps) {
    return n_steps * kStepBytes + kRowsBytes;
}

// Pieces of matrices on their way to a block that there is room for, at most.
constexpr int kMostPieces = 8;

// A layer's pattern: local layers are the case of stride 1.
struct LayerPlan {
    uint32_t stride;
    uint32_t rows;
    uint64_t cache;  // bytes from the start of a lane
};

struct FilterPlan {
    uint32_t taps;
    uint32_t ring;  // places, a power of two: `taps` at least
    float rate;
    float kept;
    uint32_t weights;  // floats from the start of a lane's filters
    uint32_t heard;
};

struct Plan {
    // Norms and taps [L][2 + W][D] and the last norm [D], f32; then all matrices in the order in which
    // a step wants them.
    const unsigned char* image;
    const float* embed;          // [V, D]
    const float* samples;        // [V]
    const float* angles;         // [rope_period, K]: cosines, sines
    uint32_t kept_bytes;  // of the image, that stay in shared memory: norms and taps
    uint32_t n_layers;
    uint32_t conv_width;
    uint32_t n_filters;
    uint32_t rope_period;
    uint32_t filter_floats;  // of all filters together
    uint32_t taps;           // of the convolutions: bytes from the start of a lane
    uint32_t filters;
    uint32_t n_steps;
    uint32_t n_pieces;  // of matrices that a block has room for
    float norm_eps;
    float score_unit;
    LayerPlan layers[kMostLayers];
    FilterPlan filter[kMostFilters];
};

// The part of a lane that changes as a whole; it lies at the start of the lane.
struct LaneHead {
    uint64_t position;
    uint32_t last;  // the code drawn last
    float expected, error, usual, spread;
    float places[kMostFilters + 1];
    float energy[kMostFilters];
    float prediction[kMostFilters];
    uint32_t newest[kMostFilters];  // where a ring's newest lies
    float recent;                   // bits that draws have held on average
    float long_recent;              // the same in the long run
    float loudness;                 // codes that they lay from the middle
    uint32_t gap;
};
static_assert(sizeof(LaneHead) == 288 && offsetof(LaneHead, long_recent) == 276, "as in plan.rs");

// One lane's part in a launch.
struct Turn {
    unsigned char* lane;
    const float* uniforms;
    const unsigned char* forced;  // codes to take in instead of drawing, or null
    unsigned char* codes;         // or null
    float* logits;                // [n, V], or null
    float temperature, max_entropy, top_p, min_p;
    uint32_t is_drawn;  // whether logits are wanted
    float max_rise, leveling, max_click, min_entropy;
    uint32_t gap;
};
static_assert(sizeof(Turn) == 80 && offsetof(Turn, min_entropy) == 72, "as in plan.rs");

__host__ __device__ constexpr int larger_of(int a, int b) { return a > b ? a : b; }

// The sizes of a model that are fixed when the kernel is compiled.
template <int D_, int F_, int H_, int K_>
struct Shape {
    static constexpr int D = D_, F = F_, H = H_, K = K_;
    static constexpr int kQkv = D + 2 * K;
    static constexpr int kWidest = larger_of(F, larger_of(kQkv, kCodes));
    static constexpr int kOwn = D / 32;  // elements of a vector that a thread of a warp owns
    static_assert(D == H * K && D % 32 == 0 && F % 32 == 0 && K <= 32 && K % 8 == 0 && H <= 8);
};

// The same, and how the lanes of a launch are dealt: so many to a cluster of so many blocks, which share a
// step's products out. A block by itself is a cluster of one.
template <class Sizes, int kLanes_, int kBlocks_>
struct Deal : Sizes {
    static constexpr int kLanes = kLanes_, kBlocks = kBlocks_;
    static constexpr bool kIsCluster = kBlocks > 1;
    // Each block has a tile of each product: what it sends says that it is done with what the others have sent.
    static_assert(!kIsCluster || (Sizes::D >= kTileRows * kBlocks && Sizes::F >= Sizes::D && kCodes >= Sizes::D));
    // Barriers of a block have numbers by crew, or by tile.
    static_assert(!kIsCluster || kLanes == 1);

    // Warps of a block that compute, and threads beside them that bring the weights: as many as there are to
    // ask for them on GPUs without bulk copies, where there are no clusters.
    static constexpr int kWarps = kIsCluster ? 8 : 16;
    static constexpr int kThreads = 32 * kWarps, kBringers = kIsCluster ? 32 : 128;

    // Tiles that a block of a cluster multiplies at most of a matrix of so many rows.
    static constexpr int part_tiles(int n_rows) { return (n_rows / kTileRows + kBlocks - 1) / kBlocks; }
    // Room for a piece of a matrix: in a cluster for all that a block multiplies of it.
    static constexpr int kPieceBytes =
        !kIsCluster ? 17920
                    : larger_of(part_tiles(Sizes::kWidest) * tile_bytes(Sizes::D / 32),
                                larger_of(part_tiles(Sizes::D) * tile_bytes(Sizes::F / 32),
                                          part_tiles(Sizes::D) * tile_bytes(kMostPlaces)));
    // Warps that share the columns of a tile of the longest rows.
    static constexpr int kColumnParts = Sizes::F / Sizes::D;
    static_assert(!kIsCluster ||
                  (part_tiles(Sizes::kWidest) <= kWarps && Sizes::F % Sizes::D == 0 &&
                   part_tiles(Sizes::D) * kColumnParts <= kWarps));

    // Tiles of a piece: a warp takes one at most.
    __host__ __device__ static constexpr int piece_tiles(int n_steps) {
        const int n = kPieceBytes / tile_bytes(n_steps);
        return n < kWarps ? n : kWarps;
    }

    // Of the warps of a lane the first half mixes values: warps of the same eight dims, each every so many
    // pairs of blocks of slots.
    static constexpr int kMixers = kWarps / kLanes / 2, kMixedRows = kMixers / (Sizes::K / 8);
};

// Some beside each other, read and written as one.
template <class T, int n>
struct alignas(n * sizeof(T)) Few {
    T v[n];
};

// Where a layer's next position lies.
struct Spot {
    uint32_t phase, row, seen, rotation;
};

// Vectors of bytes lie so far apart that those at one column meet different banks.
__host__ __device__ constexpr int pitch_of(int bytes) { return (bytes + 127) / 128 * 128 + 32; }

// Rows of attention, one for each head, lie so far apart that what a warp's threads read or write at once of
// several heads meets different banks.
constexpr int kSharePitch = kSlots + 8, kWeightPitch = kSlots + 16;

// One lane's room in the shared memory of its block.
template <class S>
struct alignas(16) Own {
    // What the next layer wants of the past: the run of slots that it sees, its convolution's inputs.
    alignas(16) unsigned char run[kSlots / 16 * kSlotBlock];
    alignas(16) float past[kMostTaps][S::D];
    // What a product gives back, in a cluster in turn: others may already send the next one's.
    alignas(16) float returned[S::kIsCluster ? 2 : 1][S::kWidest];
    Arrivals past_is_there;
    // Scores, then shares of attention [H, pitch]; the waves of all places; what drawing adds up and sorts.
    alignas(16) float scratch[larger_of(S::H * kSharePitch, 4 * kCodes)];
    alignas(16) unsigned char weights[S::H][kWeightPitch];
    float heaviest[8];  // of each head
    alignas(8) int mixed[S::kMixedRows][S::H][S::K + 8];
    int2 looked_at;
    float units[8];
    alignas(16) unsigned char heads[S::H + 1][32];  // queries, the value; the key lies in the run
    float query_scales[S::H];
    // What quantising wants to know of the others: lows and highs of some warps.
    float ranges[2][8];
    // Predictions and energies of all filters, error, what is usual, spread.
    float fresh[2 * kMostFilters + 3];
    alignas(16) LaneHead head;
    Turn turn;
    Spot spots[kMostLayers];
};

// A block's shared memory before the image of the weights.
template <class S>
struct alignas(128) Rooms {
    static constexpr int kPitch = pitch_of(larger_of(S::F, 32 * kMostPlaces));
    alignas(16) unsigned char input[S::kLanes][kPitch];  // what the next product takes in
    float2 scale[S::kLanes];  // what a byte of it is worth, and the byte of 0, as an integer
    // Of the pieces of matrices: each is there, each may be written over.
    Arrivals is_there[kMostPieces], is_free[kMostPieces];
    int sums[S::kIsCluster ? S::part_tiles(S::D) : 1][S::kIsCluster ? S::kColumnParts : 1][32];
    Arrivals is_returned[2];  // what all blocks of a cluster give back
    float samples[kCodes];
    Own<S> own[S::kLanes];
};
