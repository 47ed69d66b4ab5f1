// Every kernel of every set this machine has, on one thread.
//
// Rates are counted in bytes the kernel must move: weights once, activations in and results out once. They are put
// beside two read-only streams measured in the same run, each summing 64-bit words of memory the process wrote before:
//   memory   a buffer of at least four times the last-level cache;
//   cached   a buffer as large as the working set of the case, read over and over.
// matmul walks over a weight buffer of four times the last-level cache ("memory" cases) or keeps one matrix of 2 MiB
// ("cached" cases); percent is against the stream of the same kind, for one column. Products count two operations each.
//
// peak/ cases are what the instructions of a set can do at most, with operands in registers: f32 fused multiply-adds,
// the 8-bit dot products its kernels are made of, and positions of trellis rows that attention looks up and multiplies
// (op/s: positions/s). perf/plots/roofline.py puts every product beside the ceilings of the first two.
//
//   keel_kernels_bench [--benchmark_filter=REGEX] [--benchmark_format=json]
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/cpu/families.h"
#include "kernels/cpu/kernel_set.h"
#include "kernels/formats/numeric.h"
#include "platform/platform.h"
#include "sdk/backend/cpu/kernel_choice.h"

namespace {

using namespace keel::kernels;
using keel::find_kernel_set;

uint64_t last_level_cache_bytes() {
    return std::max(keel::platform::last_level_cache_bytes(), uint64_t{32} << 20);
}
uint64_t memory_bytes() {
    return 4 * last_level_cache_bytes();
}

struct Plane {
    explicit Plane(size_t bytes)
        : data(static_cast<uint8_t*>(aligned_alloc(64, (bytes + 127) / 64 * 64))), bytes(bytes) {
        memset(data, 0, bytes);
    }
    ~Plane() { free(data); }
    Plane(const Plane&) = delete;
    uint8_t* data;
    size_t bytes;
    float* floats() { return reinterpret_cast<float*>(data); }
};

// ---- the read-only stream ----
#if defined(__x86_64__)
__attribute__((target("avx2"))) uint64_t sum_words(const uint8_t* p, size_t bytes) {
    __m256i s[8] = {};
    for (size_t i = 0; i + 256 <= bytes; i += 256)
        for (int j = 0; j < 8; ++j)
            s[j] = _mm256_add_epi64(s[j], _mm256_load_si256(reinterpret_cast<const __m256i*>(p + i + 32 * j)));
    for (int j = 1; j < 8; ++j) s[0] = _mm256_add_epi64(s[0], s[j]);
    return static_cast<uint64_t>(_mm256_extract_epi64(s[0], 0) + _mm256_extract_epi64(s[0], 1) +
                                 _mm256_extract_epi64(s[0], 2) + _mm256_extract_epi64(s[0], 3));
}
#else
uint64_t sum_words(const uint8_t* p, size_t bytes) {
    uint64_t s = 0, w;
    for (size_t i = 0; i + 8 <= bytes; i += 8) memcpy(&w, p + i, 8), s += w;
    return s;
}
#endif

double cpu_seconds() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);  // as the cases are timed: other load must not raise the percentage
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Bytes per second of the best of several passes over `bytes` bytes; measured once per size.
double stream_rate(uint64_t bytes) {
    static std::vector<std::pair<uint64_t, double>> known;
    for (const auto& k : known)
        if (k.first == bytes) return k.second;
    Plane plane(bytes);
    memset(plane.data, 1, bytes);
    const int repeats = static_cast<int>(std::max<uint64_t>(1, (64 << 20) / bytes));
    double best = 1e9;
    for (int pass = 0; pass < 7; ++pass) {
        const double begin = cpu_seconds();
        for (int i = 0; i < repeats; ++i) benchmark::DoNotOptimize(sum_words(plane.data, bytes));
        best = std::min(best, (cpu_seconds() - begin) / repeats);
    }
    known.push_back({bytes, static_cast<double>(bytes) / best});
    return known.back().second;
}

