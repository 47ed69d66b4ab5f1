// chat.cpp - a conversation with keel.hpp and default memory.
//
//     chat model.gguf
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "keel/keel.hpp"

namespace {

bool failed(const char* what, keel_status status, const keel_error& error = {}) {
    if (status == KEEL_OK) return false;
    std::fprintf(stderr, "%s: %s (%s) %s %s\n", what, keel_status_text(status), keel_status_name(status), error.field,
                 error.reason);
    return true;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: chat model.gguf\n");
        return 2;
    }
    keel_error error = keel::make<keel_error>();
    auto reader = keel::FileReader::open(argv[1]);
    if (failed(argv[1], reader.status)) return 1;

    keel_model_info info = keel::make<keel_model_info>();
    if (failed("inspect", keel_inspect(reader->get(), nullptr, nullptr, 0, nullptr, &info, &error), error)) return 1;
    std::vector<uint64_t> buffer((info.model_bytes + 7) / 8);
    const keel_model* model = nullptr;
    if (failed("inspect", keel_inspect(reader->get(), nullptr, buffer.data(), buffer.size() * 8, &model, &info, &error),
               error))
        return 1;

    keel_config config = keel::make<keel_config>();
    keel_memory_plan plan = keel::make<keel_memory_plan>();
    if (failed("plan", keel_plan(reader->get(), model, &config, &plan, &error), error)) return 1;
    auto memory = keel::DefaultMemory::allocate(plan);
    if (failed("memory", memory.status)) return 1;
    auto engine = keel::Engine::init(reader->get(), model, config, memory->get(), &error);
    if (failed("init", engine.status, error)) return 1;
    auto session = engine->open();
    if (failed("open", session.status)) return 1;
    keel_sampling sampling = keel::make<keel_sampling>();
    sampling.temperature = 0.7f;
    sampling.top_p = 0.9f;
    if (failed("sampling", session->set_sampling(sampling))) return 1;

    std::vector<std::string> turns;
    std::vector<int32_t> ids(plan.context_tokens);
    for (std::string line; std::fputs("> ", stdout), std::fflush(stdout), std::getline(std::cin, line);) {
        turns.push_back(line);
        std::vector<keel_chat_message> messages;
        for (size_t i = 0; i < turns.size(); ++i)
            messages.push_back(keel::message(i % 2 ? "assistant" : "user", turns[i]));
        // The conversation in the model's own template; only what the session does not hold yet is computed.
        uint32_t kept = 0;
        const auto tokens = session->chat(keel::chat(messages), ids, &kept, &error);
        if (failed("chat", tokens.status, error)) return 1;
        if (failed("truncate", session->truncate(kept))) return 1;
        if (failed("feed", session->feed(*tokens))) return 1;

        std::string answer;
        for (;;) {
            if (failed("advance", engine->advance(*session).status)) return 1;
            const auto token = session->sample();
            if (failed("sample", token.status)) return 1;
            const auto piece = session->text(*token);
            if (failed("text", piece.status)) return 1;
            answer += piece->shown;
            std::fwrite(piece->shown.data(), 1, piece->shown.size(), stdout);
            std::fflush(stdout);
            if (piece->stopped || session->feed(*token) != KEEL_OK) break;  // done, or the context is full
        }
        std::fputs("\n", stdout);
        turns.push_back(answer);
    }
    std::fputs("\n", stdout);
    return 0;
}
