#include "sdk/backend/cuda/cuda_ranges.h"

#if defined(KEEL_NVTX)
#include <nvtx3/nvToolsExt.h>

namespace keel {
namespace {

// The stage that an op is of.
const char* stage_of(const OpList& list, uint32_t op) {
    if (list.ops[op].layer >= 0) return "layers";
    while (op && list.ops[op - 1].layer < 0) --op;
    return op ? "head" : "embedding";
}

nvtxEventAttributes_t attributes(const char* name, uint64_t bytes) {
    nvtxEventAttributes_t a = {};
    a.version = NVTX_VERSION;
    a.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
    a.messageType = NVTX_MESSAGE_TYPE_ASCII;
    a.message.ascii = name;
    a.payloadType = NVTX_PAYLOAD_TYPE_UNSIGNED_INT64;
    a.payload.ullValue = bytes;
    return a;
}
nvtxDomainHandle_t handle(void* domain) {
    return static_cast<nvtxDomainHandle_t>(domain);
}

// Bytes that ops [first, first + ops) move, as long as `same` holds.
template <class Same>
uint64_t bytes_of(const OpList& list, uint32_t first, uint32_t tokens, const Same& same) {
    uint64_t bytes = 0;
    for (uint32_t i = first; i < list.own_count && same(list.ops[i]); ++i)
        bytes += list.ops[i].fixed_bytes + list.ops[i].token_bytes * tokens;
    return bytes;
}

}  // namespace

void CudaRanges::open(const Program& program) {
    *this = {};
    nvtxInitialize(nullptr);
    domain = nvtxDomainCreateA("keel");
    const nvtxEventAttributes_t a = attributes("engine", program.plan.variant[KEEL_VARIANT_DENSE].decode_bytes);
    engine = nvtxDomainRangeStartEx(handle(domain), &a);
}

void CudaRanges::close() {
    if (!domain) return;
    end_step();
    nvtxDomainRangeEnd(handle(domain), engine);
    nvtxDomainDestroy(handle(domain));
    *this = {};
}

void CudaRanges::begin_step(const Program& program, const Step& s) {
    end_step();
    const OpList& list = program.plan.variant[s.variant];
    const nvtxEventAttributes_t a = attributes("step", bytes_of(list, 0, s.tokens, [](const Op&) { return true; }));
    step = nvtxDomainRangeStartEx(handle(domain), &a);
}

void CudaRanges::end_step() {
    if (step) nvtxDomainRangeEnd(handle(domain), step);
    step = 0;
}

void CudaRanges::at(const Program& program, const Step& s, uint32_t op) {
    const OpList& list = program.plan.variant[s.variant];
    const int32_t now = list.ops[op].layer;
    if (stage_open && now == layer) return;
    if (layer_open) nvtxDomainRangePop(handle(domain));
    layer_open = false;
    if (!stage_open || (now < 0) != (layer < 0)) {
        if (stage_open) nvtxDomainRangePop(handle(domain));
        const uint64_t bytes = bytes_of(list, op, s.tokens, [&](const Op& o) { return (o.layer < 0) == (now < 0); });
        const nvtxEventAttributes_t a = attributes(stage_of(list, op), bytes);
        nvtxDomainRangePushEx(handle(domain), &a);
        stage_open = true;
    }
    layer = now;
    if (now < 0) return;
    nvtxEventAttributes_t a =
        attributes("layer", bytes_of(list, op, s.tokens, [&](const Op& o) { return o.layer == now; }));
    a.category = static_cast<uint32_t>(now) + 1;  // 0 is no category
    nvtxDomainRangePushEx(handle(domain), &a);
    layer_open = true;
}

void CudaRanges::leave() {
    if (layer_open) nvtxDomainRangePop(handle(domain));
    if (stage_open) nvtxDomainRangePop(handle(domain));
    layer_open = stage_open = false;
}

}  // namespace keel
#endif
