// The text a laboratory computes: its options, and its documents as token ids.
#pragma once
#include <string>
#include <vector>

#include "sdk/tools/common/model_loader.h"

namespace keel::tools {

struct KvText {
    std::string file;  // read_documents()'s
    uint32_t documents = 0,
             tokens = 0;  // the first so many documents (0: all), so many tokens of each (0: the context)
};
// text, --documents and --tokens; `what` documents are there for: "for the statistics". The defaults are the values
// `text` has.
void add_text_options(CLI::App& verb, KvText& text, const std::string& what);  // lab_options.cpp

// --context, or what the model was trained with, at most 2,048.
uint32_t lab_context(const EngineOptions& options);
// --tokens within a context.
uint32_t tokens_within(const KvText& text, uint32_t context);

// Token ids of the first `documents` documents of a file (0: all), each [BOS] + text cut to `tokens`; those without a
// second token are left out. ToolError when none is left. sources and kinds (may be null): source_numbers() and kinds
// of those that are.
std::vector<std::vector<int32_t>> tokenize_documents(const Engine& engine, const std::string& file, uint32_t documents,
                                                     uint32_t tokens, bool bos = true,
                                                     std::vector<uint32_t>* sources = nullptr,
                                                     std::vector<std::string>* kinds = nullptr);

// Goes on with a hash by a document's ids and their number: the same tokens cut elsewhere are another text.
uint64_t hash_ids(uint64_t hash, const std::vector<int32_t>& ids);

// A user's message in the model's template; the text itself where the model has none.
std::vector<int32_t> chat_prompt(const Engine& engine, const std::string& text);

}  // namespace keel::tools
