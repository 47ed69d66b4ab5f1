// The table of launches: for every variant, and for steps of one token, of few and of more, the dispatches of its ops,
// with their buffers, weights and shapes as the arguments of kernels. A step only walks it.
#include "sdk/backend/cuda/cuda_launch.h"

namespace keel {
namespace {

using platform::cuda::kSuccess;
using platform::cuda::Result;

// Of a launch, in the direction in which items are blocks: attention over long contexts has more.
constexpr uint32_t kMostGridBlocks = 65535;

// Rows of a buffer to the host, which goes on from there.
struct HandOverArgs {
    const uint8_t* from;
    uint8_t* to;
    uint64_t row_bytes;
    uint32_t rows;
};
void cut(HandOverArgs* a, uint32_t first, uint32_t count) {
    a->from += first * a->row_bytes;
    a->to += first * a->row_bytes;
    a->rows = count;
}
Result launch_rest(const CudaDevice& d, const CudaLaunch&, const HandOverArgs& a) {
    d.behind_launch = false;
    return d.cuda.driver.copy_to_host(a.to, reinterpret_cast<platform::cuda::DevicePointer>(a.from),
                                      a.rows * a.row_bytes, d.stream);
}

void add_rope_table(CudaTable* table, const Op& op) {
    const CudaDevice& d = table->d;
    const double* frequencies = reinterpret_cast<const double*>(d.region[KEEL_REGION_DEVICE_WEIGHTS] + d.at.tables);
    table->add(cuda::kernel_rope_table,
               cuda::RopeTableArgs{frequencies, d.step_array<uint32_t>(d.block.position), rows_of(d, op.out),
                                   op.rows / 2, 0, d.program->spec.rope_attention_factor});
}
void add_glu(CudaTable* table, const Op& op) {
    table->add(cuda::kernel_glu, cuda::GluArgs{rows_of(table->d, op.in), op.rows, 0, op.gate != Gate::kSilu});
}
void add_softcap(CudaTable* table, const Op& op) {
    const CudaDevice& d = table->d;
    table->add(cuda::kernel_softcap,
               cuda::SoftcapArgs{{d.logits(), op.rows}, op.rows, 0, d.program->spec.logit_softcap});
}
void add_hand_over(CudaTable* table, const Op& op) {
    const CudaDevice& d = table->d;
    table->add(cuda::kKernelCount,
               HandOverArgs{d.row0(op.in), static_cast<uint8_t*>(d.program->handover), d.buffer(op.in).row_bytes, 0});
}
void add_finish(CudaTable* table, const Op& op) {
    add_attention_finish(table, op);
    add_quantize(table, op, op.in);
}

// How an op that no dispatch joins to others becomes launches.
struct OpLaunches {
    OpKind kind;
    void (*add)(CudaTable* table, const Op& op);
};
constexpr OpLaunches kOpLaunches[] = {
    {OpKind::kEmbed, add_embed},
    {OpKind::kRopeTable, add_rope_table},
    {OpKind::kNorm, add_norm},
    {OpKind::kOutputNorm, add_norm},
    {OpKind::kPostNorm, add_norm},
    {OpKind::kAttention, [](CudaTable* table, const Op& op) { add_attention(table, &op, 1); }},
    {OpKind::kAttentionFinish, add_finish},
    {OpKind::kGlu, add_glu},
    {OpKind::kQuantize, [](CudaTable* table, const Op& op) { add_quantize(table, op, op.in); }},
    {OpKind::kSoftcap, add_softcap},
    {OpKind::kToHost, add_hand_over},
};

void add_dispatch(CudaTable* table, const Op* ops, const CudaDispatch& dispatch) {
    if (dispatch.products) {
        if (dispatch.input_joined && ops->kind == OpKind::kAttentionFinish) add_attention_finish(table, *ops);
        return add_products(table, ops, dispatch);
    }
    if (dispatch.attends) return add_attention(table, ops, dispatch.ops);
    if (dispatch.appends) return add_append(table, ops, dispatch.ops);
    for (const OpLaunches& launches : kOpLaunches)
        if (launches.kind == ops->kind) launches.add(table, *ops);
}

// Of a list of ops: one each and of two layouts two, attention's finish before that.
uint64_t most_launches(const Program& p, uint32_t ops) {
    return 2 * uint64_t{ops} + p.spec.layers;
}
template <class... Args>
constexpr uint64_t largest_bytes() {
    uint64_t bytes = 0;
    ((bytes = sizeof(Args) > bytes ? sizeof(Args) : bytes), ...);
    return bytes;
}
// Of a list of ops; those of append and attention are many, and each is there once a layer.
uint64_t most_args_bytes(const Program& p, uint32_t ops) {
    constexpr uint64_t kArgsBytes =
        largest_bytes<cuda::EmbedArgs, cuda::RopeTableArgs, cuda::RmsNormArgs, cuda::AttentionFinishArgs, cuda::GluArgs,
                      cuda::QuantizeArgs, cuda::SoftcapArgs, HandOverArgs, ProductLaunch>();
    return most_launches(p, ops) * kArgsBytes +
           p.spec.layers * (sizeof(cuda::KvAppendArgs) + sizeof(cuda::AttentionArgs));
}

}  // namespace

void cut(cuda::GluArgs* a, uint32_t first, uint32_t count) {
    skip(&a->x, first);
    a->rows = count;
}
void cut(cuda::SoftcapArgs* a, uint32_t first, uint32_t count) {
    skip(&a->x, first);
    a->rows = count;
}
void cut(cuda::RopeTableArgs* a, uint32_t first, uint32_t count) {
    a->position += first;
    skip(&a->y, first);
    a->rows = count;
}

void place_table(CudaDevice* d, const Program& p, Arena* arenas) {
    uint64_t launches = 0, bytes = 0;
    for (const OpList& list : p.plan.variant) {
        launches += kStepKinds * most_launches(p, list.count);
        bytes += kStepKinds * most_args_bytes(p, list.count);
    }
    Arena& arena = arenas[KEEL_REGION_PERSISTENT];
    CudaWork* work = arena.place<CudaWork>("dispatches", 2 * kStepKinds * uint64_t{most_ops(p)});
    CudaLaunch* launch = arena.place<CudaLaunch>("launches", launches);
    uint8_t* args = arena.place<uint8_t>("launch_arguments", bytes);
    if (d) d->work = work, d->launches = launch, d->launch_args = args;
}

uint32_t open_table(CudaDevice* d) {
    CudaTable table = {*d, 0, 0, false};
    for (uint32_t variant = 0; variant < 2; ++variant) {
        const OpList& list = d->program->plan.variant[variant];
        for (uint32_t kind = 0; kind < kStepKinds; ++kind) {
            CudaWork* work = d->work_of(variant, kind);
            for (uint32_t i = 0; i < list.own_count; i += work[i].ops) {
                const CudaDispatch dispatch = cuda_dispatch(list.ops + i, list.own_count - i, kTokensOfKind[kind]);
                const uint32_t first = table.launches;
                table.of_logits = list.ops[i].to_logits || list.ops[i].kind == OpKind::kOutputNorm;
                add_dispatch(&table, list.ops + i, dispatch);
                if (variant == 0 && kind == 0)
                    for (uint32_t op = i; op < i + dispatch.ops; ++op)
                        if (list.ops[op].kind == OpKind::kMatmul)
                            d->weight_bytes += list.ops[op].rows * list.ops[op].w_row_bytes;
                work[i] = predicted_work(*d, list.ops + i, dispatch.ops, table.launches - first);
                work[i].launch = d->launches + first;
                work[i].of_logits = table.of_logits;
            }
        }
    }
    return table.launches;
}

uint32_t work_items(const CudaDevice& d, const CudaWork& work) {
    uint32_t items = 0;
    for (uint32_t i = 0; i < work.launches; ++i) items += work.launch[i].items(d, work.launch[i]);
    return items;
}

Result launch_work(const CudaDevice& d, const CudaWork& work, uint32_t first, uint32_t count) {
    for (uint32_t i = 0; i < work.launches && count; ++i) {
        const CudaLaunch& launch = work.launch[i];
        const uint32_t items = launch.items(d, launch);
        while (first < items && count) {
            const uint32_t left = items - first < count ? items - first : count,
                           now = left < kMostGridBlocks ? left : kMostGridBlocks;
            if (const Result result = launch.run(d, launch, first, now); result != kSuccess) return result;
            count -= now;
            first += now;
        }
        first -= items;
    }
    return kSuccess;
}

}  // namespace keel
