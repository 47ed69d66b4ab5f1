// A render loop to put text beside (edge_gpu.cpp): frames of 16.7 ms that keep the GPU busy for some milliseconds, on a
// stream of high priority, and how long they took.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>
#include <type_traits>
#include <vector>

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

using Clock = std::chrono::steady_clock;
constexpr auto kFrame = std::chrono::microseconds(16667);

inline double ms_since(Clock::time_point start) {
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// What a renderer would do: work on the GPU that takes `ms`, and waiting for it; without a driver only waiting.
class Renderer {
  public:
    explicit Renderer(double ms) : ms_(ms) {
#if !defined(_WIN32)
        void* driver = dlopen("libcuda.so.1", RTLD_NOW);
        const auto find = [driver](auto& call, const char* name) {
            call = reinterpret_cast<std::remove_reference_t<decltype(call)>>(driver ? dlsym(driver, name) : nullptr);
            return call != nullptr;
        };
        int (*init)(unsigned) = nullptr;
        int (*retain)(void**, int) = nullptr;
        int (*make_current)(void*) = nullptr;
        int (*allocate)(unsigned long long*, size_t) = nullptr;
        int (*make_stream)(void**, unsigned, int) = nullptr;
        void* context = nullptr;
        constexpr unsigned kNonBlocking = 1;
        constexpr int kHighPriority = -5;  // the driver takes the highest it has
        const bool found = find(init, "cuInit") && find(retain, "cuDevicePrimaryCtxRetain") &&
                           find(make_current, "cuCtxSetCurrent") && find(allocate, "cuMemAlloc_v2") &&
                           find(make_stream, "cuStreamCreateWithPriority") && find(copy_, "cuMemcpyDtoDAsync_v2") &&
                           find(wait_, "cuStreamSynchronize");
        on_gpu_ = found && !init(0) && !retain(&context, 0) && !make_current(context) &&
                  !allocate(&memory_, 2 * kBytes) && !make_stream(&stream_, kNonBlocking, kHighPriority);
        if (!on_gpu_) return;
        // How many copies take the time.
        draw(1);
        const auto start = Clock::now();
        draw(20);
        copies_ = std::max(1, static_cast<int>(ms_ / (ms_since(start) / 20)));
#endif
    }
    bool on_gpu() const {
        return on_gpu_;
    }
    void frame() {
        if (on_gpu_)
            draw(copies_);
        else
            std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(ms_));
    }

  private:
    static constexpr size_t kBytes = size_t{64} << 20;
    void draw(int copies) {
        for (int i = 0; i < copies; ++i) copy_(memory_ + kBytes, memory_, kBytes, stream_);
        wait_(stream_);
    }
    const double ms_;
    bool on_gpu_ = false;
    int copies_ = 1;
    unsigned long long memory_ = 0;
    void* stream_ = nullptr;
    int (*copy_)(unsigned long long, unsigned long long, size_t, void*) = nullptr;
    int (*wait_)(void*) = nullptr;
};

// Renders frames, each behind a call of `before`, and returns how long both took, in milliseconds.
template <class Before>
std::vector<double> render_frames(Renderer& renderer, int frames, Before before) {
    std::vector<double> ms;
    auto next_frame = Clock::now() + kFrame;
    for (int frame = 0; frame < frames; ++frame) {
        const auto start = Clock::now();
        before();
        renderer.frame();  // what `before` has launched runs beside it
        ms.push_back(ms_since(start));
        std::this_thread::sleep_until(next_frame);
        next_frame = std::max(next_frame + kFrame, Clock::now());
    }
    return ms;
}

inline void print(const char* title, std::vector<double> ms) {
    std::sort(ms.begin(), ms.end());
    const auto at = [&](double part) { return ms[static_cast<size_t>(part * static_cast<double>(ms.size() - 1))]; };
    std::printf("%-13s %zu frames: p50 %.2f ms, p99 %.2f ms, longest %.2f ms\n", title, ms.size(), at(0.5), at(0.99),
                ms.back());
}