void report(benchmark::State& state, double bytes, double operations, uint64_t stream_bytes) {
    using benchmark::Counter;
    const double n = static_cast<double>(state.iterations());
    if (bytes > 0) state.counters["B/s"] = Counter(bytes * n, Counter::kIsRate);
    if (operations > 0) state.counters["op/s"] = Counter(operations * n, Counter::kIsRate);
    if (stream_bytes)
        state.counters["%stream"] = Counter(100 * bytes * n / stream_rate(stream_bytes), Counter::kIsRate);
}

void stream(benchmark::State& state, uint64_t bytes) {
    Plane plane(bytes);
    memset(plane.data, 1, bytes);
    for (auto _ : state) benchmark::DoNotOptimize(sum_words(plane.data, bytes));
    report(state, static_cast<double>(bytes), 0, bytes);
}

// ---- peaks: chains of one instruction each, enough of them in flight to hide its latency ----
#if defined(__x86_64__)
constexpr int kPeakSteps = 1024;
// The compiler believes that the register changes here: equal chains stay apart, and nothing moves out of the loop.
#define KEEL_OPAQUE(x) asm volatile("" : "+v"(x))

__attribute__((target("avx2,fma"))) double fma_peak_avx2() {
    __m256 sum[12] = {}, a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f);
    for (__m256& s : sum) KEEL_OPAQUE(s);
    for (int i = 0; i < kPeakSteps; ++i) {
        KEEL_OPAQUE(a);
#pragma GCC unroll 12
        for (int j = 0; j < 12; ++j) sum[j] = _mm256_fmadd_ps(sum[j], a, b);
    }
    for (__m256& s : sum) KEEL_OPAQUE(s);
    return 16.0 * 12 * kPeakSteps;
}
// Four products summed in 16 bits before they are widened, as codes of up to five bits allow; 8-bit codes need a
// widening of every product, and so stay below.
__attribute__((target("avx2"))) double int8_peak_avx2() {
    __m256i sum[4] = {}, a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(1);
    const __m256i ones = _mm256_set1_epi16(1);
    for (__m256i& s : sum) KEEL_OPAQUE(s);
    for (int i = 0; i < kPeakSteps; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            __m256i pairs = _mm256_maddubs_epi16(a, b);
#pragma GCC unroll 3
            for (int k = 1; k < 4; ++k) {
                KEEL_OPAQUE(b);
                pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(a, b));
            }
            KEEL_OPAQUE(b);
            sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(pairs, ones));
        }
    }
    for (__m256i& s : sum) KEEL_OPAQUE(s);
    return 256.0 * 4 * kPeakSteps;
}
__attribute__((target("avx512f"))) double fma_peak_avx512() {
    __m512 sum[12] = {}, a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
    for (__m512& s : sum) KEEL_OPAQUE(s);
    for (int i = 0; i < kPeakSteps; ++i) {
        KEEL_OPAQUE(a);
#pragma GCC unroll 12
        for (int j = 0; j < 12; ++j) sum[j] = _mm512_fmadd_ps(sum[j], a, b);
    }
    for (__m512& s : sum) KEEL_OPAQUE(s);
    return 32.0 * 12 * kPeakSteps;
}
__attribute__((target("avx512f,avx512vnni"))) double int8_peak_avx512() {
    __m512i sum[12] = {}, a = _mm512_set1_epi32(0x03030303), b = _mm512_set1_epi32(0x01010101);
    for (__m512i& s : sum) KEEL_OPAQUE(s);
    for (int i = 0; i < kPeakSteps; ++i) {
        KEEL_OPAQUE(a);
#pragma GCC unroll 12
        for (int j = 0; j < 12; ++j) sum[j] = _mm512_dpbusd_epi32(sum[j], a, b);
    }
    for (__m512i& s : sum) KEEL_OPAQUE(s);
    return 128.0 * 12 * kPeakSteps;
}
// What attention over trellis rows cannot do without, of a position of an 8B shape (head size 128, 4 queries of a KV
// head): 64 elements at a time are windowed and looked up in four quarters of a table, keys multiplied with four
// queries and values with four weights of two bytes. No loads, no transposition, no softmax: the operands lie in
// registers. Returns positions.
__attribute__((target("avx512f,avx512bw,avx512vnni,avx512vbmi"))) double trellis_position_avx512vbmi() {
    __m512i s0 = _mm512_setzero_si512(), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0, s8 = s0,
            s9 = s0, s10 = s0, s11 = s0;
    __m512i x = _mm512_set1_epi32(0x01010101), a = x, b = x, c = x, d = x;
    const __m512i at = _mm512_set1_epi32(0x03030303);
    for (__m512i* quarter : {&a, &b, &c, &d}) KEEL_OPAQUE(*quarter);
#define KEEL_LOOK_UP()                                                                                \
    KEEL_OPAQUE(x);                                                                                   \
    index = _mm512_maskz_multishift_epi64_epi8(~__mmask64{0}, at, x);                                 \
    codes = _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), _mm512_permutex2var_epi8(a, index, b), \
                                   _mm512_permutex2var_epi8(c, index, d))
