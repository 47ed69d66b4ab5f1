// Text of a session as it grows, shown no sooner than it is certain.
#include <string.h>

#include "sdk/core/status.h"
#include "sdk/text/tokenizer.h"
#include "sdk/text/utf8.h"

namespace keel {
namespace {

constexpr char kReplacement[] = "\xef\xbf\xbd";  // U+FFFD
constexpr uint32_t kReplacementBytes = 3;
constexpr uint32_t kMaxRawBytes = kMaxHeldBytes + kMaxPieceBytes;
static_assert(kMaxRawBytes * kReplacementBytes <= sizeof(TextStream::shown));

// Bits of held_origin above the position: a byte of a control token, which is not shown, and one behind its first.
constexpr uint32_t kHidden = 1u << 31, kInside = 1u << 30, kPosition = kInside - 1;

// Text that is held no more is nowhere, in saved sessions neither.
void forget_behind_held(TextStream* s) {
    memset(s->held + s->held_bytes, 0, kMaxHeldBytes - s->held_bytes);
    memset(s->held_origin + s->held_bytes, 0, (kMaxHeldBytes - s->held_bytes) * sizeof *s->held_origin);
}

// What is held, and behind it the text of a token.
struct Raw {
    char text[kMaxRawBytes];
    uint32_t origin[kMaxRawBytes];
    size_t bytes;

