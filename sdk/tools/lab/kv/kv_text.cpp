#include "sdk/tools/lab/kv/kv_text.h"

#include "sdk/core/hash.h"
#include "sdk/tools/common/text_documents.h"

namespace keel::tools {

uint32_t lab_context(const EngineOptions& options) {
    return options.context ? options.context : std::min(open_model(options.model).info.train_context_tokens, 2048u);
}

uint32_t tokens_within(const KvText& text, uint32_t context) {
    return text.tokens ? std::min(text.tokens, context) : context;
}

std::vector<std::vector<int32_t>> tokenize_documents(const Engine& engine, const std::string& file, uint32_t documents,
                                                     uint32_t tokens, bool bos, std::vector<uint32_t>* sources,
                                                     std::vector<std::string>* kinds) {
    std::vector<std::vector<int32_t>> all;
    const std::vector<TextDocument> texts = read_documents(file, documents);
    const std::vector<uint32_t> numbers = source_numbers(texts);
    for (size_t i = 0; i < texts.size(); ++i) {
        std::vector<int32_t> ids = tokenize(engine, texts[i].text, bos ? KEEL_TOKENIZE_BOS : 0);
        if (ids.size() > tokens) ids.resize(tokens);
        if (ids.size() < 2) continue;
        all.push_back(std::move(ids));
        if (sources) sources->push_back(numbers[i]);
        if (kinds) kinds->push_back(texts[i].kind);
    }
    if (all.empty()) throw ToolError(kExitRuntime, file + " has too few tokens");
    return all;
}

uint64_t hash_ids(uint64_t hash, const std::vector<int32_t>& ids) {
    const uint64_t count = ids.size();
    hash = hash_update(hash, reinterpret_cast<const char*>(&count), sizeof count);
    return hash_update(hash, reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof ids[0]);
}

std::vector<int32_t> chat_prompt(const Engine& engine, const std::string& text) {
    const keel_chat_message one = message("user", text);
    const keel_chat conversation = chat(std::span(&one, 1));
    keel_error error = make<keel_error>();
    std::vector<int32_t> ids(text.size() + 1024);
    const auto found = engine.chat_tokenize(conversation, ids, &error);
    if (found.status == KEEL_E_UNSUPPORTED) return tokenize(engine, text, KEEL_TOKENIZE_BOS);
    check(found.status, "cannot write the prompt", &error);
    ids.resize(found->size());
    return ids;
}

}  // namespace keel::tools
