// What followed the last few tokens in texts of all sessions: a fixed table of counted continuations, shared by the
// sessions of an engine and kept in files. It never tells a session another one's text as such, but drafts show what
// neighbours wrote: a session that must not be seen is not learned from.
//
//     hash of the last n tokens -> a line of 64 bytes: 8 entries {tag, token, count}
//
// Entries of one context share its tag. A count goes up when its token follows again; a new token takes an empty entry,
// or else wears down the least count of the line, and takes its place at 0: what is frequent stays.
//
// Any threads may use it at once: an entry is one atomic word, and what gets lost when two write is a count.
#pragma once
#include <atomic>

#include "keel/keel.h"
#include "sdk/core/arena.h"

namespace keel {

struct PoolMatch {
    int32_t token;
    uint32_t order;  // index in TokenPool::kOrders; kOrderCount: there is no match
    uint32_t count;  // how often, 1..255
};

class TokenPool {
  public:
    static constexpr uint32_t kOrders[] = {5, 3, 2};
    static constexpr uint32_t kOrderCount = 3, kMostOrder = 5;
    static constexpr uint32_t kLineEntries = 8, kLineBytes = 64;
    static constexpr uint32_t kMostCount = 255;
    static constexpr uint32_t kMostVocabulary = 1u << 24;

    // bytes: a multiple of kLineBytes, at least one line.
    void place(Arena* arena, uint64_t bytes);
    void clear();
    uint64_t bytes() const { return lines_ * kLineBytes; }
    // `next` came behind the `count` tokens before `end`, of which the last kMostOrder count.
    void learn(const int32_t* end, uint32_t count, int32_t next);
    // The most frequent token behind the longest order that is known; of equals the lowest id.
    PoolMatch find(const int32_t* end, uint32_t count) const;

    // ---- files (token_pool_file.cpp) ----
    // Little endian: TokenPoolHeader, lines u64 [lines][8], checksum u64 of everything before (hash64).
    static uint64_t file_bytes(uint64_t pool_bytes);
    // Bytes of the pool in a file. KEEL_E_FILE_READ; KEEL_E_FILE_FORMAT: damaged; KEEL_E_UNSUPPORTED: another version.
    static keel_status file_pool_bytes(const keel_reader& reader, uint64_t* pool_bytes, keel_error* error);
    // Reads a file of bytes(). tokenizer: hash of the vocabulary it must have been made with. Also
    // KEEL_E_FILE_MISMATCH: another tokenizer. Afterwards every token of the pool is below `vocabulary`, or the call
    // failed and the pool is empty.
    keel_status read(const keel_reader& reader, uint64_t tokenizer, uint32_t vocabulary, keel_error* error);
    // Writes file_bytes(bytes()). Learning meanwhile may or may not be in it.
    void write(uint64_t tokenizer, uint32_t vocabulary, void* to) const;

  private:
    struct Place {
        std::atomic<uint64_t>* line;
        uint32_t tag;  // not 0
    };
    Place place_of(const int32_t* end, uint32_t order) const;

    std::atomic<uint64_t>* entries_;
    uint64_t lines_;
};

struct TokenPoolHeader {
    uint64_t magic;
    uint32_t version, header_bytes;
    uint64_t tokenizer;
    uint32_t vocabulary, order_count;
    uint32_t orders[4];
    uint64_t lines;
    uint64_t total_bytes;
};
static_assert(sizeof(TokenPoolHeader) == 64);

}  // namespace keel
