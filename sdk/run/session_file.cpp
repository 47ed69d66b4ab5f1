// Saved sessions: a versioned, checksummed block of exact size, tied to the model and the KV formats. Restoring treats
// it as hostile: every field is checked before the session changes.
//
//     SavedHeader | SamplerParams | TextStream without what was shown | tokens int32[token_count]
//     | drawn bits u8[(token_count + 7) / 8]
//     | newest logits f32[vocabulary] and hidden f32[embedding], if has_logits
//     | evicted pages: bits u8[(pages + 7) / 8], if there are any
//     | KV rows in use: for each page that was not, layer: codes and scales of each head's K, then of each head's V
//     | rows of sinks, then those of the ring from slot oldest_recent on (kv_f16_window.h): per layer K, V heads; of
//       the ring row by row
//     | hash64 of everything before, u64
#include <string.h>

#include "sdk/core/hash.h"
#include "sdk/core/status.h"
#include "sdk/run/engine.h"
#include "sdk/text/grammar_tokens.h"

namespace keel {
namespace {

constexpr uint64_t kSavedMagic = 0x3153534553454b4bull;  // "KKESESS1"
constexpr uint32_t kSavedVersion = 7;

struct SavedHeader {
    uint64_t magic;
    uint32_t version, header_bytes, sampler_bytes, text_bytes;
    uint64_t total_bytes, fingerprint, kv_identity;
    uint32_t layers, kv_heads, head_dim, page_tokens, vocabulary, embedding;
    uint32_t token_count, computed, sampled, has_logits, feed_flags, evicted_pages;
    int32_t last_sample;
    uint32_t oldest_recent;
    // What the session is held to; where it is in it follows from the tokens.
    uint64_t grammar;  // Grammar::identity; 0 where grammar_from is KEEL_GRAMMAR_OFF
    uint32_t grammar_from;
    float adapter_scale;  // 0: none
    uint64_t adapter;     // AdapterFile::identity of the one it goes on with; 0: none
};

uint64_t drawn_bytes(uint32_t tokens) {
    return (uint64_t{tokens} + 7) / 8;
}

uint64_t evicted_bytes(const SavedHeader& h) {
    return h.evicted_pages ? (uint64_t{kv_pages_for(h.computed)} + 7) / 8 : 0;
}

uint64_t sink_rows(const Engine& e, const SavedHeader& h) {
    return h.computed < e.f16_window.sink_tokens ? h.computed : e.f16_window.sink_tokens;
}
uint64_t recent_rows(const Engine& e, const SavedHeader& h) {
    return e.f16_window.recent_tokens ? h.computed - h.oldest_recent : 0;
}

// Size of the whole block; evicted pages are full ones.
uint64_t saved_bytes(const Engine& e, const SavedHeader& h) {
    return sizeof(SavedHeader) + sizeof(SamplerParams) + kTextStateBytes + uint64_t{h.token_count} * 4 +
           drawn_bytes(h.token_count) + (h.has_logits ? (uint64_t{h.vocabulary} + h.embedding) * 4 : 0) +
           evicted_bytes(h) + (h.computed - uint64_t{h.evicted_pages} * kPageTokens) * e.geometry.row_bytes +
           sink_rows(e, h) * e.f16_window.sink_row_bytes + recent_rows(e, h) * e.f16_window.ring_row_bytes + 8;
}

SavedHeader make_header(const Engine& e, const Session& s) {
    SavedHeader h = {};
    h.magic = kSavedMagic;
    h.version = kSavedVersion;
    h.header_bytes = sizeof(SavedHeader);
    h.sampler_bytes = sizeof(SamplerParams);
    h.text_bytes = kTextStateBytes;
    h.fingerprint = e.fingerprint;
    h.layers = e.geometry.layers;
    h.kv_heads = e.geometry.kv_heads;
    h.head_dim = e.geometry.head_dim;
    h.kv_identity = e.kv_identity;
    h.page_tokens = kPageTokens;
    h.vocabulary = e.spec.vocabulary;
    h.embedding = e.spec.embedding;
    h.token_count = s.token_count;
    h.computed = s.computed;
    h.sampled = s.sampled;
    h.has_logits = s.logits_rows != 0;
    h.feed_flags = s.all_logits | (s.token_count != s.computed ? s.sample : 0);  // of tokens still to be computed
    h.last_sample = s.last_sample;
    if (e.f16_window.recent_tokens) {
        const uint32_t kept = e.f16_window.kept_tokens, wanted = s.computed > kept ? s.computed - kept : 0;
        h.oldest_recent = s.f16_window.oldest > wanted ? s.f16_window.oldest : wanted;
    }
    h.grammar_from = s.grammar_from;
    h.grammar = s.grammar_from == KEEL_GRAMMAR_OFF ? 0 : e.grammar->identity;
    h.adapter = s.adapter == KEEL_ADAPTER_OFF ? 0 : e.config.adapters.file[s.adapter].identity;
    h.adapter_scale = s.adapter_scale;
    for (uint32_t page = 0; page < kv_pages_for(h.computed); ++page) h.evicted_pages += s.kv.ids[page] == kNoPage;
    h.total_bytes = saved_bytes(e, h);
    return h;
}

// Walks the saved KV rows in file order: copy(part, offset in its region, bytes) for each run of rows, until one fails.
template <class Copy>
keel_status for_each_kv_run(const Engine& e, const KvPageList& list, uint32_t tokens, Copy copy) {
    const KvGeometry& g = e.geometry;
    for (uint32_t page = 0; page * kPageTokens < tokens; ++page) {
        const uint64_t rows = tokens - page * kPageTokens < kPageTokens ? tokens - page * kPageTokens : kPageTokens;
        if (list.ids[page] == kNoPage) continue;
        for (uint32_t layer = 0; layer < g.layers; ++layer) {
            const KvPart& part = e.kv_of(layer);
            const uint64_t base = part.page_offset(list.ids[page]);
            const auto plane = [&](const kernels::KvPlane& p) {
                KEEL_TRY(copy(part, base + p.codes, rows * p.code_bytes));
                return copy(part, base + p.scales, rows * p.scale_bytes);
            };
            for (uint32_t head = 0; head < g.kv_heads; ++head) KEEL_TRY(plane(g.layer[layer].k_head(head)));
            for (uint32_t head = 0; head < g.kv_heads; ++head) KEEL_TRY(plane(g.layer[layer].v_head(head)));
        }
    }
    return KEEL_OK;
}

constexpr uint64_t kNowhere = UINT64_MAX;

// Walks the saved rows of sinks and ring in file order, as for_each_kv_run; kNowhere is the offset of rows that the
// ring has no room for.
template <class Copy>
keel_status for_each_f16_run(const Engine& e, const Session* s, const SavedHeader& h, Copy copy) {
    const uint64_t sinks = sink_rows(e, h);
    for (uint32_t layer = 0; sinks && layer < e.spec.layers; ++layer) {
        const KvPart& part = e.kv_of(layer);
        const KvF16WindowShape& shape = part.f16_window;
        const uint64_t window = part.f16_window_offset(e.index_of(s));
        for (uint32_t head = 0; head < e.spec.kv_heads; ++head)
            KEEL_TRY(copy(part, window + shape.sink_k(layer, head).codes, sinks * shape.sinks.k.code_bytes));
        for (uint32_t head = 0; head < e.spec.kv_heads; ++head)
            KEEL_TRY(copy(part, window + shape.sink_v(layer, head).codes, sinks * shape.sinks.v.code_bytes));
    }
    for (uint32_t layer = 0; recent_rows(e, h) && layer < e.spec.layers; ++layer) {
        const KvPart& part = e.kv_of(layer);
        const KvF16WindowShape& shape = part.f16_window;
        const uint64_t ring = part.f16_window_offset(e.index_of(s)) + shape.ring_of(layer);
        const uint64_t row_bytes = shape.ring.k.code_bytes;
        uint32_t slot = h.oldest_recent;
        if (slot < s->f16_window.oldest) {
            KEEL_TRY(copy(part, kNowhere, (s->f16_window.oldest - slot) * row_bytes));
            slot = s->f16_window.oldest;
        }
        for (uint32_t rows; slot < h.computed; slot += rows) {  // to the end of the ring, then from its beginning
            const uint32_t row = kernels::kv_ring_row(slot, s->f16_window.shift, shape.ring_rows);
            rows = h.computed - slot < shape.ring_rows - row ? h.computed - slot : shape.ring_rows - row;
            KEEL_TRY(copy(part, ring + row * row_bytes, rows * row_bytes));
        }
    }
    return KEEL_OK;
}

// The number of the session's adapter here.
uint32_t adapter_of(const Engine& e, const SavedHeader& h) {
    for (uint32_t i = 0; h.adapter && i < e.config.adapters.count; ++i)
        if (e.config.adapters.file[i].identity == h.adapter) return i;
    return KEEL_ADAPTER_OFF;
}

#define KEEL_HEADER_FIELD(field) \
    { #field, offsetof(SavedHeader, field), sizeof(SavedHeader::field) }
struct HeaderField {
    const char* name;
    size_t offset, bytes;
};
// Fields that must be what this engine would write.
constexpr HeaderField kMatching[] = {
    KEEL_HEADER_FIELD(fingerprint), KEEL_HEADER_FIELD(kv_identity), KEEL_HEADER_FIELD(layers),
    KEEL_HEADER_FIELD(kv_heads),    KEEL_HEADER_FIELD(head_dim),    KEEL_HEADER_FIELD(page_tokens),
    KEEL_HEADER_FIELD(vocabulary),  KEEL_HEADER_FIELD(embedding),
};

keel_status check_header(const Engine& e, const SavedHeader& h, uint64_t bytes, keel_error* error) {
    if (h.magic != kSavedMagic) return fail(error, KEEL_E_FILE_FORMAT, 0, "magic", "not a saved session");
    if (h.version != kSavedVersion)
        return fail(error, KEEL_E_UNSUPPORTED, offsetof(SavedHeader, version), "version",
                    "another version of the format");
    if (h.header_bytes != sizeof(SavedHeader) || h.sampler_bytes != sizeof(SamplerParams) ||
        h.text_bytes != kTextStateBytes)
        return fail(error, KEEL_E_FILE_FORMAT, offsetof(SavedHeader, header_bytes), "header_bytes",
                    "section sizes differ from this version's");
    Session empty = {};
    empty.grammar_from = KEEL_GRAMMAR_OFF;
    empty.adapter = KEEL_ADAPTER_OFF;
    const SavedHeader mine = make_header(e, empty);
    for (const HeaderField& field : kMatching)
        if (memcmp(reinterpret_cast<const uint8_t*>(&h) + field.offset,
                   reinterpret_cast<const uint8_t*>(&mine) + field.offset, field.bytes) != 0)
            return fail(error, KEEL_E_FILE_MISMATCH, field.offset, field.name,
                        "saved with another model, KV format, activation, RoPE factors or numerics");
    if (h.token_count > e.config.context_tokens)
        return fail(error, KEEL_E_CONTEXT_FULL, offsetof(SavedHeader, token_count), "token_count",
                    "longer than this engine's context");
    if (h.computed > h.token_count || h.has_logits > 1 ||
        (h.feed_flags & ~(KEEL_FEED_ALL_LOGITS | KEEL_FEED_SAMPLE)) != 0 || h.sampled > h.token_count ||
        h.last_sample < -1 || h.last_sample >= static_cast<int32_t>(h.vocabulary) || (h.has_logits && h.computed == 0))
        return fail(error, KEEL_E_FILE_FORMAT, offsetof(SavedHeader, computed), "computed",
                    "counts contradict each other");
    const KvF16Window saved = {h.oldest_recent, 0};
    if (h.oldest_recent > h.computed || (h.oldest_recent && !e.f16_window.recent_tokens) ||
        !kv_f16_window_reaches(e.f16_window, saved, h.computed))
        return fail(error, KEEL_E_FILE_FORMAT, offsetof(SavedHeader, oldest_recent), "oldest_recent",
                    "rows the next query reads are missing");
    if (h.evicted_pages > h.computed / kPageTokens)
        return fail(error, KEEL_E_FILE_FORMAT, offsetof(SavedHeader, evicted_pages), "evicted_pages",
                    "more than there are");
    if (h.grammar_from < KEEL_GRAMMAR_NEXT && h.grammar_from > h.token_count)
        return fail(error, KEEL_E_FILE_FORMAT, offsetof(SavedHeader, grammar_from), "grammar_from",
                    "behind the last token");
    const bool held = h.grammar_from != KEEL_GRAMMAR_OFF;
    if (h.grammar != (!held ? 0 : e.grammar ? e.grammar->identity : ~h.grammar))
        return fail(error, KEEL_E_FILE_MISMATCH, offsetof(SavedHeader, grammar), "grammar",
                    "the session was held to another grammar");
    const uint32_t adapter = adapter_of(e, h);
    if ((h.adapter != 0) != (adapter != KEEL_ADAPTER_OFF))
        return fail(error, KEEL_E_FILE_MISMATCH, offsetof(SavedHeader, adapter), "adapter",
                    "the session had an adapter that this engine does not have");
    if (h.adapter ? h.adapter_scale == 0 || !adapter_scale_fits(e.config.adapters.file[adapter], h.adapter_scale)
                  : h.adapter_scale != 0)
        return fail(error, KEEL_E_FILE_FORMAT, offsetof(SavedHeader, adapter_scale), "adapter_scale", "out of range");
    if (h.total_bytes != bytes || saved_bytes(e, h) != bytes)
        return fail(error, KEEL_E_FILE_FORMAT, offsetof(SavedHeader, total_bytes), "total_bytes",
                    "size contradicts the contents");
    return KEEL_OK;
}

}  // namespace
}  // namespace keel

using namespace keel;

extern "C" {

keel_status keel_session_save_bytes(keel_session session, uint64_t* bytes) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (!bytes) return bad_argument(e, "bytes", "null");
    *bytes = make_header(*e, *s).total_bytes;
    return KEEL_OK;
}

keel_status keel_session_save(keel_session session, void* dst, uint64_t capacity_bytes, uint64_t* written_bytes) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (!dst || !written_bytes) return bad_argument(e, !dst ? "dst" : "written_bytes", "null");
    if (s->in_step) return KEEL_E_BUSY;
    const SavedHeader h = make_header(*e, *s);
    *written_bytes = h.total_bytes;
    if (capacity_bytes < h.total_bytes) return KEEL_E_BUFFER_TOO_SMALL;
    KEEL_TRY(fetch_rows(e, s));
    uint8_t* out = static_cast<uint8_t*>(dst);
    const auto put = [&out](const void* data, uint64_t bytes) {
        memcpy(out, data, bytes);
        out += bytes;
    };
    put(&h, sizeof h);
    put(&s->sampling, sizeof s->sampling);
    put(&s->text, kTextStateBytes);
    put(s->tokens, uint64_t{s->token_count} * 4);
    // Bits past the last token are written as zero, so that equal sessions are equal files.
    for (uint64_t i = 0; i < drawn_bytes(s->token_count); ++i) {
        const uint64_t bits = s->token_count - 8 * i;
        const uint8_t byte = static_cast<uint8_t>(bits >= 8 ? s->drawn[i] : s->drawn[i] & ((1u << bits) - 1));
        put(&byte, 1);
    }
    if (h.has_logits) {
        put(s->logits + uint64_t{s->logits_rows - 1} * h.vocabulary, uint64_t{h.vocabulary} * 4);
        put(s->hidden + uint64_t{s->logits_rows - 1} * h.embedding, uint64_t{h.embedding} * 4);
    }
    for (uint64_t i = 0; i < evicted_bytes(h); ++i) {
        uint8_t byte = 0;
        for (uint64_t page = 8 * i; page < 8 * i + 8 && page < kv_pages_for(h.computed); ++page)
            byte = static_cast<uint8_t>(byte | (s->kv.ids[page] == kNoPage ? 1 : 0) << page % 8);
        put(&byte, 1);
    }
    const auto fetch = [&](const KvPart& part, uint64_t offset, uint64_t bytes) {
        KEEL_TRY(download_kv(e, out, part, offset, bytes));
        out += bytes;
        return KEEL_OK;
    };
    KEEL_TRY(for_each_kv_run(*e, s->kv, s->computed, fetch));
    KEEL_TRY(for_each_f16_run(*e, s, h, fetch));
    const uint64_t checksum = hash64(dst, h.total_bytes - 8);
    put(&checksum, sizeof checksum);
    return KEEL_OK;
}

