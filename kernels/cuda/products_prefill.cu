// Products of weights in fragments (fragments.cuh) with 8-bit activations, of many tokens: a prompt's (NUMERICS section
// 2). Integers are exact in any order; the sum in f32 is one chain over blocks ascending.
//
// A warp takes 32 rows and 64 tokens. The warps of a block share the activations, copied a chunk ahead while they
// multiply. Weights come straight from memory in steps, the codes of some runs, the next ones on their way.
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/product_rows.cuh"

namespace keel::cuda {
namespace {

constexpr uint32_t kTokenGroups = kPromptTokens / 8;

// A step: runs of a block whose lower bits a lane has in 16 bytes, or a block of 32.
template <WeightType T>
struct PromptShape {
    using Fragments = FragmentShape<T>;
    static constexpr kernels::WeightTypeInfo kInfo = kWeightTypes[T];
    static constexpr bool kSuper = kInfo.sub_block != 0;
    static constexpr uint32_t kRuns = kSuper ? 8 / Fragments::kLowBits : 1;
    static constexpr uint32_t kSteps = Fragments::kRuns / kRuns;
    // Steps on their way: as many as there are registers for.
    static constexpr uint32_t kAhead = 1;
    static constexpr uint32_t kLowBytes = Fragments::kLowBytes / kSteps, kHighBytes = Fragments::kHighBytes / kSteps;
    static constexpr bool kMinima = kSuper && kInfo.m_at != kernels::kNoField;
    // Whether codes times their scales fit a byte, so that matrix units add up whole blocks.
    static constexpr bool kScaled = T == kQ2_K || T == kQ3_K;
    // Of a chunk in shared memory, in words: codes of its tokens, scales [block][token], sums of every token.
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
        load_words<Shape::kLowBytes>(block + 512 * s, lane, 0, low.w);
        if constexpr (Shape::kHighBytes)
            load_words<Shape::kHighBytes>(block + FragmentShape<T>::kHighAt, lane, s * Shape::kHighBytes / 4, high.w);
    }
    // The four words of run r of the step, of types whose codes are scaled as they are written.
    KEEL_GPU void values(uint32_t r, uint32_t a[4]) const {
        constexpr uint32_t kLowBits = FragmentShape<T>::kLowBits, kHighBits = FragmentShape<T>::kHighBits;
        unpack_run<kLowBits>(low.w, r, a);
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
    // BYTES of a lane, from its word `first` on, of a plane in pieces of 16 bytes, or of BYTES where it is shorter.
    template <uint32_t BYTES>
    static KEEL_GPU void load_words(const uint8_t* plane, uint32_t lane, uint32_t first, uint32_t* w) {
        constexpr uint32_t kPiece = Shape::kSuper ? 16 : BYTES;
        const uint8_t* p = plane + first / 4 * 512 + lane * kPiece + first % 4 * 4;
        if constexpr (BYTES == 2) {
            w[0] = load16(p);
        } else if constexpr (BYTES == 4) {
            w[0] = *reinterpret_cast<const uint32_t*>(p);
        } else if constexpr (BYTES == 8) {
            const Words2 words = *reinterpret_cast<const Words2*>(p);
            w[0] = words.x, w[1] = words.y;
        } else {
            static_assert(BYTES == 16);
            const Words4 words = *reinterpret_cast<const Words4*>(p);
            w[0] = words.x, w[1] = words.y, w[2] = words.z, w[3] = words.w;
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

// Begins to copy a chunk from element `first` on, as far as there is one, of `tokens` tokens, whose activations are at
// x.
template <WeightType T>
KEEL_GPU void stage_prompt(const ProductArgs& args, const uint8_t* x, uint32_t tokens, uint32_t first, uint32_t* to) {
    if (first >= args.k) return;
    using Shape = PromptShape<T>;
    constexpr uint32_t kElements = Shape::kInfo.block_elements;
    const uint32_t token_bytes = static_cast<uint32_t>(args.x_token_bytes);
    const kernels::Q8Token planes = q8_token(x, args.k, kElements);
    // Of every token `pieces` in a row, each by one thread: copy(to, from) of a token's piece.
    const auto copy = [&](uint32_t pieces, uint32_t words, uint32_t token_words, uint32_t* place, const void* plane,
                          const auto& copy_piece) {
        const uint32_t piece = thread_x() % pieces, threads = block_threads() / pieces;
        const uint8_t* from = static_cast<const uint8_t*>(plane);
        uint32_t token = thread_x() / pieces, at = token * token_bytes;
        for (place += token * token_words + piece * words; token < tokens; token += threads) {
            copy_piece(place, from + at);
            at += threads * token_bytes;
            place += threads * token_words;
        }
    };
    constexpr uint32_t kPieces = kPromptChunk / 16;
    const uint32_t piece = thread_x() % kPieces, block = thread_x() % Shape::kScaleCount;
    if (first + 16 * piece < args.k)
        copy(kPieces, 4, Shape::kCodeWords, to, planes.q + first + 16 * piece,
             [](uint32_t* place, const uint8_t* from) { copy16(place, from); });
    if (first + block * kElements < args.k)
        copy(Shape::kScaleCount, kPromptTokens, 1, to + Shape::kScalesAt, planes.d + first / kElements + block,
             [](uint32_t* place, const uint8_t* from) { copy4(place, from); });
    if constexpr (Shape::kMinima)
        copy(2, 4, 8, to + Shape::kSumsAt, planes.sums + first / 16 + thread_x() % 2 * 8,
             [](uint32_t* place, const uint8_t* from) { copy16(place, from); });
    copy_commit();
}

// f32 whose bits, with a small integer added to them, are the f32 of 12582912 + that integer.
constexpr int32_t kBitsOfPromptInteger = 0x4b400000;
KEEL_GPU float prompt_float_of(int32_t bits) {
    return f32_from_bits(static_cast<uint32_t>(bits)) - 12582912.0f;
}

// acc += d * d_token * sum, then m * d_token * sum_m.
KEEL_GPU float prompt_chain(float acc, float d, float d_token, float sum) {
    return fma_f32(mul_f32(d, d_token), sum, acc);
}

// The sums of 32 rows and 64 tokens. Of every row group rows g, g, g + 8, g + 8; tokens 2t, 2t + 1 in turn.
struct PromptSums {
    float of[kPromptGroups][kTokenGroups][4];
};

// The weights of a warp. multiply() is for a chunk, one block of 256 or up to eight of 32; `left`: elements from there
// to the end. Behind the last block there is none: it is loaded once more.
template <WeightType T, bool SUPER = PromptShape<T>::kSuper>
struct PromptWeights;

template <WeightType T>
struct PromptWeights<T, true> {
    using Shape = PromptShape<T>;
    const uint8_t* w[kPromptGroups];  // the block that is multiplied
    PromptHead<T> head[kPromptGroups];
    PromptStep<T> step[Shape::kAhead][kPromptGroups];

    KEEL_GPU void begin(uint32_t, uint32_t lane) {
        KEEL_UNROLL
        for (uint32_t r = 0; r < kPromptGroups; ++r) {
            head[r].load(w[r], lane);
            KEEL_UNROLL
            for (uint32_t s = 0; s < Shape::kAhead; ++s) step[s][r].load(w[r], lane, s);
        }
    }
    KEEL_GPU void multiply(const uint32_t* chunk, uint32_t left, uint32_t lane, PromptSums* acc) {
        static_assert(Shape::kSteps % Shape::kAhead == 0);
        const uint32_t g = lane / 4, t = lane % 4;
        const uint32_t to_next = left > kPromptChunk ? FragmentShape<T>::kBytes : 0;
        int32_t sums[kPromptGroups][kTokenGroups][4] = {};
        KEEL_UNROLL
        for (uint32_t s = 0; s < Shape::kSteps; ++s) {
            // Always so: a branch, so that no more is begun at once than there are registers for.
            if (s && left <= s) continue;
            uint32_t a[kPromptGroups][Shape::kRuns][4];
            int32_t scales[kPromptGroups][2][2 * Shape::kRuns];  // of halves g, g + 8; one or two of a run
            KEEL_UNROLL
            for (uint32_t r = 0; r < kPromptGroups; ++r) {
                KEEL_UNROLL
                for (uint32_t run = 0; run < Shape::kRuns; ++run) {
                    step[s % Shape::kAhead][r].values(run, a[r][run]);
                    KEEL_UNROLL
                    for (uint32_t half = 0; half < 2; ++half) {
                        const uint32_t at = s * Shape::kRuns + run;
                        const auto scale = [&](uint32_t j) {
                            const uint32_t four = scales4<T>(head[r].scales[half], j / 4);
                            return Shape::kMinima ? static_cast<int32_t>(pick_bytes(four, 0, 0x4440 + j % 4))
                                                  : byte_at(four, j);
                        };
                        if constexpr (Shape::kInfo.sub_block == 32) {
                            scales[r][half][run] = scale(at);
                        } else {
                            scales[r][half][2 * run] = scale(2 * at);
                            scales[r][half][2 * run + 1] = scale(2 * at + 1);
                        }
                        if constexpr (Shape::kScaled) {
                            a[r][run][half] = scaled_codes<T>(a[r][run][half], scales[r][half][2 * run]);
                            a[r][run][2 + half] = scaled_codes<T>(a[r][run][2 + half], scales[r][half][2 * run + 1]);
                        }
                    }
                }
            }
            // What is not needed any more makes room for what comes.
            KEEL_UNROLL
            for (uint32_t r = 0; r < kPromptGroups; ++r) {
                const uint32_t then = s + Shape::kAhead;
                step[s % Shape::kAhead][r].load(w[r] + (then < Shape::kSteps ? 0 : to_next), lane,
                                                then % Shape::kSteps);
            }
            KEEL_UNROLL
            for (uint32_t group = 0; group < kTokenGroups; ++group) {
                const uint32_t* token = chunk + 8 * group * Shape::kCodeWords + s * Shape::kRuns * 8;
                if constexpr (Shape::kInfo.sub_block == 32) {
                    KEEL_UNROLL
                    for (uint32_t run = 0; run < Shape::kRuns; ++run) {
                        const Words2 b =
                            *reinterpret_cast<const Words2*>(token + g * Shape::kCodeWords + 8 * run + 2 * t);
                        KEEL_UNROLL
                        for (uint32_t r = 0; r < kPromptGroups; ++r) {
                            int32_t q[4];
                            mma_s8_from(q, 0, a[r][run], b.x, b.y);
                            KEEL_UNROLL
                            for (uint32_t c = 0; c < 4; ++c) sums[r][group][c] += scales[r][c / 2][run] * q[c];
                        }
                    }
                } else {
                    KEEL_UNROLL
                    for (uint32_t run = 0; run < Shape::kRuns; run += 2) {
                        uint32_t b[4];
                        load_matrices(b, token + lane % 8 * Shape::kCodeWords + 8 * run + lane / 8 * 4);
                        KEEL_UNROLL
                        for (uint32_t i = 0; i < 2; ++i) {
                            KEEL_UNROLL
                            for (uint32_t r = 0; r < kPromptGroups; ++r) {
                                const uint32_t* of_run = a[r][run + i];
                                if constexpr (Shape::kScaled) {
                                    mma_s8(sums[r][group], of_run, b[2 * i], b[2 * i + 1]);
                                    continue;
                                }
                                int32_t q[4] = {}, p[4] = {};
                                mma_s8(q, of_run[0], of_run[1], b[2 * i]);
                                mma_s8(p, of_run[2], of_run[3], b[2 * i + 1]);
                                KEEL_UNROLL
                                for (uint32_t c = 0; c < 4; ++c) {
                                    const int32_t* scale = scales[r][c / 2] + 2 * (run + i);
                                    sums[r][group][c] += scale[0] * q[c];
                                    sums[r][group][c] += scale[1] * p[c];
                                }
                            }
                        }
                    }
                }
            }
        }
        if (left <= Shape::kSteps) return;
        float d[kPromptGroups][2], minimum[kPromptGroups][2];
        uint32_t minima[kPromptGroups][2];
        KEEL_UNROLL
        for (uint32_t r = 0; r < kPromptGroups; ++r) {
            KEEL_UNROLL
            for (uint32_t half = 0; half < 2; ++half) {
                d[r][half] = d_of<T>(head[r].factors[half]);
                if constexpr (kScaledNegative<T>) d[r][half] = -d[r][half];
                if constexpr (Shape::kMinima) {
                    minimum[r][half] = -minimum_of(head[r].factors[half]);
                    minima[r][half] = minima_of(head[r].scales[half], t);
                }
            }
            w[r] += to_next;
            head[r].load(w[r], lane);
        }
        KEEL_UNROLL
        for (uint32_t group = 0; group < kTokenGroups; ++group) {
            const Words2 of_tokens = *reinterpret_cast<const Words2*>(chunk + Shape::kScalesAt + 8 * group + 2 * t);
            const float d_token[2] = {f32_from_bits(of_tokens.x), f32_from_bits(of_tokens.y)};
            uint32_t upper_part = 0, lower_part = 0;
            if constexpr (Shape::kMinima) {
                // Sums of sixteen, at most 2032, as 128 times an upper part and seven lower bits.
                const Words2 s = *reinterpret_cast<const Words2*>(chunk + Shape::kSumsAt + 8 * (8 * group + g) + 2 * t);
                upper_part = pick_bytes(s.x >> 7, s.y >> 7, 0x6420);
                lower_part = pick_bytes(s.x, s.y, 0x6420) & 0x7f7f7f7fu;
            }
            KEEL_UNROLL
            for (uint32_t r = 0; r < kPromptGroups; ++r) {
                int32_t upper[4] = {}, lower[4] = {};
                if constexpr (Shape::kMinima) {
                    mma_s8(upper, minima[r][0], minima[r][1], upper_part);
                    mma_s8(lower, minima[r][0], minima[r][1], lower_part);
                }
                KEEL_UNROLL
                for (uint32_t c = 0; c < 4; ++c) {
                    float* to = &acc->of[r][group][c];
                    *to = prompt_chain(*to, d[r][c / 2], d_token[c % 2], static_cast<float>(sums[r][group][c]));
                    if constexpr (Shape::kMinima)
                        *to = prompt_chain(*to, minimum[r][c / 2], d_token[c % 2],
                                           static_cast<float>(lower[c] + 128 * upper[c]));
                }
            }
        }
    }
    // Those of sums 4t..4t+3.
    static KEEL_GPU uint32_t minima_of(const ScaleRegisters& scales, uint32_t t) {
        const auto four = [&](uint32_t n) { return minima4<T>(scales, n); };
        if constexpr (Shape::kInfo.sub_block == 16)
            return t < 2 ? (t == 0 ? four(0) : four(1)) : (t == 2 ? four(2) : four(3));
        else  // two sums of 16, and one minimum for both
            return pick_bytes(t < 2 ? four(0) : four(1), 0, t % 2 ? 0x3322 : 0x1100);
    }
};

template <WeightType T>
struct PromptWeights<T, false> {
    using Shape = PromptShape<T>;
    const uint8_t* w[kPromptGroups];
    PromptHead<T> head[Shape::kAhead][kPromptGroups];
    PromptStep<T> step[Shape::kAhead][kPromptGroups];

    // Block i of those that are left, or the first one.
    KEEL_GPU void load(uint32_t i, uint32_t left, uint32_t lane) {
        const uint32_t behind = 32 * i < left ? i * FragmentShape<T>::kBytes : 0;
        KEEL_UNROLL
        for (uint32_t r = 0; r < kPromptGroups; ++r) {
            head[i % Shape::kAhead][r].load(w[r] + behind, lane);
            step[i % Shape::kAhead][r].load(w[r] + behind, lane, 0);
        }
    }
    KEEL_GPU void begin(uint32_t left, uint32_t lane) {
        KEEL_UNROLL
        for (uint32_t i = 0; i < Shape::kAhead; ++i) load(i, left, lane);
    }
    KEEL_GPU void multiply(const uint32_t* chunk, uint32_t left, uint32_t lane, PromptSums* acc) {
        KEEL_NO_UNROLL
        for (uint32_t b = 0; b < Shape::kScaleCount && 32 * b < left; b += Shape::kAhead) {
            KEEL_UNROLL
            for (uint32_t i = 0; i < Shape::kAhead; ++i)
                if (32 * (b + i) < left) multiply_block(chunk, b + i, i, left - 32 * b, lane, acc);
            KEEL_UNROLL
            for (uint32_t r = 0; r < kPromptGroups; ++r) w[r] += Shape::kAhead * FragmentShape<T>::kBytes;
        }
    }

  private:
    // Block b of the chunk, i of those from w on.
    KEEL_GPU void multiply_block(const uint32_t* chunk, uint32_t b, uint32_t i, uint32_t left, uint32_t lane,
                                 PromptSums* acc) {
        const uint32_t g = lane / 4, t = lane % 4;
        uint32_t a[kPromptGroups][4];
        float d[kPromptGroups][2], minimum[kPromptGroups][2];
        KEEL_UNROLL
        for (uint32_t r = 0; r < kPromptGroups; ++r) {
            step[i][r].values(0, a[r]);
            KEEL_UNROLL
            for (uint32_t half = 0; half < 2; ++half) {
                d[r][half] = d_of<T>(head[i][r].factors[half]);
                if constexpr (Shape::kInfo.m_at != kernels::kNoField)
                    minimum[r][half] = minimum_of(head[i][r].factors[half]);
            }
        }
        load(i + Shape::kAhead, left, lane);
        KEEL_UNROLL
        for (uint32_t group = 0; group < kTokenGroups; ++group) {
            const Words2 codes = *reinterpret_cast<const Words2*>(chunk + (8 * group + g) * Shape::kCodeWords + 8 * b +
                                                                  2 * t),
                         of_tokens = *reinterpret_cast<const Words2*>(chunk + Shape::kScalesAt + b * kPromptTokens +
                                                                      8 * group + 2 * t);
            const float d_token[2] = {f32_from_bits(of_tokens.x), f32_from_bits(of_tokens.y)};
            float all[2] = {};  // the sums of 32 activations
            if constexpr (Shape::kInfo.m_at != kernels::kNoField) {
                constexpr uint32_t kOnes[4] = {0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u};
                int32_t q[4];
                mma_s8_from(q, kBitsOfPromptInteger, kOnes, codes.x, codes.y);
                all[0] = prompt_float_of(q[0]);
                all[1] = prompt_float_of(q[1]);
            }
            KEEL_UNROLL
            for (uint32_t r = 0; r < kPromptGroups; ++r) {
                int32_t q[4];
                mma_s8_from(q, kBitsOfPromptInteger, a[r], codes.x, codes.y);
                KEEL_UNROLL
                for (uint32_t c = 0; c < 4; ++c) {
                    float* to = &acc->of[r][group][c];
                    *to = prompt_chain(*to, d[r][c / 2], d_token[c % 2], prompt_float_of(q[c]));
                    if constexpr (Shape::kInfo.m_at != kernels::kNoField)
                        *to = prompt_chain(*to, minimum[r][c / 2], d_token[c % 2], all[c % 2]);
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
    // With a gate the two groups of a warp are of the two matrices. A group that is not there is computed as the first
    // one, for company at barriers.
    const bool gated = args.gate != ProductGate::kNone;
    const uint32_t of_warp = block_y() * warps + warp;
    const auto group_of = [&](uint32_t r) {
        return args.group_begin + (gated ? of_warp : kPromptGroups * of_warp + r);
    };
    PromptWeights<T> weights;
    KEEL_UNROLL
    for (uint32_t r = 0; r < kPromptGroups; ++r) {
        const uint32_t group = group_of(r);
        const GroupRows at = rows_of_group(args, group < args.group_end ? group : args.group_begin);
        weights.w[r] = in_global(args.matrix[gated ? r : at.matrix].w + at.first_row * args.w_row_bytes);
    }
    weights.begin(args.k, lane);
    uint32_t* staged = reinterpret_cast<uint32_t*>(shared_memory());
    // Tokens that are not there are computed from whatever lies in their place, and not stored.
    PromptSums acc = {};
    const uint8_t* x = in_global(token_of(args, first_token));
    stage_prompt<T>(args, x, tokens, 0, staged);
    for (uint32_t first = 0, buffer = 0; first < args.k; first += kPromptChunk, buffer ^= 1) {
        copy_wait<0>();
        sync_block();  // the chunk is there as a whole, and nobody reads the one before
        stage_prompt<T>(args, x, tokens, first + kPromptChunk, staged + (buffer ^ 1) * Shape::kWords);
        weights.multiply(staged + buffer * Shape::kWords, args.k - first, lane, &acc);
    }
    sync_block();
    // Through shared memory of the warp, so that what becomes of a sum stands here once and rows lie side by side.
    float* results = reinterpret_cast<float*>(staged) + warp * kPromptResultFloats;
    KEEL_UNROLL
    for (uint32_t part = 0; part < 2; ++part) {
        constexpr uint32_t kTokens = kPromptTokens / 2;
        KEEL_UNROLL
        for (uint32_t n = 0; n < kTokens / 8 * 4 * kPromptGroups; ++n) {
            const uint32_t r = n / (kTokens / 2), group = n / 4 % (kTokens / 8), c = n % 4;
            results[(8 * group + 2 * (lane % 4) + c % 2) * kPromptResultStride + 16 * r + lane / 4 + 8 * (c / 2)] =
                acc.of[r][part * (kTokens / 8) + group][c];
        }
        sync_warp();
        const uint32_t row = lane % kGroupRows, upper = lane / kGroupRows, group = group_of(gated ? 0 : upper);
        const GroupRows at = rows_of_group(args, group);
        KEEL_NO_UNROLL
        for (uint32_t token = gated ? upper : 0; token < kTokens; token += gated ? 2 : 1) {
            if (group >= args.group_end || part * kTokens + token >= tokens) break;
            const float* sums = results + token * kPromptResultStride + row;
            float value = with_bias(args.matrix[at.matrix], at.first_row + row, sums[gated ? 0 : 16 * upper]);
            if (gated) value = gated_value(args.gate, value, with_bias(args.matrix[1], at.first_row + row, sums[16]));
            store(args, args.matrix[at.matrix], at.first_row + row, first_token + part * kTokens + token, value);
        }
        sync_warp();
    }
}

}  // namespace

#define KEEL_DEFINE_PROMPT(type, ...)              \
    KEEL_GPU_KERNEL_OF(product_prompt_##type, 1) { \
        multiply_prompt<k##type>(args);            \
    }
KEEL_QUANTIZED_TYPES(KEEL_DEFINE_PROMPT)

}  // namespace keel::cuda
