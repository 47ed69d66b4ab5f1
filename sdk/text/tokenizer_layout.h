// What a Tokenizer is made of, shared by the files that build it, encode and decode.
//
//     tokens[] ──> blob + offsets     every token's text as it appears in a text ("▁the" is " the", "Ġthe" is " the")
//              ├─> pieces             text -> id, the tokens ordinary text can become
//              ├─> specials           text -> id, the tokens found by their whole text before anything else
//     scores[] ──> scores             SentencePiece: which neighbours merge first
//     merges[] ──> merges             byte-level: (left id, right id) -> rank, merged id
//              └─> joins              which two neighbouring elements some token or merge holds together: where that is
//                                     none, text can be cut without changing the result
#pragma once
#include "sdk/core/hash.h"
#include "sdk/text/pretokenize.h"
#include "sdk/text/tokenizer.h"
#include "sdk/text/utf8.h"

namespace keel {

enum TokenType : uint8_t {  // tokenizer.ggml.token_type
    kTokenUndefined = 0,
    kTokenNormal,
    kTokenUnknown,
    kTokenControl,
    kTokenUserDefined,
    kTokenUnused,
    kTokenByte,
    kTokenTypeCount
};

// Found in text by their whole text; the two but user-defined only under KEEL_TOKENIZE_SPECIAL.
constexpr bool is_special(uint8_t type) {
    return type == kTokenControl || type == kTokenUserDefined || type == kTokenUnknown;
}
// Without text unless KEEL_DETOKENIZE_SPECIAL.
constexpr bool is_hidden(uint8_t type) {
    return type == kTokenControl || type == kTokenUnknown;
}

// Open addressing with linear probing, two thirds full at most. The entry that lies farthest from its first slot is
// remembered: no look-up goes farther, however long the row of full slots is that a file was made to have. Honest
// vocabularies stay below 100, with 2^24 entries below 150; a file beyond the limit is refused.
constexpr uint32_t kMaxDisplacement = 255;
struct PieceTable {
    uint64_t* slots;  // 32 hash bits << 32 | id + 1; 0 is free
    uint32_t slot_count;
    uint32_t longest;  // displacement
};

// A slot of the merge table; result 0 with left 0 and right 0 would be a valid merge, so `used` tells.
struct MergeSlot {
    uint32_t left, right, rank, result_plus_1;  // result_plus_1 == 0: free
};

// One element of the run being merged: at first a character (SentencePiece) or a byte (byte-level).
struct Symbol {
    uint32_t begin, bytes;    // in RunWork::text
    uint32_t previous, next;  // symbol indices, kNoSymbol at the ends
    int32_t id;               // token of this text, -1 when it is none
    int32_t merged_id;        // token of this text and the next symbol's
    uint32_t heap_place;      // of this symbol's pair with the next one, kNoSymbol when they do not merge
};
constexpr uint32_t kNoSymbol = UINT32_MAX;

// Where one run is merged.
struct RunWork {
    char* text;  // [capacity]
    Symbol* symbols;
    uint64_t* heap;     // merge key << 32 | index of the left symbol: the smallest is merged first
    uint32_t capacity;  // bytes, and symbols
};

struct Tokenizer {
    uint32_t vocabulary;
    bool byte_level;           // else SentencePiece
    bool add_bos;              // KEEL_TOKENIZE_BOS has an effect
    bool add_space_prefix;     // SentencePiece: a text begins with a space that is not its own
    bool ignore_merges;        // byte-level: a pre-token that is itself a token is taken whole
    bool strip_after_special;  // white space after most special tokens is dropped (phi3)
    int32_t bos_id, eos_id, unknown_id;
    uint32_t end_count;
    int32_t end_ids[kMaxEndIds];
    const PreTokenizer* pre;  // byte-level

    const char* blob;
    const uint32_t* offsets;  // vocabulary + 1
    const uint8_t* types;     // TokenType
    const float* scores;      // SentencePiece
    PieceTable pieces, specials;
    const MergeSlot* merges;              // byte-level
    uint32_t merge_slots, longest_merge;  // the latter a displacement
    const uint64_t* joins;                // a bloom filter over element pairs, for bytes an exact table
    uint32_t join_mask;                   // bits - 1, a power of two less one
    uint32_t special_length_count;
    uint16_t special_lengths[kMaxPieceBytes];  // lengths specials have, ascending
    uint64_t special_first[4];                 // bit b: a special begins with byte b
    int32_t byte_ids[256];                     // -1 where the vocabulary has no token for the byte

    uint32_t run_capacity;  // of the longest run
    RunWork work;           // for runs that do not fit the memory of a call: one thread at a time
    uint32_t work_taken;    // atomic: 1 while a thread has it
};

inline const char* token_text(const Tokenizer& t, uint32_t id, uint32_t* bytes) {
    *bytes = t.offsets[id + 1] - t.offsets[id];
    return t.blob + t.offsets[id];
}

// Where a 32-bit hash begins probing.
inline uint32_t first_slot(uint32_t hash, uint32_t slots) {
    return static_cast<uint32_t>((uint64_t{hash} * slots) >> 32);
}

// Calls stop(slot) for the slots in which an entry of this hash may lie, in order, until it returns true. Displacement
// of that slot, or longest + 1.
template <class Stop>
uint32_t probe(uint32_t hash, uint32_t slots, uint32_t longest, Stop stop) {
    uint32_t slot = first_slot(hash, slots), displacement = 0;
    for (; displacement <= longest && !stop(slot); ++displacement)
        if (++slot == slots) slot = 0;
    return displacement;
}

// Id of the token with this text, hash = hash64(text), or -1.
int32_t find_piece(const Tokenizer& t, const PieceTable& table, uint64_t hash, const char* text, size_t bytes);
inline int32_t find_piece(const Tokenizer& t, const PieceTable& table, const char* text, size_t bytes) {
    return find_piece(t, table, hash64(text, bytes), text, bytes);
}
inline uint64_t merge_hash(uint32_t left, uint32_t right) {
    return hash_finish(uint64_t{left} << 32 | right);
}

// Bits of an element pair in `joins`: byte pairs have one bit each, code point pairs two of a bloom filter.
struct JoinBits {
    uint32_t first, second;
};
inline JoinBits join_bits(const Tokenizer& t, uint32_t left, uint32_t right) {
    if (t.byte_level) return {left << 8 | right, left << 8 | right};
    const uint64_t hash = hash_finish(uint64_t{left} << 32 | right);
    return {static_cast<uint32_t>(hash) & t.join_mask, static_cast<uint32_t>(hash >> 32) & t.join_mask};
}
inline bool may_join(const Tokenizer& t, uint32_t left, uint32_t right) {
    const JoinBits bits = join_bits(t, left, right);
    return (t.joins[bits.first >> 6] >> (bits.first & 63) & 1) && (t.joins[bits.second >> 6] >> (bits.second & 63) & 1);
}

}  // namespace keel
