// A draft pool of hostile bytes: as they come, and once more with a right header and checksum so that entries are
// reached. Whatever is accepted drafts tokens of the vocabulary alone, also when it is learned into.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <vector>

#include "sdk/core/hash.h"
#include "sdk/draft/token_pool.h"

namespace {

using keel::TokenPool;

constexpr uint32_t kVocabulary = 300;
constexpr uint64_t kTokenizer = 7;

// A pool in memory of exactly its bytes.
struct Pool {
    explicit Pool(uint64_t bytes) {
        keel::Arena count;
        pool.place(&count, bytes);
        memory.resize(count.used_bytes() + 64);
        uint8_t* begin = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
        arena = keel::Arena(begin, count.used_bytes());
        pool.place(&arena, bytes);
    }
    ~Pool() { arena.release(); }
    std::vector<uint8_t> memory;
    keel::Arena arena;
    TokenPool pool;
};

void use(const uint8_t* data, size_t size) {
    keel_reader reader = KEEL_READER_INIT;
    uint64_t bytes = 0;
    if (keel_reader_from_memory(data, size, &reader) != KEEL_OK) return;
    if (TokenPool::file_pool_bytes(reader, &bytes, nullptr) != KEEL_OK) return;
    if (bytes > size) abort();
    const Pool memory(bytes);
    TokenPool pool = memory.pool;
    if (pool.read(reader, kTokenizer, kVocabulary, nullptr) != KEEL_OK) return;
    // Contexts and continuations from the file's own bytes.
    int32_t text[64];
    for (size_t i = 0; i < 64; ++i) text[i] = data[i % size];
    for (uint32_t p = 0; p < 64; ++p) {
        const keel::PoolMatch match = pool.find(text + p, p);
        if (match.count && static_cast<uint32_t>(match.token) >= kVocabulary) abort();
        pool.learn(text + p, p, text[p]);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    std::unique_ptr<uint8_t[]> file(new uint8_t[size ? size : 1]);
    if (size) memcpy(file.get(), data, size);
    use(file.get(), size);
    // The bytes as entries of a file that is right otherwise.
    const uint64_t bytes = size / TokenPool::kLineBytes * TokenPool::kLineBytes;
    if (bytes == 0) return 0;
    Pool memory(bytes);
    memory.pool.clear();
    const uint64_t file_bytes = TokenPool::file_bytes(bytes);
    std::unique_ptr<uint8_t[]> whole(new uint8_t[file_bytes]);
    memory.pool.write(kTokenizer, kVocabulary, whole.get());
    memcpy(whole.get() + sizeof(keel::TokenPoolHeader), data, bytes);
    const uint64_t sum = keel::hash64(whole.get(), file_bytes - 8);
    memcpy(whole.get() + file_bytes - 8, &sum, 8);
    use(whole.get(), file_bytes);
    return 0;
}