#define KEEL_DOT(s) asm volatile("vpdpbusd %2, %1, %0" : "+v"(s) : "v"(codes), "v"(at))
#define KEEL_DOT4(p, q, r, s) \
    KEEL_DOT(p);              \
    KEEL_DOT(q);              \
    KEEL_DOT(r);              \
    KEEL_DOT(s)
    for (int i = 0; i < kPeakSteps; ++i) {
        __m512i index, codes;
        KEEL_LOOK_UP();  // keys
        KEEL_DOT4(s0, s1, s2, s3);
        KEEL_LOOK_UP();
        KEEL_DOT4(s4, s5, s6, s7);
        KEEL_LOOK_UP();  // values
        KEEL_DOT4(s8, s9, s10, s11);
        KEEL_DOT4(s0, s1, s2, s3);
        KEEL_LOOK_UP();
        KEEL_DOT4(s4, s5, s6, s7);
        KEEL_DOT4(s8, s9, s10, s11);
    }
#undef KEEL_DOT4
#undef KEEL_DOT
#undef KEEL_LOOK_UP
    return kPeakSteps;
}
#undef KEEL_OPAQUE
#endif

struct Peak {
    const char* name;
    uint32_t isa;
    double (*run)();  // returns the operations done
    bool vbmi = false;
};
const Peak kPeaks[] = {
#if defined(__x86_64__)
    {"peak/fma/avx2", kAvx2, fma_peak_avx2},
    {"peak/int8/avx2", kAvx2, int8_peak_avx2},
    {"peak/fma/avx512", kAvx512, fma_peak_avx512},
    {"peak/int8/avx512", kAvx512, int8_peak_avx512},
    {"peak/kv_trellis_position/avx512vbmi", kAvx512, trellis_position_avx512vbmi, true},
#endif
    {nullptr, 0, nullptr},
};

bool can_run(const Peak& p) {
    const KernelSet* set = p.run ? find_kernel_set(p.isa) : nullptr;
#if defined(KEEL_HAVE_AVX512)
    if (p.vbmi && set == &kAvx512Set) return false;
#endif
    return set != nullptr;
}

void peak(benchmark::State& state, double (*run)()) {
    double operations = 0;
    for (auto _ : state) operations = run();
    report(state, 0, operations, 0);
}

// ---- matrix products ----
void fill_weights(uint32_t type, Plane& w) {
    std::mt19937_64 random(1);
    for (size_t i = 0; i + 8 <= w.bytes; i += 8) {
        const uint64_t bits = random();
        memcpy(w.data + i, &bits, 8);
    }
    if (kWeightTypes[type].activation_block) return;  // whatever the scales are: the time does not depend on them
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (size_t i = 0; i < w.bytes; i += kWeightTypes[type].block_bytes) {
        const float x = uniform(random);
        const uint16_t h = type == kF16 ? f32_to_f16(x) : f32_to_bf16(x);
        if (type == kF32)
            memcpy(w.data + i, &x, 4);
        else
            memcpy(w.data + i, &h, 2);
    }
}

constexpr uint32_t kK = 4096;
constexpr uint64_t kCachedBytes = 2 << 20;

// The weight buffer of one type is kept for the cases that follow each other.
Plane& weights(uint32_t type, uint64_t bytes) {
    static std::unique_ptr<Plane> plane;
    static uint32_t held = ~0u;
    if (!plane || held != type || plane->bytes != bytes) {
        plane.reset();
        plane = std::make_unique<Plane>(bytes);
        fill_weights(type, *plane);
        held = type;
    }
    return *plane;
}

