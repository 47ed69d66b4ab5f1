// frame_budget.cpp - a language model inside a 60 Hz loop. Each frame gives Keel 2 ms; the rest belongs to the game.
//
//     frame_budget [model.gguf] [budget_us]
//
// The loop runs twice over the same prompt and the same generated tokens: once with the budget, once letting every call
// run to its end. It prints how long Keel held each frame, and that both runs wrote the same text.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "keel/keel.hpp"

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kFrame = std::chrono::microseconds(16667);
constexpr int kGenerated = 48;

bool failed(const char* what, keel_status status, const keel_error& error = {}) {
    if (status == KEEL_OK) return false;
    std::fprintf(stderr, "%s: %s (%s) %s %s\n", what, keel_status_text(status), keel_status_name(status), error.field,
                 error.reason);
    return true;
}

struct Run {
    std::vector<double> held_ms;  // time inside Keel, one entry per frame
    std::string text;
};

// One line of work per frame: advance; and when a step is complete, take its token and feed the next one.
keel_status play(keel::Engine& engine, std::span<const int32_t> prompt, uint64_t budget_us, Run& run) {
    auto session = engine.open();
    if (!session) return session.status;
    keel_sampling sampling = keel::make<keel_sampling>();
    sampling.temperature = 0.8f;
    if (keel_status s = session->set_sampling(sampling); s != KEEL_OK) return s;
    if (keel_status s = session->feed(prompt); s != KEEL_OK) return s;

    auto next_frame = Clock::now() + kFrame;
    for (int generated = 0; generated < kGenerated;) {
        const auto start = Clock::now();
        const keel_advance_result step = engine.advance(*session, budget_us);
        if (step.status == KEEL_OK) {
            const auto token = session->sample();
            if (!token) return token.status;
            const auto text = session->text(*token);
            if (!text) return text.status;
            run.text += text->shown;
            ++generated;
            if (text->stopped) break;
            if (keel_status s = session->feed(*token); s != KEEL_OK) return s;
        } else if (step.status != KEEL_AGAIN) {
            return step.status;
        }
        run.held_ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
        // ... simulate and draw ...
        std::this_thread::sleep_until(next_frame);
        next_frame = std::max(next_frame + kFrame, Clock::now());
    }
    return KEEL_OK;
}

void print_histogram(const std::string& title, const Run& run) {
    std::printf("%s: %zu frames, longest %.2f ms\n", title.c_str(), run.held_ms.size(),
                *std::max_element(run.held_ms.begin(), run.held_ms.end()));
    double low = 0;
    for (const double edge : {0.25, 0.5, 1.0, 2.0, 2.5, 4.0, 8.0, 16.667, 1e6}) {
        const auto within = [=](double ms) { return ms > low && ms <= edge; };
        const auto n = static_cast<size_t>(std::count_if(run.held_ms.begin(), run.held_ms.end(), within));
        std::printf("  above %6.2f ms %5zu  %s\n", low, n, std::string(n * 60 / run.held_ms.size(), '#').c_str());
        low = edge;
    }
}

}  // namespace

int main(int argc, char** argv) {
    const char* path = argc > 1 ? argv[1] : "samples/models/books-7m-f16.gguf";
    const uint64_t budget_us = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 2000;
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
    keel_config config = keel::make<keel_config>();
    config.context_tokens = std::min(info.train_context_tokens, 1024u);
    keel_memory_plan plan = keel::make<keel_memory_plan>();
    if (failed("plan", keel_plan(reader->get(), model, &config, &plan, &error), error)) return 1;
    auto memory = keel::DefaultMemory::allocate(plan);
    if (failed("memory", memory.status)) return 1;
    auto engine = keel::Engine::init(reader->get(), model, config, memory->get(), &error);
    if (failed("init", engine.status, error)) return 1;

    // A long prompt: the part of the work that would stall a frame.
    std::string prompt;
    while (prompt.size() < 2000) prompt += "The wind had fallen, and the old house stood silent in the rain. ";
    std::vector<int32_t> ids(prompt.size());
    const auto tokens = engine->tokenize(prompt, ids, KEEL_TOKENIZE_BOS);
    if (failed("tokenize", tokens.status)) return 1;
    std::printf("%zu prompt tokens, %d generated tokens, 60 frames a second\n\n", tokens->size(), kGenerated);

    Run with, without;
    if (failed("with a budget", play(*engine, *tokens, budget_us, with)) ||
        failed("without a budget", play(*engine, *tokens, 0, without)))
        return 1;
    print_histogram("budget " + std::to_string(budget_us) + " us", with);
    print_histogram("no budget", without);
    std::printf("same text: %s\n", with.text == without.text ? "yes" : "NO");
    return with.text == without.text ? 0 : 1;
}
