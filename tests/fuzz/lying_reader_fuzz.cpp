// The same way with a reader that says something else when the same bytes are read again.
#include "tests/engine_exercise.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    keel_test::exercise_engine(data, size, true);
    return 0;
}
