// Two inputs in one: bytes as text for the bundled vocabulary, which must come back from its ids; and bytes as a GGUF
// whose vocabulary must be refused or work. The bundled model is found by KEEL_SOURCE_DIR (environment), else where the
// target is run: the top of the source tree.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "sdk/text/tokenizer.h"

namespace {

// A tokenizer on memory of exactly its size.
struct Loaded {
    std::vector<char> file, memory;
    keel::Tokenizer* t = nullptr;

    bool load(const void* data, size_t bytes, uint32_t max_text_bytes) {
        keel_reader reader = {};
        reader.struct_size = sizeof reader;
        reader.size_bytes = bytes;
        reader.mapped = data;
        keel_limits limits = {};
        keel::Gguf g = {};
        if (keel::resolve_limits(nullptr, &limits) != KEEL_OK) return false;
        limits.max_array_elements = 1 << 16;
        if (keel::gguf_scan(reader, limits, nullptr, nullptr, &g, nullptr) != KEEL_OK) return false;
        std::vector<keel::GgufValue> values(g.value_count + 1);
        std::vector<keel::GgufTensor> tensors(g.tensor_count + 1);
        if (keel::gguf_scan(reader, limits, values.data(), tensors.data(), &g, nullptr) != KEEL_OK) return false;
        keel::Arena counting;
        if (keel::tokenizer_place(reader, g, max_text_bytes, nullptr, counting, &t, nullptr) != KEEL_OK) return false;
        memory.assign(counting.used_bytes() + 64, 0);
        char* const base = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
        keel::Arena arena(base, counting.used_bytes());
        const keel_status status = keel::tokenizer_place(reader, g, max_text_bytes, nullptr, arena, &t, nullptr);
        if (status == KEEL_OK && arena.used_bytes() != counting.used_bytes()) abort();
        return status == KEEL_OK;
    }
};

// Encodes, decodes, and streams.
void exercise(keel::Tokenizer* t, const char* text, size_t bytes, uint32_t flags, bool must_come_back) {
    size_t count = 0, again = 0, out_bytes = 0;
    if (keel::tokenizer_encode(t, text, bytes, flags, nullptr, 0, &count) != KEEL_OK) return;
    std::vector<int32_t> ids(count + 1);
    if (keel::tokenizer_encode(t, text, bytes, flags, ids.data(), count, &again) != KEEL_OK || again != count) abort();
    if (keel::tokenizer_decode(t, ids.data(), count, 1, nullptr, 0, &out_bytes) != KEEL_OK) abort();
    std::string out(out_bytes, '\0');
    if (keel::tokenizer_decode(t, ids.data(), count, 1, out.data(), out_bytes, &out_bytes) != KEEL_OK) abort();
    if (must_come_back && out != std::string(text, bytes)) abort();
    keel::TextStream stream = {};
    const char* stop = "the";
    const size_t stop_bytes = 3;
    keel::text_stream_set_stops(&stream, &stop, &stop_bytes, 1);
    for (size_t i = 0; i <= count; ++i) {
        const char* data;
        size_t shown;
        uint32_t stopped;
        const int32_t id = i < count ? ids[i] : -1;
        const uint32_t position = static_cast<uint32_t>(i);
        if (keel::text_stream_push(&stream, t, id, position, &data, &shown, &stopped) != KEEL_OK) abort();
        if (memmem(data, shown, stop, stop_bytes)) abort();
    }
}

Loaded& bundled() {
    static Loaded loaded;
    if (loaded.t) return loaded;
    const char* root = getenv("KEEL_SOURCE_DIR");
    const std::string path = std::string(root ? root : ".") + "/samples/models/books-7m-f16.gguf";
    FILE* const in = fopen(path.c_str(), "rb");
    if (!in) abort();
    char block[65536];
    for (size_t n; (n = fread(block, 1, sizeof block, in)) > 0;)
        loaded.file.insert(loaded.file.end(), block, block + n);
    fclose(in);
    if (!loaded.load(loaded.file.data(), loaded.file.size(), 4096)) abort();
    return loaded;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
    if (bytes == 0) return 0;
    const char* const text = reinterpret_cast<const char*>(data);
    if (bytes >= 4 && memcmp(data, "GGUF", 4) == 0) {
        Loaded hostile;
        if (!hostile.load(data, bytes, 256)) return 0;
        for (uint32_t flags = 0; flags < 4; ++flags) {
            exercise(hostile.t, text + bytes / 2, bytes - bytes / 2, flags, false);
            exercise(hostile.t, "ab <s> the\xc3\xa9\xff 123", 17, flags, false);
        }
        return 0;
    }
    // SentencePiece spells a space as U+2581, so a text with that character comes back with spaces.
    exercise(bundled().t, text, bytes, 0, !memmem(text, bytes, "\xe2\x96\x81", 3));
    exercise(bundled().t, text, bytes, KEEL_TOKENIZE_SPECIAL | KEEL_TOKENIZE_BOS, false);
    return 0;
}
