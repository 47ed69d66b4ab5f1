// keel_plan, keel_plan_ops, keel_plan_buffers: an engine's memory and ops before it exists.
#include <string.h>

#include "sdk/core/status.h"
#include "sdk/run/engine.h"
#include "sdk/run/engine_size.h"

namespace keel {

LayoutRequest EngineSize::request(const keel_model& model, uint64_t load_bytes, const PlanObservers& observers) const {
    return {reader,
            model,
            config,
            hooks,
            sizeof(Engine),
            sizeof(Session),
            sampler_work_bytes(model.spec.vocabulary),
            {op_counts[0], op_counts[1], op_counts[kAdaptedList]},
            scratch_bytes,
            load_bytes,
            observers};
}

keel_status size_engine(const keel_reader* reader, const keel_model* model, const keel_config* config, SameFile same,
                        EngineSize* out, keel_error* error) {
    if (!reader || !model || !config)
        return fail(error, KEEL_E_ARGUMENT, 0, !reader ? "reader" : !model ? "model" : "config", "null");
    if (model->magic != keel_model::kMagic)
        return fail(error, KEEL_E_ARGUMENT, 0, "model", "not the buffer that keel_inspect filled");
    KEEL_TRY(read_versioned(reader, &out->reader, "reader", error));
    KEEL_TRY(check_text(out->reader, error));
    // Tensors are behind the text, where they are mapped.
    bool matches =
        out->reader.size_bytes == model->gguf.file_bytes && out->reader.text_bytes <= model->gguf.data_offset;
    if (matches && same == SameFile::kByFingerprint) {
        uint64_t header_hash, fingerprint;
        if (gguf_fingerprint(out->reader, model->view(), &header_hash, &fingerprint) != KEEL_OK)
            return fail(error, KEEL_E_FILE_READ, 0, "reader", "the reader failed");
        matches = fingerprint == model->gguf.fingerprint;
    }
    if (!matches) return fail(error, KEEL_E_FILE_MISMATCH, 0, "reader", "not the file that was inspected");
    KEEL_TRY(resolve_config(config, *model, out->reader, &out->config, &out->hooks, error));
    // Ops are counted first, because their table is placed like everything else.
    Arena none;
    WeightPlacer weights{none, none, out->config.weights, out->hooks, 0, out->config.kernels, error};
    out->scratch_count = 0;
    const LifetimeObserver counter = {[](void* context, BufferId, uint32_t) { ++*static_cast<uint32_t*>(context); },
                                      [](void*, BufferId, uint32_t) {}, &out->scratch_count};
    const uint32_t not_counted[kOpLists] = {};
    build_plan(out->reader, *model, out->config, weights, nullptr, not_counted, {&counter, nullptr},
               &out->layout.program.plan);
    KEEL_TRY(weights.status);
    for (uint32_t i = 0; i < kOpLists; ++i) out->op_counts[i] = out->layout.program.plan.variant[i].count;
    out->scratch_bytes = out->layout.program.plan.scratch_bytes;
    return lay_out(out->request(*model, 0), out->arenas, &out->layout, error);
}

namespace {

void write_note(const keel_model& model, const PlanConfig& c, char* dst, size_t capacity) {
    TextBuilder note(dst, capacity);
    if (model.tensor(kRopeFactorsLong, 0))
        note.text(rope_factors_of(c, model.spec) == kRopeFactorsLong ? "rope: long factors; "
                                                                     : "rope: short factors; ");
    if (c.context_tokens > model.spec.train_context) note.text("context exceeds the trained length; ");
    if (c.device_numerics)
        note.text("F16, BF16 of more than 8 rows by the device's library: same bits for same steps; ");
}

// What Listing keeps in a keel_buffer_info until all is known: the fields of its first version.
constexpr uint32_t kLeastBufferInfo = offsetof(keel_buffer_info, bytes) + sizeof(uint64_t);

// A caller's array, whose elements are as long as the first one says.
class CallerArray {
  public:
    CallerArray(void* first, uint32_t capacity, uint32_t least_bytes, size_t known_bytes)
        : first_(static_cast<uint8_t*>(first)) {
        if (!first || !capacity) return;  // then nothing of it is read
        memcpy(&stride_, first, sizeof stride_);
        capacity_ = stride_ < least_bytes || !plausible_struct_bytes(stride_, known_bytes) ? 0 : capacity;
        usable_ = capacity_ != 0;
    }
    bool usable() const { return usable_; }
    bool holds(uint32_t i) const { return i < capacity_; }
    template <class T>
    void get(uint32_t i, T* value) const {
        read_struct(at(i), stride_, value, sizeof *value);
    }
    template <class T>
    void put(uint32_t i, const T& value) const {
        if (holds(i)) write_struct(&value, sizeof value, at(i), stride_);
    }
    keel_status finish(uint32_t count) const { return first_ && count > capacity_ ? KEEL_E_BUFFER_TOO_SMALL : KEEL_OK; }

