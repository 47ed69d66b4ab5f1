// fork.cpp - one prompt, computed once, continued in several ways at once over keys and values in a fifth of the bytes.
//
//     fork [model.gguf]
//
// The copies share the prompt's full pages; a copy that writes into a shared page gets its own.
#include <cstdio>
#include <string>
#include <vector>

#include "keel/keel.hpp"

namespace {

constexpr uint32_t kWays = 4, kTokens = 32;

bool failed(const char* what, keel_status status, const keel_error& error = {}) {
    if (status == KEEL_OK) return false;
    std::fprintf(stderr, "%s: %s %s %s\n", what, keel_status_text(status), error.field, error.reason);
    return true;
}

}  // namespace

int main(int argc, char** argv) {
    const char* path = argc > 1 ? argv[1] : "samples/models/books-7m-f16.gguf";
    keel_error error = keel::make<keel_error>();
    auto reader = keel::FileReader::open(path);
    if (failed(path, reader.status)) return 1;
    keel_model_info info = keel::make<keel_model_info>();
    if (failed(path, keel_inspect(reader->get(), nullptr, nullptr, 0, nullptr, &info, &error), error)) return 1;
    std::vector<uint64_t> buffer((info.model_bytes + 7) / 8);
    const keel_model* model = nullptr;
    if (failed(path, keel_inspect(reader->get(), nullptr, buffer.data(), buffer.size() * 8, &model, &info, &error),
               error))
        return 1;

    keel_config config = keel::make<keel_config>();
    config.context_tokens = 512;
    config.max_sessions = kWays;
    config.k_format = config.v_format = KEEL_KV_TCQ_3;  // 26 bytes for a row of 64 elements instead of 128
    keel_memory_plan plan = keel::make<keel_memory_plan>();
    if (failed("plan", keel_plan(reader->get(), model, &config, &plan, &error), error)) return 1;
    auto memory = keel::DefaultMemory::allocate(plan);
    if (failed("memory", memory.status)) return 1;
    auto engine = keel::Engine::init(reader->get(), model, config, memory->get(), &error);
    if (failed("init", engine.status, error)) return 1;

    // The prompt, once.
    const std::string prompt = "It was a dark night, and the old house at the end of the lane";
    std::vector<int32_t> ids(256);
    auto tokens = engine->tokenize(prompt, ids, KEEL_TOKENIZE_BOS);
    if (failed("tokenize", tokens.status)) return 1;
    std::vector<keel::Session> sessions;
    auto first = engine->open();
    if (failed("open", first.status) || failed("feed", first->feed(*tokens)) ||
        failed("advance", engine->advance(*first).status))
        return 1;
    sessions.push_back(std::move(*first));

    // Copies of it; each draws with a seed of its own.
    std::vector<keel_session> handles;
    std::vector<keel_advance_result> results(kWays);
    for (uint32_t way = 1; way < kWays; ++way) {
        auto copy = sessions[0].fork();
        if (failed("fork", copy.status)) return 1;
        sessions.push_back(std::move(*copy));
    }
    for (uint32_t way = 0; way < kWays; ++way) {
        keel_sampling sampling = keel::make<keel_sampling>();
        sampling.temperature = 0.8f;
        sampling.repetition_penalty = 1.1f;
        sampling.seed = way + 1;
        if (failed("sampling", sessions[way].set_sampling(sampling))) return 1;
        handles.push_back(sessions[way].handle());
    }
    // All of them take a step together: the weights are read once for four tokens.
    std::vector<std::string> texts(kWays);
    for (uint32_t i = 0; i < kTokens; ++i) {
        for (uint32_t way = 0; way < kWays; ++way) {
            auto token = sessions[way].sample();
            if (failed("sample", token.status)) return 1;
            auto text = sessions[way].text(*token);
            if (failed("text", text.status) || failed("feed", sessions[way].feed(*token))) return 1;
            texts[way] += text->shown;
        }
        if (failed("advance", engine->advance(handles, results))) return 1;
    }
    for (const std::string& text : texts) std::printf("%s%s\n\n", prompt.c_str(), text.c_str());
    auto stats = engine->stats();
    if (failed("stats", stats.status)) return 1;
    std::printf("keys and values: %llu bytes at most, %u sessions of %u tokens\n",
                static_cast<unsigned long long>(stats->regions[KEEL_REGION_KV].high_water_bytes), kWays,
                sessions[0].info()->token_count);
}
