// Scratch buffers: which exist, when they are live, where they lie.
//
// Lifetimes are read off the ops. The ops of a dispatch run at the same time: a buffer that any of them reads is live
// to the end of the dispatch, one that any of them writes is live from its begin. Two buffers that are live at some
// time together (in any layer, of any variant) must not share bytes.
#pragma once
#include "sdk/plan/ops.h"

namespace keel {

// All buffers of a plan, shared by its layers and variants: a buffer is its name and its layout.
class BufferTable {
  public:
    explicit BufferTable(ExecutionPlan* plan);
    // The buffer of that name and layout, at least `width` elements a row. A new one takes no bytes until it is used.
    BufferId find(const char* name, Activation type, uint32_t width);
    void need_thread_bytes(uint64_t bytes);
    bool full() const { return full_; }
    // Sizes of rows of `tokens` tokens and `threads` threads, then offsets.
    void pack(uint32_t tokens, uint32_t threads);

  private:
    friend class Lifetimes;
    ExecutionPlan* plan_;
    uint64_t thread_bytes_ = 0;
    bool full_ = false;
};

// Told of every new value of a buffer, and of its uses, in the order of the ops.
struct LifetimeObserver {
    void (*begins)(void* context, BufferId buffer, uint32_t op);
    void (*used)(void* context, BufferId buffer, uint32_t op);  // still live at the end of this op
    void* context;
};

// Follows the ops of one variant, dispatch by dispatch.
class Lifetimes {
  public:
    Lifetimes(BufferTable* table, const LifetimeObserver* observer) : table_(table), observer_(observer) {}
    // `first`: number of ops[0] in the plan.
    void dispatch(const Op* ops, uint32_t count, uint32_t first);

  private:
    BufferTable* table_;
    const LifetimeObserver* observer_;
    BufferSet written_since_[kMaxBuffers] = {};  // buffers that got a value since this one got its
};

const char* activation_suffix(Activation type);  // "", ".q8_32", ".q8_256"

}  // namespace keel
