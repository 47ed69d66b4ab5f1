// The GGUF scan and every typed read on arbitrary bytes. Seeds: tests/fuzz/corpus/gguf, written by gguf_test.cpp.
#include <string.h>

#include <memory>

#include "tests/gguf_exercise.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    std::unique_ptr<uint8_t[]> file(new uint8_t[size]);  // exact size: the sanitizer sees one byte too far
    memcpy(file.get(), data, size);
    keel_reader reader = keel_test::memory_reader(file.get(), size);
    if (size == 0) reader.mapped = "";
    keel_error error = {sizeof error, KEEL_OK, 0, "", ""};
    keel_test::exercise(reader, keel_test::default_limits(), &error);
    return 0;
}
