// Matrix products with 8-bit activations (NUMERICS section 2) for any vector instruction set: templates over a struct V
// of integer vectors (q8_avx2.h, q8_avx512.h, q8_neon.h). q8_unpack.h says what V provides and takes rows apart.
//
// One token, and up to four of plain rows of common types (few_direct) where V::kInPlace says so: codes go from the
// bytes to the products in registers. So do two tokens of repacked rows whose panels cost more (V::kSplitSigns). A few
// of repacked rows, of types whose codes are taken out by few instructions (V::kInPlace): the same, in passes of up to
// V::kInPlaceTokens tokens (one token: only where a group has several times L rows), whose sums are in registers, over
// a few blocks at a time. A few of other rows: V::kTilePanels groups of L rows are unpacked a few blocks at a time into
// panels that stay in the first-level cache, and passes of up to V::kTileTokens tokens use them. In all of these, every
// weight byte is read once, and a further token costs little but its products.
// More tokens: groups of L rows are unpacked into panels over the whole of k, in the caller's scratch too, and
// register tiles of V::kTilePanels groups by V::kTileTokens tokens walk over them.
//
// What is compiled for each type: direct_rows, group_times_tokens, and how rows become panels. Passes over panels are
// for each kind of panel (PanelKind), what walks over rows and tokens (multiply_few, multiply_in_place, multiply_many)
// is there once and knows a type as data (PanelSource, InPlacePasses).
#pragma once
#include <string.h>

#include <type_traits>
#include <utility>

#include "kernels/cpu/families.h"
#include "kernels/cpu/matmul/q8_unpack.h"
#include "kernels/cpu/vector/inline.h"

