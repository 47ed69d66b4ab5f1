#include "sdk/text/grammar_tokens.h"

#include <string.h>

namespace keel {
namespace {

// Bytes of a token inside a text; none for control tokens.
uint32_t piece_of(const Tokenizer* t, uint32_t id, const char** data) {
    size_t bytes = 0;
    tokenizer_piece(t, static_cast<int32_t>(id), 0, false, data, &bytes);
    return static_cast<uint32_t>(bytes);
}

int compare(const char* a, uint32_t a_bytes, const char* b, uint32_t b_bytes) {
    const int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order ? order : a_bytes < b_bytes ? -1 : a_bytes > b_bytes;
}

bool not_behind(const Tokenizer* t, uint32_t a, uint32_t b) {
    const char *a_text, *b_text;
    const uint32_t a_bytes = piece_of(t, a, &a_text), b_bytes = piece_of(t, b, &b_text);
    return compare(a_text, a_bytes, b_text, b_bytes) <= 0;
}

// Merges sorted runs of 1, 2, 4, ... between two arrays; equal texts stay in the order of their ids. The result is in
// `ids`.
void sort_tokens(const Tokenizer* t, uint32_t* ids, uint32_t* other, uint32_t count) {
    uint32_t *from = ids, *to = other;
    for (uint64_t run = 1; run < count; run *= 2) {
        for (uint64_t at = 0; at < count; at += 2 * run) {
            uint64_t a = at, b = at + run < count ? at + run : count, i = at;
            const uint64_t a_end = b, b_end = at + 2 * run < count ? at + 2 * run : count;
            while (a < a_end && b < b_end) {
                const bool first = not_behind(t, from[a], from[b]);
                to[i++] = first ? from[a++] : from[b++];
            }
            while (a < a_end) to[i++] = from[a++];
            while (b < b_end) to[i++] = from[b++];
        }
        uint32_t* const swapped = from;
        from = to;
        to = swapped;
    }
    if (from != ids) memcpy(ids, from, count * sizeof ids[0]);
}

void set_bit(uint8_t* mask, uint32_t id) {
    mask[id / 8] = static_cast<uint8_t>(mask[id / 8] | 1u << id % 8);
}

// The tokens that may follow *state, all of which are walked in the order of their texts: `path` has the states behind
// the first bytes of the current one, and what the next one shares with it is there already. A token that dies takes
// with it those that begin like it. *state gets its new number where the machine was compacted.
bool fill_mask(GrammarSession* s, uint16_t* state, uint8_t* mask) {
    GrammarMachine* const m = s->machine;
    const TokenOrder& order = *s->order;
    const uint8_t* const class_of = m->grammar->class_of;
    const uint32_t classes = m->grammar->class_count;
    uint16_t path[kMaxPieceBytes + 1];
    path[0] = *state;
    bool any = false, too_much = false;
    for (uint32_t i = 0; i < order.count;) {
        const char* const text = order.texts[i];
        const uint32_t bytes = order.bytes[i];
        uint32_t depth = order.shared[i];
        uint16_t at = path[depth];
        bool compacted = false;
        while (depth < bytes) {
            const uint32_t byte_class = class_of[static_cast<uint8_t>(text[depth])];
            uint16_t next = m->next[at * classes + byte_class];
            if (next < kGrammarFirst) {
                if (next == kGrammarUnknown) next = grammar_compute(m, at, byte_class);
                if (next == kGrammarUnknown && !compacted) {
                    // The pools are full: again from the first byte, with nothing in them but where that begins.
                    compacted = true;
                    *state = at = path[0] = grammar_compact(m, path[0]);
                    depth = 0;
                    continue;
                }
                too_much = too_much || next == kGrammarTooMuch || next == kGrammarUnknown;
                if (next < kGrammarFirst) break;
            }
            path[++depth] = at = next;
        }
        if (depth == bytes) {
            set_bit(mask, order.ids[i++]);
            any = true;
        } else {
            do ++i;
            while (i < order.count && order.shared[i] > depth);
        }
    }
    return any || !too_much;
}

// The byte that alone may follow *state, which gets its new number where the machine was compacted. Bytes that need
// more than a state may have do not follow.
bool only_byte(GrammarMachine* m, uint16_t* state, char* byte) {
    const Grammar& g = *m->grammar;
    bool compacted = false;
    uint32_t ways = 0;
    for (uint32_t c = 0; c < g.class_count && ways < 2; ++c) {
        uint16_t next = grammar_step(m, *state, g.class_byte[c]);
        if (next == kGrammarUnknown && !compacted) {
            compacted = true;
            *state = grammar_compact(m, *state);
            next = grammar_step(m, *state, g.class_byte[c]);
        }
        if (next < kGrammarFirst) continue;
        ways += g.class_size[c];
        *byte = static_cast<char>(g.class_byte[c]);
    }
    return ways == 1;
}

// Keeps the trail right when `state` was compacted to `now`: it goes on from there if it ended there.
void follow_compaction(GrammarSession* s, uint16_t state, uint16_t now, bool was_right) {
    uint16_t& newest = s->trail[s->newest % kGrammarTrail];
    if (!was_right || s->generation == s->machine->generation || newest != state) return;
    newest = now;
    s->oldest = s->newest;
    s->generation = s->machine->generation;
}

}  // namespace

TokenOrder* token_order_place(Arena& arena, const Tokenizer* t, uint32_t vocabulary) {
    auto* const order = arena.place<TokenOrder>("token_order", 1);
    auto* const ids = arena.place<uint32_t>("token_order_ids", vocabulary);
    auto* const texts = arena.place<const char*>("token_order_texts", vocabulary);
    auto* const bytes = arena.place<uint16_t>("token_order_bytes", vocabulary);
    auto* const shared = arena.place<uint16_t>("token_order_shared", vocabulary);
    if (!order || !ids || !texts || !bytes || !shared) return nullptr;
    *order = {t, 0, ids, texts, bytes, shared};
    const char* text;
    for (uint32_t id = 0; id < tokenizer_vocabulary(t); ++id)
        if (piece_of(t, id, &text)) ids[order->count++] = id;
    // The memory of `texts` is free until it is filled.
    sort_tokens(t, ids, reinterpret_cast<uint32_t*>(texts), order->count);
    for (uint32_t i = 0; i < order->count; ++i) {
        bytes[i] = static_cast<uint16_t>(piece_of(t, ids[i], &texts[i]));
        shared[i] = 0;
        while (i && shared[i] < bytes[i] && shared[i] < bytes[i - 1] && texts[i][shared[i]] == texts[i - 1][shared[i]])
            ++shared[i];
    }
    return order;
}

GrammarSession* grammar_session_place(Arena& arena, const Grammar* grammar, uint32_t classes, const TokenOrder* order,
                                      uint32_t vocabulary, int32_t index) {
    auto* const s = arena.place<GrammarSession>("grammar_session", 1, index);
    GrammarMachine* const machine = grammar_machine_place(arena, grammar, classes, index);
    const uint32_t mask_bytes = (vocabulary + 7) / 8;
    auto* const bits = arena.place<uint8_t>("grammar_masks", uint64_t{kGrammarMasks} * mask_bytes, index);
    if (!s || !machine || !bits) return nullptr;
    *s = {};
    s->machine = machine;
    s->order = order;
    s->mask_bytes = mask_bytes;
    s->mask_bits = bits;
    grammar_session_clear(s);
    return s;
}

void grammar_session_clear(GrammarSession* s) {
    s->generation = s->machine->generation - 1;
}

void grammar_session_rewind(GrammarSession* s, uint32_t count) {
    if (count >= s->newest) return;
    if (count < s->oldest)
        grammar_session_clear(s);
    else
        s->newest = count;
}

void grammar_session_copy(GrammarSession* to, const GrammarSession& from) {
    grammar_machine_copy(to->machine, *from.machine);
    memcpy(to->trail, from.trail, sizeof to->trail);
    to->oldest = from.oldest;
    to->newest = from.newest;
    to->generation = from.generation;
    memcpy(to->mask, from.mask, sizeof to->mask);
    to->uses = from.uses;
    memcpy(to->mask_bits, from.mask_bits, uint64_t{kGrammarMasks} * to->mask_bytes);
}

uint16_t grammar_state_of(GrammarSession* s, const int32_t* tokens, uint32_t count) {
    GrammarMachine* const m = s->machine;
    if (s->generation != m->generation || count < s->newest) {
        uint16_t first = grammar_begin(m);
        if (first == kGrammarUnknown) {
            grammar_machine_clear(m);
            first = grammar_begin(m);
        }
        s->trail[0] = first == kGrammarUnknown ? static_cast<uint16_t>(kGrammarTooMuch) : first;
        s->oldest = s->newest = 0;
        s->generation = m->generation;
    }
    while (s->newest < count) {
        const char* data;
        const uint32_t bytes = piece_of(s->order->tokenizer, static_cast<uint32_t>(tokens[s->newest]), &data);
        const uint16_t state = grammar_accept(m, s->trail[s->newest % kGrammarTrail], data, bytes);
        s->trail[++s->newest % kGrammarTrail] = state;
        if (s->generation != m->generation) s->oldest = s->newest;
        if (s->newest - s->oldest == kGrammarTrail) ++s->oldest;
        s->generation = m->generation;
    }
    return s->trail[count % kGrammarTrail];
}

uint16_t grammar_state_behind(GrammarSession* s, uint16_t state, const int32_t* tokens, uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) {
        const char* data;
        const uint32_t bytes = piece_of(s->order->tokenizer, static_cast<uint32_t>(tokens[i]), &data);
        state = grammar_accept(s->machine, state, data, bytes);
    }
    return state;
}

