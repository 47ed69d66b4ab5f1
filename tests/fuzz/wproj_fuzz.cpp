// A W_proj cache of hostile bytes: as they come, and once more with version 2's size and checksum made right so that
// the checks behind those are reached. Whatever is accepted must name nothing but bytes of its own; what claims to be
// packed is also expanded.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <vector>

#include "sdk/core/hash.h"
#include "sdk/format/wproj_v2.h"
#ifdef KEEL_HAVE_PACK
#include "keel/keel_pack.h"
#endif

namespace {

using namespace keel;

void use(const uint8_t* data, size_t size) {
    keel_reader reader = {};
    reader.struct_size = sizeof reader;
    if (keel_reader_from_memory(data, size, &reader) != KEEL_OK) return;
    keel_error error = {};
    error.struct_size = sizeof error;
    WprojFile file;
    if (wproj_open(reader, wproj_any_shape(), 0, true, &file, &error) == KEEL_OK) {
        WprojCursor cursor = {};
        WprojLayer layer;
        uint64_t sum = 0;
        for (uint32_t l = 0; l < file.layers; ++l) {
            if (wproj_layer(file, &cursor, &layer) != KEEL_OK) abort();
            wproj_for_sections(layer, [&](uint64_t offset, uint64_t bytes) {
                if (bytes == 0 || offset > size || bytes > size - offset) abort();
                sum += data[offset] + data[offset + bytes - 1];
            });
        }
        if (wproj_layer(file, &cursor, &layer) != KEEL_E_ARGUMENT || sum > size * 255 * 2 + 1) abort();
    } else if (error.status == KEEL_OK || error.reason[0] == 0) {
        abort();  // every refusal says why
    }
#ifdef KEEL_HAVE_PACK
    keel_pack_info info = {};
    info.struct_size = sizeof info;
    if (keel_pack_inspect(&reader, &info, nullptr) != KEEL_OK || info.plain_bytes > 1u << 22) return;
    std::unique_ptr<uint8_t[]> plain(new uint8_t[info.plain_bytes]);
    std::vector<uint64_t> work((info.work_bytes + 7) / 8);
    if (keel_pack_expand(&reader, plain.get(), info.plain_bytes, work.data(), info.work_bytes, nullptr) != KEEL_OK)
        return;
    keel_reader expanded = {};
    expanded.struct_size = sizeof expanded;
    if (keel_reader_from_memory(plain.get(), info.plain_bytes, &expanded) != KEEL_OK) abort();
    if (wproj_open(expanded, wproj_any_shape(), 0, true, &file, nullptr) != KEEL_OK) abort();
#endif
}

// Writes the checksum of header and table.
void seal(uint8_t* file, size_t size) {
    WprojHeader2 h;
    if (size < sizeof h) return;
    memcpy(&h, file, sizeof h);
    if (h.magic != kWprojMagic2 || h.layers > kWprojMaxLayers || size < wproj_table_end(h.layers) + 8) return;
    if (h.codec == kWprojPlain) h.plain_bytes = size;
    memcpy(file, &h, sizeof h);
    const uint64_t end = wproj_table_end(h.layers), hash = hash64(file, end);
    memcpy(file + end, &hash, 8);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    // An exact-size copy on the heap, so that a sanitizer sees one byte more.
    std::unique_ptr<uint8_t[]> file(new uint8_t[size ? size : 1]);
    if (size) memcpy(file.get(), data, size);
    use(file.get(), size);
    seal(file.get(), size);
    use(file.get(), size);
    return 0;
}