  private:
    uint8_t* at(uint32_t i) const { return first_ + uint64_t{i} * stride_; }

    uint8_t* first_;
    uint32_t stride_ = 0, capacity_ = 0;
    bool usable_ = true;
};

// Follows a layout and writes its ops, or its buffers: first every value of a scratch buffer, then the objects of the
// other regions.
struct Listing {
    const EngineSize& size;
    const Program& program;
    CallerArray ops, buffers;
    uint32_t op_count = 0, scratch_count = 0, object_count = 0;
    uint32_t value_of[kOpLists][kMaxBuffers] = {};  // the number of a buffer's value in a list of ops

    uint32_t list_of(uint32_t op) const {
        uint32_t list = 0;
        for (; list + 1 < kOpLists && op >= size.op_counts[list]; ++list) op -= size.op_counts[list];
        return list;
    }
    uint32_t count() const { return scratch_count + object_count; }

    void begins(BufferId id, uint32_t op) {
        const uint32_t i = value_of[list_of(op)][id] = scratch_count++;
        keel_buffer_info info = {};
        info.struct_size = sizeof info;
        info.region = KEEL_REGION_SCRATCH;
        info.instance = -1;
        info.offset = id;  // until the buffers are packed
        info.first_op = info.last_op = op;
        buffers.put(i, info);
    }
    void used(BufferId id, uint32_t op) {
        const uint32_t i = value_of[list_of(op)][id];
        if (!buffers.holds(i)) return;
        keel_buffer_info info;
        buffers.get(i, &info);
        info.last_op = op;
        buffers.put(i, info);
    }
    void object(keel_region_kind region, const char* name, int32_t index, uint64_t offset, uint64_t bytes) {
        keel_buffer_info info = {};
        info.struct_size = sizeof info;
        info.region = region;
        TextBuilder(info.name, sizeof info.name).text(name);
        info.instance = index;
        info.offset = offset;
        info.bytes = bytes;
        info.last_op = UINT32_MAX;
        buffers.put(size.scratch_count + object_count++, info);
    }
    void op(const Op& op, uint32_t index, uint32_t dispatch) {
        ++op_count;
        keel_op_info info = {};
        info.struct_size = sizeof info;
        info.index = index;
        TextBuilder(info.name, sizeof info.name).text(op.name);
        if (op.w_row_bytes)
            TextBuilder(info.weight_type, sizeof info.weight_type).text(kernels::kWeightTypes[op.weight_type].name);
        info.layer = op.layer;
        info.rows = op.rows;
        info.inner = op.k;
        info.fixed_bytes = op.fixed_bytes;
        info.token_bytes = op.token_bytes;
        info.dispatch = dispatch;
        info.read_count = list(op.reads, index, info.reads);
        info.write_count = list(op.writes, index, info.writes);
        const keel_weights mode = size.config.weights;
        const bool lora = op.kind == OpKind::kLoraA || op.kind == OpKind::kLoraB;  // always copied
        const bool mapped = op.host && !lora && (mode == KEEL_WEIGHTS_MAP || mode == KEEL_WEIGHTS_MAP_LOCKED);
        info.placement = op.w_row_bytes == 0 ? KEEL_WEIGHTS_DEFAULT
                         : op.repacked       ? KEEL_WEIGHTS_REPACK
                         : mapped            ? mode
                                             : KEEL_WEIGHTS_COPY;
        info.repack_skip = op.repack_skip;
        info.fp32_reason = op.fp32_reason;
        info.predicted_us = predict_us(op, 1);
        info.low_rank = list_of(index) == KEEL_VARIANT_LOW_RANK;
        info.low_rank_reason = op.low_rank_reason;
        info.low_rank_error = op.low_rank_error;
        ops.put(index, info);
    }
    uint32_t list(BufferSet set, uint32_t op, uint32_t* out) const {
        uint32_t n = 0;
        for (; set && n < KEEL_OP_BUFFERS; set &= set - 1) out[n++] = value_of[list_of(op)][__builtin_ctzll(set)];
        return n;
    }
    void finish() {
        for (uint32_t i = 0; i < scratch_count && buffers.holds(i); ++i) {
            keel_buffer_info info;
            buffers.get(i, &info);
            const Buffer& b = program.plan.buffers[info.offset];
            TextBuilder(info.name, sizeof info.name).text(b.name).text(activation_suffix(b.type));
            info.offset = b.offset;
            info.bytes = b.bytes;
            buffers.put(i, info);
        }
    }
};

struct RegionListing {
    Listing* listing;
    keel_region_kind region;
};

keel_status list_plan(const keel_reader* reader, const keel_model* model, const keel_config* config,
                      const CallerArray& ops, const CallerArray& buffers, uint32_t* op_count, uint32_t* buffer_count,
                      keel_error* error) {
    if (!ops.usable() || !buffers.usable()) return KEEL_E_ABI;
    EngineSize size;
    KEEL_TRY(size_engine(reader, model, config, SameFile::kBySize, &size, error));
    Layout layout;
    Listing listing{size, layout.program, ops, buffers};
    const LifetimeObserver lifetimes = {
        [](void* l, BufferId id, uint32_t op) { static_cast<Listing*>(l)->begins(id, op); },
        [](void* l, BufferId id, uint32_t op) { static_cast<Listing*>(l)->used(id, op); }, &listing};
    const OpObserver observer = {[](void* l, const Op& op, uint32_t index, uint32_t dispatch) {
                                     static_cast<Listing*>(l)->op(op, index, dispatch);
                                 },
                                 &listing};
    RegionListing regions[KEEL_REGION_COUNT];
    ArenaRecorder recorders[KEEL_REGION_COUNT];
    Arena arenas[KEEL_REGION_COUNT];
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) {
        regions[i] = {&listing, static_cast<keel_region_kind>(i)};
        recorders[i] = {[](void* context, const char* name, int32_t index, uint64_t offset, uint64_t bytes) {
                            const RegionListing& to = *static_cast<RegionListing*>(context);
                            to.listing->object(to.region, name, index, offset, bytes);
                        },
                        &regions[i]};
        if (i != KEEL_REGION_SCRATCH) arenas[i] = Arena(&recorders[i]);
    }
    KEEL_TRY(lay_out(size.request(*model, 0, {&lifetimes, &observer}), arenas, &layout, error));
    listing.finish();
    if (op_count) *op_count = listing.op_count;
    if (buffer_count) *buffer_count = listing.count();
    KEEL_TRY(ops.finish(listing.op_count));
    return buffers.finish(listing.count());
}

}  // namespace
}  // namespace keel

