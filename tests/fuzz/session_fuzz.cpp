// keel_session_restore on hostile bytes: as they come, and once more with a right checksum so that the checks behind it
// are reached. Whatever is accepted must be usable: sampled from, shown as text, advanced, truncated, forked, saved
// again, and held to the engine's grammar where the file says so, or from some token on.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <vector>

#include "sdk/core/hash.h"
#include "tests/session_grammar.h"
#include "tests/test_engine.h"

namespace {

keel_test::Engine& engine() {
    static keel_test::Engine* instance = [] {
        keel_config c = keel_test::sized<keel_config>();
        c.context_tokens = 128;
        c.max_sessions = 2;
        c.draft_tokens = 3;
        c.threads = 1;
        return new keel_test::Engine(std::string(KEEL_SOURCE_DIR) + "/tests/data/architectures/smollm2-q8_0.gguf",
                                     keel_test::with_session_grammar(c));
    }();
    return *instance;
}

// What a grammar has to say of the session's tokens, whatever they are; a token that is drawn is one it allows.
void use_grammar(keel_session s) {
    const uint32_t vocabulary = engine().info().vocabulary;
    std::unique_ptr<uint8_t[]> mask(new uint8_t[(vocabulary + 7) / 8]);
    int32_t token = 0, forced[8];
    size_t count = 0;
    const keel_status allowed = keel_session_allowed(s, nullptr, 0, mask.get(), (vocabulary + 7) / 8);
    keel_session_forced(s, forced, 8, &count);
    if (keel_session_sample(s, &token) != KEEL_OK || allowed != KEEL_OK) return;
    if (!(mask[static_cast<uint32_t>(token) / 8] >> (token % 8) & 1)) abort();
    keel_session_allowed(s, &token, 1, mask.get(), (vocabulary + 7) / 8);
}

void use(keel_session s) {
    use_grammar(s);
    int32_t token = 0;
    keel_text text = keel_test::sized<keel_text>();
    keel_session fork;
    if (keel_session_sample(s, &token) == KEEL_OK && keel_session_feed(s, &token, 1, KEEL_FEED_SAMPLE) == KEEL_OK) {
        const int32_t drafts[] = {token, 3, token};
        const uint32_t parents[] = {KEEL_DRAFT_AT_END, KEEL_DRAFT_AT_END, 1};
        keel_session_propose_tree(s, drafts, parents, 3);
    }
    keel_session_text(s, token, &text);
    keel_session_text(s, -1, &text);
    keel_advance_result result = keel_test::sized<keel_advance_result>();
    keel_advance(engine().handle(), &s, 1, 0, &result);
    if (keel_session_fork(s, &fork) == KEEL_OK) keel_session_close(fork);
    uint64_t bytes = 0, written = 0;
    if (keel_session_save_bytes(s, &bytes) == KEEL_OK) {
        std::unique_ptr<uint8_t[]> blob(new uint8_t[bytes]);
        if (keel_session_save(s, blob.get(), bytes, &written) != KEEL_OK || written != bytes) abort();
        if (keel_session_restore(s, blob.get(), bytes, nullptr) != KEEL_OK) abort();  // what Keel wrote, Keel reads
    }
    keel_session_truncate(s, 1);
    keel_session_set_grammar(s, 0);
    use_grammar(s);
    keel_session_truncate(s, 0);
    keel_session_set_grammar(s, KEEL_GRAMMAR_OFF);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const keel_session s = engine().session();
    keel_error error = keel_test::sized<keel_error>();
    // An exact-size copy on the heap, so that a sanitizer sees one byte more.
    std::unique_ptr<uint8_t[]> blob(new uint8_t[size ? size : 1]);
    if (size) memcpy(blob.get(), data, size);
    if (keel_session_restore(s, blob.get(), size, &error) == KEEL_OK) use(s);
    if (size >= 8) {
        const uint64_t sum = keel::hash64(blob.get(), size - 8);
        memcpy(blob.get() + size - 8, &sum, 8);
        if (keel_session_restore(s, blob.get(), size, &error) == KEEL_OK) use(s);
    }
    return 0;
}
