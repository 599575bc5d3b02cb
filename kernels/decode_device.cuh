// What decode.cu asks of the GPU: a block's place, barriers, memory of the cluster, warps'
// reductions, products of bytes. Floats elsewhere are written with plain operators: the file is
// compiled with -fmad=false, so that each rounds by itself as it does on a CPU, and `fmaf` is
// written where the CPU fuses.
#ifndef LONGWAVE_DECODE_DEVICE
#define LONGWAVE_DECODE_DEVICE
#include <cstdint>

constexpr int kBlocks = 8;  // of a cluster
constexpr int kWarps = 16;  // of a block
constexpr int kThreads = 32 * kWarps;

__device__ inline int thread_index() { return threadIdx.x; }

// The same for all threads of a warp, and known to be: what depends on it does not part them.
__device__ inline int warp_index() { return __shfl_sync(0xffffffffu, threadIdx.x / 32, 0); }

__device__ inline int cluster_index() { return blockIdx.x / kBlocks; }

// Blocks of a cluster lie beside each other in the grid.
__device__ inline int block_rank() { return blockIdx.x % kBlocks; }

// All of the block's shared memory; everything in it is placed by `Rooms`.
__device__ inline unsigned char* shared_memory() {
    extern __shared__ __align__(128) unsigned char memory[];
    return memory;
}

__device__ inline void block_sync() { __syncthreads(); }
__device__ inline void warp_sync() { __syncwarp(); }

// All threads of the cluster meet; what each wrote before, anywhere, all see afterwards.
__device__ inline void cluster_sync() {
    asm volatile(
        "barrier.cluster.arrive.release.aligned;\n"
        "barrier.cluster.wait.acquire.aligned;" ::
            : "memory");
}

__device__ inline uint32_t peer_address(const void* own, int rank) {
    uint32_t there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(there)
        : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(own))), "r"(rank));
    return there;
}

// Writes to the place in another block's shared memory that `own` is in this one's.
__device__ inline void store_peer(float2* own, int rank, float2 v) {
    asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(peer_address(own, rank)),
                 "f"(v.x), "f"(v.y)
                 : "memory");
}

__device__ inline void store_peer(uint32_t* own, int rank, uint32_t v) {
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(peer_address(own, rank)), "r"(v)
                 : "memory");
}

// The same in two parts: what was written before the first is seen after the second.
__device__ inline void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ inline void cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Counts bytes that other blocks send to this one: each time, one thread says how many are
// expected, and whoever needs them waits for the phase to end; phases are 0 and 1 in turn.
using Arrivals = uint64_t;

__device__ inline void begin_arrivals(Arrivals* a) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(
                     static_cast<uint32_t>(__cvta_generic_to_shared(a)))
                 : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void expect_arrivals(Arrivals* a, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                     static_cast<uint32_t>(__cvta_generic_to_shared(a))),
                 "r"(bytes)
                 : "memory");
}

__device__ inline void wait_arrivals(Arrivals* a, int phase) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(a))),
        "r"(phase)
        : "memory");
}

// As `store_peer`, and counted there.
__device__ inline void send_peer(float2* own, int rank, float2 v, Arrivals* a) {
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 "
        "[%0], {%1, %2}, [%3];" ::"r"(peer_address(own, rank)),
        "f"(v.x), "f"(v.y), "r"(peer_address(a, rank))
        : "memory");
}

__device__ inline float shuffle_xor(float v, int mask) {
    return __shfl_xor_sync(0xffffffffu, v, mask);
}

__device__ inline float shuffle(float v, int lane) { return __shfl_sync(0xffffffffu, v, lane); }

__device__ inline unsigned warp_max(unsigned v) { return __reduce_max_sync(0xffffffffu, v); }
__device__ inline unsigned warp_min(unsigned v) { return __reduce_min_sync(0xffffffffu, v); }
__device__ inline unsigned warp_sum(unsigned v) { return __reduce_add_sync(0xffffffffu, v); }

// Past the first cache, which other blocks' writes do not reach.
template <class T>
__device__ inline T load_fresh(const T* p) {
    return __ldcg(p);
}

template <class T>
__device__ inline T load_constant(const T* p) {
    return __ldg(p);
}

__device__ inline void add_shared(int* sum, int v) { atomicAdd(sum, v); }

// A warp's 16×8 product of bytes, 32 deep. With g = lane / 4 and t = lane % 4 a lane holds
//   A  a0, a2 of row g, a1, a3 of row g + 8      B  b0, b1 of column g
//   C  c0, c1 of row g, columns 2t and 2t + 1    c2, c3 of row g + 8
// four bytes a register. Which four of the 32 is free as long as A and B agree: here a0, b0 are the
// bytes 8t … 8t + 3 and a2, b1 the bytes 8t + 4 … 8t + 7, unless said otherwise.
__device__ inline void multiply_unsigned(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                         uint32_t a3, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// The same of signed bytes by signed bytes.
__device__ inline void multiply_signed(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                       uint32_t a3, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
#endif
