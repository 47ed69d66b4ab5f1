// Builds a Tokenizer from a GGUF: counts, places, fills. Everything the counting pass needs is counts, so count mode
// reads the token types and lengths but no text.
#include <string.h>

#include "sdk/core/status.h"
#include "sdk/text/tokenizer_layout.h"

namespace keel {
namespace {

constexpr char kTokensKey[] = "tokenizer.ggml.tokens";
constexpr char kScoresKey[] = "tokenizer.ggml.scores";
constexpr char kTypesKey[] = "tokenizer.ggml.token_type";
constexpr char kMergesKey[] = "tokenizer.ggml.merges";
constexpr char kPreKey[] = "tokenizer.ggml.pre";
constexpr char kModelKey[] = "tokenizer.ggml.model";

constexpr uint32_t kMaxTokens = 1u << 24;
constexpr uint32_t kMaxSpelledBytes = 2 * kMaxPieceBytes;  // byte-level: a byte is spelled with one or two
constexpr uint32_t kMaxMergeBytes = 2 * kMaxSpelledBytes + 1;
constexpr uint32_t kMaxTextBytes = 1u << 24;
constexpr uint32_t kBytePairBits = 1u << 16;
constexpr uint64_t kMaxJoinBits = 1u << 28;

constexpr const char* kEndKeys[] = {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id",
                                    "tokenizer.ggml.fim_pad_token_id", "tokenizer.ggml.fim_rep_token_id",
                                    "tokenizer.ggml.fim_sep_token_id"};
// Texts of tokens that end a turn, or a piece of code where a model fills in the middle: files do not name most ids.
constexpr const char* kEndTexts[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    ("<\xef\xbd\x9c"  // in two, since the letter behind would belong to the number; in parentheses, since it is one
     "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"),
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
};
// Where a vocabulary has all of `with`, the token is no end: a part of an answer ends with it, not the answer.
struct NoEnd {
    const char* text;
    const char* with[2];
};
constexpr NoEnd kNoEnds[] = {
    {"<|end|>", {"<|return|>", "<|call|>"}},
    {"<|end|>", {"<|calls|>", "<|flush|>"}},
    {"</s>", {"<|tool_response>", "<|tool_response>"}},
};

// ---- byte-level spelling: printable bytes stand for themselves, the others for U+0100 and up, in order ----

constexpr bool spells_itself(uint32_t byte) {
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
}
constexpr uint32_t kSpellingCodes = 0x100 + 68;  // 68 bytes do not spell themselves
struct Spelling {
    int16_t byte_of[kSpellingCodes];  // code point -> byte, -1 when it spells none
};
constexpr Spelling make_spelling() {
    Spelling s = {};
    for (int16_t& byte : s.byte_of) byte = -1;
    uint32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; ++byte)
        s.byte_of[spells_itself(byte) ? byte : next++] = static_cast<int16_t>(byte);
    return s;
}
constexpr Spelling kSpelling = make_spelling();

// Byte-level spelling to bytes; false when a character spells none. dst has room for `bytes`.
bool unspell(const char* text, size_t bytes, char* dst, uint32_t* dst_bytes) {
    uint32_t n = 0;
    for (size_t i = 0; i < bytes;) {
        const Utf8Char c = utf8_decode(text + i, bytes - i);
        if (c.code >= kSpellingCodes || kSpelling.byte_of[c.code] < 0) return false;
        dst[n++] = static_cast<char>(kSpelling.byte_of[c.code]);
        i += c.bytes;
    }
    *dst_bytes = n;
    return true;
}

// SentencePiece spelling to text: the space mark is a space.
uint32_t unmark(const char* text, size_t bytes, char* dst) {
    uint32_t n = 0;
    for (size_t i = 0; i < bytes;) {
        const Utf8Char c = utf8_decode(text + i, bytes - i);
        const bool mark = c.code == kSpaceMark;
        dst[n] = mark ? ' ' : text[i];
        for (uint32_t k = 1; !mark && k < c.bytes; ++k) dst[n + k] = text[i + k];
        n += mark ? 1 : c.bytes;
        i += c.bytes;
    }
    return n;
}

int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

// "<0x0A>": the byte, or -1.
int byte_token(const char* text, size_t bytes) {
    if (bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    const int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

// The one that the file names.
keel_status file_pretokenizer(const keel_reader& reader, const Gguf& g, const PreTokenizer** out, keel_error* error) {
    char name[64];
    uint64_t bytes = 0;
    bool present = false;
    KEEL_TRY(gguf_string(reader, g, kPreKey, name, sizeof name, &bytes, &present, error));
    if (!present)
        return fail(
            error, KEEL_E_UNSUPPORTED, 0, kPreKey,
            "the file names no pre-tokenizer and any choice would be a guess: config.pre_tokenizer can name one");
    const char* reason;
    *out = pretokenizer_find(name, strlen(name), &reason);
    return *out ? KEEL_OK : fail(error, KEEL_E_UNSUPPORTED, 0, name, reason);
}

constexpr uint64_t table_slots(uint64_t count) {
    return count + count / 2 + 1;
}

// ---- the build ----

class Builder {
  public:
    Builder(const keel_reader& reader, const Gguf& g, uint32_t max_text_bytes, const PreTokenizer* pre, Arena& arena,
            keel_error* error)
        : reader_(reader), g_(g), max_text_bytes_(max_text_bytes), pre_(pre), arena_(arena), error_(error) {}
    keel_status run(Tokenizer** out);
    // Counts with any pre-tokenizer where the file's is not to be had.
    keel_status check() {
        any_pre_ = true;
        Tokenizer* none;
        return run(&none);
    }

  private:
    keel_status read_settings();
    keel_status find_array(const char* key, uint32_t element, const GgufValue** out);
    keel_status scan_tokens();
    keel_status place(Tokenizer** out);
    keel_status fill_tokens();
    keel_status fill_scores();
    keel_status fill_merges();
    keel_status index_tokens();
    keel_status add_end_ids();
    void check_unknown();
    keel_status read_id(const char* key, int32_t* id);
    keel_status insert(PieceTable& table, uint32_t id, const char* key);
    keel_status insert_merge(uint32_t left, uint32_t right, uint32_t rank, uint32_t result);
    void join(uint32_t left, uint32_t right);
    void add_end_id(int32_t id);
    bool is_no_end(const char* text);
    int32_t find_special(const char* text) { return find_piece(*t_, t_->specials, text, strlen(text)); }
    keel_status array_fail(const char* key, const GgufValue* v, keel_status status, const char* reason) {
        return fail(error_, status, v ? v->offset : 0, key, reason);
    }
    // What a cursor returns: the reader failed, or the array contradicts its own extent.
    keel_status broken(const char* key, const GgufValue* v, keel_status status) {
        return array_fail(key, v, status, status == KEEL_E_FILE_READ ? "the reader failed" : "the array is cut short");
    }

    const keel_reader& reader_;
    const Gguf& g_;
    const uint32_t max_text_bytes_;
    const PreTokenizer* const pre_;  // in place of the file's
    Arena& arena_;
    keel_error* const error_;
    const GgufValue *tokens_ = nullptr, *scores_ = nullptr, *types_ = nullptr, *merges_ = nullptr;
    uint32_t ordinary_count_ = 0, special_count_ = 0;
    bool any_pre_ = false;
    Tokenizer settings_ = {};
    Tokenizer* t_ = nullptr;
    uint8_t* type_table_ = nullptr;
    uint32_t* offset_table_ = nullptr;
    float* score_table_ = nullptr;
    char* blob_ = nullptr;
    uint64_t* join_table_ = nullptr;
    MergeSlot* merge_table_ = nullptr;
    char spelled_[kMaxMergeBytes];
    char plain_[kMaxMergeBytes];
};

keel_status Builder::run(Tokenizer** out) {
    KEEL_TRY(read_settings());
    KEEL_TRY(scan_tokens());
    KEEL_TRY(place(out));
    if (arena_.counting()) return KEEL_OK;
    KEEL_TRY(fill_tokens());
    KEEL_TRY(index_tokens());
    KEEL_TRY(settings_.byte_level ? fill_merges() : fill_scores());
    KEEL_TRY(add_end_ids());
    check_unknown();
    return KEEL_OK;
}

keel_status Builder::find_array(const char* key, uint32_t element, const GgufValue** out) {
    const GgufValue* v = gguf_find(g_, key);
    if (v && (v->type != kGgufArray || v->element_type != element))
        return array_fail(key, v, KEEL_E_FILE_FORMAT, "an array of another type was expected");
    *out = v;
    return KEEL_OK;
}

keel_status Builder::read_id(const char* key, int32_t* id) {
    uint32_t value = 0;
    bool present = false;
    KEEL_TRY(gguf_u32(reader_, g_, key, &value, &present, error_));
    *id = -1;
    if (!present || value == UINT32_MAX) return KEEL_OK;  // writers spell "none" as -1
    if (value >= settings_.vocabulary)
        return fail(error_, KEEL_E_FILE_FORMAT, 0, key, "the id is outside the vocabulary");
    *id = static_cast<int32_t>(value);
    return KEEL_OK;
}

keel_status Builder::read_settings() {
    char name[64];
    uint64_t bytes = 0;
    bool present = false;
    KEEL_TRY(gguf_string(reader_, g_, kModelKey, name, sizeof name, &bytes, &present, error_));
    if (!present) return fail(error_, KEEL_E_UNSUPPORTED, 0, kModelKey, "the file names no tokenizer");
    settings_.byte_level = strcmp(name, "gpt2") == 0;
    if (!settings_.byte_level && strcmp(name, "llama") != 0)
        return fail(error_, KEEL_E_UNSUPPORTED, 0, name, "tokenizer.ggml.model is neither \"llama\" nor \"gpt2\"");

    KEEL_TRY(find_array(kTokensKey, kGgufString, &tokens_));
    if (!tokens_ || tokens_->count == 0)
        return fail(error_, KEEL_E_FILE_FORMAT, 0, kTokensKey, "there is no vocabulary");
    if (tokens_->count > kMaxTokens || tokens_->bytes > UINT32_MAX / 2)
        return array_fail(kTokensKey, tokens_, KEEL_E_FILE_LIMIT, "the vocabulary is too large");
    settings_.vocabulary = static_cast<uint32_t>(tokens_->count);

    settings_.add_bos = !settings_.byte_level;
    settings_.add_space_prefix = !settings_.byte_level;
    if (settings_.byte_level) {
        settings_.pre = pre_;
        if (!pre_) {
            keel_error why = {};
            why.struct_size = sizeof why;
            const keel_status status = file_pretokenizer(reader_, g_, &settings_.pre, &why);
            if (status != KEEL_OK && !(any_pre_ && status == KEEL_E_UNSUPPORTED))
                return fail(error_, status, why.offset, why.field, why.reason);
            if (status != KEEL_OK) settings_.pre = pretokenizer_find("default", 7, nullptr);
        }
        settings_.ignore_merges = settings_.pre->ignore_merges;
        settings_.add_bos = settings_.pre->add_bos;
        KEEL_TRY(find_array(kMergesKey, kGgufString, &merges_));
        if (!merges_) return fail(error_, KEEL_E_FILE_FORMAT, 0, kMergesKey, "a byte-level vocabulary needs merges");
        if (merges_->count > kMaxTokens) return array_fail(kMergesKey, merges_, KEEL_E_FILE_LIMIT, "too many merges");
    } else {
        if (pre_)
            return fail(error_, KEEL_E_ARGUMENT, 0, "config.pre_tokenizer", "a SentencePiece vocabulary has none");
        KEEL_TRY(find_array(kScoresKey, kGgufF32, &scores_));
        if (!scores_) return fail(error_, KEEL_E_FILE_FORMAT, 0, kScoresKey, "a SentencePiece vocabulary needs scores");
        if (scores_->count != settings_.vocabulary)
            return array_fail(kScoresKey, scores_, KEEL_E_FILE_FORMAT, "not one score per token");
        KEEL_TRY(
            gguf_bool(reader_, g_, "tokenizer.ggml.add_space_prefix", &settings_.add_space_prefix, &present, error_));
        KEEL_TRY(gguf_string(reader_, g_, "general.architecture", name, sizeof name, &bytes, &present, error_));
        settings_.strip_after_special = present && strcmp(name, "phi3") == 0;
    }
    KEEL_TRY(find_array(kTypesKey, kGgufI32, &types_));
    if (types_ && types_->count != settings_.vocabulary)
        return array_fail(kTypesKey, types_, KEEL_E_FILE_FORMAT, "not one type per token");

    KEEL_TRY(gguf_bool(reader_, g_, "tokenizer.ggml.add_bos_token", &settings_.add_bos, &present, error_));
    KEEL_TRY(read_id("tokenizer.ggml.bos_token_id", &settings_.bos_id));
    KEEL_TRY(read_id("tokenizer.ggml.eos_token_id", &settings_.eos_id));
    KEEL_TRY(read_id("tokenizer.ggml.unknown_token_id", &settings_.unknown_id));
    if (settings_.bos_id < 0) settings_.add_bos = false;
    return KEEL_OK;
}

// Counts what the tables depend on, and refuses tokens no table could hold.
keel_status Builder::scan_tokens() {
    GgufStringCursor texts(reader_, *tokens_);
    for (uint32_t i = 0; i < settings_.vocabulary; ++i) {
        uint64_t bytes;
        keel_status status = texts.next(&bytes);
        if (status == KEEL_OK) status = texts.skip();
        if (status != KEEL_OK) return broken(kTokensKey, tokens_, status);
        if (bytes > kMaxSpelledBytes) return array_fail(kTokensKey, tokens_, KEEL_E_FILE_LIMIT, "a token is too long");
    }
    if (types_) {
        ByteCursor cursor(reader_, types_->offset, types_->offset + types_->bytes);
        for (uint32_t i = 0; i < settings_.vocabulary; ++i) {
            uint32_t type;
            const keel_status status = cursor.u32(&type);
            if (status != KEEL_OK) return broken(kTypesKey, types_, status);
            if (type >= kTokenTypeCount) return array_fail(kTypesKey, types_, KEEL_E_FILE_FORMAT, "unknown token type");
            special_count_ += is_special(static_cast<uint8_t>(type));
        }
    } else {
        special_count_ = settings_.vocabulary < 3 ? settings_.vocabulary : 3;  // bos, eos and unknown at most
    }
    ordinary_count_ = settings_.vocabulary - (types_ ? special_count_ : 0);
    return KEEL_OK;
}

keel_status Builder::place(Tokenizer** out) {
    const uint32_t n = settings_.vocabulary;
    const uint64_t text_bytes =
        tokens_->bytes;  // of the spelled tokens and their length fields: never less than the blob
    if (max_text_bytes_ == 0 || max_text_bytes_ > kMaxTextBytes)
        return fail(error_, KEEL_E_ARGUMENT, 0, "max_text_bytes", "not within 1 and 2^24");
    // One bit per byte of vocabulary: every byte adds at most one pair, most repeat.
    uint64_t join_bits = kBytePairBits;
    if (!settings_.byte_level)
        while (join_bits < text_bytes && join_bits < kMaxJoinBits) join_bits *= 2;
    const uint32_t run_capacity = max_text_bytes_ + 1;  // and the space SentencePiece adds

    t_ = arena_.place<Tokenizer>("tokenizer", 1);
    blob_ = arena_.place<char>("token_texts", text_bytes);
    offset_table_ = arena_.place<uint32_t>("token_offsets", uint64_t{n} + 1);
    type_table_ = arena_.place<uint8_t>("token_types", n);
    if (!settings_.byte_level) score_table_ = arena_.place<float>("token_scores", n);
    const uint64_t piece_slots = table_slots(ordinary_count_), special_slots = table_slots(special_count_);
    uint64_t* const pieces = arena_.place<uint64_t>("token_table", piece_slots);
    uint64_t* const specials = arena_.place<uint64_t>("special_table", special_slots);
    const uint64_t merge_slots = merges_ ? table_slots(merges_->count) : 0;
    if (merges_) merge_table_ = arena_.place<MergeSlot>("merge_table", merge_slots);
    join_table_ = arena_.place<uint64_t>("byte_pairs", join_bits / 64);
    char* const run_text = arena_.place<char>("run_text", run_capacity);
    Symbol* const symbols = arena_.place<Symbol>("run_symbols", run_capacity);
    uint64_t* const heap = arena_.place<uint64_t>("run_heap", run_capacity);
    *out = nullptr;
    if (!arena_.ok()) return fail(error_, KEEL_E_MEMORY_TOO_SMALL, 0, "tokenizer", "the arena has no room for it");
    if (arena_.counting()) return KEEL_OK;

    memset(pieces, 0, piece_slots * sizeof *pieces);
    memset(specials, 0, special_slots * sizeof *specials);
    memset(join_table_, 0, join_bits / 8);
    if (merges_) memset(static_cast<void*>(merge_table_), 0, merge_slots * sizeof *merge_table_);
    *t_ = settings_;
    t_->blob = blob_;
    t_->offsets = offset_table_;
    t_->types = type_table_;
    t_->scores = score_table_;
    t_->pieces = {pieces, static_cast<uint32_t>(piece_slots), 0};
    t_->specials = {specials, static_cast<uint32_t>(special_slots), 0};
    t_->merges = merge_table_;
    t_->merge_slots = static_cast<uint32_t>(merge_slots);
    t_->joins = join_table_;
    t_->join_mask = static_cast<uint32_t>(join_bits - 1);
    t_->run_capacity = run_capacity;
    t_->work = {run_text, symbols, heap, run_capacity};
    *out = t_;
    return KEEL_OK;
}

// Types, and every token's text as it appears in a text.
keel_status Builder::fill_tokens() {
    for (int32_t& id : t_->byte_ids) id = -1;
    GgufStringCursor texts(reader_, *tokens_);
    ByteCursor types(reader_, types_ ? types_->offset : 0, types_ ? types_->offset + types_->bytes : 0);
    uint32_t at = 0, specials = 0;
    for (uint32_t id = 0; id < t_->vocabulary; ++id) {
        uint64_t bytes = 0;
        uint32_t type = kTokenNormal;
        keel_status status = texts.next(&bytes);
        if (status == KEEL_OK && bytes > kMaxSpelledBytes) status = KEEL_E_FILE_READ;  // a reader that changes its mind
        if (status == KEEL_OK) status = texts.read(spelled_);
        if (status != KEEL_OK) return broken(kTokensKey, tokens_, status);
        const int32_t signed_id = static_cast<int32_t>(id);
        const int byte = t_->byte_level ? -1 : byte_token(spelled_, bytes);
        if (types_) {
            status = types.u32(&type);
            if (status == KEEL_OK && type >= kTokenTypeCount) status = KEEL_E_FILE_READ;
            if (status != KEEL_OK) return broken(kTypesKey, types_, status);
            if (type == kTokenUndefined) type = kTokenNormal;
        } else if (signed_id == t_->bos_id || signed_id == t_->eos_id) {
            type = kTokenControl;
        } else if (signed_id == t_->unknown_id) {
            type = kTokenUnknown;
        } else if (byte >= 0) {
            type = kTokenByte;
        }
        uint32_t plain_bytes = static_cast<uint32_t>(bytes);
        const char* plain = spelled_;
        if (!t_->byte_level && type == kTokenByte) {
            if (byte < 0)
                return array_fail(kTokensKey, tokens_, KEEL_E_FILE_FORMAT, "a byte token is not spelled <0xHH>");
            if (t_->byte_ids[byte] < 0) t_->byte_ids[byte] = signed_id;
            plain_[0] = static_cast<char>(byte);
            plain = plain_;
            plain_bytes = 1;
        } else if (!t_->byte_level && !is_special(static_cast<uint8_t>(type))) {
            plain_bytes = unmark(spelled_, bytes, plain_);
            plain = plain_;
        } else if (t_->byte_level && !is_special(static_cast<uint8_t>(type))) {
            if (unspell(spelled_, bytes, plain_, &plain_bytes))
                plain = plain_;
            else
                type = kTokenUndefined;  // text no pre-token is spelled like: decoded as it is, never encoded
        }
        if (plain_bytes > kMaxPieceBytes)
            return array_fail(kTokensKey, tokens_, KEEL_E_FILE_LIMIT, "a token is too long");
        specials += is_special(static_cast<uint8_t>(type));
        if (specials > special_count_ || id + 1 - specials > ordinary_count_)
            return array_fail(kTypesKey, types_, KEEL_E_FILE_READ, "the file changed while it was read");
        memcpy(blob_ + at, plain, plain_bytes);
        offset_table_[id] = at;
        type_table_[id] = static_cast<uint8_t>(type);
        at += plain_bytes;
    }
    offset_table_[t_->vocabulary] = at;
    return KEEL_OK;
}

// Of two tokens with one text the lower id is encoded; both decode.
keel_status Builder::insert(PieceTable& table, uint32_t id, const char* key) {
    uint32_t bytes;
    const char* const text = token_text(*t_, id, &bytes);
    const uint64_t hash = hash64(text, bytes);
    const uint32_t at =
        probe(static_cast<uint32_t>(hash >> 32), table.slot_count, kMaxDisplacement, [&](uint32_t slot) {
            uint64_t& entry = table.slots[slot];
            if (entry == 0) {
                entry = (hash & UINT32_MAX) << 32 | (id + 1);
                return true;
            }
            uint32_t other_bytes;
            const char* const other = token_text(*t_, static_cast<uint32_t>(entry) - 1, &other_bytes);
            return entry >> 32 == (hash & UINT32_MAX) && other_bytes == bytes && memcmp(other, text, bytes) == 0;
        });
    if (at > kMaxDisplacement) return array_fail(key, tokens_, KEEL_E_FILE_LIMIT, "the texts are made to collide");
    if (at > table.longest) table.longest = at;
    return KEEL_OK;
}

void Builder::join(uint32_t left, uint32_t right) {
    const JoinBits bits = join_bits(*t_, left, right);
    join_table_[bits.first >> 6] |= uint64_t{1} << (bits.first & 63);
    join_table_[bits.second >> 6] |= uint64_t{1} << (bits.second & 63);
}

keel_status Builder::index_tokens() {
    uint64_t has_length[(kMaxPieceBytes + 64) / 64] = {};
    for (uint32_t id = 0; id < t_->vocabulary; ++id) {
        uint32_t bytes;
        const char* const text = token_text(*t_, id, &bytes);
        const uint8_t type = t_->types[id];
        if (bytes == 0) continue;  // an empty token is decoded, never encoded
        if (is_special(type)) {
            KEEL_TRY(insert(t_->specials, id, kTokensKey));
            has_length[bytes >> 6] |= uint64_t{1} << (bytes & 63);
            const uint8_t first = static_cast<uint8_t>(text[0]);
            t_->special_first[first >> 6] |= uint64_t{1} << (first & 63);
            continue;
        }
        if (type == kTokenUndefined && t_->byte_level) continue;
        if (type == kTokenByte && !t_->byte_level) continue;
        KEEL_TRY(insert(t_->pieces, id, kTokensKey));
        if (t_->byte_level) continue;  // merges say what joins
        Utf8Char left = utf8_decode(text, bytes);
        for (uint32_t i = left.bytes; i < bytes;) {
            const Utf8Char right = utf8_decode(text + i, bytes - i);
            join(left.code, right.code);
            left = right;
            i += right.bytes;
        }
    }
    for (uint32_t bytes = 1; bytes <= kMaxPieceBytes; ++bytes)
        if (has_length[bytes >> 6] >> (bytes & 63) & 1)
            t_->special_lengths[t_->special_length_count++] = static_cast<uint16_t>(bytes);
    if (t_->byte_level)
        for (uint32_t byte = 0; byte < 256; ++byte) {
            const char text = static_cast<char>(byte);
            t_->byte_ids[byte] = find_piece(*t_, t_->pieces, &text, 1);
        }
    return KEEL_OK;
}

keel_status Builder::fill_scores() {
    const keel_status status =
        read_at(reader_, scores_->offset, score_table_, uint64_t{t_->vocabulary} * sizeof(float));
    if (status != KEEL_OK) return broken(kScoresKey, scores_, status);
    for (uint32_t id = 0; id < t_->vocabulary; ++id)
        if (score_table_[id] != score_table_[id])
            return array_fail(kScoresKey, scores_, KEEL_E_FILE_FORMAT, "a score is not a number");
    return KEEL_OK;
}

// Of two merges of one pair the first counts, as in the rank order.
keel_status Builder::insert_merge(uint32_t left, uint32_t right, uint32_t rank, uint32_t result) {
    const uint32_t hash = static_cast<uint32_t>(merge_hash(left, right) >> 32);
    const uint32_t at = probe(hash, t_->merge_slots, kMaxDisplacement, [&](uint32_t slot) {
        MergeSlot& entry = merge_table_[slot];
        if (entry.result_plus_1 == 0) {
            entry = {left, right, rank, result + 1};
            return true;
        }
        return entry.left == left && entry.right == right;
    });
    if (at > kMaxDisplacement)
        return array_fail(kMergesKey, merges_, KEEL_E_FILE_LIMIT, "the merges are made to collide");
    if (at > t_->longest_merge) t_->longest_merge = at;
    return KEEL_OK;
}

// A merge is two spelled tokens and a space between. One whose parts or whole are no tokens can never take part in an
// encoding made of tokens and is left out, as is one that is not of this form.
keel_status Builder::fill_merges() {
    GgufStringCursor texts(reader_, *merges_);
    for (uint32_t rank = 0; rank < merges_->count; ++rank) {
        uint64_t bytes;
        keel_status status = texts.next(&bytes);
        const bool fits = status == KEEL_OK && bytes <= kMaxMergeBytes;
        if (status == KEEL_OK) status = fits ? texts.read(spelled_) : texts.skip();
        if (status != KEEL_OK) return broken(kMergesKey, merges_, status);
        if (!fits || bytes < 3) continue;
        const char* const space = static_cast<const char*>(memchr(spelled_ + 1, ' ', bytes - 1));
        if (!space) continue;
        const size_t left_spelled = static_cast<size_t>(space - spelled_);
        uint32_t left_bytes, right_bytes;
        if (!unspell(spelled_, left_spelled, plain_, &left_bytes) ||
            !unspell(space + 1, bytes - left_spelled - 1, plain_ + left_bytes, &right_bytes) || right_bytes == 0)
            continue;
        const int32_t left = find_piece(*t_, t_->pieces, plain_, left_bytes);
        const int32_t right = find_piece(*t_, t_->pieces, plain_ + left_bytes, right_bytes);
        const int32_t whole = find_piece(*t_, t_->pieces, plain_, left_bytes + right_bytes);
        if (left < 0 || right < 0 || whole < 0) continue;
        KEEL_TRY(insert_merge(static_cast<uint32_t>(left), static_cast<uint32_t>(right), rank,
                              static_cast<uint32_t>(whole)));
        join(static_cast<uint8_t>(plain_[left_bytes - 1]), static_cast<uint8_t>(plain_[left_bytes]));
    }
    return KEEL_OK;
}

void Builder::add_end_id(int32_t id) {
    if (id < 0 || t_->end_count == kMaxEndIds) return;
    for (uint32_t i = 0; i < t_->end_count; ++i)
        if (t_->end_ids[i] == id) return;
    t_->end_ids[t_->end_count++] = id;
}

bool Builder::is_no_end(const char* text) {
    for (const NoEnd& n : kNoEnds)
        if (strcmp(n.text, text) == 0 && find_special(n.with[0]) >= 0 && find_special(n.with[1]) >= 0) return true;
    return false;
}

keel_status Builder::add_end_ids() {
    add_end_id(t_->eos_id);
    for (const char* key : kEndKeys) {
        int32_t id;
        KEEL_TRY(read_id(key, &id));
        add_end_id(id);
    }
    for (const char* text : kEndTexts)
        if (!is_no_end(text)) add_end_id(find_special(text));
    // Some files have them as tokens that any text may spell, which would end a turn from inside a message.
    for (uint32_t i = 0; i < t_->end_count; ++i) {
        uint8_t& type = type_table_[t_->end_ids[i]];
        if (type == kTokenUserDefined) type = kTokenControl;
    }
    return KEEL_OK;
}

// An unknown token that is a control token (GPT-2's <|endoftext|>) or an end would let plain text end a text: none
// then.
void Builder::check_unknown() {
    if (t_->unknown_id < 0) return;
    bool control = t_->types[t_->unknown_id] == kTokenControl;
    for (uint32_t i = 0; i < t_->end_count; ++i) control |= t_->end_ids[i] == t_->unknown_id;
    if (control) t_->unknown_id = -1;
}

}  // namespace

int32_t find_piece(const Tokenizer& t, const PieceTable& table, uint64_t hash, const char* text, size_t bytes) {
    int32_t found = -1;
    probe(static_cast<uint32_t>(hash >> 32), table.slot_count, table.longest, [&](uint32_t slot) {
        const uint64_t entry = table.slots[slot];
        if (entry == 0) return true;
        if (entry >> 32 != (hash & UINT32_MAX)) return false;
        const uint32_t id = static_cast<uint32_t>(entry) - 1;
        uint32_t id_bytes;
        const char* const id_text = token_text(t, id, &id_bytes);
        if (id_bytes == bytes && memcmp(id_text, text, bytes) == 0) found = static_cast<int32_t>(id);
        return found >= 0;
    });
    return found;
}

keel_status tokenizer_check(const keel_reader& reader, const Gguf& g, keel_error* error) {
    Arena counting;
    return Builder(reader, g, 64, nullptr, counting, error).check();
}

keel_status tokenizer_place(const keel_reader& reader, const Gguf& g, uint32_t max_text_bytes, const PreTokenizer* pre,
                            Arena& arena, Tokenizer** out, keel_error* error) {
    return Builder(reader, g, max_text_bytes, pre, arena, error).run(out);
}

}  // namespace keel