enum Product { kF32Product, kBf16Product, kQ8Product, kRepackedProduct };
constexpr const char* kProductNames[] = {"matmul_f32", "matmul_bf16", "matmul_q8", "matmul_repacked"};

void matmul(benchmark::State& state, const KernelSet* set, uint32_t type, Product product, uint32_t columns,
            bool cached) {
    const bool q8 = product == kQ8Product || product == kRepackedProduct;
    const MatmulFn kernel = (product == kF32Product    ? set->matmul_f32
                             : product == kBf16Product ? set->matmul_bf16
                             : product == kQ8Product   ? set->matmul_q8
                                                       : set->matmul_repacked)[type];
    const uint64_t row_bytes = weight_row_bytes(type, kK);
    // Rows of one call, as an executor would cut them: equal cuts of at most 512.
    const uint32_t most = static_cast<uint32_t>((cached ? kCachedBytes : memory_bytes()) / row_bytes),
                   calls = (most + 511) / 512;
    const uint32_t step = most / calls & ~15u, rows = step * calls;
    Plane& w = weights(type, rows * row_bytes);
    const uint32_t block = kWeightTypes[type].activation_block;
    const uint64_t stride = round64(q8                        ? q8_token_bytes(kK, block)
                                    : product == kBf16Product ? bf16_token_bytes(kK)
                                                              : uint64_t{kK} * 4);
    Plane x(stride * columns), y(uint64_t{rows} * columns * 4), source(kK * 4);
    std::mt19937 random(2);
    std::vector<float*> out(columns);
    for (uint32_t c = 0; c < columns; ++c) {
        for (uint32_t i = 0; i < kK; ++i) source.floats()[i] = std::normal_distribution<float>()(random);
        if (q8)
            set->quantize_q8(source.floats(), kK, block, x.data + c * stride);
        else if (product == kBf16Product)
            set->round_bf16(source.floats(), 0, kK, x.data + c * stride);
        else
            memcpy(x.data + c * stride, source.data, kK * 4);
        out[c] = y.floats() + uint64_t{c} * rows;
    }
    Plane scratch(matmul_scratch_bytes(kK));
    MatmulArgs args = {w.data, row_bytes,  0,       0,     kK,           columns, x.data,
                       stride, out.data(), nullptr, false, scratch.data, !cached};
    uint32_t row = 0;
    for (auto _ : state) {
        args.row_begin = row;
        args.row_end = row + step;
        kernel(args);
        benchmark::ClobberMemory();
        row = args.row_end == rows ? 0 : args.row_end;
    }
    const double bytes = static_cast<double>(step) * static_cast<double>(row_bytes) +
                         static_cast<double>(stride) * columns + 4.0 * step * columns;
    report(state, bytes, 2.0 * step * kK * columns, columns <= 8 ? (cached ? kCachedBytes : memory_bytes()) : 0);
}

