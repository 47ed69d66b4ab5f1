#include "sdk/tools/common/stream_bandwidth.h"

#include <string.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <memory>
#include <thread>

#include "platform/platform.h"

namespace keel::tools {

uint64_t last_level_cache_bytes() {
    const uint64_t bytes = platform::last_level_cache_bytes();
    return bytes ? bytes : uint64_t{32} << 20;
}

namespace {

// Eight independent sums of 32-byte vectors: enough loads in flight to be limited by memory, not by adding.
typedef uint64_t Vector __attribute__((vector_size(32)));

inline __attribute__((always_inline)) uint64_t sum_of(const Vector* data, size_t vectors) {
    Vector sum[8] = {};
    for (size_t i = 0; i + 8 <= vectors; i += 8)
        for (size_t k = 0; k < 8; ++k) sum[k] += data[i + k];
    Vector total = {};
    for (const Vector& s : sum) total += s;
    return total[0] + total[1] + total[2] + total[3];
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) uint64_t sum_avx2(const Vector* data, size_t vectors) {
    return sum_of(data, vectors);
}
#endif

uint64_t read_all(const Vector* data, size_t vectors) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) return sum_avx2(data, vectors);
#endif
    return sum_of(data, vectors);
}

}  // namespace

StreamBandwidth measure_stream(uint64_t bytes, uint32_t threads, uint32_t repeats) {
    using Clock = std::chrono::steady_clock;
    constexpr size_t kUnit = 8 * sizeof(Vector);
    const size_t part = std::max<size_t>(bytes / threads / kUnit, 1) * kUnit;
    struct Free {
        void operator()(char* p) const { ::operator delete(p, std::align_val_t(4096)); }
    };
    const std::unique_ptr<char, Free> memory(static_cast<char*>(::operator new(part* threads, std::align_val_t(4096))));

    StreamBandwidth result{part * threads, {}};
    std::vector<uint64_t> sums(threads * 8);  // one cache line each
    std::barrier barrier(threads);
    uint32_t passes = 1;
    // Every thread writes its own part first, so that its pages lie near it.
    const auto work = [&](uint32_t t) {
        char* const mine = memory.get() + t * part;
        memset(mine, static_cast<int>(t + 1), part);
        const auto* data = reinterpret_cast<const Vector*>(mine);
        for (uint32_t r = 0; r < repeats + 1; ++r) {
            barrier.arrive_and_wait();
            const auto start = Clock::now();
            uint64_t sum = 0;
            for (uint32_t p = 0; p < passes; ++p) {
                sum += read_all(data, part / sizeof(Vector));
                asm volatile("" : "+r"(sum) : : "memory");  // each pass really reads again
            }
            sums[t * 8] += sum;
            barrier.arrive_and_wait();
            if (t != 0) continue;
            const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
            if (r == 0)
                passes = static_cast<uint32_t>(std::clamp(0.02 / seconds, 0.0, 1e6)) + 1;
            else
                result.gb_per_s.push_back(static_cast<double>(result.bytes) * passes / seconds / 1e9);
        }
    };
    std::vector<std::thread> team;
    for (uint32_t t = 1; t < threads; ++t) team.emplace_back(work, t);
    work(0);
    for (std::thread& thread : team) thread.join();
    return result;
}

}  // namespace keel::tools
