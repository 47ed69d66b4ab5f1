// edge_gpu.cpp - text beside a render loop on one GPU, as on a robot or in a game.
//
//     edge_gpu [model.gguf] [budget_us] [frames] [render_ms]
//
// The loop renders a frame every 16.7 ms; here that is copying memory on the GPU for some milliseconds, on a stream of
// high priority. Before that it gives Keel a budget: Keel's stream has the lowest priority, and no more than the budget
// is in flight when its call returns. The loop runs twice, without text and with it, and prints how long frames took.
// Keel's own context is the device's primary one; a game hands over its context in keel_cuda_device.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "keel/keel.hpp"
#include "keel/keel_cuda.h"

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kFrame = std::chrono::microseconds(16667);

double ms_since(Clock::time_point start) {
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

bool failed(const char* what, keel_status status, const keel_error& error = {}) {
    if (status == KEEL_OK) return false;
    std::fprintf(stderr, "%s: %s (%s) %s %s\n", what, keel_status_text(status), keel_status_name(status), error.field,
                 error.reason);
    return true;
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

struct Run {
    std::vector<double> frame_ms;  // rendering and Keel's call
    int tokens = 0;
    std::string text;
};

// `session` null: a loop without text.
keel_status play(Renderer& renderer, keel::Engine& engine, keel::Session* session, uint64_t budget_us, int frames,
                 Run& run) {
    auto next_frame = Clock::now() + kFrame;
    for (int frame = 0; frame < frames; ++frame) {
        const auto start = Clock::now();
        if (session) {
            const keel_advance_result step = engine.advance(*session, budget_us);
            if (step.status == KEEL_OK) {
                const auto token = session->sample();
                if (!token) return token.status;
                const auto text = session->text(*token);
                if (!text) return text.status;
                run.text += text->shown;
                ++run.tokens;
                if (keel_status s = session->feed(*token); s != KEEL_OK) return s;
            } else if (step.status != KEEL_AGAIN) {
                return step.status;
            }
        }
        renderer.frame();  // Keel's work runs beside it
        run.frame_ms.push_back(ms_since(start));
        std::this_thread::sleep_until(next_frame);
        next_frame = std::max(next_frame + kFrame, Clock::now());
    }
    return KEEL_OK;
}

void print(const char* title, std::vector<double> ms) {
    std::sort(ms.begin(), ms.end());
    const auto at = [&](double part) { return ms[static_cast<size_t>(part * static_cast<double>(ms.size() - 1))]; };
    std::printf("%-13s %zu frames: p50 %.2f ms, p99 %.2f ms, longest %.2f ms\n", title, ms.size(), at(0.5), at(0.99),
                ms.back());
}

}  // namespace

int main(int argc, char** argv) {
    const char* path = argc > 1 ? argv[1] : "samples/models/books-7m-f16.gguf";
    const uint64_t budget_us = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 2000;
    const int frames = argc > 3 ? std::max(1, std::atoi(argv[3])) : 300;
    const double render_ms = argc > 4 ? std::atof(argv[4]) : 6;

    keel_error error = keel::make<keel_error>();
    auto reader = keel::FileReader::open(path);
    if (failed(path, reader.status)) return 1;
    keel_model_info info = keel::make<keel_model_info>();
    if (failed("inspect", keel_inspect(reader->get(), nullptr, nullptr, 0, nullptr, &info, &error), error)) return 1;
    std::vector<uint64_t> buffer((info.model_bytes + 7) / 8);
    const keel_model* model = nullptr;
    if (failed("inspect", keel_inspect(reader->get(), nullptr, buffer.data(), buffer.size() * 8, &model, &info, &error),
               error))
        return 1;

    keel_cuda_device device = KEEL_CUDA_DEVICE_INIT;  // priority 0: the lowest
    keel_config config = keel::make<keel_config>();
    config.backend = keel_cuda();
    config.backend_options = &device;
    config.context_tokens = std::min(info.train_context_tokens, 1024u);
    keel_memory_plan plan = keel::make<keel_memory_plan>();
    if (failed("plan", keel_plan(reader->get(), model, &config, &plan, &error), error)) return 1;
    // The host's regions from one block, the device's from keel_cuda_memory.
    keel_memory memory = keel::make<keel_memory>();
    std::vector<std::vector<uint8_t>> host;
    for (const int kind : {KEEL_REGION_PERSISTENT, KEEL_REGION_SCRATCH, KEEL_REGION_WEIGHTS, KEEL_REGION_KV}) {
        const keel_region_plan& region = plan.regions[kind];
        if (region.bytes == 0) continue;
        host.emplace_back(region.bytes + region.align_bytes);
        const uintptr_t at = reinterpret_cast<uintptr_t>(host.back().data()) + region.align_bytes - 1;
        memory.regions[kind] = {reinterpret_cast<void*>(at / region.align_bytes * region.align_bytes), region.bytes};
    }
    if (failed("device memory", keel_cuda_memory(&plan, &device, &memory, &error), error)) return 1;

    int code = 1;
    {
        auto engine = keel::Engine::init(reader->get(), model, config, &memory, &error);
        if (!failed("init", engine.status, error)) {
            auto session = engine->open();
            keel_sampling sampling = keel::make<keel_sampling>();
            sampling.temperature = 0.8f;
            const std::string prompt = "It was a dark night";
            std::vector<int32_t> ids(prompt.size() + 1);
            const auto tokens = engine->tokenize(prompt, ids, KEEL_TOKENIZE_BOS);
            Renderer renderer(render_ms);
            Run without, with;
            if (!failed("open", session.status) && !failed("sampling", session->set_sampling(sampling)) &&
                !failed("tokenize", tokens.status) && !failed("feed", session->feed(*tokens)) &&
                !failed("frames without text", play(renderer, *engine, nullptr, 0, frames, without)) &&
                !failed("frames with text", play(renderer, *engine, &*session, budget_us, frames, with))) {
                std::printf("frames of %.1f ms rendered %s, %llu us of each for text\n", render_ms,
                            renderer.on_gpu() ? "on the GPU" : "nowhere: there is no driver",
                            static_cast<unsigned long long>(budget_us));
                print("without text", without.frame_ms);
                print("with text", with.frame_ms);
                std::printf("%d tokens, %.1f a second: %s\n", with.tokens, with.tokens / (frames * 0.016667),
                            with.text.c_str());
                code = 0;
            }
        }
    }
    keel_cuda_memory_release(&device, &memory);
    return code;
}