// ---- attention over `heads` KV heads of `dim` with `positions` cached, each with one or four query rows that share it
// (decoding) or 128 (prefill), less a K mean of `pairs` RoPE pairs where that is not 0. Pages hold all heads, as an
// arena's do; bytes are codes and scales ----
void attention(benchmark::State& state, const KernelSet* set, KvFormat format, uint32_t dim, uint32_t rows,
               uint32_t positions, uint32_t heads, uint32_t pairs) {
    constexpr uint32_t kPage = 256;
    const uint32_t code_bytes = kv_code_bytes(format, dim), scale_bytes = kv_scale_bytes(format, dim),
                   pages = (positions + kPage - 1) / kPage;
    const uint64_t plane_bytes = uint64_t{kPage} * (code_bytes + scale_bytes), page_bytes = 2 * plane_bytes * heads;
    Plane kv(page_bytes * pages), q(rows * dim * 4), o(rows * dim * 4), scratch(attention_scratch_floats(dim) * 4);
    std::mt19937 random(3);
    std::vector<float> values(dim);
    for (uint32_t j = 0; j < kPage; ++j) {  // one plane's rows; the others are copies
        for (float& v : values) v = std::normal_distribution<float>()(random);
        set->kv_encode[format](values.data(), dim, KvScaleMode::kLeastSquares, kv.data + j * code_bytes,
                               kv.data + kPage * code_bytes + j * scale_bytes);
    }
    for (uint64_t i = 1; i < uint64_t{2} * heads * pages; ++i) memcpy(kv.data + i * plane_bytes, kv.data, plane_bytes);
    for (uint32_t i = 0; i < rows * dim; ++i) q.floats()[i] = std::normal_distribution<float>()(random);
    std::vector<const uint8_t*> table(pages);
    for (uint32_t p = 0; p < pages; ++p) table[p] = kv.data + p * page_bytes;
    std::vector<const float*> qs(rows);
    std::vector<float*> os(rows);
    std::vector<float> m(rows), l(rows);
    std::vector<uint32_t> begin(rows, 0), end(rows, positions);
    double seen = 0;
    for (uint32_t r = 0; r < rows; ++r) {
        qs[r] = q.floats() + r * dim;
        os[r] = o.floats() + r * dim;
        if (rows > 16) end[r] = positions - rows + r + 1;
        seen += end[r];
    }
    AttentionArgs a = {};
    a.pages = table.data();
    a.page_tokens = kPage;
    a.head_dim = dim;
    a.rows = rows;
    a.q = qs.data();
    a.begin = begin.data();
    a.end = end.data();
    a.scale = 0.088f;
    a.m = m.data();
    a.l = l.data();
    a.o = os.data();
    a.scratch = scratch.floats();
    const uint32_t tiles = (positions + kAttentionTile - 1) / kAttentionTile;
    std::vector<float> tile_rotations(uint64_t{tiles} * 2 * pairs), offset_rotations(2 * pairs * kAttentionTile),
        coefficients(2 * pairs, 0.01f);
    for (uint32_t i = 0; i < pairs; ++i) {
        const float frequency = std::pow(10000.0f, -static_cast<float>(i) / static_cast<float>(pairs));
        for (uint32_t t = 0; t < tiles; ++t) {
            tile_rotations[(t * pairs + i) * 2] = std::cos(frequency * static_cast<float>(t * kAttentionTile));
            tile_rotations[(t * pairs + i) * 2 + 1] = std::sin(frequency * static_cast<float>(t * kAttentionTile));
        }
        for (uint32_t j = 0; j < kAttentionTile; ++j) {
            offset_rotations[2 * i * kAttentionTile + j] = std::cos(frequency * static_cast<float>(j));
            offset_rotations[(2 * i + 1) * kAttentionTile + j] = std::sin(frequency * static_cast<float>(j));
        }
    }
    const std::vector<const float*> rows_coefficients(rows, coefficients.data());
    a.mean = {pairs, tile_rotations.data(), offset_rotations.data(), rows_coefficients.data()};
    for (auto _ : state) {
        for (uint32_t h = 0; h < heads; ++h) {
            const uint64_t at = 2 * plane_bytes * h;
            a.k = {format, code_bytes, scale_bytes, at, at + uint64_t{kPage} * code_bytes};
            a.v = {format, code_bytes, scale_bytes, at + plane_bytes, at + plane_bytes + uint64_t{kPage} * code_bytes};
            std::fill(m.begin(), m.end(), -INFINITY);
            for (a.split = 0; a.split * kKvSplitTokens < positions; ++a.split) set->attention_split(a);
            for (uint32_t r = 0; r < rows; ++r) set->attention_finish(os[r], l[r], dim);
        }
        benchmark::ClobberMemory();
    }
    const uint64_t bytes = uint64_t{2} * positions * (code_bytes + scale_bytes) * heads;
    report(state, static_cast<double>(bytes), 4.0 * dim * seen * heads, rows > 16 ? 0 : bytes);
}

// As many of the 256 heads of an 8B model (32 layers, 8 KV heads of 128) as exceed the caches by 4.
uint32_t heads_from_memory(KvFormat format, uint32_t positions) {
    const uint64_t head = uint64_t{2} * positions * (kv_code_bytes(format, 128) + kv_scale_bytes(format, 128));
    return static_cast<uint32_t>(std::min<uint64_t>((memory_bytes() + head - 1) / head, 256));
}