keel_status grammar_mask(GrammarSession* s, uint16_t state, const int32_t* ends, uint32_t end_count, uint8_t* mask) {
    GrammarMachine* const m = s->machine;
    if (state == kGrammarTooMuch) return KEEL_E_FILE_LIMIT;
    bool end_wanted[kMaxEndIds];
    for (uint32_t i = 0; i < end_count; ++i) end_wanted[i] = mask[ends[i] / 8] >> ends[i] % 8 & 1;
    const bool may_end = grammar_may_end(*m, state);
    if (state == kGrammarDead) {
        memset(mask, 0, s->mask_bytes);
        return KEEL_OK;
    }
    uint32_t place = 0;
    bool found = false;
    for (uint32_t i = 0; i < kGrammarMasks && !found; ++i) {
        const GrammarSession::Mask& known = s->mask[i];
        found = known.used && known.generation == m->generation && known.state == state;
        if (found || known.used < s->mask[place].used) place = i;
    }
    GrammarSession::Mask& known = s->mask[place];
    uint8_t* const bits = s->mask_bits + uint64_t{place} * s->mask_bytes;
    if (!found) {
        const bool trail_is_right = s->generation == m->generation;
        const uint16_t before = state;
        memset(bits, 0, s->mask_bytes);
        known.none_fits = !fill_mask(s, &state, bits);
        follow_compaction(s, before, state, trail_is_right);
        known.state = state;
        known.generation = m->generation;
    }
    known.used = ++s->uses;
    if (known.none_fits && !may_end) return KEEL_E_FILE_LIMIT;
    for (uint32_t i = 0; i < s->mask_bytes; ++i) mask[i] = static_cast<uint8_t>(mask[i] & bits[i]);
    for (uint32_t i = 0; i < end_count; ++i) {
        const uint32_t bit = 1u << ends[i] % 8;
        uint8_t& byte = mask[ends[i] / 8];
        byte = static_cast<uint8_t>(may_end && end_wanted[i] ? byte | bit : byte & ~bit);
    }
    return KEEL_OK;
}

