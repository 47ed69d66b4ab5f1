// edge_gpu.cpp - text beside a render loop on one GPU, as on a robot or in a game.
//
//     edge_gpu [model.gguf] [budget_us] [frames] [render_ms]
//
// The loop renders a frame every 16.7 ms; here (render_loop.h) that is copying memory on the GPU for some milliseconds,
// on a stream of high priority. Before that it gives Keel a budget: Keel's stream has the lowest priority, and no more
// than the budget is in flight when its call returns. The loop runs twice, without text and with it, and prints how
// long frames took.
// Keel's own context is the device's primary one; a game hands over its context in keel_cuda_device.
#include <cstdlib>
#include <string>

#include "keel/keel.hpp"
#include "keel/keel_cuda.h"
#include "render_loop.h"

namespace {

bool failed(const char* what, keel_status status, const keel_error& error = {}) {
    if (status == KEEL_OK) return false;
    std::fprintf(stderr, "%s: %s (%s) %s %s\n", what, keel_status_text(status), keel_status_name(status), error.field,
                 error.reason);
    return true;
}

struct Text {
    int tokens = 0;
    std::string text;
};

// What a frame does for the text: work for the budget, and the token where one is done.
keel_status advance_text(keel::Engine& engine, keel::Session& session, uint64_t budget_us, Text& out) {
    const keel_advance_result step = engine.advance(session, budget_us);
    if (step.status != KEEL_OK) return step.status == KEEL_AGAIN ? KEEL_OK : step.status;
    const auto token = session.sample();
    if (!token) return token.status;
    const auto text = session.text(*token);
    if (!text) return text.status;
    out.text += text->shown;
    ++out.tokens;
    return session.feed(*token);
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
            if (!failed("open", session.status) && !failed("sampling", session->set_sampling(sampling)) &&
                !failed("tokenize", tokens.status) && !failed("feed", session->feed(*tokens))) {
                std::printf("frames of %.1f ms rendered %s, %llu us of each for text\n", render_ms,
                            renderer.on_gpu() ? "on the GPU" : "nowhere: there is no driver",
                            static_cast<unsigned long long>(budget_us));
                print("without text", render_frames(renderer, frames, [] {}));
                keel_status status = KEEL_OK;
                Text out;
                print("with text", render_frames(renderer, frames, [&] {
                          if (status == KEEL_OK) status = advance_text(*engine, *session, budget_us, out);
                      }));
                std::printf("%d tokens, %.1f a second: %s\n", out.tokens, out.tokens / (frames * 0.016667),
                            out.text.c_str());
                code = failed("text", status);
            }
        }
    }
    keel_cuda_memory_release(&device, &memory);
    return code;
}
