// json_schema.cpp - output that is JSON of a schema, whatever the model: constrained sampling, with what the schema
// leaves no choice about fed instead of sampled.
//
//     json_schema model.gguf [schema.json [prompt]]
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "keel/keel.hpp"

namespace {

constexpr char kSchema[] =
    R"({"type": "object", "required": ["title", "year", "kind"], "properties": {
        "title": {"type": "string", "maxLength": 40}, "year": {"type": "integer"},
        "kind": {"enum": ["novel", "poem"]}}})";

bool failed(const char* what, keel_status status, const keel_error& error = {}) {
    if (status == KEEL_OK) return false;
    std::fprintf(stderr, "%s: %s (%s) %s %s\n", what, keel_status_text(status), keel_status_name(status), error.field,
                 error.reason);
    return true;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: json_schema model.gguf [schema.json [prompt]]\n");
        return 2;
    }
    std::string schema = kSchema;
    if (argc > 2) {
        std::ifstream file(argv[2]);
        schema.assign(std::istreambuf_iterator<char>(file), {});
    }
    const std::string prompt = argc > 3 ? argv[3] : "A book, as JSON: ";

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

    // The schema is a part of the configuration: compiled when the engine is made, its memory in the plan.
    keel_reader text = keel::make<keel_reader>();
    if (failed("schema", keel_reader_from_memory(schema.data(), schema.size(), &text))) return 1;
    keel_grammar_options options = keel::make<keel_grammar_options>();
    options.json_schema = 1;
    const keel_part part = keel::part(KEEL_PART_GRAMMAR, &text, &options);
    keel_config config = keel::make<keel_config>();
    config.parts = &part;
    config.part_count = 1;
    keel_memory_plan plan = keel::make<keel_memory_plan>();
    if (failed("plan", keel_plan(reader->get(), model, &config, &plan, &error), error)) return 1;
    auto memory = keel::DefaultMemory::allocate(plan);
    if (failed("memory", memory.status)) return 1;
    auto engine = keel::Engine::init(reader->get(), model, config, memory->get(), &error);
    if (failed("init", engine.status, error)) return 1;
    auto session = engine->open();
    if (failed("open", session.status)) return 1;

    std::vector<int32_t> ids(plan.context_tokens);
    const auto tokens = engine->tokenize(prompt, ids, KEEL_TOKENIZE_BOS);
    if (failed("tokenize", tokens.status) || failed("feed", session->feed(*tokens))) return 1;
    if (failed("grammar", keel_session_set_grammar(session->handle(), KEEL_GRAMMAR_NEXT))) return 1;
    for (;;) {
        size_t count = 0;
        if (failed("forced", keel_session_forced(session->handle(), ids.data(), ids.size(), &count))) return 1;
        if (count == 0) {
            if (failed("advance", engine->advance(*session).status)) return 1;
            const auto token = session->sample();
            if (failed("sample", token.status)) return 1;
            ids[count++] = *token;
        }
        for (size_t i = 0; i < count; ++i) {
            const auto piece = session->text(ids[i]);
            if (failed("text", piece.status)) return 1;
            std::fwrite(piece->shown.data(), 1, piece->shown.size(), stdout);
            if (piece->stopped) return std::puts("") < 0;
            if (session->feed(ids[i]) != KEEL_OK) return 1;  // the context is full
        }
    }
}
