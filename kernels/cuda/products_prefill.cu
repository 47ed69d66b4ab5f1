// Products of weights in fragments (fragments.cuh) with 8-bit activations, of many tokens: a prompt's (NUMERICS section
// 2). Integers are exact in any order; the sum in f32 is one chain over blocks ascending.
//
// A warp takes 16 rows and 64 tokens. The warps of a block share the activations, copied a chunk ahead while they
// multiply. Weights come straight from memory, a block or run of one ahead. Eight tokens after another go through a
// block and its part of the chain, so that what warps do at the same time is of all kinds.
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/product_rows.cuh"

namespace keel::cuda {
namespace {

constexpr uint32_t kTokenGroups = kPromptTokens / 8;

// A step of a warp: a block, or a run of one.
template <WeightType T>
struct PromptShape {
    using Fragments = FragmentShape<T>;
    static constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    static constexpr bool kSuper = kInfo.sub_block != 0;
    // Runs of a step: as many as there are registers for.
    static constexpr uint32_t kRuns = T == kQ6_K ? 1 : Fragments::kRuns, kSteps = Fragments::kRuns / kRuns;
    // Steps on their way.
    static constexpr uint32_t kAhead = kSuper && kSteps == 1 ? 1 : 2;
    static constexpr uint32_t kLowBytes = Fragments::kLowBytes / kSteps, kHighBytes = Fragments::kHighBytes / kSteps;
    static constexpr bool kMinima = kSuper && kInfo.m_at != kernels::kNoField;
    // Whether codes times their scales fit a byte, so that matrix units add up whole blocks.
    static constexpr bool kScaled = T == kQ2_K || T == kQ3_K;
    // Of a chunk in shared memory, in words: codes of its tokens, their scales (of blocks of 32 [pair of
    // blocks][token][2]), sums of every token.
    static constexpr uint32_t kCodeWords = prompt_code_words(kInfo.sub_block),
                              kScaleCount = kPromptChunk / kInfo.block_elements, kScalesAt = kPromptTokens * kCodeWords,
                              kSumsAt = kScalesAt + kPromptTokens * kScaleCount, kWords = prompt_chunk_words(kInfo);
    static_assert(kWords == kSumsAt + (kMinima ? 8 * kPromptTokens : 0));
};

template <WeightType T>
struct PromptStep {
    using Shape = PromptShape<T>;
    LaneWords<Shape::kLowBytes> low;
    LaneWords<Shape::kHighBytes> high;

    // Step s of a block.
    KEEL_GPU void load(const uint8_t* block, uint32_t lane, uint32_t s) {
        load_words<Shape::kLowBytes>(block, lane, s, low.w);
        if constexpr (Shape::kHighBytes)
            load_words<Shape::kHighBytes>(block + FragmentShape<T>::kHighAt, lane, s, high.w);
    }
    // The four words of run r of the step, of types whose codes are scaled as they are written.
    KEEL_GPU void values(uint32_t r, uint32_t a[4]) const {
        constexpr uint32_t kLowBits = FragmentShape<T>::kLowBits, kHighBits = FragmentShape<T>::kHighBits;
        unpack_run<kLowBits, kPairsOfRuns<T>>(low.w, r, a);
        if constexpr (kHighBits) {
            uint32_t bits[4];
            if constexpr (Shape::kHighBytes == 2) {
                const uint32_t word = part_halves(high.w[0]);
                unpack_run<1>(&word, 0, bits);
            } else {
                unpack_run<kHighBits>(high.w, r, bits);
            }
            KEEL_UNROLL
            for (uint32_t i = 0; i < 4; ++i) a[i] |= bits[i] << kLowBits;
        }
        if constexpr (!Shape::kScaled) {
            KEEL_UNROLL
            for (uint32_t i = 0; i < 4; ++i) a[i] = values_of<T>(a[i]);
        }
    }

