// embeddings.cpp - texts as vectors: the mean of the final hidden states of their tokens, of length 1, and how alike
// they are.
//
//     embeddings [model.gguf] [text...]
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "keel/keel.hpp"

namespace {

constexpr uint32_t kTokens = 128;  // of a text; what is longer is cut

bool failed(const char* what, keel_status status, const keel_error& error = {}) {
    if (status == KEEL_OK) return false;
    std::fprintf(stderr, "%s: %s %s %s\n", what, keel_status_text(status), error.field, error.reason);
    return true;
}

// Hidden rows of every position are kept (KEEL_FEED_ALL_LOGITS) and averaged, BOS left out.
keel_status embed(keel::Engine& engine, keel::Session& session, const std::string& text, std::vector<float>* out) {
    std::vector<int32_t> ids(text.size() + 8);
    const auto tokens = engine.tokenize(text, ids, KEEL_TOKENIZE_BOS);
    if (!tokens) return tokens.status;
    const auto cut = tokens->first(std::min<size_t>(tokens->size(), kTokens));
    if (const keel_status status = session.truncate(0)) return status;
    if (const keel_status status = session.feed(cut, KEEL_FEED_ALL_LOGITS)) return status;
    const keel_advance_result step = engine.advance(session);
    if (step.status != KEEL_OK) return step.status;
    out->clear();
    for (uint32_t row = cut.size() > 1 ? 1 : 0; row < step.logits_rows; ++row) {
        const auto hidden = session.hidden(row);
        if (!hidden) return hidden.status;
        out->resize(hidden->size());
        for (size_t i = 0; i < hidden->size(); ++i) (*out)[i] += (*hidden)[i];
    }
    double square = 0;
    for (const float v : *out) square += static_cast<double>(v) * v;
    for (float& v : *out) v = static_cast<float>(v / std::sqrt(square));
    return KEEL_OK;
}

}  // namespace

int main(int argc, char** argv) {
    const char* path = argc > 1 ? argv[1] : "samples/models/books-7m-f16.gguf";
    std::vector<std::string> texts(argv + std::min(argc, 2), argv + argc);
    if (texts.empty())
        texts = {"The ship sailed out of the harbour in a storm.", "A boat left the port while the wind was high.",
                 "She poured the tea and passed the sugar."};
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
    config.context_tokens = config.chunk_tokens = config.logits_rows = kTokens;  // a text is one step
    keel_memory_plan plan = keel::make<keel_memory_plan>();
    if (failed("plan", keel_plan(reader->get(), model, &config, &plan, &error), error)) return 1;
    auto memory = keel::DefaultMemory::allocate(plan);
    if (failed("memory", memory.status)) return 1;
    auto engine = keel::Engine::init(reader->get(), model, config, memory->get(), &error);
    if (failed("init", engine.status, error)) return 1;
    auto session = engine->open();
    if (failed("open", session.status)) return 1;

    std::vector<std::vector<float>> vectors(texts.size());
    for (size_t i = 0; i < texts.size(); ++i)
        if (failed("embed", embed(*engine, *session, texts[i], &vectors[i]))) return 1;
    for (size_t i = 0; i < texts.size(); ++i) {
        for (size_t j = 0; j < texts.size(); ++j) {
            double cosine = 0;
            for (size_t k = 0; k < vectors[i].size(); ++k) cosine += static_cast<double>(vectors[i][k]) * vectors[j][k];
            std::printf("%6.3f ", cosine);
        }
        std::printf(" %s\n", texts[i].c_str());
    }
}
