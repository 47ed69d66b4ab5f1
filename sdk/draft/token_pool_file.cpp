#include <stddef.h>
#include <string.h>

#include "sdk/core/hash.h"
#include "sdk/core/status.h"
#include "sdk/draft/token_pool.h"
#include "sdk/format/bytes.h"

namespace keel {
namespace {

constexpr uint64_t kMagic = 0x314c4f4f504c454bull;  // "KELPOOL1"
constexpr uint32_t kVersion = 1;

TokenPoolHeader header_of(uint64_t lines, uint64_t tokenizer, uint32_t vocabulary) {
    TokenPoolHeader h = {};
    h.magic = kMagic;
    h.version = kVersion;
    h.header_bytes = sizeof h;
    h.tokenizer = tokenizer;
    h.vocabulary = vocabulary;
    h.order_count = TokenPool::kOrderCount;
    for (uint32_t i = 0; i < TokenPool::kOrderCount; ++i) h.orders[i] = TokenPool::kOrders[i];
    h.lines = lines;
    h.total_bytes = TokenPool::file_bytes(lines * TokenPool::kLineBytes);
    return h;
}

// But for the tokenizer: what the version fixes, and sizes.
keel_status read_header(const keel_reader& reader, TokenPoolHeader* h, keel_error* error) {
    const auto bad = [&](keel_status status, size_t offset, const char* field, const char* reason) {
        return fail(error, status, offset, field, reason);
    };
    if (read_at(reader, 0, h, sizeof *h) != KEEL_OK)
        return bad(KEEL_E_FILE_FORMAT, 0, "draft pool", "shorter than its header, or cannot be read");
    if (h->magic != kMagic) return bad(KEEL_E_FILE_FORMAT, 0, "magic", "not a draft pool");
    if (h->version != kVersion)
        return bad(KEEL_E_UNSUPPORTED, offsetof(TokenPoolHeader, version), "version", "another version of the format");
    const TokenPoolHeader want = header_of(h->lines, h->tokenizer, h->vocabulary);
    const uint64_t most_lines = (reader.size_bytes - sizeof *h) / TokenPool::kLineBytes;
    if (h->lines == 0 || h->lines > most_lines || want.total_bytes != reader.size_bytes)
        return bad(KEEL_E_FILE_FORMAT, offsetof(TokenPoolHeader, lines), "lines", "size contradicts the contents");
    if (memcmp(h, &want, sizeof want) != 0)
        return bad(KEEL_E_FILE_FORMAT, 0, "header", "differs from what this version writes");
    return KEEL_OK;
}

}  // namespace

uint64_t TokenPool::file_bytes(uint64_t pool_bytes) {
    return sizeof(TokenPoolHeader) + pool_bytes + sizeof(uint64_t);
}

keel_status TokenPool::file_pool_bytes(const keel_reader& reader, uint64_t* pool_bytes, keel_error* error) {
    TokenPoolHeader h;
    KEEL_TRY(read_header(reader, &h, error));
    *pool_bytes = h.lines * kLineBytes;
    return KEEL_OK;
}

keel_status TokenPool::read(const keel_reader& reader, uint64_t tokenizer, uint32_t vocabulary, keel_error* error) {
    clear();
    TokenPoolHeader h;
    KEEL_TRY(read_header(reader, &h, error));
    if (h.lines != lines_)
        return fail(error, KEEL_E_FILE_FORMAT, offsetof(TokenPoolHeader, lines), "lines",
                    "changed since it was planned");
    if (h.tokenizer != tokenizer || h.vocabulary != vocabulary)
        return fail(error, KEEL_E_FILE_MISMATCH, offsetof(TokenPoolHeader, tokenizer), "tokenizer",
                    "made with another vocabulary");
    uint64_t state = hash_update(kHashSeed, reinterpret_cast<const char*>(&h), sizeof h), at = sizeof h;
    keel_status status = KEEL_OK;
    for (uint64_t i = 0; i < lines_ && status == KEEL_OK; ++i, at += kLineBytes) {
        uint64_t line[kLineEntries];
        status = read_at(reader, at, line, sizeof line);
        state = hash_update(state, reinterpret_cast<const char*>(line), sizeof line);
        for (uint32_t j = 0; j < kLineEntries && status == KEEL_OK; ++j) {
            const bool empty = line[j] == 0, known = (line[j] >> 8 & (kMostVocabulary - 1)) < vocabulary;
            if (!empty && (!known || (line[j] & kMostCount) == 0 || line[j] >> 32 == 0))
                status = fail(error, KEEL_E_FILE_FORMAT, at + j * sizeof(uint64_t), "entry",
                              "no token of the vocabulary, or without a count");
            entries_[i * kLineEntries + j].store(line[j], std::memory_order_relaxed);
        }
    }
    uint64_t checksum = 0;
    if (status == KEEL_OK) status = read_at(reader, at, &checksum, sizeof checksum);
    if (status == KEEL_OK && checksum != hash_finish(state))
        status = fail(error, KEEL_E_FILE_FORMAT, at, "checksum", "the file is damaged");
    if (status != KEEL_OK) clear();
    return status;
}

void TokenPool::write(uint64_t tokenizer, uint32_t vocabulary, void* to) const {
    const TokenPoolHeader h = header_of(lines_, tokenizer, vocabulary);
    char* out = static_cast<char*>(to);
    memcpy(out, &h, sizeof h);
    for (uint64_t i = 0; i < lines_ * kLineEntries; ++i) {
        const uint64_t entry = entries_[i].load(std::memory_order_relaxed);
        memcpy(out + sizeof h + i * sizeof entry, &entry, sizeof entry);
    }
    const uint64_t checksum = hash64(out, sizeof h + bytes());
    memcpy(out + sizeof h + bytes(), &checksum, sizeof checksum);
}

}  // namespace keel
