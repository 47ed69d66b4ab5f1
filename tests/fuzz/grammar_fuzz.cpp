// A grammar of hostile bytes, and a text: whatever compiles must run within its limits, in bounded time, and its masks
// say what its bytes do. The first byte says whether it is GBNF or a JSON Schema; a line of "#!" ends it and begins the
// text.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "sdk/text/grammar_tokens.h"
#include "sdk/text/tokenizer_layout.h"

namespace {

// Every byte by itself, what JSON is made of, and one token without text.
struct Vocabulary {
    Vocabulary() {
        const char* const words[] = {"{\"",  "\": ", "\", \"", "true",         "tr",       "[1,", "]}",  "  ",
                                     "aaaa", "((((", "\n\n",   "\xe4\xb8\xad", "\xe4\xb8", "0.5", "e+1", ""};
        for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
        for (const char* word : words) add(word);
        tokenizer.vocabulary = static_cast<uint32_t>(types.size());
        tokenizer.blob = blob.data();
        tokenizer.offsets = offsets.data();
        tokenizer.types = types.data();
    }
    void add(const std::string& text) {
        blob += text;
        offsets.push_back(static_cast<uint32_t>(blob.size()));
        types.push_back(keel::kTokenNormal);
    }
    std::string blob;
    std::vector<uint32_t> offsets = {0};
    std::vector<uint8_t> types;
    keel::Tokenizer tokenizer = {};
};

// The whole of it on memory of exactly its size.
struct Placed {
    const keel::Grammar* grammar = nullptr;
    keel::GrammarSession* sessions[2] = {};
    keel_status place(const keel::GrammarSource& source, const keel::Tokenizer& t, keel::Arena& arena,
                      keel_error* error) {
        uint32_t classes = 0;
        const keel_status status = keel::grammar_place(source, arena, &grammar, &classes, error);
        if (status != KEEL_OK) return status;
        const keel::TokenOrder* const order =
            keel::token_order_place(arena, arena.counting() ? nullptr : &t, t.vocabulary);
        for (int i = 0; i < 2; ++i)
            sessions[i] = keel::grammar_session_place(arena, grammar, classes, order, t.vocabulary, i);
        return KEEL_OK;
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
    if (bytes < 2) return 0;
    static const Vocabulary vocabulary;
    const keel::Tokenizer& t = vocabulary.tokenizer;
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
    Placed placed;
    if (placed.place(source, t, counting, &error) != KEEL_OK) {
        if (error.reason[0] == 0 || error.offset > grammar.size()) abort();
        return 0;
    }
    std::vector<char> memory(counting.used_bytes() + 64);
    char* const base = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
    keel::Arena arena(base, counting.used_bytes());
    if (placed.place(source, t, arena, &error) != KEEL_OK || !placed.grammar) abort();
    if (arena.used_bytes() != counting.used_bytes()) abort();

    // The text as tokens of one byte, one after the other in one session, all at once in the other one.
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
    if (ids.size() > 200) ids.resize(200);
    keel::GrammarSession *const stepped = placed.sessions[0], *const whole = placed.sessions[1];
    const int32_t ends[] = {static_cast<int32_t>(t.vocabulary) - 1};
    std::vector<uint8_t> mask((t.vocabulary + 7) / 8), other(mask.size());
    for (uint32_t count = 0; count <= ids.size(); ++count) {
        const uint16_t state = keel::grammar_state_of(stepped, ids.data(), count);
        if (state < keel::kGrammarFirst) break;
        if (count % 8 != 0 && count != ids.size()) continue;
        std::fill(mask.begin(), mask.end(), 0xff);
        other = mask;
        const keel_status status = keel::grammar_mask(stepped, state, ends, 1, mask.data());
        keel::grammar_session_clear(whole);
        const uint16_t again = keel::grammar_state_of(whole, ids.data(), count);
        if (keel::grammar_mask(whole, again, ends, 1, other.data()) != status) abort();
        if (status == KEEL_E_FILE_LIMIT) break;
        if (status != KEEL_OK || mask != other) abort();
        for (int32_t id = 0; id < ends[0]; ++id) {
            const uint16_t next = keel::grammar_state_of(whole, ids.data(), count);
            const bool fits = keel::grammar_state_behind(whole, next, &id, 1) >= keel::kGrammarFirst;
            if (fits != (mask[static_cast<size_t>(id) / 8] >> id % 8 & 1)) abort();
        }
        int32_t forced[keel::kMaxForcedBytes];
        size_t forced_count = 0;
        const uint16_t now = keel::grammar_state_of(stepped, ids.data(), count);
        if (keel::grammar_forced(stepped, now, forced, keel::kMaxForcedBytes, &forced_count) != KEEL_OK) abort();
        // What is forced is allowed.
        for (size_t i = 0; i < forced_count && i < 1; ++i)
            if (!(mask[static_cast<size_t>(forced[i]) / 8] >> forced[i] % 8 & 1)) abort();
    }
    return 0;
}
