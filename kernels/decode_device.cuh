// What decode.cu asks of the GPU: a block's place, barriers, warps' reductions, products of bytes. Floats elsewhere
// are written with plain operators: the file is compiled with -fmad=false, so that each rounds by itself as it does
// on a CPU, and `fmaf` is written where the CPU fuses.
#ifndef LONGWAVE_DECODE_DEVICE
#define LONGWAVE_DECODE_DEVICE
#include "decode_cluster.cuh"

__device__ inline int thread_index() { return threadIdx.x; }

// The same for all threads of a warp, and known to be: what depends on it does not part them.
__device__ inline int warp_index() { return __shfl_sync(0xffffffffu, threadIdx.x / 32, 0); }

__device__ inline int block_index() { return blockIdx.x; }

// All of the block's shared memory; everything in it is placed by `Rooms`.
__device__ inline unsigned char* shared_memory() {
    extern __shared__ __align__(128) unsigned char memory[];
    return memory;
}

// So many threads of the block meet.
template <int kThreads>
__device__ inline void block_sync() {
    asm volatile("barrier.sync.aligned 1, %0;" ::"n"(kThreads) : "memory");
}
// The same of a part of them: the one of that number.
template <int kThreads>
__device__ inline void part_sync(int number) {
    asm volatile("barrier.sync.aligned %0, %1;" ::"r"(2 + number), "n"(kThreads) : "memory");
}
__device__ inline void warp_sync() { __syncwarp(); }

__device__ inline float shuffle_xor(float v, int mask) {
    return __shfl_xor_sync(0xffffffffu, v, mask);
}

__device__ inline float shuffle_from(float v, int lane) { return __shfl_sync(0xffffffffu, v, lane); }

__device__ inline unsigned warp_max(unsigned v) { return __reduce_max_sync(0xffffffffu, v); }
__device__ inline int warp_max(int v) { return __reduce_max_sync(0xffffffffu, v); }
__device__ inline unsigned warp_min(unsigned v) { return __reduce_min_sync(0xffffffffu, v); }
__device__ inline unsigned warp_sum(unsigned v) { return __reduce_add_sync(0xffffffffu, v); }

template <class T>
__device__ inline T load_constant(const T* p) {
    return __ldg(p);
}

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

// The same of signed weights, a tile's as a thread has them, by unsigned inputs in the columns.
__device__ inline void multiply_weights(int (&c)[4], uint4 a, uint2 b) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
}
#endif