  private:
    // The BYTES of step s of a lane, out of a plane in pieces of 16 bytes, or of BYTES where it is shorter.
    template <uint32_t BYTES>
    static KEEL_GPU void load_words(const uint8_t* plane, uint32_t lane, uint32_t s, uint32_t* w) {
        constexpr uint32_t kPiece = Shape::kSuper ? 16 : BYTES;
        const uint8_t* p = plane + s * BYTES / kPiece * (32 * kPiece) + lane * kPiece + s * BYTES % kPiece;
        if constexpr (BYTES == 2) {
            w[0] = load16(p);
        } else if constexpr (BYTES == 4) {
            w[0] = *reinterpret_cast<const uint32_t*>(p);
        } else if constexpr (BYTES == 8) {
            const Words2 words = *reinterpret_cast<const Words2*>(p);
            w[0] = words.x, w[1] = words.y;
        } else {
            static_assert(BYTES % 16 == 0);
            KEEL_UNROLL
            for (uint32_t i = 0; i < BYTES / 16; ++i) {
                const Words4 words = *reinterpret_cast<const Words4*>(p + 512 * i);
                w[4 * i] = words.x, w[4 * i + 1] = words.y, w[4 * i + 2] = words.z, w[4 * i + 3] = words.w;
            }
        }
    }
};
// Four codes as they are written times their scale, as int8: of Q3_K negative, as -4 times -32 would not fit.
template <WeightType T>
constexpr bool kScaledNegative = T == kQ3_K;
template <WeightType T>
KEEL_GPU uint32_t scaled_codes(uint32_t written, int32_t scale) {
    if constexpr (T == kQ2_K) {
        return written * static_cast<uint32_t>(scale);
    } else {
        // Two codes at a time in 16 bits, 256 more than their products, so that none borrows.
        const uint32_t factor = static_cast<uint32_t>(-scale), more = (256 - 4 * factor) * 0x00010001u;
        return pick_bytes((written & 0x00ff00ffu) * factor + more, (written >> 8 & 0x00ff00ffu) * factor + more,
                          0x6240);
    }
}
// Scales and factors of a block.
template <WeightType T>
struct PromptHead {
    ScaleRegisters scales[2];  // of rows g and g + 8
    uint32_t factors[2];

    KEEL_GPU void load(const uint8_t* block, uint32_t lane) {
        KEEL_UNROLL
        for (uint32_t half = 0; half < 2; ++half) {
            const uint32_t row = lane / 4 + 8 * half;
            if constexpr (PromptShape<T>::kSuper) {
                constexpr uint32_t kCount = kScaleBytes<T>.count;
                KEEL_UNROLL
                for (uint32_t i = 0; i < (kCount + 3) / 4; ++i)
                    scales[half].w[i] = word_at<kCount>(block + FragmentShape<T>::kScalesAt + row * kCount, i);
            }
            factors[half] = load_factors<T>(block, row);
        }
    }
};

// The activations of a block's tokens, copied to shared memory a chunk at a time.
template <WeightType T>
struct PromptInput {
    using Shape = PromptShape<T>;
    static constexpr uint32_t kElements = Shape::kInfo.block_elements;
    const uint8_t* x;
    uint32_t tokens, k, token_bytes;

