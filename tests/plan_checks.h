// What has to hold of every plan's scratch memory.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "keel/keel.h"

namespace keel_test {

// Every op lies within the ranges of all that it reads and writes, and within those of its dispatch; what is live
// together shares no byte; nothing lies outside the region, and the region ends where the last buffer does. So the
// bytes that the list calls live in an op are all that may not be touched: none is missing.
inline void expect_scratch_is_packed(const keel_memory_plan& plan, const std::vector<keel_op_info>& ops,
                                     const std::vector<keel_buffer_info>& buffers) {
    uint64_t end = 0;
    size_t scratch = 0;
    while (scratch < buffers.size() && buffers[scratch].region == KEEL_REGION_SCRATCH) ++scratch;
    ASSERT_GT(scratch, 0u);
    for (size_t i = 0; i < scratch; ++i) {
        const keel_buffer_info& b = buffers[i];
        EXPECT_GT(b.bytes, 0u) << b.name;
        EXPECT_LE(b.first_op, b.last_op) << b.name;
        ASSERT_LT(b.last_op, ops.size()) << b.name;
        EXPECT_EQ(ops[b.first_op].low_rank, ops[b.last_op].low_rank) << b.name;
        end = std::max(end, b.offset + b.bytes);
        // The ops of a dispatch run at the same time: what is live in one of them is live in all.
        if (b.first_op > 0 && ops[b.first_op].low_rank == ops[b.first_op - 1].low_rank) {
            EXPECT_NE(ops[b.first_op].dispatch, ops[b.first_op - 1].dispatch) << b.name;
        }
        if (b.last_op + 1 < ops.size() && ops[b.last_op].low_rank == ops[b.last_op + 1].low_rank) {
            EXPECT_NE(ops[b.last_op].dispatch, ops[b.last_op + 1].dispatch) << b.name;
        }
    }
    EXPECT_LE(end, plan.regions[KEEL_REGION_SCRATCH].bytes);
    EXPECT_EQ(end + plan.regions[KEEL_REGION_SCRATCH].padding_bytes, plan.regions[KEEL_REGION_SCRATCH].bytes);
    for (const keel_op_info& op : ops) {
        const auto in_range = [&](uint32_t index) {
            ASSERT_LT(index, scratch) << op.name;
            EXPECT_LE(buffers[index].first_op, op.index) << op.name << " " << buffers[index].name;
            EXPECT_GE(buffers[index].last_op, op.index) << op.name << " " << buffers[index].name;
        };
        ASSERT_LE(op.read_count, uint32_t{KEEL_OP_BUFFERS});
        ASSERT_LE(op.write_count, uint32_t{KEEL_OP_BUFFERS});
        for (uint32_t i = 0; i < op.read_count; ++i) in_range(op.reads[i]);
        for (uint32_t i = 0; i < op.write_count; ++i) in_range(op.writes[i]);
        uint64_t live = 0;
        for (size_t i = 0; i < scratch; ++i)
            if (buffers[i].first_op <= op.index && op.index <= buffers[i].last_op) live += buffers[i].bytes;
        EXPECT_LE(live, plan.regions[KEEL_REGION_SCRATCH].bytes) << op.name;
        // Products work in the memory of their threads.
        if (op.weight_type[0] && std::string(op.name) != "embed") {
            bool thread = false;
            for (uint32_t i = 0; i < op.write_count; ++i)
                thread = thread || std::string(buffers[op.writes[i]].name) == "thread";
            EXPECT_TRUE(thread) << op.name;
        }
    }
    for (size_t i = 0; i < scratch; ++i)
        for (size_t j = i + 1; j < scratch; ++j) {
            const keel_buffer_info &a = buffers[i], &b = buffers[j];
            if (a.last_op < b.first_op || b.last_op < a.first_op) continue;
            EXPECT_TRUE(a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset)
                << a.name << " and " << b.name << " at ops " << a.first_op << ", " << b.first_op;
        }
}

}  // namespace keel_test