keel_status grammar_forced(GrammarSession* s, uint16_t state, int32_t* ids, size_t capacity, size_t* count) {
    GrammarMachine* const m = s->machine;
    if (state == kGrammarTooMuch) return KEEL_E_FILE_LIMIT;
    char text[kMaxForcedBytes];
    uint32_t bytes = 0;
    while (bytes < sizeof text && !grammar_may_end(*m, state) && only_byte(m, &state, text + bytes)) {
        state = grammar_accept(m, state, text + bytes, 1);
        ++bytes;
    }
    // The longest token that fits, again and again; what is left when none does stays to be sampled. Tokens that begin
    // with the first bytes lie side by side, the shortest in front.
    const TokenOrder& order = *s->order;
    *count = 0;
    for (uint32_t at = 0, length = 1; at < bytes && length; at += length) {
        uint32_t low = 0, high = order.count, best = 0;
        length = 0;
        for (uint32_t depth = 0; at + depth < bytes && low < high; ++depth) {
            const auto bound = [&](int past) {  // the first of them whose byte at `depth` is at least that
                uint32_t from = low, to = high;
                while (from < to) {
                    const uint32_t middle = from + (to - from) / 2;
                    const int byte =
                        order.bytes[middle] > depth ? static_cast<uint8_t>(order.texts[middle][depth]) : -1;
                    if (byte < past)
                        from = middle + 1;
                    else
                        to = middle;
                }
                return from;
            };
            const int byte = static_cast<uint8_t>(text[at + depth]);
            const uint32_t first = bound(byte), last = bound(byte + 1);
            low = first;
            high = last;
            if (low < high && order.bytes[low] == depth + 1) {
                best = order.ids[low];
                length = depth + 1;
            }
        }
        if (!length) break;
        if (*count < capacity) ids[*count] = static_cast<int32_t>(best);
        ++*count;
    }
    return ids && *count > capacity ? KEEL_E_BUFFER_TOO_SMALL : KEEL_OK;
}

}  // namespace keel
