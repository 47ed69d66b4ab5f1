// A model with bytes replaced, all the way from keel_inspect to a saved session.
#include "tests/engine_exercise.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    keel_test::exercise_engine(data, size, false);
    return 0;
}