namespace keel::kernels {
namespace {

// ---- products ----

// The three planes of all tokens; token c lies c * stride bytes on.
struct TokenPlanes {
    const uint8_t *q, *d, *sums;
    uint64_t stride;
    KEEL_INLINE TokenPlanes of(const MatmulArgs& a, uint32_t block) {
        const Q8Token x = q8_token(a.x, a.k, block);
        return {reinterpret_cast<const uint8_t*>(x.q), reinterpret_cast<const uint8_t*>(x.d),
                reinterpret_cast<const uint8_t*>(x.sums), a.x_token_bytes};
    }
};

// What the block's sums start from: minus offset times the sum of the activations, for types without integer scales.
template <class V, PanelKind K>
KEEL_INLINE typename V::I start_block(const uint8_t* sums) {
    typename V::I sum = V::zero();
    if constexpr (K.offset != 0) {
        const typename V::I pair = V::set1_16(-K.offset);
        each_index<static_cast<int>(K.elements / 32)>(
            [&](auto i) KEEL_ALWAYS_INLINE { sum = V::dot2(sum, pair, sums + 4 * i.value); });
    }
    return sum;
}

// 32 elements of R groups of L rows and N tokens: sum[r * N + c]. code(r, j): dword j of group r; scale(r, i): of this
// chunk's one or two sub-blocks; q(c): token c at the chunk.
template <class V, PanelKind K, int N, int R, class Codes, class Scales, class Address>
KEEL_INLINE void multiply_chunk(Codes&& code, Scales&& scale, Address&& q, typename V::I* sum) {
    using I = typename V::I;
    constexpr uint32_t kSub = K.sub;
    if constexpr (V::kHasDot4) {
        constexpr int kRun = kSub == 16 ? 4 : 8;
        KEEL_UNROLL
        for (int first = 0; first < 8; first += kRun) {
            I t[R * N];
            KEEL_UNROLL
            for (int i = 0; i < R * N; ++i) t[i] = kSub == 0 ? sum[i] : V::zero();
            KEEL_UNROLL
            for (int j = first; j < first + kRun; ++j) {
                I w[R];
                KEEL_UNROLL
                for (int r = 0; r < R; ++r) w[r] = code(r, j);
                KEEL_UNROLL
                for (int c = 0; c < N; ++c) {
                    const I x = V::broadcast_dword(q(c) + 4 * j);
                    KEEL_UNROLL
                    for (int r = 0; r < R; ++r) t[r * N + c] = V::dot4(t[r * N + c], w[r], x);
                }
            }
            KEEL_UNROLL
            for (int i = 0; i < R * N; ++i)
                sum[i] = kSub == 0 ? t[i] : V::multiply_add(sum[i], t[i], scale(i / N, first / 4));
        }
    } else {
        V::template multiply_chunk<K.is_signed, K.run, kSub, N, R>(code, scale, q, sum);
    }
}

// The activation sums of a block's sub-blocks times their factors: acc[r * N + c] of group r's factors and token c.
// Tokens have sums of 16 elements.
template <class V, PanelKind K, int N, int R, class Pairs>
KEEL_INLINE void dot_sums(Pairs&& pairs, const uint8_t* sums, const uint64_t* at, typename V::I* acc) {
    constexpr int kPairs = BlockFactors<V, K>::kPairs;
    static_assert(K.sub == 16 || K.sub == 32);
    alignas(16) uint8_t of_32[K.sub == 32 ? N : 1][16];
    if constexpr (K.sub == 32) {
        KEEL_UNROLL
        for (int c = 0; c < N; ++c) V::add_neighbours(sums + at[c], of_32[c]);
    }
    const auto of_sub = [&](int c) KEEL_ALWAYS_INLINE { return K.sub == 32 ? of_32[c] : sums + at[c]; };
    if constexpr (requires { V::template dot_sums<kPairs>(acc[0], pairs(0), sums); }) {
        KEEL_UNROLL
        for (int i = 0; i < R * N; ++i) acc[i] = V::template dot_sums<kPairs>(acc[i], pairs(i / N), of_sub(i % N));
    } else {
        each_part<R * N <= 2, kPairs>([&](auto pair) KEEL_ALWAYS_INLINE {
            KEEL_UNROLL
            for (int i = 0; i < R * N; ++i)
                acc[i] = V::dot2(acc[i], pairs(i / N)[pair.value], of_sub(i % N) + 4 * pair.value);
        });
    }
}

// The end of a block for R groups and N tokens whose planes lie at[c] bytes from d and sums: what the activation sums
// contribute, then the f32 part. factors(r): of group r. sum and acc: [r * N + c].
template <class V, PanelKind K, int N, int R, class Factors>
KEEL_INLINE void finish_block(Factors&& factors, typename V::I* sum, const uint8_t* d, const uint8_t* sums,
                              const uint64_t* at, typename V::F* acc) {
    using I = typename V::I;
    using F = typename V::F;
    const auto pairs = [&](int r) KEEL_ALWAYS_INLINE { return factors(r).pair(); };
    I m[R * N];
    if constexpr (K.minimum) {
        KEEL_UNROLL
        for (int i = 0; i < R * N; ++i)
            m[i] = K.sub == 0 ? V::dot2(V::zero(), V::set1_16(1), sums + at[i % N]) : V::zero();
    }
    if constexpr (K.paired) dot_sums<V, K, N, R>(pairs, sums, at, K.minimum ? m : sum);
    KEEL_UNROLL
    for (int i = 0; i < R * N; ++i) {
        const F da = V::broadcast(d + at[i % N]);
        acc[i] = V::fma(V::mul(factors(i / N).d, da), V::to_float(sum[i]), acc[i]);
        if constexpr (K.minimum) {
            const F of_minima = V::mul(factors(i / N).m, da);
            acc[i] = K.sub == 0 ? V::fma(of_minima, V::to_float(m[i]), acc[i])
                                : V::fnma(of_minima, V::to_float(m[i]), acc[i]);
        }
    }
}

// Bias, residual and store of rows row .. row + count - 1 of one token.
template <class V>
KEEL_ONE_COPY void store_some_rows(const MatmulArgs& a, uint32_t row, uint32_t count, uint32_t token,
                                   typename V::F dots) {
    float lane[V::kLanes];
    V::store_floats(lane, dots);
    for (uint32_t r = 0; r < count; ++r) store_dot(a, row + r, token, lane[r]);
}
template <class V>
KEEL_INLINE void store_rows(const MatmulArgs& a, uint32_t row, uint32_t count, uint32_t token, typename V::F dots) {
    if (count == V::kLanes) {
        if (a.bias) dots = V::add(dots, V::load_floats(a.bias + row));
        float* y = a.y[token] + row;
        if (a.accumulate) dots = V::add(V::load_floats(y), dots);
        V::store_floats(y, dots);
    } else {
        store_some_rows<V>(a, row, count, token, dots);
    }
}

// dots[r * n + c]: rows row + r * L .. of `rows` rows, tokens token + c that there are.
template <class V>
KEEL_ONE_COPY void store_tile(const MatmulArgs& a, uint32_t row, uint32_t rows, uint32_t token, uint32_t n,
                              const typename V::F* dots) {
    const uint32_t tokens = a.tokens - token < n ? a.tokens - token : n;
    for (uint32_t r = 0; r < rows; r += V::kLanes, dots += n) {
        KEEL_KEEP_LOOP
        for (uint32_t c = 0; c < tokens; ++c)
            store_rows<V>(a, row + r, rows - r < V::kLanes ? rows - r : V::kLanes, token + c, dots[c]);
    }
}

// ---- which ways a type has ----

// Types whose dwords hold codes that at most three instructions take out: cheaper than to store and load unpacked ones.
constexpr bool codes_in_place(WeightType type) {
    return type == kQ4_0 || type == kQ4_1 || type == kQ4_K || type == kQ8_0;
}

// Whether one token of repacked rows of those types goes in passes too: the groups of L rows that a group of repacked
// ones has then share the activations in registers.
template <class V>
constexpr bool one_in_place() {
    return V::kLanes < kRepackRows;
}

// Types of which a few tokens of plain rows are taken straight from the weights. Others, that few models are made of,
// go through panels, which takes up to 1.4 times as long and no code of their own.
constexpr bool few_direct(WeightType type) {
    return codes_in_place(type) || type == kQ5_K || type == kQ6_K;
}

// Whether the parts of a block are written out where weights are read once: then memory is waited for. Not those of
// trellises, whose look-ups take longer.
template <class Source>
constexpr bool written_out(WeightType type) {
    return !is_trellis(type) && (Source::kInterleaved || few_direct(type));
}

// ---- one token, and up to four of plain rows: straight from the weights ----

// Tokens from `token` on, n of them at least counted; tokens past the last repeat it.
KEEL_INLINE void token_offsets(const MatmulArgs& a, uint32_t token, uint32_t n, uint64_t* at) {
    for (uint32_t c = 0; c < n; ++c)
        at[c] = (c == 0 || token + c < a.tokens ? token + c : a.tokens - 1) * a.x_token_bytes;
}

// G times L rows times all tokens, which are at most N: rows[g] from row + g * L on. Groups take turns at every block,
// so that repacked ones are read once, in order.
template <class V, WeightType T, int G, int N, class Source>
void direct_rows(const MatmulArgs& a, Source* rows, uint32_t row) {
    using I = typename V::I;
    constexpr PanelKind K = panel_kind<V>(T);
    constexpr uint32_t kScalesPerChunk = K.sub == 16 ? 2 : 1, kChunks = K.elements / 32;
    const TokenPlanes x = TokenPlanes::of(a, K.elements);
    uint64_t at[N];
    token_offsets(a, 0, N, at);
    typename V::F acc[G * N];
    KEEL_UNROLL
    for (int i = 0; i < G * N; ++i) acc[i] = V::zero_floats();
    for (uint32_t b = 0; b < a.k / K.elements; ++b) {
        const uint8_t *q = x.q + uint64_t{b} * K.elements, *d = x.d + uint64_t{b} * 4,
                      *sums = x.sums + uint64_t{b} * (K.elements / 8);
        const uint8_t* ahead = a.from_memory ? rows[0].ahead(b, V::kLanes) : nullptr;
        int groups = G;
        if (G > 1) KEEL_OPAQUE(groups);  // a loop: the compiler would write its long body G times
        for (int g = 0; g < groups; ++g) {
            rows[g].at(b);
            BlockFactors<V, K> f;
            I sum[N];
            KEEL_UNROLL
            for (int c = 0; c < N; ++c) sum[c] = start_block<V, K>(sums + at[c]);
            unpack_rows<V, T, N == 1 && written_out<Source>(T)>(
                rows[g], f, [&](uint32_t chunk, const auto& made) KEEL_ALWAYS_INLINE {
                    if (ahead) fetch_part<V, Source, G * kChunks, N>(ahead, G * chunk + static_cast<uint32_t>(g));
                    const I* scale = f.scale() + kScalesPerChunk * chunk;
                    I code[8];
                    KEEL_UNROLL
                    for (int j = 0; j < 8; ++j) code[j] = made[j];
                    multiply_chunk<V, K, N, 1>([&](int, int j) KEEL_ALWAYS_INLINE { return code[j]; },
                                               [&](int, int i) KEEL_ALWAYS_INLINE { return scale[i]; },
                                               [&](int c) KEEL_ALWAYS_INLINE { return q + at[c] + 32 * chunk; }, sum);
                });
            finish_block<V, K, N, 1>(
                [&](int) KEEL_ALWAYS_INLINE -> const auto& { return f; }, sum, d, sums, at, acc + g * N);
        }
    }
    store_tile<V>(a, row, G * V::kLanes, 0, N, acc);
}

// ---- a few tokens: codes taken out of repacked weights where they are used ----

// Dword j of chunk `chunk` as unpack_rows gives it; `odd`: chunk % 2, at compile time.
template <class V, WeightType T, int odd>
KEEL_INLINE typename V::I code_in_place(const RepackedRows<V, T>& rows, uint32_t chunk, int j) {
    static_assert(codes_in_place(T));
    constexpr uint32_t kAt = T == kQ4_0 || T == kQ8_0 ? 2 : T == kQ4_K ? 16 : 4;
    typename V::I v;
    if constexpr (T == kQ8_0) {
        rows.template dwords<1>(kAt + 4 * static_cast<uint32_t>(j), &v);
        if constexpr (!V::kSignedCodes) v = V::xor_(v, V::set1_8(0x80));
        return v;
    } else {
        const bool high = T == kQ4_K ? odd : j >= 4;
        rows.template dwords<1>(
            kAt + (T == kQ4_K ? 32 * (chunk / 2) + 4 * static_cast<uint32_t>(j) : 4 * static_cast<uint32_t>(j % 4)),
            &v);
        return high ? bits_of<V, 4>(v, 15) : bits_of<V, 0>(v, 15);
    }
}

// result[r * N + c] goes on over `blocks` blocks from `first` on, for the R times L rows of a group and the N tokens
// whose planes lie at[c] bytes from those of token 0.
template <class V, WeightType T, int N>
KEEL_ONE_COPY void group_times_tokens(const uint8_t* group, uint32_t first, uint32_t blocks, bool fetch,
                                      const TokenPlanes& x, const uint64_t* token_at, typename V::F* result) {
    using I = typename V::I;
    constexpr PanelKind K = panel_kind<V>(T);
    constexpr uint32_t kScalesPerChunk = K.sub == 16 ? 2 : 1, kChunks = K.elements / 32;
    constexpr int R = kRepackRows / V::kLanes;
    const uint8_t *q = x.q + uint64_t{first} * K.elements, *d = x.d + uint64_t{first} * 4,
                  *sums = x.sums + uint64_t{first} * (K.elements / 8);
    uint64_t at[N];
    typename V::F acc[R * N];
    RepackedRows<V, T> rows[R];
    KEEL_UNROLL
    for (int c = 0; c < N; ++c) at[c] = token_at[c];
    KEEL_UNROLL
    for (int i = 0; i < R * N; ++i) acc[i] = result[i];
    KEEL_UNROLL
    for (uint32_t r = 0; r < R; ++r) rows[r] = {group, group, r * V::kLanes};
    for (uint32_t b = first; b < first + blocks; ++b, d += 4, sums += K.elements / 8) {
        const uint8_t* ahead = fetch ? rows[0].ahead(b, 0) : nullptr;
        BlockFactors<V, K> f[R];
        I sum[R * N];
        KEEL_UNROLL
        for (int r = 0; r < R; ++r) {
            rows[r].at(b);
            unpack_rows<V, T, false>(rows[r], f[r], [](uint32_t, const I*) KEEL_ALWAYS_INLINE {});
        }
        __asm__("" : "+m"(f));  // they wait in memory: sums and codes want all registers
        KEEL_UNROLL
        for (int c = 0; c < N; ++c) {
            const I start = start_block<V, K>(sums + at[c]);
            KEEL_UNROLL
            for (int r = 0; r < R; ++r) sum[r * N + c] = start;
        }
        for (uint32_t chunk = 0; chunk < kChunks; chunk += 2)
            each_index<(kChunks > 1 ? 2 : 1)>([&](auto odd) KEEL_ALWAYS_INLINE {
                if (ahead) fetch_part<V, RepackedRows<V, T>, kChunks, N>(ahead, chunk + odd.value);
                multiply_chunk<V, K, N, R>(
                    [&](int r, int j) KEEL_ALWAYS_INLINE { return code_in_place<V, T, odd.value>(rows[r], chunk, j); },
                    [&](int r, int i) KEEL_ALWAYS_INLINE {
                        return f[r].scale()[kScalesPerChunk * (chunk + odd.value) + static_cast<uint32_t>(i)];
                    },
                    [&](int c) KEEL_ALWAYS_INLINE { return q + at[c]; }, sum);
                q += 32;
            });
        finish_block<V, K, N, R>(
            [&](int r) KEEL_ALWAYS_INLINE -> const auto& { return f[r]; }, sum, d, sums, at, acc);
    }
    KEEL_UNROLL
    for (int i = 0; i < R * N; ++i) result[i] = acc[i];
}

// ---- unpacked blocks ----

// One dword of codes of L rows in a panel, and what the sums of a block start from because of how they are kept.
template <class V, bool kSplit>
struct PanelCodes {
    using Code = typename V::I;
    struct Start {};
};
template <class V>
struct PanelCodes<V, true> {
    using Code = typename V::SplitCode;
    using Start = typename V::I;
};
template <class V, PanelKind K>
struct PanelBlock {
    static constexpr bool kSplit = V::kSplitSigns && K.is_signed;
    typename PanelCodes<V, kSplit>::Code code[K.elements / 4];
    BlockFactors<V, K> factors;
    [[no_unique_address]] typename PanelCodes<V, kSplit>::Start start;
};

template <class V, WeightType T, class Source>
__attribute__((noinline)) void unpack_block(const Source& rows, PanelBlock<V, panel_kind<V>(T)>* p) {
    constexpr PanelKind K = panel_kind<V>(T);
    [[maybe_unused]] typename V::I start = V::zero();
    unpack_rows<V, T, written_out<Source>(T)>(
        rows, p->factors, [&](uint32_t chunk, const auto& code) KEEL_ALWAYS_INLINE {
            auto* to = p->code + 8 * chunk;
            KEEL_UNROLL
            for (int j = 0; j < 8; ++j) {
                if constexpr (PanelBlock<V, K>::kSplit) {
                    static_assert(K.sub == 0 || K.sub == 32, "one factor a chunk");
                    to[j] = V::split(code[j]);
                    start = V::add_lacking(start, to[j], K.sub ? p->factors.scale()[chunk] : V::set1_16(1));
                } else {
                    to[j] = code[j];
                }
            }
        });
    if constexpr (PanelBlock<V, K>::kSplit) p->start = start;
}

// What lies ahead is fetched between the chunks of a pass over panels; of blocks of one chunk, whose passes it would
// slow down even where nothing is fetched, while they are unpacked.
constexpr bool fetched_by_passes(PanelKind kind) {
    return kind.elements > 32;
}

// What a pass over panels fetches meanwhile: of R groups of L rows, those that come later.
struct Ahead {
    const uint8_t* first;  // of group 0 and the first block; null: nothing
    uint64_t distance;     // bytes from group to group
    uint32_t step;         // and from block to block
    uint32_t chunk_bytes;  // fetched with a chunk, whole lines: all of a step in as many parts as a block has chunks
};

// result[r * N + c] goes on over `blocks` blocks from `first` on, for R panels that lie `distance` blocks from each
// other and the N tokens whose planes lie at[c] bytes from those of token 0.
template <class V, PanelKind K, int N, int R>
KEEL_ONE_COPY void panel_times_tokens(const void* panels, uint64_t distance, uint32_t first, uint32_t blocks,
                                      const TokenPlanes& x, const uint64_t* token_at, Ahead ahead,
                                      typename V::F* result) {
    const auto* panel = static_cast<const PanelBlock<V, K>*>(panels);
    using I = typename V::I;
    constexpr uint32_t kScalesPerChunk = K.sub == 16 ? 2 : 1, kChunks = K.elements / 32;
    const uint8_t *q = x.q + uint64_t{first} * K.elements, *d = x.d + uint64_t{first} * 4,
                  *sums = x.sums + uint64_t{first} * (K.elements / 8);
    uint64_t at[N];
    typename V::F acc[R * N];
    KEEL_UNROLL
    for (int c = 0; c < N; ++c) at[c] = token_at[c];
    KEEL_UNROLL
    for (int i = 0; i < R * N; ++i) acc[i] = result[i];
    for (uint32_t b = 0; b < blocks; ++b, d += 4, sums += K.elements / 8) {
        const PanelBlock<V, K>& p = panel[b];
        const auto group = [&]<class Part>(const Part* of, int r) KEEL_ALWAYS_INLINE {
            return reinterpret_cast<const Part*>(reinterpret_cast<const uint8_t*>(of) +
                                                 static_cast<uint64_t>(r) * (distance * sizeof(p)));
        };
        I sum[R * N];
        KEEL_UNROLL
        for (int c = 0; c < N; ++c) {
            const I start = start_block<V, K>(sums + at[c]);
            KEEL_UNROLL
            for (int r = 0; r < R; ++r) {
                sum[r * N + c] = start;
                if constexpr (PanelBlock<V, K>::kSplit) sum[r * N + c] = *group(&p.start, r);
            }
        }
        for (uint32_t chunk = 0; chunk < kChunks; ++chunk, q += 32) {
            if (fetched_by_passes(K) && ahead.first) {
                const uint8_t* part = ahead.first + chunk * ahead.chunk_bytes;
                KEEL_UNROLL
                for (int r = 0; r < R; ++r, part += ahead.distance) {
                    KEEL_KEEP_LOOP
                    for (uint32_t i = 0; i < ahead.chunk_bytes; i += 64) __builtin_prefetch(part + i, 0, 2);
                }
            }
            multiply_chunk<V, K, N, R>([&](int r, int j) KEEL_ALWAYS_INLINE { return group(p.code + 8 * chunk, r)[j]; },
                                       [&](int r, int i) KEEL_ALWAYS_INLINE {
                                           return group(p.factors.scale() + kScalesPerChunk * chunk, r)[i];
                                       },
                                       [&](int c) KEEL_ALWAYS_INLINE { return q + at[c]; }, sum);
        }
        if (fetched_by_passes(K) && ahead.first) ahead.first += ahead.step;
        finish_block<V, K, N, R>(
            [&](int r)
                KEEL_ALWAYS_INLINE -> const auto& { return panel[b + static_cast<uint64_t>(r) * distance].factors; },
            sum, d, sums, at, acc);
    }
    KEEL_UNROLL
    for (int i = 0; i < R * N; ++i) result[i] = acc[i];
}

// How far the panels of a tile lie from each other, those of rows at `distance`: there are V::kTilePanels of them, and
// where there are not so many rows, the first ones again, of which nothing is stored.
template <class V>
constexpr uint64_t panel_distance(uint32_t rows, uint64_t distance) {
    return rows > (V::kTilePanels - 1) * V::kLanes ? distance : 0;
}

// ---- the product ----

// What a matrix unit does in place of register tiles: takes tokens 0 .. n - 1 times `rows` rows from `row` on, whose
// unpacked panels (PanelBlock) lie at `panels`, and returns n. Where n is all of them it may reorder the panels.
using MatrixUnit = uint32_t (*)(const MatmulArgs& a, void* panels, uint32_t row, uint32_t rows);

// fn(source) for `count` rows from `row` on: a source of whole groups of L rows or, where rows are missing, one that
// repeats the last.
template <class V, WeightType T, bool kRepacked, class Fn>
KEEL_INLINE void with_rows(const MatmulArgs& a, uint32_t row, uint32_t count, Fn&& fn) {
    const uint8_t* w = static_cast<const uint8_t*>(a.w);
    if constexpr (kRepacked) {
        const uint32_t lane = row % kRepackRows;
        const uint8_t* group = w + (row - lane) * a.w_row_bytes;
        RepackedRows<V, T> rows = {group, group, lane};
        fn(rows);
    } else if (count == V::kLanes) {
        const uint8_t* first = w + row * a.w_row_bytes;
        PlainRows<V, T> rows = {first, first, a.w_row_bytes};
        fn(rows);
    } else {
        PartialRows<V, T> rows(w + row * a.w_row_bytes, a.w_row_bytes, count);
        fn(rows);
    }
}

template <class V, WeightType T, bool kRepacked>
KEEL_ONE_COPY void unpack_panels(const MatmulArgs& a, uint32_t row, uint32_t rows, uint32_t first, uint32_t blocks,
                                 uint32_t distance, bool fetch, void* to) {
    auto* panels = static_cast<PanelBlock<V, panel_kind<V>(T)>*>(to);
    for (uint32_t r = 0; r < rows; r += V::kLanes, panels += distance)
        with_rows<V, T, kRepacked>(a, row + r, rows - r < V::kLanes ? rows - r : V::kLanes, [&](auto& source) {
            KEEL_KEEP_LOOP
            for (uint32_t b = 0; b < blocks; ++b) {
                source.at(first + b);
                constexpr bool kFetch = !fetched_by_passes(panel_kind<V>(T));
                if (const uint8_t* ahead =
                        kFetch && fetch ? source.ahead(first + b, V::kTilePanels * V::kLanes) : nullptr)
                    fetch_part<V, std::remove_reference_t<decltype(source)>, 1, V::kFewTokens>(ahead, 0);
                unpack_block<V, T>(source.block_rows(), panels + b);
            }
        });
}

// What products by panels need to know of a type, so that there is one of them for all.
template <class V>
struct PanelSource {
    // Blocks [first, first + blocks) of `rows` rows: block b of group g goes to panel g * distance + b.
    void (*unpack)(const MatmulArgs& a, uint32_t row, uint32_t rows, uint32_t first, uint32_t blocks, uint32_t distance,
                   bool fetch, void* panels);
    struct Pass {
        uint32_t tokens;
        decltype(&panel_times_tokens<V, panel_kind<V>(kQ8_0), 4, V::kTilePanels>) run;
    } pass[3];          // of 2, 4 and V::kTileTokens tokens
    uint32_t elements;  // of a block
    uint32_t block_bytes, panel_bytes;
    bool repacked, fetched_by_passes;
};
template <class V, WeightType T, bool kRepacked, PanelKind K = panel_kind<V>(T), int R = V::kTilePanels>
constexpr PanelSource<V> kPanelSource = {unpack_panels<V, T, kRepacked>,
                                         {{2, panel_times_tokens<V, K, 2, R>},
                                          {4, panel_times_tokens<V, K, 4, R>},
                                          {V::kTileTokens, panel_times_tokens<V, K, V::kTileTokens, R>}},
                                         K.elements,
                                         block_shape(T).bytes,
                                         sizeof(PanelBlock<V, K>),
                                         kRepacked,
                                         fetched_by_passes(K)};

// The next pass when `left` tokens are left: what is left of them costs as little as passes of 2, 4, ... allow.
template <class V>
KEEL_INLINE const typename PanelSource<V>::Pass& next_pass(const PanelSource<V>& source, uint32_t left) {
    return source.pass[V::kTileTokens > 4 && left > 6 ? 2 : left > 2 ? 1 : 0];
}

// What lies ahead of block `first` of the groups from `row` on: of repacked rows, what follows in memory; of plain
// ones, the same part of the rows behind.
template <class V>
KEEL_INLINE Ahead blocks_ahead(const MatmulArgs& a, const PanelSource<V>& source, uint32_t row, uint32_t first) {
    if (!a.from_memory || !source.fetched_by_passes) return {};
    const uint32_t group_bytes = V::kLanes * source.block_bytes,
                   step = source.repacked ? kRepackRows * source.block_bytes : group_bytes,
                   part = 64 * (source.elements / 32);
    const uint8_t* rows = static_cast<const uint8_t*>(a.w) +
                          uint64_t{row + (source.repacked ? 0 : V::kTilePanels * V::kLanes)} * a.w_row_bytes;
    // Whether one group of repacked rows has the rows of all panels of a tile.
    const bool one_group = source.repacked && V::kLanes < kRepackRows;
    return {rows + uint64_t{first} * step + (source.repacked ? kRepackedAheadBytes : 0),
            one_group ? group_bytes : V::kLanes * a.w_row_bytes, step, (group_bytes + part - 1) / part * 64};
}

// Up to V::kFewTokens tokens.
template <class V>
KEEL_ONE_COPY void multiply_few(const MatmulArgs& a, const PanelSource<V>& source) {
    constexpr uint32_t R = V::kTilePanels, kRows = R * V::kLanes;
    // Blocks unpacked at a time: products in between give memory time to deliver the next ones.
    const uint32_t blocks = a.k / source.elements, stretch = source.elements < 64 ? 64 / source.elements : 1;
    const TokenPlanes x = TokenPlanes::of(a, source.elements);
    uint64_t at[V::kFewTokens];
    token_offsets(a, 0, V::kFewTokens, at);
    typename V::F acc[R * V::kFewTokens];
    for (uint32_t row = a.row_begin; row < a.row_end; row += kRows) {
        const uint32_t rows = a.row_end - row < kRows ? a.row_end - row : kRows;
        KEEL_KEEP_LOOP
        for (uint32_t i = 0; i < R * V::kFewTokens; ++i) acc[i] = V::zero_floats();
        for (uint32_t first = 0; first < blocks; first += stretch) {
            const uint32_t count = blocks - first < stretch ? blocks - first : stretch;
            source.unpack(a, row, rows, first, count, stretch, a.from_memory && !source.fetched_by_passes, a.scratch);
            Ahead ahead = blocks_ahead<V>(a, source, row, first);
            for (uint32_t c = 0; c < a.tokens;) {
                const auto& pass = next_pass<V>(source, a.tokens - c);
                pass.run(a.scratch, panel_distance<V>(rows, stretch), first, count, x, at + c, ahead, acc + R * c);
                ahead = {};
                c += pass.tokens;
            }
        }
        for (uint32_t c = 0, n; c < a.tokens; c += n) {
            n = next_pass<V>(source, a.tokens - c).tokens;
            store_tile<V>(a, row, rows, c, n, acc + R * c);
        }
    }
}

// Tokens of the next pass when `left` are left, InPlacePasses::kLeast at least: as few passes as there can be, as
// equal as they can be.
template <class V>
constexpr uint32_t in_place_tokens(uint32_t left) {
    const uint32_t passes = (left + V::kInPlaceTokens - 1) / V::kInPlaceTokens;
    return (left + passes - 1) / passes;
}
template <class V>
struct InPlacePasses {
    static constexpr int kLeast = one_in_place<V>() ? 1 : 2;
    decltype(&group_times_tokens<V, kQ8_0, 2>) of[V::kInPlaceTokens - kLeast + 1];  // of kLeast tokens and more
};
template <class V, WeightType T, int... N>
constexpr InPlacePasses<V> in_place_passes(std::integer_sequence<int, N...>) {
    return {{group_times_tokens<V, T, N + InPlacePasses<V>::kLeast>...}};
}
template <class V, WeightType T>
constexpr InPlacePasses<V> kInPlacePasses =
    in_place_passes<V, T>(std::make_integer_sequence<int, V::kInPlaceTokens - InPlacePasses<V>::kLeast + 1>{});

// Up to V::kFewTokens tokens, InPlacePasses::kLeast at least, of repacked weights in blocks of so many elements.
template <class V>
KEEL_ONE_COPY void multiply_in_place(const MatmulArgs& a, const InPlacePasses<V>& passes, uint32_t elements) {
    constexpr uint32_t R = kRepackRows / V::kLanes;
    const uint32_t blocks = a.k / elements,
                   // Blocks that the passes take by turns: products in between give memory time for the next ones.
        stretch = a.tokens <= V::kInPlaceTokens ? blocks
                  : elements < 256              ? 256 / elements
                                                : 2;
    const TokenPlanes x = TokenPlanes::of(a, elements);
    uint64_t at[V::kFewTokens];
    token_offsets(a, 0, V::kFewTokens, at);
    typename V::F acc[R * V::kFewTokens];
    for (uint32_t row = a.row_begin; row < a.row_end; row += kRepackRows) {
        const uint8_t* group = static_cast<const uint8_t*>(a.w) + row * a.w_row_bytes;
        KEEL_KEEP_LOOP
        for (uint32_t i = 0; i < R * V::kFewTokens; ++i) acc[i] = V::zero_floats();
        for (uint32_t first = 0; first < blocks; first += stretch) {
            const uint32_t count = blocks - first < stretch ? blocks - first : stretch;
            for (uint32_t c = 0, n; c < a.tokens; c += n) {
                n = in_place_tokens<V>(a.tokens - c);
                passes.of[n - InPlacePasses<V>::kLeast](group, first, count, a.from_memory && c == 0, x, at + c,
                                                        acc + R * c);
            }
        }
        for (uint32_t c = 0, n; c < a.tokens; c += n) {
            n = in_place_tokens<V>(a.tokens - c);
            store_tile<V>(a, row, kRepackRows, c, n, acc + R * c);
        }
    }
}

// N tokens, straight from the weights. The end of a matrix whose rows are no multiple of L is rare, and so left to
// multiply_few.
template <class V, WeightType T, bool kRepacked, int N>
void multiply_direct(const MatmulArgs& a) {
    if constexpr (kRepacked) {
        constexpr int G = kRepackRows / V::kLanes;
        for (uint32_t row = a.row_begin; row < a.row_end; row += kRepackRows) {
            const uint8_t* group = static_cast<const uint8_t*>(a.w) + row * a.w_row_bytes;
            RepackedRows<V, T> rows[G];
            for (uint32_t g = 0; g < G; ++g) rows[g] = {group, group, g * V::kLanes};
            direct_rows<V, T, G, N>(a, rows, row);
        }
    } else {
        uint32_t row = a.row_begin;
        for (; row + V::kLanes <= a.row_end; row += V::kLanes) {
            const uint8_t* first = static_cast<const uint8_t*>(a.w) + row * a.w_row_bytes;
            PlainRows<V, T> rows = {first, first, a.w_row_bytes};
            direct_rows<V, T, 1, N>(a, &rows, row);
        }
        if (row == a.row_end) return;
        MatmulArgs rest = a;
        rest.row_begin = row;
        multiply_few<V>(rest, kPanelSource<V, T, kRepacked>);
    }
}

template <class V>
KEEL_ONE_COPY void multiply_many(const MatmulArgs& a, const PanelSource<V>& source, MatrixUnit unit) {
    constexpr uint32_t kRows = V::kTilePanels * V::kLanes;
    static_assert(kRows <= kRepackRows, "calls may have that many rows: a wider tile would be partly empty");
    const uint32_t blocks = a.k / source.elements, panel_bytes = blocks * source.panel_bytes;
    const uint64_t fit = matmul_scratch_bytes(a.k) / panel_bytes;
    const uint32_t step = V::kLanes * static_cast<uint32_t>(fit < V::kMaxPanels ? fit : V::kMaxPanels);
    const TokenPlanes x = TokenPlanes::of(a, source.elements);
    for (uint32_t row = a.row_begin; row < a.row_end; row += step) {
        const uint32_t rows = a.row_end - row < step ? a.row_end - row : step;
        source.unpack(a, row, rows, 0, blocks, blocks, false, a.scratch);
        for (uint32_t c = unit ? unit(a, a.scratch, row, rows) : 0; c < a.tokens;) {
            const auto& pass = source.pass[c + (V::kTileTokens - 4) < a.tokens ? 2 : 1];
            uint64_t at[V::kTileTokens];
            token_offsets(a, c, V::kTileTokens, at);
            for (uint32_t r = 0; r < rows; r += kRows) {
                const uint32_t here = rows - r < kRows ? rows - r : kRows;
                typename V::F acc[V::kTilePanels * V::kTileTokens];
                KEEL_KEEP_LOOP
                for (int i = 0; i < V::kTilePanels * V::kTileTokens; ++i) acc[i] = V::zero_floats();
                pass.run(static_cast<const uint8_t*>(a.scratch) + uint64_t{r / V::kLanes} * panel_bytes,
                         panel_distance<V>(here, blocks), 0, blocks, x, at, {}, acc);
                store_tile<V>(a, row + r, here, c, pass.tokens, acc);
            }
            c += pass.tokens;
        }
    }
}

// Any number of tokens. A matrix unit takes over as soon as there are more than one tile has.
template <class V, WeightType T, bool kRepacked>
KEEL_INLINE void matmul_q8_rows(const MatmulArgs& a, MatrixUnit unit = nullptr) {
    constexpr bool kCodesInPlace = kRepacked && V::kInPlace && codes_in_place(T);
    if constexpr (!(kCodesInPlace && one_in_place<V>())) {
        if (a.tokens == 1) {
            multiply_direct<V, T, kRepacked, 1>(a);
            return;
        }
    }
    if constexpr (V::kInPlace && !kRepacked && few_direct(T)) {
        if (a.tokens <= 4) {
            (a.tokens == 2 ? multiply_direct<V, T, false, 2> : multiply_direct<V, T, false, 4>)(a);
            return;
        }
    }
    // Two tokens are too few for what panels of split signs take to make.
    if constexpr (kRepacked && PanelBlock<V, panel_kind<V>(T)>::kSplit && !codes_in_place(T)) {
        if (a.tokens == 2) {
            multiply_direct<V, T, true, 2>(a);
            return;
        }
    }
    if (a.tokens > (unit ? V::kTileTokens : V::kFewTokens))
        multiply_many<V>(a, kPanelSource<V, T, kRepacked>, unit);
    else if constexpr (kCodesInPlace)
        multiply_in_place<V>(a, kInPlacePasses<V, T>, block_shape(T).elements);
    else
        multiply_few<V>(a, kPanelSource<V, T, kRepacked>);
}

}  // namespace
}  // namespace keel::kernels