    KEEL_GPU PromptInput(const ProductArgs& args, uint32_t first_token, uint32_t count)
        : x(in_global(token_of(args, first_token))),
          tokens(count),
          k(args.k),
          token_bytes(static_cast<uint32_t>(args.x_token_bytes)) {}
    // Begins to copy the chunk from element `first` on, as far as there is one.
    KEEL_GPU void stage(uint32_t first, uint32_t* to) const {
        if (first >= k) return;
        // Four threads a token, 16 bytes each of 64. Planes of a token are rounded up to 64 bytes.
        const uint32_t thread = anew(thread_x()), part = thread % 4, rest = k - first;
        const kernels::Q8Token planes = q8_token(nullptr, anew(k), kElements);
        const auto bytes_to = [](const void* plane) {
            return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(plane));
        };
        const uint32_t scales_at = bytes_to(planes.d), sums_at = bytes_to(planes.sums);
        KEEL_NO_UNROLL
        for (uint32_t token = thread / 4; token < tokens; token += block_threads() / 4) {
            const uint8_t* from = x + token * token_bytes;
            const uint8_t *codes = from + first + 16 * part, *scales = from + scales_at + first / kElements * 4;
            uint32_t* place = to + token * Shape::kCodeWords + 4 * part;
            KEEL_UNROLL
            for (uint32_t i = 0; i < kPromptChunk / 64; ++i)
                if (Shape::kSuper || 64 * i < rest) copy16(place + 16 * i, codes + 64 * i);
            place = to + Shape::kScalesAt;
            if constexpr (Shape::kSuper) {
                if (part == 0) copy4(place + token, scales);
            } else {
                if (64 * part < rest) copy8(place + 2 * (part * kPromptTokens + token), scales + 8 * part);
            }
            if (Shape::kMinima && part < 2)
                copy16(to + Shape::kSumsAt + 8 * token + 4 * part, from + sums_at + first / 8 + 16 * part);
        }
        copy_commit();
    }
};

// f32 whose bits, with a small integer added to them, are the f32 of 12582912 + that integer.
constexpr int32_t kBitsOfPromptInteger = 0x4b400000;
KEEL_GPU float prompt_float_of(int32_t bits) {
    return f32_from_bits(static_cast<uint32_t>(bits)) - 12582912.0f;
}

// acc += d * d_token * sum, then m * d_token * sum_m.
KEEL_GPU float prompt_chain(float acc, float d, float d_token, float sum) {
    return fma_f32(mul_f32(d, d_token), sum, acc);
}

// The sums of 16 rows and 64 tokens: rows g, g, g + 8, g + 8; tokens 2t, 2t + 1 in turn.
using PromptSums = float[kTokenGroups][4];

// The weights of a warp. multiply() is for a chunk, one block of 256 or up to eight of 32; `left`: elements from there
// to the end. Behind the last block there is none: it is loaded once more.
template <WeightType T, bool SUPER = PromptShape<T>::kSuper>
struct PromptWeights;

template <WeightType T>
struct PromptWeights<T, true> {
    using Shape = PromptShape<T>;
    static constexpr uint32_t kAhead = Shape::kAhead, kRuns = Shape::kRuns, kSteps = Shape::kSteps;
    static_assert(kSteps % kAhead == 0);
    static constexpr bool kPairs = Shape::kInfo.sub_block == 16;  // of scales for a run
    const uint8_t* w;                                             // the block that is multiplied
    PromptHead<T> head;
    PromptStep<T> step[kAhead];