// ---- coding of KV rows: one row an iteration ----
void kv_encode(benchmark::State& state, const KernelSet* set, KvFormat format, uint32_t dim) {
    constexpr uint32_t kRows = 64;
    Plane x(kRows * dim * 4), codes(dim * 4), scales(64);
    std::mt19937 random(5);
    for (uint32_t i = 0; i < kRows * dim; ++i) x.floats()[i] = std::normal_distribution<float>()(random);
    uint32_t row = 0;
    for (auto _ : state) {
        set->kv_encode[format](x.floats() + row * dim, dim, KvScaleMode::kLeastSquares, codes.data, scales.data);
        benchmark::ClobberMemory();
        row = (row + 1) % kRows;
    }
    report(state, 4.0 * dim + kv_code_bytes(format, dim) + kv_scale_bytes(format, dim), 0, 0);
}
void kv_rotate(benchmark::State& state, const KernelSet* set, uint32_t dim) {
    Plane x(dim * 4);
    for (uint32_t i = 0; i < dim; ++i) x.floats()[i] = static_cast<float>(i);
    for (auto _ : state) {
        set->kv_rotate(x.floats(), dim);
        set->kv_unrotate(x.floats(), dim);
        benchmark::ClobberMemory();
    }
    report(state, 16.0 * dim, 0, 0);
}

// ---- row operations over 4,096 elements in the first-level cache ----
constexpr uint32_t kRow = 4096;
struct RowOp {
    const char* name;
    double bytes;  // per element
    void (*run)(const KernelSet*, float* a, float* b, float* c);
};
const RowOp kRowOps[] = {
    {"rms_norm", 12, [](const KernelSet* s, float* a, float* b, float* c) { s->rms_norm(a, b, kRow, 1e-5f, c); }},
    {"gate_silu", 12, [](const KernelSet* s, float* a, float* b, float* c) { s->gate_silu(a, b, kRow, c); }},
    {"gate_gelu", 12, [](const KernelSet* s, float* a, float* b, float* c) { s->gate_gelu(a, b, kRow, c); }},
    {"softcap", 8, [](const KernelSet* s, float* a, float*, float*) { s->softcap(a, 30.0f, kRow); }},
    {"add", 12, [](const KernelSet* s, float* a, float* b, float*) { s->add(a, b, kRow); }},
    {"scale", 8, [](const KernelSet* s, float* a, float*, float*) { s->scale(a, 1.0f, kRow); }},
    {"rope", 12, [](const KernelSet* s, float* a, float* b, float*) { s->rope(a, kRow / 2, b, false); }},
    {"rope_neox", 12, [](const KernelSet* s, float* a, float* b, float*) { s->rope(a, kRow / 2, b, true); }},
    {"quantize_q8_32", 5.25, [](const KernelSet* s, float* a, float*, float* c) { s->quantize_q8(a, kRow, 32, c); }},
    {"quantize_q8_256", 5.14, [](const KernelSet* s, float* a, float*, float* c) { s->quantize_q8(a, kRow, 256, c); }},
};

void row_op(benchmark::State& state, const KernelSet* set, const RowOp& op) {
    Plane a(kRow * 4), b(kRow * 4), c(kRow * 8);
    std::mt19937 random(4);
    for (uint32_t i = 0; i < kRow; ++i) {
        a.floats()[i] = std::normal_distribution<float>()(random);
        b.floats()[i] = std::normal_distribution<float>()(random) * 1e-3f;
    }
    for (auto _ : state) {
        op.run(set, a.floats(), b.floats(), c.floats());
        benchmark::ClobberMemory();
    }
    report(state, op.bytes * kRow, kRow, 0);
}

void dequantize(benchmark::State& state, const KernelSet* set, uint32_t type) {
    Plane w(weight_row_bytes(type, kRow)), y(kRow * 4);
    fill_weights(type, w);
    for (auto _ : state) {
        set->dequantize_row[type](w.data, y.floats(), kRow);
        benchmark::ClobberMemory();
    }
    report(state, static_cast<double>(w.bytes + y.bytes), kRow, 0);
}