using namespace keel;

extern "C" {

keel_status keel_plan(const keel_reader* reader, const keel_model* model, const keel_config* config,
                      keel_memory_plan* out, keel_error* error) {
    if (!out) return fail(error, KEEL_E_ARGUMENT, 0, "out", "null");
    KEEL_TRY(check_versioned(out));
    EngineSize s;
    KEEL_TRY(size_engine(reader, model, config, SameFile::kBySize, &s, error));
    const Program& program = s.layout.program;
    keel_memory_plan p = {};
    p.struct_size = sizeof p;
    for (int i = 0; i < KEEL_REGION_COUNT; ++i) {
        p.regions[i].bytes = s.arenas[i].used_bytes();
        p.regions[i].align_bytes = s.arenas[i].region_align();
        p.regions[i].padding_bytes = s.arenas[i].padding_bytes();
    }
    const PlanConfig& c = s.config;
    p.kv_page_tokens = kPageTokens;
    p.mapped_weight_bytes = s.layout.mapped_weight_bytes;
    p.kv_page_bytes = program.geometry.page_bytes;
    p.kv_bytes_per_token = p.kv_page_bytes / kPageTokens;
    for (uint32_t i = 0; i < program.kv_parts; ++i) p.kv_session_bytes += program.kv_part[i].f16_window.session_bytes;
    p.kv_side_bytes = program.transform.bytes;
    p.kv_pages = c.kv_pages;
    p.context_tokens = c.context_tokens;
    p.chunk_tokens = c.chunk_tokens;
    p.max_sessions = c.max_sessions;
    p.threads = c.threads;
    p.op_count = s.op_counts[KEEL_VARIANT_DENSE];
    p.cpu = c.cpu;
    p.decode_bytes = program.plan.variant[KEEL_VARIANT_DENSE].decode_bytes;
    memcpy(p.step_us, program.plan.variant[KEEL_VARIANT_DENSE].step_us, sizeof p.step_us);
    memcpy(p.low_rank_step_us, program.plan.variant[KEEL_VARIANT_LOW_RANK].step_us, sizeof p.low_rank_step_us);
    p.low_rank_op_count = s.op_counts[KEEL_VARIANT_LOW_RANK];
    p.low_rank_decode_bytes = program.plan.variant[KEEL_VARIANT_LOW_RANK].decode_bytes;
    p.low_rank_factors = program.plan.low_rank_records;
    p.low_rank_bytes = program.plan.low_rank_bytes;
    p.adapter_count = c.adapters.count;
    p.adapter_op_count = s.op_counts[kAdaptedList];
    p.adapter_decode_bytes = program.plan.variant[kAdaptedList].decode_bytes;
    p.adapter_bytes = program.plan.adapter_bytes;
    memcpy(p.adapter_step_us, program.plan.variant[kAdaptedList].step_us, sizeof p.adapter_step_us);
    if (c.low_rank.given && !c.low_rank.usable) {
        const keel_error& why = c.low_rank.error;
        p.part_status = why.status;
        p.part_index = c.low_rank.part_index;
        p.part_offset = why.offset;
        TextBuilder(p.part_field, sizeof p.part_field).text(why.field);
        TextBuilder(p.part_reason, sizeof p.part_reason).text(why.reason);
    }
    write_note(*model, c, p.note, sizeof p.note);
    return write_versioned(p, out);
}

keel_status keel_plan_ops(const keel_reader* reader, const keel_model* model, const keel_config* config,
                          keel_op_info* out, uint32_t capacity, uint32_t* count, keel_error* error) {
    if (!count) return fail(error, KEEL_E_ARGUMENT, 0, "count", "null");
    return list_plan(reader, model, config, CallerArray(out, capacity, sizeof(uint32_t), sizeof *out),
                     CallerArray(nullptr, 0, 0, 0), count, nullptr, error);
}

keel_status keel_plan_buffers(const keel_reader* reader, const keel_model* model, const keel_config* config,
                              keel_buffer_info* out, uint32_t capacity, uint32_t* count, keel_error* error) {
    if (!count) return fail(error, KEEL_E_ARGUMENT, 0, "count", "null");
    return list_plan(reader, model, config, CallerArray(nullptr, 0, 0, 0),
                     CallerArray(out, capacity, kLeastBufferInfo, sizeof *out), nullptr, count, error);
}

}  // extern "C"