    KEEL_GPU void begin(uint32_t, uint32_t lane) {
        head.load(w, lane);
        KEEL_UNROLL
        for (uint32_t s = 0; s < kAhead; ++s) step[s].load(w, lane, s);
    }
    KEEL_GPU void multiply(const uint32_t* chunk, uint32_t left, uint32_t lane, PromptSums& acc) {
        const uint32_t g = lane / 4, t = lane % 4;
        const uint32_t next = left > kPromptChunk ? FragmentShape<T>::kBytes : 0;
        // A line of the block after that for every lane.
        if (left > 2 * kPromptChunk && lane < divide_up(FragmentShape<T>::kBytes, 128))
            prefetch(w + 2 * FragmentShape<T>::kBytes + 128 * lane);
        int32_t sums[kTokenGroups][4] = {};
        float d[2], minimum[2];
        uint32_t minima[2];
        KEEL_UNROLL
        for (uint32_t s = 0; s < kSteps; ++s) {
            uint32_t a[kRuns][4];
            int32_t scales[2][2 * kRuns];  // of halves g, g + 8
            KEEL_UNROLL
            for (uint32_t run = 0; run < kRuns; ++run) {
                step[s % kAhead].values(run, a[run]);
                KEEL_UNROLL
                for (uint32_t half = 0; half < 2; ++half) {
                    KEEL_UNROLL
                    for (uint32_t i = 0; i < 1 + kPairs; ++i) {
                        const uint32_t j = (s * kRuns + run) * (1 + kPairs) + i;
                        const uint32_t four = scales4<T>(head.scales[half], j / 4);
                        const int32_t scale = Shape::kMinima ? static_cast<int32_t>(pick_bytes(four, 0, 0x4440 + j % 4))
                                                             : byte_at(four, j);
                        if constexpr (Shape::kScaled)
                            a[run][2 * i + half] = scaled_codes<T>(a[run][2 * i + half], scale);
                        else
                            scales[half][2 * run + i] = scale;
                    }
                }
            }
            // What is not needed any more makes room for what comes.
            if (s + 1 == kSteps) {
                KEEL_UNROLL
                for (uint32_t half = 0; half < 2; ++half) {
                    d[half] = d_of<T>(head.factors[half]);
                    if constexpr (kScaledNegative<T>) d[half] = -d[half];
                    if constexpr (Shape::kMinima) {
                        minimum[half] = -minimum_of(head.factors[half]);
                        minima[half] = minima_of(head.scales[half], t);
                    }
                }
                head.load(w + next, lane);
            }
            step[s % kAhead].load(w + (s + kAhead < kSteps ? 0 : next), lane, (s + kAhead) % kSteps);
            uint32_t b[4];
            KEEL_UNROLL
            for (uint32_t group = 0; group < kTokenGroups; ++group) {
                const uint32_t* codes = chunk + 8 * group * Shape::kCodeWords + s * kRuns * 8;
                int32_t* to = sums[group];
                if constexpr (kPairs) {
                    KEEL_UNROLL
                    for (uint32_t run = 0; run < kRuns; ++run) {
                        // Of two runs, or of one run and two groups of tokens, of each the two sub-blocks.
                        const uint32_t second = (kRuns > 1 ? run : group) % 2, *of_run = b + 2 * second;
                        if (!second)
                            load_matrices(b, codes + lane % 8 * Shape::kCodeWords + 8 * run + lane / 8 % 2 * 4 +
                                                 lane / 16 * (kRuns > 1 ? 8 : 8 * Shape::kCodeWords));
                        if constexpr (Shape::kScaled) {
                            mma_s8(to, a[run], of_run[0], of_run[1]);
                        } else {
                            int32_t q[4] = {}, p[4] = {};
                            mma_s8(q, a[run][0], a[run][1], of_run[0]);
                            mma_s8(p, a[run][2], a[run][3], of_run[1]);
                            KEEL_UNROLL
                            for (uint32_t c = 0; c < 4; ++c) {
                                to[c] += scales[c / 2][2 * run] * q[c];
                                to[c] += scales[c / 2][2 * run + 1] * p[c];
                            }
                        }
                    }
                } else {
                    KEEL_UNROLL
                    for (uint32_t run = 0; run < kRuns; ++run) {
                        const Words2 pair =
                            *reinterpret_cast<const Words2*>(codes + g * Shape::kCodeWords + 8 * run + 2 * t);
                        int32_t q[4];
                        mma_s8_from(q, 0, a[run], pair.x, pair.y);
                        KEEL_UNROLL
                        for (uint32_t c = 0; c < 4; ++c) to[c] += scales[c / 2][2 * run] * q[c];
                    }
                }
                if (s + 1 < kSteps) continue;
                const Words2 of_tokens = *reinterpret_cast<const Words2*>(chunk + Shape::kScalesAt + 8 * group + 2 * t);
                const float d_token[2] = {f32_from_bits(of_tokens.x), f32_from_bits(of_tokens.y)};
                int32_t upper[4] = {}, lower[4] = {};
                if constexpr (Shape::kMinima) {
                    // Sums of sixteen, at most 2032, as 128 times an upper part and seven lower bits.
                    const Words2 pairs =
                        *reinterpret_cast<const Words2*>(chunk + Shape::kSumsAt + 8 * (8 * group + g) + 2 * t);
                    mma_s8(upper, minima[0], minima[1], pick_bytes(pairs.x >> 7, pairs.y >> 7, 0x6420));
                    mma_s8(lower, minima[0], minima[1], pick_bytes(pairs.x, pairs.y, 0x6420) & 0x7f7f7f7fu);
                }
                KEEL_UNROLL
                for (uint32_t c = 0; c < 4; ++c) {
                    float& y = acc[group][c];
                    y = prompt_chain(y, d[c / 2], d_token[c % 2], static_cast<float>(to[c]));
                    if constexpr (Shape::kMinima)
                        y = prompt_chain(y, minimum[c / 2], d_token[c % 2],
                                         static_cast<float>(lower[c] + 128 * upper[c]));
                }
            }
        }
        w += next;
    }