void add(const std::string& name, std::function<void(benchmark::State&)> body) {
    benchmark::RegisterBenchmark(name.c_str(), body);
}

void register_all() {
    add("stream/memory", [](benchmark::State& s) { stream(s, memory_bytes()); });
    add("stream/cached", [](benchmark::State& s) { stream(s, kCachedBytes); });
    for (const Peak& p : kPeaks)
        if (can_run(p)) add(p.name, [=](benchmark::State& s) { peak(s, p.run); });
    std::vector<const KernelSet*> sets;
    for (uint32_t isa = kScalar; isa < kIsaLimit; ++isa)
        if (const KernelSet* set = find_kernel_set(isa)) sets.push_back(set);
#if defined(KEEL_HAVE_AVX512)
    static KernelSet plain = kAvx512Set;  // what an AVX-512 machine without VBMI has, beside what this one has
    plain.name = "avx512plain";
    if (const KernelSet* set = find_kernel_set(kAvx512); set && set != &kAvx512Set) sets.push_back(&plain);
#endif
    for (const KernelSet* set : sets) {
        const std::string isa = std::string("/") + set->name;
        for (uint32_t type = 0; type < kWeightTypeCount; ++type) {
            const std::string name = std::string("/") + kWeightTypes[type].name + isa;
            const bool quantized = kWeightTypes[type].activation_block != 0;
            for (Product product : {kF32Product, kBf16Product, kQ8Product, kRepackedProduct}) {
                if (product != kF32Product && (product == kBf16Product) == quantized) continue;
                const std::string kind = kProductNames[product];
                for (uint32_t columns : {1u, 4u, 8u})
                    if (columns == 1 || product != kF32Product)
                        add(kind + name + "/columns:" + std::to_string(columns) + "/memory",
                            [=](benchmark::State& s) { matmul(s, set, type, product, columns, false); });
                for (uint32_t columns : {1u, 4u, 128u})
                    add(kind + name + "/columns:" + std::to_string(columns) + "/cached",
                        [=](benchmark::State& s) { matmul(s, set, type, product, columns, true); });
            }
            add("dequantize" + name, [=](benchmark::State& s) { dequantize(s, set, type); });
        }
        for (KvFormat format : {kKvF16, kKvQ8_0, kKvE8_4, kKvTcq2, kKvTcq3, kKvTcq4}) {
            const std::string name = isa + (format == kKvF16 ? "" : std::string("/") + kKvFormats[format].name);
            for (uint32_t dim : {64u, 128u}) {
                for (uint32_t rows : {1u, 4u, 128u})
                    for (uint32_t positions : {512u, 2048u})
                        add("attention" + name + "/dim:" + std::to_string(dim) + "/rows:" + std::to_string(rows) +
                                "/positions:" + std::to_string(positions),
                            [=](benchmark::State& s) { attention(s, set, format, dim, rows, positions, 1, 0); });
                add("kv_encode" + name + "/dim:" + std::to_string(dim),
                    [=](benchmark::State& s) { kv_encode(s, set, format, dim); });
            }
            for (uint32_t positions : {4096u, 8192u, 32768u})
                add("attention" + name + "/8b/positions:" + std::to_string(positions) + "/memory",
                    [=](benchmark::State& s) {
                        attention(s, set, format, 128, 4, positions, heads_from_memory(format, positions), 0);
                    });
            if (format == kKvTcq3)
                for (uint32_t pairs : {0u, 16u, 32u})
                    add("attention" + name + "/mean:" + std::to_string(pairs) + "/dim:64/rows:4/positions:2048",
                        [=](benchmark::State& s) { attention(s, set, format, 64, 4, 2048, 1, pairs); });
        }
        for (uint32_t dim : {64u, 128u})
            add("kv_rotate_both_ways" + isa + "/dim:" + std::to_string(dim),
                [=](benchmark::State& s) { kv_rotate(s, set, dim); });
        for (const RowOp& op : kRowOps)
            add(std::string(op.name) + isa, [=](benchmark::State& s) { row_op(s, set, op); });
    }
}

}  // namespace

int main(int argc, char** argv) {
    register_all();
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
}
