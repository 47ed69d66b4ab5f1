// A pack of hostile bytes: as they come, and once more with the hash of the table made right, so that the table is
// judged. Sections of an accepted pack lie in the file, apart from each other, and can be read to their ends; packed
// text expands into memory that has exactly what was asked for, or not.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <memory>

#ifdef KEEL_HAVE_PACK
#include "keel/keel_pack.h"
#endif
#include "sdk/format/bytes.h"
#include "sdk/format/pack.h"

namespace {

std::unique_ptr<uint8_t[]> texts[KEEL_PACK_MAX_SECTIONS];
uint32_t text_count;

// The text of a section, where this build has zstd.
void expand(keel_reader* section) {
#ifdef KEEL_HAVE_PACK
    constexpr uint64_t kMostTextBytes = 1 << 20;
    if (section->text_bytes == 0 || section->text_bytes > kMostTextBytes) return;
    keel_pack_text_info info = KEEL_PACK_TEXT_INFO_INIT;
    if (keel_pack_inspect_text(section, &info, nullptr) != KEEL_OK) return;
    if (info.text_bytes != section->text_bytes) abort();
    std::unique_ptr<uint8_t[]>& text = texts[text_count++];
    text.reset(new uint8_t[info.text_bytes]);
    std::unique_ptr<uint64_t[]> work(new uint64_t[(info.work_bytes + 7) / 8]);
    const bool good =
        keel_pack_expand_text(section, text.get(), info.text_bytes, work.get(), info.work_bytes, nullptr) == KEEL_OK;
    if (good != (section->text != nullptr)) abort();
#else
    (void)section;
#endif
}

void use(const uint8_t* data, size_t size) {
    keel_reader file = KEEL_READER_INIT;
    if (keel_reader_from_memory(data, size, &file) != KEEL_OK) return;
    keel_pack_section sections[KEEL_PACK_MAX_SECTIONS];
    sections[0].struct_size = sizeof sections[0];
    uint32_t count = 0;
    text_count = 0;
    if (keel_pack_sections(&file, sections, KEEL_PACK_MAX_SECTIONS, &count, nullptr) != KEEL_OK) return;
    const uint8_t* end = data;
    keel_reader model;
    for (uint32_t i = 0; i < count; ++i) {
        keel_reader s = KEEL_READER_INIT;
        uint8_t last;
        if (keel_pack_reader(&file, &sections[i], &s) != KEEL_OK) abort();
        const uint8_t* begin = static_cast<const uint8_t*>(s.mapped);
        const uint64_t stored = keel::stored_bytes(s);
        if (begin < end || s.size_bytes == 0 || s.text_bytes + stored == 0) abort();
        if (stored && keel::read_stored(s, stored - 1, &last, 1) != KEEL_OK) abort();
        expand(&s);
        keel::read_at(s, s.size_bytes - 1, &last, 1);  // of a coded one: if its table allows
        if (i == 0) model = s;
        end = begin + s.text_stored_bytes + stored;
        if (memchr(sections[i].name, '/', sizeof sections[i].name) || sections[i].name[31]) abort();
    }
    if (end != data + size) abort();
    keel_pack_verify(&file, nullptr);
    keel_model_info info = KEEL_MODEL_INFO_INIT;
    keel_inspect(&model, nullptr, nullptr, 0, nullptr, &info, nullptr);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    std::unique_ptr<uint8_t[]> file(new uint8_t[size ? size : 1]);
    if (size) memcpy(file.get(), data, size);
    use(file.get(), size);
    keel::PackTable table = {};
    if (size < sizeof table.header) return 0;
    memcpy(&table.header, file.get(), sizeof table.header);
    table.header.magic = keel::kPackMagic;
    table.header.version = keel::kPackVersion;
    table.header.file_bytes = size;
    const uint64_t table_bytes = uint64_t{table.header.section_count} * sizeof(keel::PackSection);
    if (table.header.section_count > KEEL_PACK_MAX_SECTIONS || table_bytes > size - sizeof table.header) return 0;
    memcpy(table.sections, file.get() + sizeof table.header, table_bytes);
    table.header.table_hash = pack_table_hash(table);
    memcpy(file.get(), &table.header, sizeof table.header);
    use(file.get(), size);
    return 0;
}
