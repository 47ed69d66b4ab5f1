// Work on rows, shared out among threads.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <algorithm>
#include <exception>
#include <thread>
#include <vector>

namespace keel::tools {

// Calls work(first, last) for parts of [0, count) on several threads. The first exception comes out.
template <class Work>
void in_parallel(uint32_t threads, size_t count, const Work& work) {
    const size_t parts = std::clamp<size_t>(count, 1, std::max<uint32_t>(threads, 1));
    std::vector<std::exception_ptr> failures(parts);
    const auto part = [&](size_t p) {
        try {
            work(count * p / parts, count * (p + 1) / parts);
        } catch (...) {
            failures[p] = std::current_exception();
        }
    };
    std::vector<std::thread> team;
    for (size_t p = 1; p < parts; ++p) team.emplace_back(part, p);
    part(0);
    for (std::thread& t : team) t.join();
    for (const std::exception_ptr& failure : failures)
        if (failure) std::rethrow_exception(failure);
}

}  // namespace keel::tools
