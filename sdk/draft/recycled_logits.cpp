#include "sdk/draft/recycled_logits.h"

namespace keel {

void RecycledLogits::place(Arena* arena, uint32_t vocabulary) {
    vocabulary_ = vocabulary;
    ids_ = arena->place<std::atomic<int32_t>>("draft_recycled_logits", uint64_t{vocabulary} * kWidth);
}

void RecycledLogits::clear() {
    for (uint64_t i = 0; i < uint64_t{vocabulary_} * kWidth; ++i) ids_[i].store(-1, std::memory_order_relaxed);
}

void RecycledLogits::largest(const float* logits, int32_t* id) const {
    constexpr uint32_t kLanes = 32;  // of logits that are compared at once; most hold none of the largest
    float value[kWidth];
    uint32_t count = 0;
    const auto insert = [&](uint32_t i) {
        if (count == kWidth ? !(logits[i] > value[kWidth - 1]) : logits[i] != logits[i]) return;
        uint32_t at = count < kWidth ? count++ : kWidth - 1;
        for (; at > 0 && value[at - 1] < logits[i]; --at) value[at] = value[at - 1], id[at] = id[at - 1];
        value[at] = logits[i];
        id[at] = static_cast<int32_t>(i);
    };
    uint32_t i = 0;
    for (; i < vocabulary_ && count < kWidth; ++i) insert(i);
    for (; i + kLanes <= vocabulary_; i += kLanes) {
        const float* const block = logits + i;
        const float least = value[kWidth - 1];
        uint32_t any = 0;
        for (uint32_t j = 0; j < kLanes; ++j) any |= block[j] > least ? 1u : 0u;
        for (uint32_t j = 0; any && j < kLanes; ++j) insert(i + j);
    }
    for (; i < vocabulary_; ++i) insert(i);
    for (; count < kWidth; ++count) id[count] = -1;
}

void RecycledLogits::learn(int32_t token, const int32_t* ids) {
    for (uint32_t k = 0; k < kWidth; ++k) row(token)[k].store(ids[k], std::memory_order_relaxed);
}

}  // namespace keel
