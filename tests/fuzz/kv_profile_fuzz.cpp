// A KV profile of hostile bytes: as they come, and once more with the model's fingerprint, the right size and a right
// checksum so that the checks behind those are reached; or, where they begin as a GGUF does, an adapter. Whatever is
// accepted must plan, initialise and compute.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <string>
#include <vector>

#include "sdk/core/hash.h"
#include "sdk/kv/kv_profile.h"
#include "tests/test_engine.h"

namespace {

const std::string kPath = std::string(KEEL_SOURCE_DIR) + "/tests/data/architectures/smollm2-q8_0.gguf";

uint64_t fingerprint() {
    static const uint64_t value = keel_test::Engine(kPath).info().fingerprint;
    return value;
}

void use(keel_part_kind kind, const uint8_t* data, size_t size) {
    keel_reader reader = keel_test::sized<keel_reader>();
    if (keel_reader_from_memory(data, size, &reader) != KEEL_OK) return;
    keel_config config = keel_test::sized<keel_config>();
    config.context_tokens = 70;
    config.threads = 1;
    const keel_part part = keel_test::part(kind, &reader);
    config.parts = &part;
    config.part_count = 1;
    try {
        keel_test::Engine engine(kPath, config);
        if (kind == KEEL_PART_ADAPTER) keel_test::check(keel_session_set_adapter(engine.session(), 0, 1), "adapter");
        engine.feed({1, 2, 3, 4, 5});
        engine.advance();
    } catch (const keel_test::Error& error) {
        if (error.status == KEEL_E_POISONED || error.status == KEEL_E_MEMORY_TOO_SMALL) abort();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    // An exact-size copy on the heap, so that a sanitizer sees one byte more.
    std::unique_ptr<uint8_t[]> file(new uint8_t[size ? size : 1]);
    if (size) memcpy(file.get(), data, size);
    if (size >= 4 && memcmp(data, "GGUF", 4) == 0) {
        use(KEEL_PART_ADAPTER, file.get(), size);
        return 0;
    }
    use(KEEL_PART_KV_PROFILE, file.get(), size);
    if (size >= sizeof(keel::KvProfileHeader) + 8) {
        keel::KvProfileHeader header;
        memcpy(&header, file.get(), sizeof header);
        header.fingerprint = fingerprint();
        header.total_bytes = size;
        memcpy(file.get(), &header, sizeof header);
        const uint64_t sum = keel::hash64(file.get(), size - 8);
        memcpy(file.get() + size - 8, &sum, 8);
        use(KEEL_PART_KV_PROFILE, file.get(), size);
    }
    return 0;
}
