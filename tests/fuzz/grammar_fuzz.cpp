// A grammar of hostile bytes, and a text: whatever compiles must run within its state. The first byte says whether it is
// GBNF or a JSON Schema; a line of "#!" ends it and begins the text.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <string>
#include <vector>

#include "sdk/text/grammar.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
    if (bytes < 2) return 0;
    std::string grammar(reinterpret_cast<const char*>(data) + 1, bytes - 1), text = "{\"a\": [1, \"b\"]}";
    const size_t end = grammar.find("\n#!\n");
    if (end != std::string::npos) {
        text = grammar.substr(end + 4);
        grammar.resize(end);
    }
    keel::GrammarSource source = {};
    source.reader.struct_size = sizeof source.reader;
    if (keel_reader_from_memory(grammar.data(), grammar.size(), &source.reader) != KEEL_OK) abort();
    source.json_schema = data[0] & 1;
    keel_error error = {};
    error.struct_size = sizeof error;
    keel::Arena counting;
    const keel::Grammar* g;
    if (keel::grammar_place(source, counting, &g, &error) != KEEL_OK) {
        if (error.reason[0] == 0 || error.offset > grammar.size()) abort();
        return 0;
    }
    std::vector<char> memory(counting.used_bytes() + 64);
    char* const base = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
    keel::Arena arena(base, counting.used_bytes());
    if (keel::grammar_place(source, arena, &g, &error) != KEEL_OK || !g) abort();
    if (arena.used_bytes() != counting.used_bytes()) abort();
    const auto whole = std::make_unique<keel::GrammarState>(), stepped = std::make_unique<keel::GrammarState>(),
               scratch = std::make_unique<keel::GrammarState>();
    keel_status status = keel::grammar_begin(*g, whole.get());
    if (status != KEEL_OK) return 0;
    if (keel::grammar_begin(*g, stepped.get()) != KEEL_OK) abort();
    status = keel::grammar_accept(*g, whole.get(), scratch.get(), text.data(), text.size());
    for (size_t i = 0; i < text.size() && status == KEEL_OK; ++i)
        if (keel::grammar_accept(*g, stepped.get(), scratch.get(), text.data() + i, 1) != KEEL_OK) abort();
    if (status == KEEL_OK && !keel::grammar_same(*whole, *stepped)) abort();
    return 0;
}
