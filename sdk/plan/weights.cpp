#include "sdk/plan/weights.h"

#include <string.h>

#include "sdk/backend/backend.h"
#include "sdk/core/status.h"
#include "sdk/format/coded_file.h"
#include "sdk/plan/parts.h"

namespace keel {
namespace {

// While one exists, errors of the placer are named after the part of the configuration that is read.
class NamedPart {
  public:
    NamedPart(WeightPlacer& placer, uint32_t part)
        : placer_(placer), part_(part), error_(placer.error), before_(placer.status) {
        detail_.struct_size = sizeof detail_;
        placer_.error = &detail_;
    }
    NamedPart(const NamedPart&) = delete;
    ~NamedPart() {
        placer_.error = error_;
        if (before_ == KEEL_OK && placer_.status != KEEL_OK && placer_.status != KEEL_E_CANCELLED)
            fail_part(error_, placer_.status, part_, detail_);
    }

  private:
    WeightPlacer& placer_;
    const uint32_t part_;
    keel_error* const error_;
    const keel_status before_;
    keel_error detail_ = {};
};

GgufTensor matrix_at(uint32_t type, uint32_t k, uint32_t rows, uint64_t offset, uint64_t bytes) {
    GgufTensor t = {};
    t.type = type;
    t.dims[0] = k;
    t.dims[1] = rows;
    t.dims[2] = t.dims[3] = 1;
    t.offset = offset;
    t.bytes = bytes;
    return t;
}

uint32_t elements_of(const GgufTensor& t) {
    return static_cast<uint32_t>(t.dims[0] * t.dims[1] * t.dims[2]);
}

// The tensor's bytes as they lie in its file.
GgufTensor as_stored(GgufTensor t) {
    t.interleaved = 0;
    return t;
}

}  // namespace

const void* WeightPlacer::matrix(const keel_reader& from, const GgufTensor& t, const char* name, int32_t layer) {
    if (!host) return own_matrix(from, t, name, layer);
    if (maps()) {
        if (t.interleaved && status == KEEL_OK)
            status = fail(error, KEEL_E_UNSUPPORTED, 0, name, "interleaved rows are not used as they are mapped here");
        return mapped_matrix(from, t);
    }
    return copied_matrix(from, t, name, layer);
}

const void* WeightPlacer::copied_matrix(const keel_reader& from, const GgufTensor& t, const char* name, int32_t layer) {
    total_bytes += t.bytes;
    uint8_t* dst = static_cast<uint8_t*>(arena.place_bytes(name, t.bytes, Arena::kAlign, layer));
    if (dst) load(from, t, dst);
    return dst;
}

const void* WeightPlacer::mapped_matrix(const keel_reader& from, const GgufTensor& t) {
    mapped_bytes += t.bytes;
    return arena.counting() ? nullptr : mapped_at(from, t.offset);
}

const void* WeightPlacer::repacked_matrix(const keel_reader& from, const GgufTensor& t, const char* name,
                                          int32_t layer) {
    if (host && t.interleaved && maps()) return mapped_matrix(from, t);
    total_bytes += t.bytes;
    if (!host) {
        const uint64_t row_bytes = kernels::weight_row_bytes(t.type, static_cast<uint32_t>(t.dims[0])),
                       rows = (t.dims[1] * t.dims[2] + kernels::kRepackRows - 1) / kernels::kRepackRows *
                              kernels::kRepackRows;
        const uint64_t at = own_memory.place_offset(name, rows * row_bytes, Arena::kAlign, layer);
        if (own_memory.counting() || !own_memory.ok()) return nullptr;
        read_groups(from, t, [&](uint64_t to, const uint8_t* plain, uint32_t count, uint32_t k) {
            status = backend->upload_rows(device, at + to, t.type, plain, count, k);
            if (status != KEEL_OK) fail(error, status, at + to, "weights", "the device did not take them");
        });
        return own_memory.base() + at;
    }
    uint8_t* dst = static_cast<uint8_t*>(arena.place_bytes(name, t.bytes, Arena::kAlign, layer));
    if (dst && t.interleaved)
        load(from, as_stored(t), dst);
    else if (dst)
        read_groups(from, t, [&](uint64_t to, const uint8_t* plain, uint32_t count, uint32_t k) {
            kernels::repack_rows(static_cast<kernels::WeightType>(t.type), plain, dst + to, count, k);
        });
    return dst;
}

// Through a slice on the stack; where weights are to be used as they are mapped, straight from there.
const void* WeightPlacer::own_matrix(const keel_reader& from, const GgufTensor& t, const char* name, int32_t layer) {
    constexpr uint64_t kMappedSliceBytes = 1 << 20;
    uint8_t slice[64 * 1024];
    total_bytes += t.bytes;
    const uint64_t to = own_memory.place_offset(name, t.bytes, Arena::kAlign, layer);
    if (own_memory.counting() || !own_memory.ok()) return nullptr;
    const bool mapped = maps() && !t.interleaved;
    const uint64_t slice_bytes = mapped ? kMappedSliceBytes : sizeof slice;
    for (uint64_t done = 0, n; done < t.bytes && status == KEEL_OK; done += n) {
        n = t.bytes - done < slice_bytes ? t.bytes - done : slice_bytes;
        if (mapped) {
            upload(to + done, mapped_at(from, t.offset) + done, n);
            progress(n);
        } else {
            read(from, t, done, slice, n);
            upload(to + done, slice, n);
        }
    }
    return own_memory.base() + to;
}

// A vector that is on the host, and where it lies for ops.
Vector WeightPlacer::shared(float* data, uint32_t n, const char* name, int32_t layer) {
    if (host) return {data, data};
    const uint64_t to = own_memory.place_offset(name, uint64_t{n} * 4, Arena::kAlign, layer);
    if (!data || !own_memory.ok()) return {};
    upload(to, data, uint64_t{n} * 4);
    return {data, reinterpret_cast<const float*>(own_memory.base() + to)};
}

void WeightPlacer::upload(uint64_t to, const void* from, uint64_t bytes) {
    if (status != KEEL_OK) return;
    status = backend->upload(device, KEEL_REGION_DEVICE_WEIGHTS, to, from, bytes);
    if (status != KEEL_OK) fail(error, status, to, "weights", "the device did not take them");
}

// Narrower sources are read into the upper end of the destination and widened from the front.
Vector WeightPlacer::vector(const keel_reader& from, const GgufTensor& t, const char* name, int32_t layer) {
    const uint32_t n = elements_of(t);
    total_bytes += t.bytes;
    float* dst = arena.place<float>(name, n, layer);
    if (dst) {
        load(from, t, reinterpret_cast<uint8_t*>(dst) + uint64_t{n} * 4 - t.bytes);
        widen_vector(t, *kernels, dst);
    }
    return shared(dst, n, name, layer);
}

Vector WeightPlacer::factor_bias(const keel_reader& from, uint64_t offset, uint32_t n, const float* model_bias,
                                 const char* name, int32_t layer) {
    total_bytes += uint64_t{n} * 4;
    float* dst = arena.place<float>(name, n, layer);
    if (dst) {
        if (status == KEEL_OK) took(read_at(from, offset, dst, uint64_t{n} * 4), offset, uint64_t{n} * 4);
        for (uint32_t i = 0; model_bias && i < n; ++i) dst[i] = model_bias[i] + dst[i];
    }
    return shared(dst, n, name, layer);
}

void widen_vector(const GgufTensor& t, const kernels::KernelSet& kernels, float* dst) {
    if (t.type == kernels::kF32) return;
    const uint32_t n = elements_of(t);
    const uint8_t* src = reinterpret_cast<const uint8_t*>(dst) + uint64_t{n} * 4 - t.bytes;
    for (uint32_t i = 0; i < n; ++i) {
        uint8_t element[4];
        memcpy(element, src + i * (t.bytes / n), t.bytes / n);
        float value;
        kernels.dequantize_row[t.type](element, &value, 1);
        dst[i] = value;
    }
}

keel_status read_vector(const keel_reader& from, const GgufTensor& t, const kernels::KernelSet& kernels, float* dst) {
    KEEL_TRY(
        read_at(from, t.offset, reinterpret_cast<uint8_t*>(dst) + uint64_t{elements_of(t)} * 4 - t.bytes, t.bytes));
    widen_vector(t, kernels, dst);
    return KEEL_OK;
}

// One read, one look at the progress hook.
void WeightPlacer::took(keel_status read, uint64_t offset, uint64_t bytes) {
    status = read;
    const char* fault = coded && status != KEEL_OK ? coded->fault() : nullptr;
    if (fault) status = KEEL_E_FILE_FORMAT;
    if (status != KEEL_OK) fail(error, status, offset, "tensor data", fault ? fault : "the reader failed");
    progress(bytes);
}

void WeightPlacer::read(const keel_reader& from, const GgufTensor& t, uint64_t at, void* dst, uint64_t bytes) {
    if (status == KEEL_OK) took(read_tensor(from, t, at, dst, bytes), t.offset + at, bytes);
}

void WeightPlacer::progress(uint64_t bytes) {
    copied_bytes += bytes;
    if (status == KEEL_OK && hooks.progress && hooks.progress(hooks.user_data, copied_bytes, load_bytes))
        status = KEEL_E_CANCELLED;
}

void WeightPlacer::load(const keel_reader& from, const GgufTensor& t, uint8_t* dst) {
    constexpr uint64_t kSliceBytes = 1 << 20;
    for (uint64_t done = 0; done < t.bytes && status == KEEL_OK; done += kSliceBytes)
        read(from, t, done, dst + done, t.bytes - done < kSliceBytes ? t.bytes - done : kSliceBytes);
}

// Plain rows through the stack: whole groups of rows where they fit, else some blocks of the rows of one group at a
// time. sink(to, plain, rows, k): `rows` rows of k elements, whose repacked bytes begin `to` bytes into the matrix.
template <class Sink>
void WeightPlacer::read_groups(const keel_reader& from, const GgufTensor& t, const Sink& sink) {
    constexpr uint64_t kRows = kernels::kRepackRows, kPieceBytes = kUploadRowsBytes / kRows;  // of one row
    const kernels::WeightTypeInfo& type = kernels::kWeightTypes[t.type];
    const uint64_t blocks = t.dims[0] / type.block_elements, row_bytes = blocks * type.block_bytes,
                   all_rows = t.dims[1] * t.dims[2];
    const bool whole = row_bytes <= kPieceBytes;
    const uint64_t rows_step = whole ? kPieceBytes / row_bytes * kRows : kRows,
                   blocks_step = whole ? blocks : kPieceBytes / type.block_bytes;
    uint8_t plain[kUploadRowsBytes];
    for (uint64_t row = 0; row < all_rows; row += rows_step) {
        const uint64_t rows = all_rows - row < rows_step ? all_rows - row : rows_step;
        for (uint64_t first = 0; first < blocks; first += blocks_step) {
            const uint64_t count = blocks - first < blocks_step ? blocks - first : blocks_step;
            if (status == KEEL_OK)
                took(read_rows(from, t, row, rows, first, count, plain), t.offset, rows * count * type.block_bytes);
            if (status != KEEL_OK) return;
            sink(row * row_bytes + kRows * first * type.block_bytes, plain, static_cast<uint32_t>(rows),
                 static_cast<uint32_t>(count * type.block_elements));
        }
    }
}

void PlanWeights::compute_as(uint32_t layer) {
    const bool host = layer >= c_.host_layer;
    for (uint32_t slot = 0; host != placer_.host && slot < kGlobalSlots; ++slot) placed_[slot] = {};
    placer_.host = host;
    backend_ = &backend_of(c_, layer);
}

void PlanWeights::close_layer() {
    for (bool& done : basis_done_) done = false;
    low_ = {};
    if (placer_.of_blocks && layer_ >= 0)
        memcpy(block_weights(static_cast<uint32_t>(layer_)), placed_ + kGlobalSlots, kLayerSlots * sizeof *placed_);
    for (uint32_t slot = kGlobalSlots; slot < kSlotCount; ++slot) placed_[slot] = {};
    again_ = false;
}

PlacedWeight* PlanWeights::block_weights(uint32_t layer) const {
    return placer_.of_blocks + uint64_t{m_.spec.block_of(layer)} * kLayerSlots;
}

void PlanWeights::open_head() {
    close_layer();
    compute_as(m_.spec.layers);
    layer_ = -1;
}

void PlanWeights::open_layer(uint32_t layer) {
    close_layer();
    compute_as(layer);
    layer_ = static_cast<int32_t>(layer);
    again_ = m_.spec.weights_again(layer);
    if (again_ && placer_.of_blocks)
        memcpy(placed_ + kGlobalSlots, block_weights(layer), kLayerSlots * sizeof *placed_);
    open_adapters(layer);
    if (!c_.low_rank.usable) return;
    const NamedPart named(placer_, c_.low_rank.part_index);
    const keel_status status = low_rank_layer(c_.low_rank, &cursor_, &low_);
    if (placer_.status == KEEL_OK && status != KEEL_OK)
        placer_.status = fail(placer_.error, status, 0, "W_proj cache", "the reader failed");
    if (placer_.status == KEEL_OK && !placer_.arena.counting() && placer_.mode != KEEL_WEIGHTS_MAP)
        placer_.status = wproj_check_payload(c_.low_rank.file, low_.parts, layer, placer_.error);
    if (placer_.status != KEEL_OK) low_ = {};
}

// What the file says now is what was checked when it was opened, or it has changed.
void PlanWeights::open_adapters(uint32_t layer) {
    for (uint32_t i = 0; i < c_.adapters.count && placer_.status == KEEL_OK; ++i) {
        const AdapterFile& file = c_.adapters.file[i];
        const NamedPart named(placer_, c_.adapters.part_index[i]);
        placer_.status = adapter_layer(file, m_.spec.block_of(layer), pairs_[i], placer_.error);
        for (uint32_t slot = 0; slot < kAdapterSlotCount; ++slot) {
            AdapterPair& p = pairs_[i][slot];
            if (placer_.status != KEEL_OK) p = {};
            if (p.rank == 0) continue;
            const GgufTensor* w = tensor(kAdapterSlots[slot]);
            if (w && p.k == w->dims[0] && p.rows == w->dims[1] && p.rank <= file.largest_rank &&
                p.a_bytes == kernels::weight_row_bytes(p.a_type, p.k) * p.rank &&
                p.b_bytes == kernels::weight_row_bytes(p.b_type, p.rank) * p.rows)
                continue;
            placer_.status = fail(placer_.error, KEEL_E_FILE_READ, 0, kSlots[kAdapterSlots[slot]].name,
                                  "an adapter changed while it was read");
            p = {};
        }
    }
}

uint32_t PlanWeights::adapter_rank(TensorSlot slot) const {
    const uint32_t at = adapter_slot_of(slot);
    uint32_t rank = 0;
    for (uint32_t i = 0; i < c_.adapters.count && at < kAdapterSlotCount; ++i)
        rank = pairs_[i][at].rank > rank ? pairs_[i][at].rank : rank;
    return rank;
}

AdapterUse PlanWeights::adapters(TensorSlot slot) {
    const uint32_t at = adapter_slot_of(slot), count = c_.adapters.count;
    AdapterFactor* factors = placer_.adapter_factors;
    const uint64_t block = m_.spec.block_of(static_cast<uint32_t>(layer_));
    if (factors) factors += (block * kAdapterSlotCount + at) * count;
    AdapterUse use = {};
    use.factors = factors;
    for (uint32_t i = 0; i < count; ++i) {
        const AdapterPair& p = pairs_[i][at];
        if (p.rank == 0) continue;
        const auto place = [&](uint32_t type, uint32_t k, uint32_t rows, uint64_t offset, uint64_t bytes,
                               const char* name) {
            adapter_bytes_ += bytes;
            return placer_.copied_matrix(c_.adapters.file[i].reader, matrix_at(type, k, rows, offset, bytes), name,
                                         layer_);
        };
        if (!again_) {
            const NamedPart named(placer_, c_.adapters.part_index[i]);
            const void* a = place(p.a_type, p.k, p.rank, p.a_offset, p.a_bytes, "lora_a");
            const void* b = place(p.b_type, p.rank, p.rows, p.b_offset, p.b_bytes, "lora_b");
            if (factors)
                factors[i] = {a,
                              b,
                              kernels::weight_row_bytes(p.a_type, p.k),
                              kernels::weight_row_bytes(p.b_type, p.rank),
                              p.a_type,
                              p.b_type,
                              p.rank,
                              0};
        }
        if (use.rank == 0) {
            use.k = p.k;
            use.rows = p.rows;
            use.a_type = p.a_type;
            use.b_type = p.b_type;
        }
        if (p.rank > use.rank) use.rank = p.rank;
        if (p.a_bytes > use.a_bytes) use.a_bytes = p.a_bytes;
        if (p.b_bytes > use.b_bytes) use.b_bytes = p.b_bytes;
    }
    return use;
}

WprojGroup PlanWeights::group_of(keel_variant variant, TensorSlot slot) const {
    const WprojSlot record = wproj_slot_of(slot);
    return variant == KEEL_VARIANT_LOW_RANK && record < kWprojSlots && low_.uses(record) ? wproj_group(record)
                                                                                         : kWprojGroups;
}

uint32_t PlanWeights::reading_type(keel_variant variant, TensorSlot slot) const {
    const WprojGroup group = group_of(variant, slot);
    return group < kWprojGroups ? low_.parts.basis[group].type : tensor(slot)->type;
}

// Interleaved rows are used as they are wherever that is possible, without being asked for; a host looks up single rows
// in them too.
WeightUse PlanWeights::use_of(const GgufTensor& t, bool lookup) const {
    return backend_->weights(c_, t.interleaved ? KEEL_WEIGHTS_REPACK : c_.weights, t.type, t.dims[1],
                             lookup && !(t.interleaved && placer_.host));
}

Matrix PlanWeights::place(const keel_reader& from, const GgufTensor& t, bool lookup, const char* name) {
    const WeightUse use = use_of(t, lookup);
    if (!use.usable && placer_.status == KEEL_OK) {
        char reason[sizeof(keel_error::reason)];
        TextBuilder text(reason, sizeof reason);
        text.text("the backend has no kernels for ").text(kernels::kWeightTypes[t.type].name);
        placer_.status = fail(placer_.error, KEEL_E_UNSUPPORTED, 0, name, reason);
    }
    return {again_         ? nullptr  // count mode: in place mode it is known where it lies
            : use.repacked ? placer_.repacked_matrix(from, t, name, layer_)
                           : placer_.matrix(from, t, name, layer_),
            t.type,
            static_cast<uint32_t>(t.dims[0]),
            static_cast<uint32_t>(t.dims[1]),
            use.repacked,
            use.skip};
}

Matrix PlanWeights::place_factor(uint32_t type, uint32_t k, uint32_t rows, uint64_t offset, uint64_t bytes,
                                 const char* name) {
    const NamedPart named(placer_, c_.low_rank.part_index);
    low_rank_bytes_ += bytes;
    return place(c_.low_rank.file.reader, matrix_at(type, k, rows, offset, bytes), false, name);
}

Product PlanWeights::product(keel_variant variant, TensorSlot slot, TensorSlot bias) {
    Product p = {};
    const Vector model_bias = bias < kSlotCount ? vector(bias) : Vector{};
    p.bias = model_bias.op;
    const WprojSlot record = variant == KEEL_VARIANT_LOW_RANK ? wproj_slot_of(slot) : kWprojSlots;
    if (record < kWprojSlots) {
        p.reason = low_.reason[record];
        p.error = low_.parts.record[record].error;
        p.low_rank = low_.uses(record);
    }
    if (!p.low_rank) {
        PlacedWeight& placed = placed_[slot];
        if (!placed.done) placed.matrix = place(reader_, *tensor(slot), false, kSlots[slot].name);
        placed.done = true;
        p.matrix = placed.matrix;
        return p;
    }
    const WprojRecord& r = low_.parts.record[record];
    p.matrix = place_factor(r.type, r.rank, r.rows, r.offset, r.bytes, "factor");
    if (r.bias) {
        const NamedPart named(placer_, c_.low_rank.part_index);
        p.bias =
            placer_.factor_bias(c_.low_rank.file.reader, r.bias, r.rows, model_bias.host, "factor_bias", layer_).op;
        low_rank_bytes_ += uint64_t{r.rows} * 4;
    }
    ++low_rank_records_;
    return p;
}

Matrix PlanWeights::table(TensorSlot slot, bool also_product) {
    PlacedWeight& placed = placed_[slot];
    if (!placed.done) placed.matrix = place(reader_, *tensor(slot), !also_product, kSlots[slot].name);
    placed.done = true;
    return placed.matrix;
}

// The groups of a version 1 file share one basis.
Matrix PlanWeights::basis(WprojGroup group) {
    const WprojBasis& b = low_.parts.basis[group];
    for (uint32_t other = 0; other < kWprojGroups; ++other)
        if (basis_done_[other] && low_.parts.basis[other].offset == b.offset) return basis_[other];
    basis_[group] = place_factor(b.type, b.columns, b.rank, b.offset, b.bytes, "basis");
    basis_done_[group] = true;
    return basis_[group];
}

Vector PlanWeights::vector(TensorSlot slot) {
    PlacedWeight& placed = placed_[slot];
    const GgufTensor* t = tensor(slot);
    if (t && !placed.done && !again_) placed.vector = placer_.vector(reader_, *t, kSlots[slot].name, layer_);
    placed.done = true;
    return placed.vector;
}

}  // namespace keel
