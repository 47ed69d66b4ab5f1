// The options that verbs of the laboratory share.
#include <CLI/CLI.hpp>

#include "sdk/tools/lab/kv/kv_text.h"

namespace keel::tools {

void add_text_options(CLI::App& verb, KvText& text, const std::string& what) {
    verb.add_option("text", text.file, "a text file, or .jsonl with a field \"text\" per line");
    const std::string first = text.documents ? strf("the first %u", text.documents) : "all";
    verb.add_option("--documents", text.documents, "documents " + what + " (default: " + first + "; 0: all)");
    verb.add_option("--tokens", text.tokens, "tokens of each (default: the context)");
}

}  // namespace keel::tools
