#include "sdk/plan/buffers.h"

#include <string.h>

#include "sdk/core/arena.h"

namespace keel {
namespace {

template <class Fn>
void each_buffer(BufferSet set, Fn&& fn) {
    for (; set; set &= set - 1) fn(static_cast<BufferId>(__builtin_ctzll(set)));
}

// Greedy: largest buffer first, each at the lowest offset where it meets no placed buffer that it must not share bytes
// with. (Optimal packing is NP-complete; with two dozen buffers greedy is within a few percent of the lower bound.)
void pack_buffers(ExecutionPlan* plan) {
    BufferSet placed = 0;
    plan->scratch_bytes = 0;
    for (;;) {
        uint32_t next = kMaxBuffers;
        for (uint32_t i = 0; i < plan->buffer_count; ++i)
            if (!(placed & buffer_bit(static_cast<BufferId>(i))) && plan->buffers[i].bytes &&
                (next == kMaxBuffers || plan->buffers[i].bytes > plan->buffers[next].bytes))
                next = i;
        if (next == kMaxBuffers) return;
        Buffer& b = plan->buffers[next];
        b.offset = 0;
        for (bool moved = true; moved;) {
            moved = false;
            each_buffer(placed & b.overlaps, [&](BufferId id) {
                const Buffer& other = plan->buffers[id];
                if (b.offset >= other.offset + other.bytes || other.offset >= b.offset + b.bytes) return;
                b.offset = other.offset + other.bytes;
                moved = true;
            });
        }
        placed |= buffer_bit(static_cast<BufferId>(next));
        if (b.offset + b.bytes > plan->scratch_bytes) plan->scratch_bytes = b.offset + b.bytes;
    }
}

}  // namespace

BufferTable::BufferTable(ExecutionPlan* plan) : plan_(plan) {
    plan->buffer_count = 1;
    plan->buffers[kThreadBuffer] = {"thread", Activation::kF32, 0, 0, 0, 0, 0, 0};
}

BufferId BufferTable::find(const char* name, Activation type, uint32_t width) {
    for (uint32_t i = 0; i < plan_->buffer_count; ++i) {
        Buffer& b = plan_->buffers[i];
        if (b.type != type || strcmp(b.name, name) != 0) continue;
        if (width > b.width) b.width = width;
        return static_cast<BufferId>(i);
    }
    if (plan_->buffer_count == kMaxBuffers) {
        full_ = true;
        return kThreadBuffer;
    }
    plan_->buffers[plan_->buffer_count] = {name, type, width, 0, 0, 0, 0, 0};
    return static_cast<BufferId>(plan_->buffer_count++);
}

void BufferTable::need_thread_bytes(uint64_t bytes) {
    if (bytes > thread_bytes_) thread_bytes_ = bytes;
}

void BufferTable::pack(uint32_t tokens, uint32_t threads) {
    for (uint32_t i = 0; i < plan_->buffer_count; ++i) {
        Buffer& b = plan_->buffers[i];
        const bool per_thread = i == kThreadBuffer;
        b.row_bytes =
            per_thread ? kernels::round64(thread_bytes_) : kernels::round64(activation_bytes(b.type, b.width));
        b.rows = per_thread ? threads : tokens;
        b.bytes = b.overlaps ? b.row_bytes * b.rows + kRedZoneBytes : 0;  // one that is live meets itself
    }
    pack_buffers(plan_);
}

void Lifetimes::dispatch(const Op* ops, uint32_t count, uint32_t first) {
    BufferSet lives_on = 0, written = 0, begun = 0;  // in from before; written at all; without the value of before
    for (uint32_t i = 0; i < count; ++i) {
        lives_on |= ops[i].reads & ~begun;
        begun |= ops[i].writes & ~(ops[i].reads | lives_on | written);
        written |= ops[i].writes;
    }
    const BufferSet here = lives_on | written;
    Buffer* buffers = table_->plan_->buffers;
    const auto meet = [&](BufferId id, BufferSet others) {
        buffers[id].overlaps |= others;
        each_buffer(others, [&](BufferId other) { buffers[other].overlaps |= buffer_bit(id); });
    };
    each_buffer(here, [&](BufferId id) { meet(id, here); });
    each_buffer(lives_on, [&](BufferId id) { meet(id, written_since_[id]); });
    for (BufferSet& since : written_since_) since |= written;
    each_buffer(begun, [&](BufferId id) { written_since_[id] = written; });
    if (!observer_) return;
    each_buffer(begun, [&](BufferId id) { observer_->begins(observer_->context, id, first); });
    each_buffer(here, [&](BufferId id) { observer_->used(observer_->context, id, first + count - 1); });
}

const char* activation_suffix(Activation type) {
    switch (type) {
        case Activation::kF32:
            break;
        case Activation::kQ8Block32:
            return ".q8_32";
        case Activation::kQ8Block256:
            return ".q8_256";
        case Activation::kQ8Rotated:
            return ".q8_rotated";
        case Activation::kBf16Pairs:
            return ".bf16";
    }
    return "";
}

}  // namespace keel
