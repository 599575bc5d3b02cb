// Blocks of a cluster, which share a step's products out: a block sends what its part came to into the shared
// memory of all. Only since sm_90; elsewhere every block is by itself.
#ifndef LONGWAVE_DECODE_CLUSTER
#define LONGWAVE_DECODE_CLUSTER
#include "decode_fetch.cuh"

// block_in_cluster(): which of its cluster's blocks this is.
// cluster_sync(): all threads of the cluster meet.
// send(to, v, a, block): writes into another block's shared memory, at this one's address, and counts the
// bytes there, as a fetch does.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

__device__ inline int block_in_cluster() {
    int rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

__device__ inline void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

__device__ inline void send(float* to, float4 v, Arrivals* a, int block) {
    asm volatile(
        "{\n"
        ".reg .b32 to, count;\n"
        "mapa.shared::cluster.u32 to, %0, %2;\n"
        "mapa.shared::cluster.u32 count, %1, %2;\n"
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [to], {%3, %4, %5, %6}, [count];\n"
        "}" ::"r"(shared_address(to)),
        "r"(shared_address(a)), "r"(block), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
        : "memory");
}

#else

__device__ inline int block_in_cluster() { return 0; }
__device__ inline void cluster_sync() {}
__device__ inline void send(float*, float4, Arrivals*, int) {}

#endif
#endif