    bool splits_control(size_t at) const { return at < bytes && (origin[at] & kInside); }
    bool has(size_t at, const char* text_in, size_t n) const { return memcmp(text + at, text_in, n) == 0; }
};

// Where the earliest complete stop string begins, or raw.bytes.
size_t find_stop(const TextStream& s, const Raw& raw) {
    for (size_t at = 0; at < raw.bytes; ++at)
        for (uint32_t i = 0; i < s.stop_count && !raw.splits_control(at); ++i)
            if (s.stop_bytes[i] <= raw.bytes - at && raw.has(at, s.stops[i], s.stop_bytes[i]) &&
                !raw.splits_control(at + s.stop_bytes[i]))
                return at;
    return raw.bytes;
}

// Where the longest tail begins that some stop string begins with, or raw.bytes.
size_t find_stop_prefix(const TextStream& s, const Raw& raw) {
    for (size_t at = raw.bytes < kMaxStopBytes ? 0 : raw.bytes - (kMaxStopBytes - 1); at < raw.bytes; ++at)
        for (uint32_t i = 0; i < s.stop_count && !raw.splits_control(at); ++i)
            if (raw.bytes - at < s.stop_bytes[i] && raw.has(at, s.stops[i], raw.bytes - at)) return at;
    return raw.bytes;
}

// Bytes at p that are one part of a broken character, 1 at least.
size_t broken_bytes(const uint8_t* p, size_t available) {
    size_t n = 1;
    while (n < available && n < 4 && n + 1 < utf8_length(p[0]) && utf8_may_continue(p, n + 1)) ++n;
    return n;
}

// Where an unfinished character at the end begins, or `bytes`.
size_t find_unfinished(const char* raw, size_t bytes) {
    const uint8_t* const p = reinterpret_cast<const uint8_t*>(raw);
    for (size_t n = 1; n <= 3 && n <= bytes; ++n) {
        const uint8_t* const lead = p + bytes - n;
        if (utf8_length(*lead) > n && utf8_may_continue(lead, n)) return bytes - n;
    }
    return bytes;
}

// Copies with every broken part replaced: at most kReplacementBytes for one byte.
size_t show(const char* raw, size_t bytes, char* dst) {
    size_t n = 0;
    for (size_t i = 0; i < bytes;) {
        const Utf8Char c = utf8_decode(raw + i, bytes - i);
        if (c.code < kInvalidByte) {
            memcpy(dst + n, raw + i, c.bytes);
            n += c.bytes;
            i += c.bytes;
        } else {
            i += broken_bytes(reinterpret_cast<const uint8_t*>(raw) + i, bytes - i);
            memcpy(dst + n, kReplacement, kReplacementBytes);
            n += kReplacementBytes;
        }
    }
    return n;
}

bool is_end(const TextStream& s, const Tokenizer* t, int32_t token) {
    const int32_t* ids;
    const uint32_t count = text_stream_ends(s, t, &ids);
    for (uint32_t i = 0; i < count; ++i)
        if (ids[i] == token) return true;
    return false;
}

bool in_vocabulary(const Tokenizer* t, int32_t token) {
    return token >= 0 && static_cast<uint32_t>(token) < tokenizer_vocabulary(t);
}

void append_token(const TextStream& s, const Tokenizer* t, int32_t token, uint32_t position, Raw* raw) {
    const char* piece;
    size_t bytes;
    uint32_t hidden = 0;
    tokenizer_piece(t, token, 0, !s.started, &piece, &bytes);
    if (bytes == 0) {
        tokenizer_piece(t, token, KEEL_DETOKENIZE_SPECIAL, !s.started, &piece, &bytes);
        hidden = kHidden;
    }
    for (size_t i = 0; i < bytes; ++i, ++raw->bytes) {
        raw->text[raw->bytes] = piece[i];
        raw->origin[raw->bytes] = (position & kPosition) | hidden | (hidden && i ? kInside : 0);
    }
}

}  // namespace

bool text_stream_valid(const TextStream& s, const Tokenizer* t) {
    if (s.stop_count > kMaxStops || s.held_bytes > kMaxHeldBytes || s.started > 1 || s.stopped > 2) return false;
    if (s.own_ends > 1 || s.end_count > kMaxEndIds) return false;
    for (uint32_t i = 0; i < s.stop_count; ++i)
        if (s.stop_bytes[i] == 0 || s.stop_bytes[i] > kMaxStopBytes) return false;
    for (uint32_t i = 0; i < s.end_count; ++i)
        if (!in_vocabulary(t, s.ends[i])) return false;
    return true;
}

keel_status text_stream_set_ends(TextStream* s, const Tokenizer* t, const int32_t* ids, uint32_t count) {
    if (count > kMaxEndIds || (!ids && count)) return KEEL_E_ARGUMENT;
    for (uint32_t i = 0; i < count; ++i)
        if (!in_vocabulary(t, ids[i])) return KEEL_E_ARGUMENT;
    memset(s->ends, 0, sizeof s->ends);
    if (count) memcpy(s->ends, ids, count * sizeof *ids);
    s->end_count = count;
    s->own_ends = ids != nullptr;
    return KEEL_OK;
}

uint32_t text_stream_ends(const TextStream& s, const Tokenizer* t, const int32_t** ids) {
    if (!s.own_ends) return tokenizer_end_ids(t, ids);
    *ids = s.ends;
    return s.end_count;
}

keel_status text_stream_set_stops(TextStream* s, const char* const* texts, const size_t* bytes, uint32_t count) {
    if (count > kMaxStops || (count && (!texts || !bytes))) return KEEL_E_ARGUMENT;
    for (uint32_t i = 0; i < count; ++i)
        if (!texts[i] || bytes[i] == 0 || bytes[i] > kMaxStopBytes) return KEEL_E_ARGUMENT;
    memset(s->stops, 0, sizeof s->stops);
    memset(s->stop_bytes, 0, sizeof s->stop_bytes);
    for (uint32_t i = 0; i < count; ++i) {
        memcpy(s->stops[i], texts[i], bytes[i]);
        s->stop_bytes[i] = static_cast<uint32_t>(bytes[i]);
    }
    s->stop_count = count;
    return KEEL_OK;
}

void text_stream_follow(TextStream* s, const Tokenizer* t, int32_t token) {
    s->started = !tokenizer_begins_text(t, token, !s->started);
}

void text_stream_truncate(TextStream* s, const Tokenizer* t, const int32_t* tokens, uint32_t count) {
    while (s->held_bytes && (s->held_origin[s->held_bytes - 1] & kPosition) >= count) --s->held_bytes;
    forget_behind_held(s);
    s->stopped = 0;
    if (s->next_position > count) s->next_position = count;
    // Where text begins is the question of the last token that has any, or is special.
    uint32_t i = count;
    while (i && tokenizer_begins_text(t, tokens[i - 1], true) && !tokenizer_begins_text(t, tokens[i - 1], false)) --i;
    s->started = i && !tokenizer_begins_text(t, tokens[i - 1], true);
}

void text_stream_shift(TextStream* s, uint32_t from, uint32_t to) {
    const uint32_t bytes = s->held_bytes;
    s->held_bytes = 0;
    for (uint32_t i = 0; i < bytes; ++i) {
        const uint32_t position = s->held_origin[i] & kPosition;
        if (position >= from && position < to) continue;
        s->held[s->held_bytes] = s->held[i];
        s->held_origin[s->held_bytes++] = s->held_origin[i] - (position >= to ? to - from : 0);
    }
    forget_behind_held(s);
    if (s->next_position > from) s->next_position -= s->next_position >= to ? to - from : s->next_position - from;
}

keel_status text_stream_push(TextStream* s, const Tokenizer* t, int32_t token, uint32_t position, const char** data,
                             size_t* bytes, uint32_t* stopped) {
    if (token != -1 && !in_vocabulary(t, token)) return KEEL_E_ARGUMENT;
    if (!text_stream_valid(*s, t)) return KEEL_E_STATE;

    Raw raw;
    raw.bytes = s->held_bytes;
    memcpy(raw.text, s->held, raw.bytes);
    memcpy(raw.origin, s->held_origin, raw.bytes * sizeof *raw.origin);
    size_t tail = raw.bytes;  // may begin a stop string from here on
    bool finished = true;     // an unfinished character is not waited for
    if (token >= 0) {
        const bool end = is_end(*s, t, token);
        if (!end) append_token(*s, t, token, position, &raw);
        text_stream_follow(s, t, token);
        s->next_position = position + 1;
        s->stopped = end ? 2 : 0;
        tail = find_stop(*s, raw);
        if (tail < raw.bytes) {
            s->stopped = 1;
            raw.bytes = tail;
        } else if (!end) {
            tail = find_stop_prefix(*s, raw);
            finished = false;
        }
    }
    // Of what cannot begin a stop string, control tokens are dropped and whole characters are shown.
    size_t visible = 0;
    for (size_t i = 0; i < tail; ++i) {
        if (raw.origin[i] & kHidden) continue;
        raw.text[visible] = raw.text[i];
        raw.origin[visible++] = raw.origin[i];
    }
    const size_t whole = finished ? visible : find_unfinished(raw.text, visible);
    const size_t shown = show(raw.text, whole, s->shown);
    s->held_bytes = 0;
    const auto hold = [&](size_t begin, size_t end) {
        memcpy(s->held + s->held_bytes, raw.text + begin, end - begin);
        memcpy(s->held_origin + s->held_bytes, raw.origin + begin, (end - begin) * sizeof *raw.origin);
        s->held_bytes += static_cast<uint32_t>(end - begin);
    };
    hold(whole, visible);
    hold(tail, raw.bytes);
    forget_behind_held(s);
    *data = s->shown;
    *bytes = shown;
    *stopped = s->stopped;
    return KEEL_OK;
}

}  // namespace keel
