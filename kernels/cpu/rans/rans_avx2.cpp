// rANS (kernels/formats/rans.h) on AVX2: 8 states to a register. For each set of states that need a word a table has
// the lanes to which the next words go.
#include <immintrin.h>

#include "kernels/cpu/families.h"

namespace keel::kernels {
namespace {

struct WordLanes {
    uint8_t word[256][8];  // of a mask: which of the next words lane i takes, if it does
};
constexpr WordLanes kWordLanes = [] {
    WordLanes t = {};
    for (uint32_t mask = 0; mask < 256; ++mask)
        for (uint32_t lane = 0, word = 0; lane < 8; ++lane)
            if (mask >> lane & 1) t.word[mask][lane] = static_cast<uint8_t>(word++);
    return t;
}();

struct Lanes {
    __m256i x;

    // The entries of 8 states, whose lowest bytes are the bytes decoded. *next: the next words.
    __m256i step(const uint32_t* entries, const uint16_t* first, const uint8_t** next) {
        const __m256i low_bits = _mm256_set1_epi32(kRansSlots - 1);
        const __m256i first_slot = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(first)));
        const __m256i e = _mm256_i32gather_epi32(reinterpret_cast<const int*>(entries),
                                                 _mm256_add_epi32(_mm256_and_si256(x, low_bits), first_slot), 4);
        const __m256i frequency = _mm256_and_si256(_mm256_srli_epi32(e, 8), low_bits);
        x = _mm256_add_epi32(_mm256_mullo_epi32(frequency, _mm256_srli_epi32(x, kRansBits)), _mm256_srli_epi32(e, 20));
        const __m256i low = _mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), _mm256_setzero_si256());
        const uint32_t mask = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(low)));
        const __m256i lanes =
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kWordLanes.word[mask])));
        const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(*next)));
        const __m256i filled = _mm256_or_si256(_mm256_slli_epi32(x, 16), _mm256_permutevar8x32_epi32(words, lanes));
        x = _mm256_blendv_epi8(x, filled, low);
        *next += 2 * __builtin_popcount(mask);
        return e;
    }
};

// The lowest bytes of four registers, in order.
__m256i low_bytes(__m256i a, __m256i b, __m256i c, __m256i d) {
    const __m256i byte = _mm256_set1_epi32(255);
    const __m256i ab = _mm256_packus_epi32(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte));
    const __m256i cd = _mm256_packus_epi32(_mm256_and_si256(c, byte), _mm256_and_si256(d, byte));
    return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(ab, cd), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

}  // namespace

bool rans_decode_avx2(const RansTables& tables, RansStream* stream, uint32_t place, uint8_t* dst, uint64_t bytes) {
    __m256i* lane = reinterpret_cast<__m256i*>(stream->lane);
    Lanes a{_mm256_loadu_si256(lane)}, b{_mm256_loadu_si256(lane + 1)}, c{_mm256_loadu_si256(lane + 2)},
        d{_mm256_loadu_si256(lane + 3)};
    const uint8_t* next = stream->next;
    for (; bytes >= kRansLanes && stream->end - next >= kRansGroupBytes; bytes -= kRansLanes, dst += kRansLanes) {
        const uint16_t* first = tables.first_slot + place;
        const __m256i ea = a.step(tables.entries, first, &next), eb = b.step(tables.entries, first + 8, &next),
                      ec = c.step(tables.entries, first + 16, &next), ed = d.step(tables.entries, first + 24, &next);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst), low_bytes(ea, eb, ec, ed));
        place += kRansLanes;
        if (place >= tables.period) place -= tables.period;
    }
    _mm256_storeu_si256(lane, a.x);
    _mm256_storeu_si256(lane + 1, b.x);
    _mm256_storeu_si256(lane + 2, c.x);
    _mm256_storeu_si256(lane + 3, d.x);
    stream->next = next;
    return rans_decode_scalar(tables, stream, place, dst, bytes);
}

}  // namespace keel::kernels
