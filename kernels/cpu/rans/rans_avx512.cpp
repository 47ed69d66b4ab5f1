// rANS (kernels/formats/rans.h) on AVX-512: 16 states to a register. States that need a word are a mask, and the next
// words are expanded to its lanes.
#include <immintrin.h>

#include "kernels/cpu/families.h"

namespace keel::kernels {
namespace {

struct Lanes {
    __m512i x;

    // A byte of each state; first: of their entries. *next: the next words.
    __m128i step(const uint32_t* entries, const uint16_t* first, const uint8_t** next) {
        const __m512i low_bits = _mm512_set1_epi32(kRansSlots - 1);
        const __m512i first_slot = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(first)));
        const __m512i e = _mm512_i32gather_epi32(_mm512_add_epi32(_mm512_and_si512(x, low_bits), first_slot),
                                                 reinterpret_cast<const int*>(entries), 4);
        const __m512i frequency = _mm512_and_si512(_mm512_srli_epi32(e, 8), low_bits);
        x = _mm512_add_epi32(_mm512_mullo_epi32(frequency, _mm512_srli_epi32(x, kRansBits)), _mm512_srli_epi32(e, 20));
        const __mmask16 low = _mm512_cmplt_epu32_mask(x, _mm512_set1_epi32(kRansLow));
        const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(*next)));
        x = _mm512_mask_or_epi32(x, low, _mm512_slli_epi32(x, 16), _mm512_maskz_expand_epi32(low, words));
        *next += 2 * __builtin_popcount(low);
        return _mm512_cvtepi32_epi8(e);
    }
};

}  // namespace

bool rans_decode_avx512(const RansTables& tables, RansStream* stream, uint32_t place, uint8_t* dst, uint64_t bytes) {
    Lanes a{_mm512_loadu_si512(stream->lane)}, b{_mm512_loadu_si512(stream->lane + 16)};
    const uint8_t* next = stream->next;
    for (; bytes >= kRansLanes && stream->end - next >= kRansGroupBytes; bytes -= kRansLanes, dst += kRansLanes) {
        const uint16_t* first = tables.first_slot + place;
        _mm_storeu_si128(reinterpret_cast<__m128i*>(dst), a.step(tables.entries, first, &next));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + 16), b.step(tables.entries, first + 16, &next));
        place += kRansLanes;
        if (place >= tables.period) place -= tables.period;
    }
    _mm512_storeu_si512(stream->lane, a.x);
    _mm512_storeu_si512(stream->lane + 16, b.x);
    stream->next = next;
    return rans_decode_scalar(tables, stream, place, dst, bytes);
}

}  // namespace keel::kernels
