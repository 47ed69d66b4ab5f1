// The executor: walks the execution plan dispatch by dispatch, cuts each into ranges of work items that are predicted
// to take no longer than a tile, and looks at the clock and at cancelled sessions between ranges. Work items are rows,
// tokens, or (KV head, query block, KV split).
#include "sdk/backend/cpu/cpu_device.h"
#include "sdk/core/arena.h"

namespace keel {
namespace {

using kernels::kKvSplitTokens;

constexpr double kAttentionMacsPerUs = 4000;  // first guess; cpu_enqueue corrects it
constexpr double kAloneUs = 1;                // what is predicted to take less is not worth waking the other threads

// Under AddressSanitizer a dispatch can touch no scratch but what its ops declare.
void expose_scratch([[maybe_unused]] const CpuDevice& d, [[maybe_unused]] const Dispatch& dispatch) {
#ifdef KEEL_ADDRESS_SANITIZER
    const ExecutionPlan& plan = d.program->plan;
    uint8_t* scratch = d.program->region[KEEL_REGION_SCRATCH];
    BufferSet declared = 0;
    for (uint32_t i = 0; i < dispatch.ops; ++i) declared |= dispatch.op[i].reads | dispatch.op[i].writes;
    poison(scratch, plan.scratch_bytes);
    for (uint32_t i = 0; i < plan.buffer_count; ++i)
        if (declared & buffer_bit(static_cast<BufferId>(i)))
            unpoison(scratch + plan.buffers[i].offset, plan.buffers[i].row_bytes * plan.buffers[i].rows);
#endif
}

// What the threads share of a range of work items.
struct Range {
    const CpuDevice* device;
    const Dispatch* dispatch;
    uint32_t first, count;              // work items
    uint32_t split_first, split_count;  // attention: KV splits of every work item
    uint32_t parts;                     // the range is cut into, one a thread
};

// The work item at which part `part` of a range begins. Matrices of one dispatch differ in the bytes of their rows, so
// the cut is by bytes.
uint32_t part_begin(const Range& range, uint32_t part) {
    const Dispatch& dispatch = *range.dispatch;
    if (dispatch.op->kind != OpKind::kMatmul || dispatch.ops == 1 || dispatch.gated())
        return range.first + static_cast<uint32_t>(uint64_t{range.count} * part / range.parts);
    uint64_t bytes_in[kMaxMatmuls], items_in[kMaxMatmuls], total = 0;
    uint32_t before = 0;
    for (uint32_t i = 0; i < dispatch.ops; ++i) {
        const uint32_t items = product_items(dispatch.op[i]), begin = range.first > before ? range.first - before : 0;
        const uint32_t end = range.first + range.count < before + items
                                 ? (range.first + range.count > before ? range.first + range.count - before : 0)
                                 : items;
        items_in[i] = begin < end ? end - begin : 0;
        bytes_in[i] = items_in[i] * dispatch.op[i].w_row_bytes;
        total += bytes_in[i];
        before += items;
    }
    uint64_t wanted = total * part / range.parts;
    uint32_t item = range.first;
    for (uint32_t i = 0; i < dispatch.ops; ++i) {
        if (wanted < bytes_in[i]) return item + static_cast<uint32_t>(wanted / dispatch.op[i].w_row_bytes);
        wanted -= bytes_in[i];
        item += static_cast<uint32_t>(items_in[i]);
    }
    return item;
}

// Work items [first, last) of a range, on the thread that `scratch` is of.
void run_items(const Range& range, uint32_t first, uint32_t last, float* scratch) {
    const CpuDevice& d = *range.device;
    const Dispatch& dispatch = *range.dispatch;
    const Op& op = *dispatch.op;
    if (first == last) return;
    if (op.kind == OpKind::kMatmul)
        return dispatch.gated() ? run_gated(d, dispatch, first, last, scratch)
                                : run_products(d, dispatch, first, last, scratch);
    if (op.kind == OpKind::kLoraA || op.kind == OpKind::kLoraB) return run_lora(d, dispatch, first, last, scratch);
    if (op.kind == OpKind::kQkNorm || op.kind == OpKind::kRope) {
        const QkvPost post(dispatch);
        for (uint32_t item = first; item < last; ++item) {
            if (post.attention)
                run_flat_attention(d, post, item, scratch);
            else
                for (uint32_t h = 0; h < d.program->spec.kv_heads; ++h) run_qkv_post(d, post, item, h);
        }
        return;
    }
    for (uint32_t item = first; item < last; ++item) {
        switch (op.kind) {
            case OpKind::kEmbed:
                run_embed(d, op, item);
                break;
            case OpKind::kSmear:
                run_smear(d, op, item, scratch);
                break;
            case OpKind::kMix:
                run_mix(d, op, item);
                break;
            case OpKind::kRopeTable:
                run_rope_table(d, op, item);
                break;
            case OpKind::kNorm:
                run_norm(d, op, item, scratch);
                break;
            case OpKind::kOutputNorm:
                run_output_norm(d, op, item);
                break;
            case OpKind::kPostNorm:
                run_post_norm(d, op, item);
                break;
            case OpKind::kAttention:
                run_attention(d, op, item, range.split_first, range.split_count, scratch);
                break;
            case OpKind::kAttentionFinish:
                run_attention_finish(d, op, item);
                break;
            case OpKind::kExclude:
                run_exclude(d, op, item);
                break;
            case OpKind::kHeadGate:
                run_head_gate(d, op, item);
                break;
            case OpKind::kActivation:
                run_activation(d, op, item);
                break;
            case OpKind::kQuantize:
                quantize_row(d, op, d.floats(op.in, item), op.rows, item);
                break;
            case OpKind::kSoftcap:
                run_softcap(d, op, item);
                break;
            case OpKind::kFromOwnMemory:
                run_from_own_memory(d, op, item);
                break;
            case OpKind::kGlu:
                run_glu(d, op, item);
                break;
            case OpKind::kToHost:  // never the CPU's
            case OpKind::kMatmul:
            case OpKind::kLoraA:
            case OpKind::kLoraB:
            case OpKind::kQkNorm:
            case OpKind::kRope:
            case OpKind::kKvAppend:
                break;
        }
    }
}

// Part `part` of a range, on worker `part`.
void run_part(void* context, uint32_t part) {
    const Range& range = *static_cast<const Range*>(context);
    run_items(range, part_begin(range, part), part_begin(range, part + 1), range.device->floats(kThreadBuffer, part));
}

void run_range(Range* range) {
    const CpuDevice& d = *range->device;
    if (range->parts == 1)
        return run_items(*range, range->first, range->first + range->count, d.floats(kThreadBuffer, 0));
    run_tasks(d, range->parts, run_part, range);
}

// The dispatch that begins with op `first`, and its work items.
Dispatch form_dispatch(const CpuDevice& d, uint32_t first) {
    const Step& step = *d.step;
    const OpList& list = d.program->plan.variant[step.op_list];
    const PlanConfig& config = d.program->config;
    const uint32_t kv_heads = d.program->spec.kv_heads;
    const Op& op = list.ops[first];
    const StepShape shape = {step.tokens, d.flat, config.threads, config.tile_us};
    Dispatch p = {&op, cpu_fuse(&op, list.count - first, shape), 0, 1};
    switch (op.kind) {
        case OpKind::kMatmul:
            if (p.gated())
                p.items = p.op[p.ops - 1].rows / p.gated_item_rows();
            else if (!op.to_logits || step.logits_rows)
                for (uint32_t i = 0; i < p.ops; ++i) p.items += product_items(p.op[i]);
            break;
        case OpKind::kLoraA:
        case OpKind::kLoraB:
            p.items = step.tokens;
            if (!p.cut_rows(step.tokens)) break;
            p.items = 0;
            for (uint32_t i = 0; i < p.ops; ++i) p.items += product_items(p.op[i]);
            break;
        case OpKind::kQkNorm:
        case OpKind::kRope:
            p.items = QkvPost(p).attention ? kv_heads * step.tokens : step.tokens;
            break;
        case OpKind::kAttention:
            p.items = kv_heads * step.query_blocks;
            p.splits = d.kv_splits;
            break;
        case OpKind::kOutputNorm:
        case OpKind::kSoftcap:
            p.items = step.logits_rows;
            break;
        default:
            p.items = step.tokens;
    }
    return p;
}

// Scores and sums of one token, all heads, over `positions`, in uncorrected microseconds of one thread.
double attention_us(const Program& p, uint32_t positions) {
    return 2.0 * positions * p.spec.head_dim * p.spec.heads / kAttentionMacsPerUs;
}

// Which measured_over_predicted a dispatch is corrected by.
uint32_t correction_of(const Dispatch& p) {
    const bool qkv_post = p.op->kind == OpKind::kQkNorm || p.op->kind == OpKind::kRope;
    return static_cast<uint32_t>(qkv_post && QkvPost(p).attention ? OpKind::kAttention : p.op->kind);
}

// Predicted microseconds of one work item on one thread.
double item_us(const CpuDevice& d, const Dispatch& p) {
    const Step& step = *d.step;
    double us = 0;
    for (uint32_t i = 0; i < p.ops; ++i) {
        const Op& op = p.op[i];
        const bool one_split = p.splits > 1 || p.ops == 1;
        const uint32_t positions = one_split && step.longest > kKvSplitTokens ? kKvSplitTokens : step.longest;
        const bool logits = op.to_logits || op.kind == OpKind::kOutputNorm || op.kind == OpKind::kSoftcap;
        us += op.kind == OpKind::kAttention ? attention_us(*d.program, positions) * step.tokens
                                            : predict_us(op, logits ? step.logits_rows : step.tokens);
    }
    return us / p.items * d.measured_over_predicted[correction_of(p)];
}

// Learns how this machine compares with the prediction; slow changes only, so that one interruption counts little.
void learn(double* ratio, double predicted_us, double measured_us) {
    if (predicted_us <= 2 || measured_us <= 1) return;
    double change = measured_us / predicted_us;
    change = change > 2 ? 2 : change < 0.5 ? 0.5 : change;
    *ratio *= 1 + 0.125 * (change - 1);
    *ratio = *ratio > 100 ? 100 : *ratio < 0.01 ? 0.01 : *ratio;
}

// The next of the step's times. It begins where the one before has ended: what lies between two calls is nobody's.
void begin_time(CpuDevice* d, const Dispatch& p, uint32_t op) {
    const double us = item_us(*d, p) * p.items * p.splits / d->program->config.threads;
    const OpTime* last = d->timed ? &d->times[d->timed - 1] : nullptr;
    d->times[d->timed++] = {op, p.ops, last ? last->begin_us + last->us : 0, 0, us};
}

}  // namespace

keel_status cpu_begin(Device* device, const Step* step) {
    CpuDevice& d = *static_cast<CpuDevice*>(device);
    const Program& p = *d.program;
    d.step = step;
    d.timed = d.times_of_step = 0;
    d.kv_splits = (step->longest + kKvSplitTokens - 1) / kKvSplitTokens;
    // Flat: a decode step of a context so short that a work item of attention fits a tile.
    d.flat = step->decode && attention_us(p, step->longest) / p.spec.kv_heads <= p.config.tile_us;
    for (uint32_t i = 0; i < step->page_first[step->sessions]; ++i)
        d.page[i] = step->page_id[i] == kNoPage ? nullptr : d.kv(d.kv_part->page_offset(step->page_id[i]));
    return KEEL_OK;
}

keel_status cpu_enqueue(Device* device, Cursor* cursor, StepLimits* limits) {
    CpuDevice& d = *static_cast<CpuDevice*>(device);
    const PlanConfig& config = d.program->config;
    const double tile_us = config.tile_us;
    const uint64_t deadline_ns = limits->deadline_ns;
    const bool timed = d.program->time_ops;
    uint64_t now_ns = platform::now_ns();
    while (cursor->op < d.program->plan.variant[d.step->op_list].count) {
        const Dispatch dispatch = form_dispatch(d, cursor->op);
        const uint32_t items = dispatch.items;
        if (cursor->item == 0) expose_scratch(d, dispatch);
        if (cursor->item == 0) aim_products(d, dispatch);
        while (cursor->item < items * dispatch.splits) {
            const double one_us = item_us(d, dispatch), us = one_us / config.threads;
            double fit = tile_us / us;
            if (deadline_ns) {
                // Also no more than what is left of the budget, but at least one work item per thread.
                const double left_us = deadline_ns > now_ns ? static_cast<double>(deadline_ns - now_ns) * 1e-3 : 0;
                if (left_us / us < fit) fit = left_us / us;
            }
            const uint32_t done_in_split = cursor->item % items, left_in_split = items - done_in_split;
            uint32_t count = fit >= left_in_split ? left_in_split : static_cast<uint32_t>(fit);
            if (count < config.threads)
                count = config.threads < left_in_split ? config.threads : left_in_split;
            else if (count < left_in_split)
                count -= count % config.threads;  // equal parts
            Range range = {&d, &dispatch, done_in_split, count, cursor->item / items, 1, 1};
            uint32_t splits = 1;
            if (count == items && dispatch.splits > 1) {  // whole KV splits fit: let every work item take several
                const uint32_t left = dispatch.splits - range.split_first;
                splits = fit >= static_cast<double>(left) * items ? left : static_cast<uint32_t>(fit / items);
                if (splits == 0) splits = 1;
                range.split_count = splits;
            }
            const bool alone = one_us * count * splits <= kAloneUs;
            if (!alone) range.parts = count < config.threads ? count : config.threads;
            if (limits->progressed) {
                if (limits->cancelled(limits->context)) return KEEL_E_CANCELLED;
                if (deadline_ns && now_ns + static_cast<uint64_t>(us * count * splits * 1e3) > deadline_ns)
                    return KEEL_AGAIN;
            }
            if (timed && cursor->item == 0) begin_time(&d, dispatch, cursor->op);
            run_range(&range);
            limits->progressed = true;
            cursor->item += count * splits;
            if (alone && count == items && !timed) continue;  // a little one: the next look at the clock sees it
            const uint64_t after_ns = platform::now_ns();
            if (timed) d.times[d.timed - 1].us += static_cast<double>(after_ns - now_ns) * 1e-3;
            learn(&d.measured_over_predicted[correction_of(dispatch)], us * count * splits,
                  static_cast<double>(after_ns - now_ns) * 1e-3);
            now_ns = after_ns;
        }
        cursor->op += dispatch.ops;
        cursor->item = 0;
    }
    d.times_of_step = d.timed;
    return KEEL_OK;
}

}  // namespace keel
