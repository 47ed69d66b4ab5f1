// The ring of recent rows, against a copy of what it holds: whatever steps, drafts, steps given up and cuts there were,
// the next query finds the rows it reads, and the planned rollback is there.
#include "sdk/kv/kv_f16_window.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace keel {
namespace {

// Rows are numbers: which time its slot was computed.
struct Ring {
    KvF16WindowShape shape;
    uint32_t recent, rollback, drafts;
    KvF16Window window = {};
    std::vector<uint64_t> rows, step_rows, text;  // text: of computed slots
    uint64_t times = 0;

    Ring(uint32_t recent, uint32_t rollback, uint32_t step, uint32_t drafts)
        : shape(kv_f16_window_shape(0, 1, 1, 8, 1, recent, rollback, step, drafts)),
          recent(recent),
          rollback(rollback),
          drafts(drafts),
          rows(shape.ring_rows),
          step_rows(shape.step_rows) {}

    uint64_t read(const KvRecentRows& at, uint32_t slot) const {
        return at.in_step(slot) ? step_rows.at(at.row_in_step(slot)) : rows[at.row_in_ring(slot, shape.ring_rows)];
    }
    // A step of tokens and drafts, of which `accepted` stay; in it the session's first token is `first_token`.
    void step(uint32_t tokens, uint32_t drafted, uint32_t accepted, uint32_t first_token, bool given_up) {
        const uint32_t from = static_cast<uint32_t>(text.size()), end = from + tokens + drafted;
        const KvRecentRows at = kv_recent_rows(shape, window, from, tokens, drafted, first_token);
        std::vector<uint64_t> now = text;
        for (uint32_t slot = from; slot < end; ++slot) {
            now.push_back(++times);
            kv_f16_window_write(shape, &window, at, slot);
            if (at.in_step(slot)) step_rows.at(at.row_in_step(slot)) = times;
            if (at.keeps(slot)) rows[at.kept_row(slot, shape.ring_rows)] = times;
        }
        // All rows are written before any is read, and any query of the step reads them.
        for (uint32_t query = from; query < end; ++query)
            for (uint32_t slot = query + 1 > recent ? query + 1 - recent : 0; slot <= query; ++slot)
                ASSERT_EQ(read(at, slot), now[slot]) << "query " << query << " of " << from << " to " << end;
        if (given_up) return;
        kv_f16_window_finish(&window, at);
        now.resize(from + tokens + accepted);
        text = now;
    }
    void look() const {
        const uint32_t size = static_cast<uint32_t>(text.size());
        const KvRecentRows at = kv_recent_rows(shape, window, size, 1, 0, 0);
        ASSERT_TRUE(kv_f16_window_reaches(shape, window, size));
        for (uint32_t slot = size + 1 > recent ? size + 1 - recent : 0; slot < size; ++slot)
            ASSERT_EQ(rows[at.row_in_ring(slot, shape.ring_rows)], text[slot]) << "slot " << slot << " of " << size;
    }
};

TEST(KvF16WindowRing, HoldsWhatTheNextQueryReads) {
    std::mt19937 random(5);
    const auto pick = [&](uint32_t most) { return static_cast<uint32_t>(random() % (most + 1)); };
    uint32_t long_steps = 0, cuts = 0;
    for (uint32_t round = 0; round < 300; ++round) {
        const uint32_t recent = 1 + pick(20), rollback = 1 + pick(12), drafts = pick(7), step = drafts + 1 + pick(60);
        Ring ring(recent, rollback, step, drafts);
        uint32_t floor = 0;  // a cut may go back so far: the rollback behind the last token of any finished step
        for (uint32_t i = 0; i < 60; ++i) {
            const uint32_t drafted = pick(drafts), tokens = 1 + pick(round % 3 ? step - drafted - 1 : 2);
            if (tokens + drafted > step) continue;
            const uint32_t first_token = pick(step - tokens - drafted);
            long_steps += tokens + drafted > ring.shape.ring_rows - ring.shape.kept_tokens;
            if (pick(3) == 0) ring.step(tokens, drafted, 0, first_token, true);
            if (HasFatalFailure()) return;
            ring.look();
            if (HasFatalFailure()) return;
            const uint32_t size = static_cast<uint32_t>(ring.text.size());
            if (pick(2) == 0 && size > floor) {
                ring.text.resize(floor + pick(size - floor));
                ++cuts;
                ring.look();
                if (HasFatalFailure()) return;
            }
            ring.step(tokens, drafted, pick(drafted), first_token, false);
            if (HasFatalFailure()) return;
            ring.look();
            if (HasFatalFailure()) return;
            const uint32_t now = static_cast<uint32_t>(ring.text.size());
            if (now > rollback && now - rollback > floor) floor = now - rollback;
        }
    }
    EXPECT_GT(long_steps, 1000u);
    EXPECT_GT(cuts, 1000u);
}

// What would be read and is no longer there is said.
TEST(KvF16WindowRing, KnowsWhatItLost) {
    Ring ring(8, 4, 16, 0);
    for (uint32_t i = 0; i < 100; ++i) ring.step(1, 0, 0, 0, false);
    const uint32_t oldest = 100 - ring.shape.ring_rows;
    EXPECT_TRUE(kv_f16_window_reaches(ring.shape, ring.window, oldest + 7));
    EXPECT_FALSE(kv_f16_window_reaches(ring.shape, ring.window, oldest + 6));
    EXPECT_TRUE(kv_f16_window_reaches(ring.shape, ring.window, 0));
    ring.step(16, 0, 0, 0, false);  // long: only what is kept
    EXPECT_TRUE(kv_f16_window_reaches(ring.shape, ring.window, 112));
    EXPECT_FALSE(kv_f16_window_reaches(ring.shape, ring.window, 111));
}

}  // namespace
}  // namespace keel
