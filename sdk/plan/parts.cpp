#include "sdk/plan/parts.h"

#include "sdk/core/status.h"

namespace keel {

keel_status fail_part(keel_error* error, keel_status status, uint32_t index, const char* field, const char* reason,
                      uint64_t offset) {
    char name[sizeof error->field];
    TextBuilder(name, sizeof name).text("config.parts[").number(index).text("]").text(field);
    return fail(error, status, offset, name, reason);
}

keel_status fail_part(keel_error* error, keel_status status, uint32_t index, const keel_error& detail) {
    char reason[sizeof detail.reason];
    TextBuilder(reason, sizeof reason).text(detail.field).text(": ").text(detail.reason);
    return fail_part(error, status, index, "", reason, detail.offset);
}

keel_status read_parts(const keel_config& config, Parts* out, keel_error* error) {
    *out = {};
    if (config.part_count && !config.parts)
        return fail(error, KEEL_E_ARGUMENT, 0, "config.parts", "null, though part_count is not 0");
    for (uint32_t i = 0; i < config.part_count; ++i) {
        keel_part given;
        if (read_versioned(config.parts, &given, i) != KEEL_OK)
            return fail_part(error, KEEL_E_ABI, i, "", "struct_size does not fit this library");
        const uint32_t kind = given.kind;
        if (kind == 0 || kind >= kPartKinds)
            return fail_part(error, KEEL_E_UNSUPPORTED, i, ".kind", "this library has no such part");
        const bool adapter = kind == KEEL_PART_ADAPTER;
        if (adapter && out->adapter_count == kMaxAdapters)
            return fail_part(error, KEEL_E_FILE_LIMIT, i, "", "more than 16 adapters");
        Part& part = adapter ? out->adapter[out->adapter_count++] : out->of[kind];
        if (part.given) return fail_part(error, KEEL_E_ARGUMENT, i, "", "a second part of its kind");
        if (!given.reader) return fail_part(error, KEEL_E_ARGUMENT, i, ".reader", "null");
        if (read_versioned(given.reader, &part.reader) != KEEL_OK)
            return fail_part(error, KEEL_E_ABI, i, ".reader", "struct_size does not fit this library");
        if (part.reader.coded_bytes)
            return fail_part(error, KEEL_E_UNSUPPORTED, i, ".reader", "packed: only the weights of a model may be");
        if (part.reader.text_bytes) {
            const bool is_text = kind == KEEL_PART_CHAT_TEMPLATE || kind == KEEL_PART_GRAMMAR;
            if (!is_text) return fail_part(error, KEEL_E_UNSUPPORTED, i, ".reader", "packed: no text");
            keel_error detail = {};
            detail.struct_size = sizeof detail;
            const keel_status status = check_text(part.reader, &detail);
            if (status != KEEL_OK) return fail_part(error, status, i, ".reader", detail.reason);
        }
        if (given.options && kind != KEEL_PART_WPROJ && kind != KEEL_PART_GRAMMAR)
            return fail_part(error, KEEL_E_ARGUMENT, i, ".options", "parts of this kind have none");
        part.given = true;
        part.index = i;
        part.options = given.options;
    }
    return KEEL_OK;
}

}  // namespace keel
