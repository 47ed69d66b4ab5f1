// Strips of weights in fragments (fragments.cuh), brought through shared memory a few ahead: what products of few
// tokens have in common. A block takes groups of rows in turn, each in one pass, with a gate in two; its warps take the
// strips of all passes one after another.
#pragma once
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/product_rows.cuh"

namespace keel::cuda {

// Strips of weights, counted through: those of a pass, which is one group of one matrix, then those of the next.
struct StripPlace {
    uint32_t pass, strip;
    KEEL_GPU void advance(uint32_t by, uint32_t strips) {
        for (strip += by; strip >= strips; strip -= strips) ++pass;
    }
};

// The strips of a warp. `ahead`: how many are on their way, kAhead unless there is room for one only.
template <WeightType T>
struct StripStream {
    static constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    static constexpr uint32_t kElements = kInfo.block_elements, kStrip = strip_blocks(kElements),
                              kBytes = strip_bytes(kInfo), kAhead = strips_ahead(kInfo);
    const ProductArgs& args;
    uint32_t ahead, lane, warp, blocks, strips, gated, passes;
    uint8_t* ring;          // of this warp
    uint32_t slot;          // in bytes: what is multiplied next
    StripPlace at, coming;  // that one, and what is brought next
    const uint8_t* from;    // its pass, of this lane

    // Begins to bring.
    KEEL_GPU StripStream(const ProductArgs& a, uint32_t ahead)
        : args(a),
          ahead(ahead),
          lane(thread_x() % 32),
          warp(same_in_warp(thread_x() / 32)),
          blocks(a.k / kElements),
          strips(divide_up(blocks, kStrip)),
          gated(a.gate == ProductGate::kNone ? 0 : 1),
          passes(divide_up(a.group_end - a.group_begin - block_x(), grid_x()) << gated),
          ring(shared_memory() + warp * ahead * kBytes),
          slot(0),
          at{0, 0} {
        at.advance(warp, strips);
        coming = at;
        from = coming.pass < passes ? weights_of_pass(coming.pass) : nullptr;
        KEEL_NO_UNROLL
        for (uint32_t i = 0; i < ahead; ++i) bring(ring + i * kBytes);
    }
    KEEL_GPU GroupRows rows_of_pass(uint32_t pass) const {
        GroupRows rows = rows_of_group(args, args.group_begin + block_x() + (pass >> gated) * grid_x());
        rows.matrix += pass & gated;
        return rows;
    }
    // Waits for the strip that is multiplied next. Lanes read it before replace().
    KEEL_GPU const uint8_t* arrived() {
        slot = anew(slot);
        if (kAhead == 1 || ahead == kAhead)
            copy_wait<kAhead - 1>();
        else
            copy_wait<0>();
        sync_warp();
        return ring + slot;
    }
    // Brings another one in its place.
    KEEL_GPU void replace() {
        sync_warp();  // nobody brings more over what another lane still reads
        bring(ring + slot);
        slot = slot + kBytes == ahead * kBytes ? 0 : slot + kBytes;
    }
    // Asks for what comes after these, while there is nothing else to do for memory.
    KEEL_GPU void prefetch_more() const {
        if (coming.pass >= passes) return;
        for (uint32_t i = coming.strip, end = i + 2 * kStreamWarps; i < strips && i < end; i += kStreamWarps) {
            const uint64_t byte = uint64_t{i} * kBytes + 128 * lane;
            if (128 * lane < kBytes && byte < kGroupRows * args.w_row_bytes) prefetch(from - 16 * lane + byte);
        }
    }

  private:
    KEEL_GPU const uint8_t* weights_of_pass(uint32_t pass) const {
        const GroupRows rows = rows_of_pass(pass);
        return args.matrix[rows.matrix].w + rows.first_row * args.w_row_bytes + 16 * lane;
    }
    // All of a strip in pieces of 16 bytes a lane, the rest in smaller ones if all lanes then have one. Both ends are
    // those of this lane's first piece.
    KEEL_GPU void copy_strip(uint8_t* to, const uint8_t* source) const {
        constexpr uint32_t kWhole = kBytes / 512 * 512, kRest = kBytes % 512;
        KEEL_UNROLL
        for (uint32_t i = 0; i < kWhole; i += 512) copy16(to + i, source + i);
        if constexpr (kRest == 256) {
            copy8(to - 8 * lane + kWhole, source - 8 * lane + kWhole);
        } else if constexpr (kRest == 128) {
            copy4(to - 12 * lane + kWhole, source - 12 * lane + kWhole);
        } else if constexpr (kRest != 0) {
            if (16 * lane < kRest) copy16(to + kWhole, source + kWhole);
        }
    }
    KEEL_GPU void bring(uint8_t* to) {
        if (coming.pass < passes) {
            const uint32_t left = blocks - coming.strip * kStrip;
            const uint8_t* source = from + uint64_t{coming.strip} * kBytes;
            to += 16 * lane;
            if (kStrip == 1 || left >= kStrip) {
                copy_strip(to, source);
            } else {
                KEEL_NO_UNROLL
                for (uint32_t i = 0; i + 16 * lane < left * kGroupRows * kInfo.block_bytes; i += 512)
                    copy16(to + i, source + i);
            }
            const uint32_t pass = coming.pass;
            coming.advance(kStreamWarps, strips);
            if (coming.pass != pass && coming.pass < passes) from = weights_of_pass(coming.pass);
        }
        copy_commit();
    }
};

}  // namespace keel::cuda
