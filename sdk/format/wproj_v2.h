// Pieces of a WPROJV02 file (layout in wproj.h), plain or packed: header, table, places of sections. Shared by the
// core, libkeel_pack and the tools.
#pragma once
#include "sdk/format/wproj.h"

namespace keel {

constexpr uint64_t kWprojSectionAlign = 64;
constexpr uint64_t wproj_align(uint64_t at) {
    return (at + kWprojSectionAlign - 1) / kWprojSectionAlign * kWprojSectionAlign;
}
constexpr uint64_t wproj_table_end(uint32_t layers) {
    return sizeof(WprojHeader2) + uint64_t{layers} * sizeof(WprojLayer);
}  // where the hash is

// Weight types in a version-2 table: the numbers of a GGUF file, and 31 for Q8_F32, which GGUF has given up. Keel's
// number for it today (kernels/formats/weight_types.h) is for later versions.
constexpr uint32_t kWprojNumberOfQ8F32 = 31;
constexpr uint32_t wproj_number_of_type(uint32_t type) {
    return type == kernels::kQ8_F32 ? kWprojNumberOfQ8F32 : kernels::kWeightTypes[type].number;
}
// kernels::WeightType, or kWeightTypeCount.
constexpr uint32_t wproj_type_of_number(uint32_t number) {
    if (number == kWprojNumberOfQ8F32) return kernels::kQ8_F32;
    return kernels::in_gguf(number) ? kernels::weight_type_of_number(number) : kernels::kWeightTypeCount;
}
// Puts map(type) in place of every type of a layer, such as its number for the file.
template <class Map>
void wproj_map_types(WprojLayer* layer, Map map) {
    for (WprojBasis& b : layer->basis)
        if (b.rank) b.type = map(b.type);
    for (WprojRecord& r : layer->record)
        if (r.rank) r.type = map(r.type);
}

// Header and the table's checksum, without a look at the table's contents. KEEL_E_UNSUPPORTED for another version or an
// unknown codec.
keel_status wproj_read_header2(const keel_reader& reader, WprojHeader2* out, keel_error* error);

// A layer of the table, with the file's numbers, against the shape and the layout. *next: where its first section has
// to lie, and then where the one after its last has to; *end: the end of the last section so far, at most plain_bytes.
keel_status wproj_check_layer2(const WprojLayer& entry, uint32_t layer, const WprojShape& shape, uint64_t plain_bytes,
                               uint64_t* next, uint64_t* end, keel_error* error);

// Calls visit(offset, bytes) for each section of a layer, in file order. Takes what it finds: of an entry being laid
// out the offsets may be references to write to.
template <class Entry, class Visit>
void wproj_for_sections(Entry& entry, Visit visit) {
    for (auto& b : entry.basis) {
        if (!b.rank) continue;
        visit(b.offset, b.bytes);
        if (b.mu) visit(b.mu, uint64_t{b.rank} * 4);
        if (b.mean) visit(b.mean, uint64_t{b.columns} * 4);
    }
    for (auto& r : entry.record) {
        if (!r.rank) continue;
        visit(r.offset, r.bytes);
        if (r.bias) visit(r.bias, uint64_t{r.rows} * 4);
    }
}

}  // namespace keel
