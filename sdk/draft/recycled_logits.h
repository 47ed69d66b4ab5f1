// Token Recycling (Luo et al. 2024, arXiv 2408.08696): the most likely tokens of the newest row of logits behind each
// token of the vocabulary: drafts go from a token to these, and on from there.
#pragma once
#include <atomic>

#include "sdk/core/arena.h"

namespace keel {

class RecycledLogits {
  public:
    static constexpr uint32_t kWidth = 8;

    void place(Arena* arena, uint32_t vocabulary);
    void clear();
    // The ids of the largest of a row of logits, [vocabulary], in order: of equal ones the lower id comes first, NaN is
    // never among them. -1 where the vocabulary has no more.
    void largest(const float* logits, int32_t* ids) const;
    // ids: [kWidth], what was most likely behind `token`. Any threads at once: rows may be mixed then, which makes
    // worse drafts and nothing else.
    void learn(int32_t token, const int32_t* ids);
    // The one of rank 0 (the most likely) to kWidth - 1 behind `token`, or -1.
    int32_t at(int32_t token, uint32_t rank) const { return row(token)[rank].load(std::memory_order_relaxed); }

  private:
    std::atomic<int32_t>* row(int32_t token) const { return ids_ + uint64_t{static_cast<uint32_t>(token)} * kWidth; }

    std::atomic<int32_t>* ids_;  // [vocabulary][kWidth], -1: none
    uint32_t vocabulary_;
};

}  // namespace keel
