// A coded section of hostile bytes: as they come, and once more with the hash of the table made right, so that the
// table is judged. Whatever check_coded says, both ways to read it stay within their memory; where the checksums hold
// they give the same bytes.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <vector>

#include "kernels/cpu/families.h"
#include "sdk/core/hash.h"
#include "sdk/format/bytes.h"
#include "sdk/format/coded_file.h"

namespace {

constexpr uint64_t kMostPlainBytes = 1 << 20;

void use(const uint8_t* data, size_t size) {
    keel_reader coded = KEEL_READER_INIT;
    if (keel_reader_from_memory(data, size, &coded) != KEEL_OK) return;
    coded.coded_bytes = size;
    keel::CodedFooter footer;
    if (keel::read_coded_footer(coded, &footer, nullptr) != KEEL_OK || footer.plain_bytes > kMostPlainBytes) return;
    coded.size_bytes = footer.plain_bytes;
    const bool good = keel::check_coded(coded, nullptr) == KEEL_OK;
    std::vector<uint8_t> fast(footer.plain_bytes), slow(footer.plain_bytes);
    std::vector<uint64_t> work(keel::CodedFile::work_bytes(2) / 8);
    keel::CodedFile file;
    file.open(coded, {keel::kernels::rans_decode_scalar, 2, nullptr, nullptr}, work.data());
    for (uint64_t at = 0, n; at < fast.size(); at += n) {
        n = fast.size() - at < 100000 ? fast.size() - at : 100000;
        const bool decoded = file.read(at, fast.data() + at, n) == KEEL_OK,
                   read = keel::read_at(coded, at, slow.data() + at, n) == KEEL_OK;
        if (good && decoded && (!read || memcmp(fast.data() + at, slow.data() + at, n) != 0)) abort();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    std::unique_ptr<uint8_t[]> file(new uint8_t[size ? size : 1]);
    if (size) memcpy(file.get(), data, size);
    use(file.get(), size);
    keel::CodedFooter footer;
    if (size < sizeof footer) return 0;
    uint8_t* at = file.get() + size - sizeof footer;
    memcpy(&footer, at, sizeof footer);
    footer.magic = keel::kCodedMagic;
    footer.version = keel::kCodedVersion;
    footer.zero = 0;
    footer.zeros = footer.table_hash = 0;
    if (footer.stretches_at > size - sizeof footer) return 0;
    const uint64_t state =
        keel::hash_update(keel::kHashSeed, reinterpret_cast<const char*>(file.get() + footer.stretches_at),
                          size - sizeof footer - footer.stretches_at);
    footer.table_hash =
        keel::hash_finish(keel::hash_update(state, reinterpret_cast<const char*>(&footer), sizeof footer));
    memcpy(at, &footer, sizeof footer);
    use(file.get(), size);
    return 0;
}
