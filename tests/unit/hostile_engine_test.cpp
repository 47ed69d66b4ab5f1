// The fuzz targets engine_fuzz and lying_reader_fuzz with a fixed set of random scripts, for every build.
#include <gtest/gtest.h>

#include <random>

#include "tests/engine_exercise.h"

namespace {

void exercise(bool lies) {
    std::mt19937 random(lies ? 2 : 1);
    uint32_t came_to[4] = {};
    for (int i = 0; i < 400; ++i) {
        std::vector<uint8_t> script(40 + random() % 100);
        for (uint8_t& byte : script) byte = static_cast<uint8_t>(random());
        if (i % 8 == 0) script[1] = 0;  // no patch: the way is open
        ++came_to[keel_test::exercise_engine(script.data(), script.size(), lies)];
    }
    EXPECT_GT(came_to[0], 0u) << "refused by inspect";
    EXPECT_GT(came_to[3], 50u) << "used";
}

TEST(HostileEngine, FilesGoAllTheWayOrAreRefused) {
    exercise(false);
}
TEST(HostileEngine, ReadersThatLieAreRefusedOrDoNoHarm) {
    exercise(true);
}

}  // namespace
