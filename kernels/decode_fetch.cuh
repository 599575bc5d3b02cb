// How bytes come from the GPU's memory into a block's shared memory while it computes, and how it waits
// for them: with decode_cluster.cuh the only place that knows of architectures. Since sm_90 one thread asks for all,
// and the copy itself counts what has come. On sm_80 as many threads as can be had ask for sixteen bytes
// each, again and again, and each one's copies report when all of them are there.
#ifndef LONGWAVE_DECODE_FETCH
#define LONGWAVE_DECODE_FETCH
#include <cstdint>

__device__ inline uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Counts what comes to this block: so many threads say each time that they are through, and what they
// fetch is there; whoever needs it waits for the phase to end. Phases are 0 and 1 in turn.
using Arrivals = uint64_t;

__device__ inline void arrive(Arrivals* a) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(a)) : "memory");
}

// fetchers_of(n): of n threads that could fetch, so many do.
// begin_arrivals(a, n): n threads arrive each time, or fetch.
// show_to_fetches(): what this thread wrote to the GPU's memory before, `fetch` sees after the next
// barrier.
// leave_to_fetches(): what the block's threads wrote to shared memory before they met, this thread's fetches may
// write over.
// fetch(to, from, bytes, a, who, n): thread `who` of n copies its part of so many bytes, a multiple of
// sixteen, from the GPU's memory, and goes on at once.
// end_fetches(a, bytes): that was all of this phase, so many bytes.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

__device__ constexpr int fetchers_of(int) { return 1; }

__device__ inline void begin_arrivals(Arrivals* a, int n_threads) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(a)), "r"(n_threads)
                 : "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ inline void show_to_fetches() { asm volatile("fence.proxy.async.global;" ::: "memory"); }
__device__ inline void leave_to_fetches() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ inline void fetch(void* to, const void* from, int bytes, Arrivals* a, int, int) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(shared_address(to)),
        "l"(from), "r"(bytes), "r"(shared_address(a))
        : "memory");
}

__device__ inline void end_fetches(Arrivals* a, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(a)),
                 "r"(bytes)
                 : "memory");
}

// Sleeps a while before it says no.
#define LONGWAVE_TRY "mbarrier.try_wait.parity.shared::cta.b64"

#else

__device__ constexpr int fetchers_of(int n) { return n; }

__device__ inline void begin_arrivals(Arrivals* a, int n_threads) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(a)), "r"(n_threads)
                 : "memory");
}

// These fetches see what any load of the thread would.
__device__ inline void show_to_fetches() {}
__device__ inline void leave_to_fetches() {}

__device__ inline void fetch(void* to, const void* from, int bytes, Arrivals*, int who, int n) {
    const uint32_t start = shared_address(to);
    for (int i = 16 * who; i < bytes; i += 16 * n) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(start + i),
                     "l"(static_cast<const unsigned char*>(from) + i)
                     : "memory");
    }
}

__device__ inline void end_fetches(Arrivals* a, int) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(a))
                 : "memory");
}

#define LONGWAVE_TRY "mbarrier.test_wait.parity.shared::cta.b64"

#endif

__device__ inline void wait_arrivals(Arrivals* a, int phase) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n" LONGWAVE_TRY " done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(shared_address(a)),
        "r"(phase)
        : "memory");
}
#endif