  private:
    // Those of sums 4t..4t+3.
    static KEEL_GPU uint32_t minima_of(const ScaleRegisters& scales, uint32_t t) {
        const auto four = [&](uint32_t n) { return minima4<T>(scales, n); };
        if constexpr (kPairs)
            return t < 2 ? (t == 0 ? four(0) : four(1)) : (t == 2 ? four(2) : four(3));
        else  // two sums of 16, and one minimum for both
            return pick_bytes(t < 2 ? four(0) : four(1), 0, t % 2 ? 0x3322 : 0x1100);
    }
};

template <WeightType T>
struct PromptWeights<T, false> {
    using Shape = PromptShape<T>;
    static constexpr uint32_t kAhead = Shape::kAhead;
    static constexpr bool kMinimum = Shape::kInfo.m_at != kernels::kNoField;
    const uint8_t* w;
    PromptHead<T> head[kAhead];
    PromptStep<T> step[kAhead];

    KEEL_GPU void begin(uint32_t left, uint32_t lane) {
        KEEL_UNROLL
        for (uint32_t i = 0; i < kAhead; ++i) load(i, i, left, lane);
    }
    KEEL_GPU void multiply(const uint32_t* chunk, uint32_t left, uint32_t lane, PromptSums& acc) {
        // Codes of token g, and scales of tokens 2t and 2t + 1.
        const uint32_t *codes = chunk + lane / 4 * Shape::kCodeWords + 2 * (lane % 4),
                       *scales = chunk + Shape::kScalesAt + 4 * (lane % 4);
        const uint32_t count = left < kPromptChunk ? left : kPromptChunk;
        uint32_t done = 0;
        KEEL_NO_UNROLL
        for (; done + 32 * kAhead <= count; done += 32 * kAhead) {
            multiply_blocks<kAhead>(codes, scales, left - done, lane, acc);
            w += kAhead * FragmentShape<T>::kBytes;
            codes += 8 * kAhead;
            scales += kAhead * kPromptTokens;
        }
        if (done < count) multiply_blocks<1>(codes, scales, left - done, lane, acc);
    }

