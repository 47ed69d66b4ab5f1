// Text of a session as it grows, shown no sooner than it is certain.
#include <string.h>

#include "sdk/core/status.h"
#include "sdk/text/tokenizer.h"
#include "sdk/text/utf8.h"

namespace keel {
namespace {

constexpr char kReplacement[] = "\xef\xbf\xbd";  // U+FFFD
constexpr uint32_t kReplacementBytes = 3;
// Held back at most: all but one byte of a stop string, and before it all but one byte of a character.
constexpr uint32_t kMaxHeldBytes = kMaxStopBytes - 1 + 3;
constexpr uint32_t kMaxRawBytes = kMaxHeldBytes + kMaxPieceBytes;
static_assert(kMaxRawBytes * kReplacementBytes <= sizeof(TextStream::buffer));

// Where the earliest complete stop string begins, or `bytes`.
size_t find_stop(const TextStream& s, const char* raw, size_t bytes) {
    for (size_t at = 0; at < bytes; ++at)
        for (uint32_t i = 0; i < s.stop_count; ++i)
            if (s.stop_bytes[i] <= bytes - at && memcmp(raw + at, s.stops[i], s.stop_bytes[i]) == 0) return at;
    return bytes;
}

// Where the longest tail begins that some stop string begins with, or `bytes`.
size_t find_stop_prefix(const TextStream& s, const char* raw, size_t bytes) {
    for (size_t at = bytes < kMaxStopBytes ? 0 : bytes - (kMaxStopBytes - 1); at < bytes; ++at)
        for (uint32_t i = 0; i < s.stop_count; ++i)
            if (bytes - at < s.stop_bytes[i] && memcmp(raw + at, s.stops[i], bytes - at) == 0) return at;
    return bytes;
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

bool is_end(const Tokenizer* t, int32_t token) {
    const int32_t* ids;
    const uint32_t count = tokenizer_end_ids(t, &ids);
    for (uint32_t i = 0; i < count; ++i)
        if (ids[i] == token) return true;
    return false;
}

}  // namespace

bool text_stream_valid(const TextStream& s) {
    if (s.stop_count > kMaxStops || s.held_bytes > sizeof s.buffer || s.shown_bytes > s.held_bytes) return false;
    if (s.held_bytes - s.shown_bytes > kMaxHeldBytes || s.started > 1 || s.stopped > 2) return false;
    for (uint32_t i = 0; i < s.stop_count; ++i)
        if (s.stop_bytes[i] == 0 || s.stop_bytes[i] > kMaxStopBytes) return false;
    return true;
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

keel_status text_stream_push(TextStream* s, const Tokenizer* t, int32_t token, const char** data, size_t* bytes,
                             uint32_t* stopped) {
    if (token < -1 || (token >= 0 && static_cast<uint32_t>(token) >= tokenizer_vocabulary(t))) return KEEL_E_ARGUMENT;
    if (!text_stream_valid(*s)) return KEEL_E_STATE;

    // What is held, and behind it the token's text.
    char raw[kMaxRawBytes];
    size_t raw_bytes = s->held_bytes - s->shown_bytes;
    memcpy(raw, s->buffer + s->shown_bytes, raw_bytes);
    size_t decided = raw_bytes;
    if (token >= 0) {
        const bool end = is_end(t, token);
        const char* piece;
        size_t piece_bytes = 0;
        if (!end) tokenizer_piece(t, token, 0, !s->started, &piece, &piece_bytes);
        if (piece_bytes) memcpy(raw + raw_bytes, piece, piece_bytes);
        raw_bytes += piece_bytes;
        text_stream_follow(s, t, token);
        s->stopped = end ? 2 : 0;
        decided = find_stop(*s, raw, raw_bytes);
        if (decided < raw_bytes) {
            s->stopped = 1;
            raw_bytes = decided;
        } else if (!end) {
            decided = find_unfinished(raw, find_stop_prefix(*s, raw, raw_bytes));
        }
    }
    const size_t shown = show(raw, decided, s->buffer);
    memcpy(s->buffer + shown, raw + decided, raw_bytes - decided);
    s->shown_bytes = static_cast<uint32_t>(shown);
    s->held_bytes = static_cast<uint32_t>(shown + raw_bytes - decided);
    *data = s->buffer;
    *bytes = shown;
    *stopped = s->stopped;
    return KEEL_OK;
}

}  // namespace keel
