// What a launch of decode.cu is given, and where everything lies. `src/engine/cuda/plan.rs` holds
// the same, in the same order.
#pragma once
#include <cstddef>

#include "decode_device.cuh"

constexpr int kCodes = 256;
constexpr int kMostLayers = 32;
constexpr int kMostFilters = 15;
constexpr int kMostPlaces = kMostFilters + 1;
// Slots that a layer sees at most, widened to whole blocks: a warp takes sixteen.
constexpr int kSlots = 16 * kWarps;
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

// Room for a piece of a matrix that is on its way to a block.
constexpr int kPieceBytes = 17920;
// Pieces that there is room for, at most.
constexpr int kMostPieces = 8;

// Tiles of a piece: a warp takes one at most.
__host__ __device__ constexpr int piece_tiles(int n_steps) {
    const int n = kPieceBytes / tile_bytes(n_steps);
    return n < kWarps ? n : kWarps;
}

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

// Where a layer's next position lies.
struct Spot {
    uint32_t phase, row, seen, rotation;
};

// Vectors of bytes lie so far apart that those at one column meet different banks.
__host__ __device__ constexpr int pitch_of(int bytes) { return (bytes + 127) / 128 * 128 + 32; }

// One lane's room in the shared memory of its block.
template <class S>
struct alignas(16) Own {
    // What the next layer wants of the past: the run of slots that it sees, its convolution's inputs.
    alignas(16) unsigned char run[kSlots / 16 * kSlotBlock];
    alignas(16) float past[kMostTaps][S::D];
    alignas(16) float returned[S::kWidest];  // what a product gives back
    Arrivals past_is_there;
    // Shares of attention [H, slots]; the waves of all places; what drawing adds up and sorts.
    alignas(16) float scratch[larger_of(S::H * kSlots, 4 * kCodes)];
    unsigned char weights[S::H][kSlots];
    // Of each warp, by heads.
    alignas(16) float tops[8][kWarps], heaviest[8][kWarps];
    int mixed[S::D];
    float units[8];
    alignas(16) unsigned char heads[S::H + 2][32];  // queries, the key, the value
    float head_scales[S::H + 2];
    // What quantising wants to know of the others: lows and highs of some warps.
    float ranges[2][8];
    // Predictions and energies of all filters, error, what is usual, spread.
    float fresh[2 * kMostFilters + 3];
    alignas(16) LaneHead head;
    Turn turn;
    Spot spots[kMostLayers];
};

// A block's shared memory before the image of the weights.
template <class S, int kLanes>
struct alignas(128) Rooms {
    static constexpr int kPitch = pitch_of(larger_of(S::F, 32 * kMostPlaces));
    alignas(16) unsigned char input[kLanes][kPitch];  // what the next product takes in
    float2 scale[kLanes];  // what a byte of it is worth, and the byte of 0, as an integer
    // Of the pieces of matrices: each is there, each may be written over.
    Arrivals is_there[kMostPieces], is_free[kMostPieces];
    float samples[kCodes];
    Own<S> own[kLanes];
};