keel_status keel_session_restore(keel_session session, const void* src, uint64_t bytes, keel_error* error) {
    Engine* e;
    SessionUse s;
    KEEL_TRY(enter(session, &e, &s));
    if (!src) return bad_argument(e, "src", "null");
    if (s->in_step) return KEEL_E_BUSY;
    const uint8_t* in = static_cast<const uint8_t*>(src);
    SavedHeader h;
    if (bytes < sizeof h + 8) return fail(error, KEEL_E_FILE_FORMAT, bytes, "header", "ends early");
    memcpy(&h, in, sizeof h);
    KEEL_TRY(check_header(*e, h, bytes, error));
    if (h.adapter && s->variant != KEEL_VARIANT_DENSE)
        return fail(error, KEEL_E_STATE, 0, "adapter", "the session is in the low-rank variant");
    uint64_t checksum;
    memcpy(&checksum, in + bytes - 8, sizeof checksum);
    if (checksum != hash64(src, bytes - 8))
        return fail(error, KEEL_E_FILE_FORMAT, bytes - 8, "checksum", "the contents were changed");

    SamplerParams sampling;
    TextStream text = {};
    const uint8_t* tokens = in + sizeof h + sizeof sampling + kTextStateBytes;
    memcpy(&sampling, in + sizeof h, sizeof sampling);
    memcpy(&text, in + sizeof h + sizeof sampling, kTextStateBytes);
    if (sampler_check(sampling, h.vocabulary) != KEEL_OK)
        return fail(error, KEEL_E_FILE_FORMAT, sizeof h, "sampling", "a parameter is out of range");
    if (!text_stream_valid(text, e->tokenizer))
        return fail(error, KEEL_E_FILE_FORMAT, sizeof h + sizeof sampling, "text", "a count is out of range");
    for (uint32_t i = 0; i < h.token_count; ++i) {
        int32_t id;
        memcpy(&id, tokens + uint64_t{i} * 4, 4);
        if (id < 0 || id >= static_cast<int32_t>(h.vocabulary))
            return fail(error, KEEL_E_FILE_FORMAT, static_cast<uint64_t>(tokens - in) + uint64_t{i} * 4, "tokens",
                        "an id is outside the vocabulary");
    }
    uint32_t sampled = 0;
    const uint8_t* drawn = tokens + uint64_t{h.token_count} * 4;
    for (uint32_t i = 0; i < h.token_count; ++i) sampled += drawn[i / 8] >> i % 8 & 1;
    if (sampled != h.sampled)
        return fail(error, KEEL_E_FILE_FORMAT, static_cast<uint64_t>(drawn - in), "sampled",
                    "differs from the drawn tokens");
    const uint8_t* evicted = h.evicted_pages ? drawn + drawn_bytes(h.token_count) +
                                                   (h.has_logits ? (uint64_t{h.vocabulary} + h.embedding) * 4 : 0)
                                             : nullptr;
    uint32_t evicted_pages = 0;
    for (uint64_t page = 0; page < evicted_bytes(h) * 8; ++page) {
        const bool gone = evicted[page / 8] >> page % 8 & 1;
        evicted_pages += gone;
        if (gone && page >= h.computed / kPageTokens) evicted_pages = UINT32_MAX / 2;  // no full page
    }
    if (evicted_pages != h.evicted_pages)
        return fail(error, KEEL_E_FILE_FORMAT, static_cast<uint64_t>((evicted ? evicted : in) - in), "evicted",
                    "differs from evicted_pages");
    KEEL_TRY(kv_replace(&e->pool, &s->kv, h.computed, evicted));

    // Nothing but the backend can fail any more, which poisons the engine.
    const uint8_t* from = tokens;
    const auto get = [&from](void* dst, uint64_t n) {
        memcpy(dst, from, n);
        from += n;
    };
    get(s->tokens, uint64_t{h.token_count} * 4);
    get(s->drawn, drawn_bytes(h.token_count));
    if (h.has_logits) {
        get(s->logits, uint64_t{h.vocabulary} * 4);
        get(s->hidden, uint64_t{h.embedding} * 4);
    }
    from += evicted_bytes(h);
    const auto store = [&](const KvPart& part, uint64_t offset, uint64_t n) {
        if (offset != kNowhere) KEEL_TRY(upload_kv(e, part, offset, from, n));
        from += n;
        return KEEL_OK;
    };
    KEEL_TRY(for_each_kv_run(*e, s->kv, h.computed, store));
    s->f16_window = {h.oldest_recent, 0};
    if (e->f16_window.recent_tokens) kv_f16_window_reach(e->f16_window, &s->f16_window, h.computed);
    KEEL_TRY(for_each_f16_run(*e, s, h, store));
    s->sampling = sampling;
    s->sample = h.feed_flags & KEEL_FEED_SAMPLE;
    s->draw = Session::kNoDraw;
    s->proposed = s->accepted = 0;
    s->drafting = false;
    reset_drafter(e, s);
    s->text = text;
    s->adapter = adapter_of(*e, h);
    s->adapter_scale = h.adapter_scale;
    s->grammar_from = h.grammar_from;
    if (s->grammar) grammar_session_clear(s->grammar);
    s->token_count = s->fed_from = h.token_count;
    s->computed = h.computed;
    s->sampled = h.sampled;
    s->all_logits = h.feed_flags & KEEL_FEED_ALL_LOGITS;
    s->last_sample = h.last_sample;
    s->logits_rows = h.has_logits;
    s->rows_on_host = true;
    s->rows_on_device = false;
    return KEEL_OK;
}

}  // extern "C"