  private:
    // Block `block` from w on, or the one at w.
    KEEL_GPU void load(uint32_t i, uint32_t block, uint32_t left, uint32_t lane) {
        const uint8_t* from = w + (32 * block < left ? block * FragmentShape<T>::kBytes : 0);
        head[i].load(from, lane);
        step[i].load(from, lane, 0);
    }
    // Blocks at w, one or two.
    template <uint32_t BLOCKS>
    KEEL_GPU void multiply_blocks(const uint32_t* codes, const uint32_t* scales, uint32_t left, uint32_t lane,
                                  PromptSums& acc) {
        uint32_t a[BLOCKS][4];
        float d[BLOCKS][2], minimum[BLOCKS][2];
        KEEL_UNROLL
        for (uint32_t i = 0; i < BLOCKS; ++i) {
            step[i].values(0, a[i]);
            KEEL_UNROLL
            for (uint32_t half = 0; half < 2; ++half) {
                d[i][half] = d_of<T>(head[i].factors[half]);
                if constexpr (kMinimum) minimum[i][half] = minimum_of(head[i].factors[half]);
            }
            load(i, i + kAhead, left, lane);
        }
        KEEL_UNROLL
        for (uint32_t group = 0; group < kTokenGroups; ++group) {
            const Words4 of_tokens = *reinterpret_cast<const Words4*>(scales + 16 * group);
            KEEL_UNROLL
            for (uint32_t i = 0; i < BLOCKS; ++i) {
                const Words2 b = *reinterpret_cast<const Words2*>(codes + 8 * group * Shape::kCodeWords + 8 * i);
                const float d_token[2] = {f32_from_bits(i == 0 ? of_tokens.x : of_tokens.y),
                                          f32_from_bits(i == 0 ? of_tokens.z : of_tokens.w)};
                int32_t q[4], all[4];  // all: the sums of 32 activations
                if constexpr (kMinimum) {
                    constexpr uint32_t kOnes[4] = {0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u};
                    mma_s8_from(all, kBitsOfPromptInteger, kOnes, b.x, b.y);
                }
                mma_s8_from(q, kBitsOfPromptInteger, a[i], b.x, b.y);
                KEEL_UNROLL
                for (uint32_t c = 0; c < 4; ++c) {
                    float& to = acc[group][c];
                    to = prompt_chain(to, d[i][c / 2], d_token[c % 2], prompt_float_of(q[c]));
                    if constexpr (kMinimum)
                        to = prompt_chain(to, minimum[i][c / 2], d_token[c % 2], prompt_float_of(all[c % 2]));
                }
            }
        }
    }
};

template <WeightType T>
KEEL_GPU void multiply_prompt(const ProductArgs& args) {
    using Shape = PromptShape<T>;
    const uint32_t lane = thread_x() % 32, warp = thread_x() / 32, warps = block_threads() / 32;
    const uint32_t first_token = block_x() * kPromptTokens, behind = args.tokens - first_token,
                   tokens = behind < kPromptTokens ? behind : kPromptTokens;
    // With a gate two warps have a group, one for each matrix. A group that is not there is computed as the first one,
    // for company at barriers.
    const bool gated = args.gate != ProductGate::kNone;
    const auto group_of = [&](uint32_t of_block) {
        return args.group_begin + block_y() * (gated ? warps / 2 : warps) + of_block;
    };
    PromptWeights<T> weights;
    {
        const uint32_t group = group_of(gated ? warp / 2 : warp);
        const GroupRows at = rows_of_group(args, group < args.group_end ? group : args.group_begin);
        weights.w = in_global(args.matrix[gated ? warp % 2 : at.matrix].w + at.first_row * args.w_row_bytes);
    }
    weights.begin(args.k, lane);
    uint32_t* staged = reinterpret_cast<uint32_t*>(shared_memory());
    // Tokens that are not there are computed from whatever lies in their place, and not stored.
    PromptSums acc = {};
    const PromptInput<T> input(args, first_token, tokens);
    input.stage(0, staged);
    for (uint32_t first = 0, buffer = 0; first < args.k; first += kPromptChunk, buffer ^= 1) {
        copy_wait<0>();
        sync_block();  // the chunk is there as a whole, and nobody reads the one before
        input.stage(first + kPromptChunk, staged + (buffer ^ 1) * Shape::kWords);
        weights.multiply(staged + buffer * Shape::kWords, args.k - first, lane, acc);
    }
    sync_block();
    // Through shared memory, so that what becomes of a sum stands here once and rows lie side by side.
    float* results = reinterpret_cast<float*>(staged);
    const auto result_of = [&](uint32_t of_warp, uint32_t row, uint32_t token) -> float& {
        return results[of_warp * kPromptResultFloats + token * kPromptResultStride + row];
    };
    KEEL_UNROLL
    for (uint32_t n = 0; n < 4 * kTokenGroups; ++n)
        result_of(warp, lane / 4 + n % 4 / 2 * 8, n / 4 * 8 + lane % 4 * 2 + n % 2) = acc[n / 4][n % 4];
    sync_block();
    // A warp a group, half of its lanes a token; with a gate the two of a group take tokens in turn.
    const uint32_t of_warp = gated ? warp & ~1u : warp, group = group_of(gated ? warp / 2 : warp);
    if (group >= args.group_end) return;
    const GroupRows at = rows_of_group(args, group);
    const uint32_t in_group = lane % kGroupRows, row = at.first_row + in_group, step = gated ? 4 : 2;
    KEEL_NO_UNROLL
    for (uint32_t token = lane / kGroupRows + (gated ? warp % 2 * 2 : 0); token < tokens; token += step) {
        float value = with_bias(args.matrix[at.matrix], row, result_of(of_warp, in_group, token));
        if (gated)
            value =
                gated_value(args.gate, value, with_bias(args.matrix[1], row, result_of(of_warp + 1, in_group, token)));
        store(args, args.matrix[at.matrix], row, first_token + token, value);
    }
}

}  // namespace

#define KEEL_DEFINE_PROMPT(type, ...)              \
    KEEL_GPU_KERNEL_OF(product_prompt_##type, 2) { \
        multiply_prompt<k##type>(args);            \
    }
KEEL_QUANTIZED_TYPES(KEEL_DEFINE_PROMPT)

}  // namespace keel::cuda
