// Row kernels against the scalar set, bit for bit.
#include "tests/simt/launch.h"
#include "tests/unit/kernels_test_support.h"

namespace keel_test {
namespace {

using namespace keel::cuda;

TEST(SimtRows, RmsNormEqualsScalar) {
    Random random(1);
    for (simt::Order order : orders())
        for (uint32_t n : {1u, 15u, 64u, 100u, 576u, 1000u}) {
            const uint32_t tokens = random.between(1, 3);
            Buffer x = fenced(random.normals(tokens * n)), w = fenced(random.normals(n));
            Buffer y(uint64_t{tokens} * n * 4, 4);
            std::vector<float> want(n);
            const RmsNormArgs args = {x.floats(), w.floats(), y.floats(), n, n, n, tokens, 1e-5f};
            launch(kernel_rms_norm, args, launch_shape(args), order);
            for (uint32_t t = 0; t < tokens; ++t) {
                kScalarSet.rms_norm(x.floats() + t * n, w.floats(), n, 1e-5f, want.data());
                EXPECT_TRUE(same_floats(y.floats() + t * n, want.data(), n)) << n << " floats, token " << t;
            }
        }
}

}  // namespace
}  // namespace keel_test
