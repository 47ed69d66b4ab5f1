// A record store, and a trace tape, of hostile bytes: as they come, and once more with the right owner, size and
// checksum so that the checks behind those are reached. Whatever is accepted must be searched.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <memory>

#include "sdk/core/hash.h"
#include "sdk/tools/lab/geodesic/record_store.h"
#include "sdk/tools/lab/geodesic/trace_tape.h"

namespace {

using namespace keel::geodesic;

void use_store(const uint8_t* data, size_t size, const StoreOwner& owner) {
    RecordStore store;
    if (read_store({data, size}, owner, &store)) return;
    float key[kStoreDim] = {};
    std::unique_ptr<float[]> features(new float[store.header.features]());
    store_key(store, features.get(), key);
    for (const bool metric : {false, true}) find_record(store, key, {.metric = metric});
    Found found[8];
    find_nearest(store, key, 4, found);
}

void use_tape(const uint8_t* data, size_t size) {
    TraceTape tape;
    if (read_trace({data, size}, &tape)) return;
    std::unique_ptr<float[]> state(new float[tape.header.dim]);
    for (size_t s = 0; s < tape.steps; ++s) {
        tape.state(s, state.get());
        if (tape.goes_on(s) && tape.position(s + 1) <= tape.position(s)) abort();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    // An exact-size copy on the heap, so that a sanitizer sees one byte more.
    std::unique_ptr<uint8_t[]> file(new uint8_t[size ? size : 1]);
    if (size) memcpy(file.get(), data, size);
    use_tape(file.get(), size);
    use_store(file.get(), size, {1, 2, 100});
    StoreHeader header;
    if (size < sizeof header + 8) return 0;
    memcpy(&header, file.get(), sizeof header);
    header.magic = kStoreMagic, header.version = kStoreVersion;
    header.total_bytes = size;
    memcpy(file.get(), &header, sizeof header);
    const uint64_t sum = keel::hash64(file.get(), size - 8);
    memcpy(file.get() + size - 8, &sum, 8);
    use_store(file.get(), size, {header.fingerprint, header.tokenizer_hash, 100});
    return 0;
}
