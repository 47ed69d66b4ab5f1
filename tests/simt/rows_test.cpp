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
            RmsNormArgs args = {};
            args.x = x.floats();
            args.x_stride = n;
            args.w = w.floats();
            args.n = n;
            args.rows = tokens;
            args.eps = 1e-5f;
            args.y = {y.floats(), n};
            launch(kernel_rms_norm, args, launch_shape(args), order);
            for (uint32_t t = 0; t < tokens; ++t) {
                kScalarSet.rms_norm(x.floats() + t * n, w.floats(), n, 1e-5f, want.data());
                EXPECT_TRUE(same_floats(y.floats() + t * n, want.data(), n)) << n << " floats, token " << t;
            }
        }
}

// Rows gathered, 8-bit forms of both blocks beside the f32 row, and the residual's sum.
TEST(SimtRows, RmsNormWritesWhatIsAskedFor) {
    Random random(2);
    constexpr uint32_t kN = 768, kRows = 2;
    const uint64_t bytes32 = q8_token_bytes(kN, 32), bytes256 = q8_token_bytes(kN, 256);
    for (simt::Order order : orders()) {
        Buffer x = fenced(random.normals(3 * kN)), w = fenced(random.normals(kN));
        Buffer residual = fenced(random.normals(kRows * kN)), block32(kRows * bytes32), block256(kRows * bytes256);
        const std::vector<float> before(residual.floats(), residual.floats() + kRows * kN);
        const uint32_t source[kRows] = {2, 0};
        RmsNormArgs args = {};
        args.x = x.floats();
        args.x_stride = kN;
        args.source = source;
        args.w = w.floats();
        args.n = kN;
        args.rows = kRows;
        args.eps = 1e-6f;
        args.residual = {residual.floats(), kN};
        args.q8 = {block32.data(), block256.data(), bytes32, bytes256};
        launch(kernel_rms_norm, args, launch_shape(args), order);
        for (uint32_t r = 0; r < kRows; ++r) {
            std::vector<float> want(kN);
            kScalarSet.rms_norm(x.floats() + source[r] * kN, w.floats(), kN, 1e-6f, want.data());
            for (uint32_t block : {32u, 256u}) {
                const uint64_t bytes = q8_token_bytes(kN, block);
                Buffer expected(bytes);
                kScalarSet.quantize_q8(want.data(), kN, block, expected.data());
                const uint8_t* got = (block == 32 ? block32 : block256).data() + r * bytes;
                const Q8Token a = q8_token(got, kN, block), b = q8_token(expected.data(), kN, block);
                EXPECT_EQ(memcmp(a.q, b.q, kN), 0);
                EXPECT_TRUE(same_floats(a.d, b.d, kN / block));
                EXPECT_EQ(memcmp(a.sums, b.sums, kN / 16 * 2), 0);
            }
            for (uint32_t i = 0; i < kN; ++i) want[i] = before[r * kN + i] + want[i];
            EXPECT_TRUE(same_floats(residual.floats() + r * kN, want.data(), kN));
        }
    }
}

TEST(SimtRows, ActivationsSoftcapAndRotationsEqualScalar) {
    Random random(3);
    constexpr uint32_t kN = 300, kRows = 2, kPairs = 270;
    for (simt::Order order : orders())
        for (const bool gelu : {false, true}) {
            Buffer x = fenced(random.normals(kRows * 2 * kN)), y = fenced(random.normals(kRows * kN));
            std::vector<float> want(x.floats(), x.floats() + kRows * 2 * kN),
                want_y(y.floats(), y.floats() + kRows * kN);
            for (uint32_t r = 0; r < kRows; ++r) {
                float* row = &want[r * 2 * kN];
                (gelu ? kScalarSet.gate_gelu : kScalarSet.gate_silu)(row, row + kN, kN, row);
                kScalarSet.softcap(&want_y[r * kN], 0.75f, kN);
            }
            const GluArgs glu = {{x.floats(), 2 * kN}, kN, kRows, gelu};
            launch(kernel_glu, glu, launch_shape(glu), order);
            EXPECT_TRUE(same_floats(x.floats(), want.data(), want.size()));
            const SoftcapArgs cap = {{y.floats(), kN}, kN, kRows, 0.75f};
            launch(kernel_softcap, cap, launch_shape(cap), order);
            EXPECT_TRUE(same_floats(y.floats(), want_y.data(), want_y.size()));

            std::vector<double> frequency(kPairs);
            for (double& f : frequency) f = static_cast<double>(random.uniform(1e-4f, 1.0f));
            const uint32_t position[kRows] = {3, 123456};
            Buffer table(kRows * 2 * kPairs * 4, 4);
            const RopeTableArgs rope = {frequency.data(), position, {table.floats(), 2 * kPairs},
                                        kPairs,           kRows,    gelu ? 1.0f : 1.19f};
            launch(kernel_rope_table, rope, launch_shape(rope), order);
            for (uint32_t r = 0; r < kRows; ++r) {
                std::vector<float> expected(2 * kPairs);
                kScalarSet.rope_table(frequency.data(), kPairs, position[r], rope.factor, expected.data());
                EXPECT_TRUE(same_floats(table.floats() + r * 2 * kPairs, expected.data(), expected.size()));
            }
        }
}

TEST(SimtRows, NarrowRounds) {
    Random random(5);
    constexpr uint32_t kRows = 3, kStride = 1104;
    const float odd[] = {65504, 65519.9f, 65520, -1e6f, 3e38f, INFINITY, -INFINITY, NAN, 1e-7f, -0.f};
    for (simt::Order order : orders())
        for (const uint32_t k : {1u, 10u, 300u, 1102u}) {
            Buffer x = fenced(random.normals(kRows * kStride));
            for (uint32_t i = 0; i < k && i < std::size(odd); ++i) x.floats()[(i % kRows) * kStride + i] = odd[i];
            for (const bool bf16 : {false, true}) {
                Buffer y(uint64_t{kRows} * kStride * 2, 16);
                const NarrowArgs args = {x.floats(), reinterpret_cast<uint16_t*>(y.data()), kStride, kStride, k, kRows,
                                         bf16};
                launch(kernel_narrow, args, launch_shape(args), order);
                for (uint32_t i = 0; i < kRows * k; ++i) {
                    const uint32_t at = i / k * kStride + i % k;
                    const float v = x.floats()[at], held = std::isfinite(v) ? std::clamp(v, -65504.f, 65504.f) : v;
                    EXPECT_EQ(args.y[at], bf16 ? f32_to_bf16(v) : f32_to_f16(held)) << v;
                }
            }
        }
}

// Rows of more than one block and of one, each with others around it that stay as they are.
TEST(SimtRows, KeepRowsCopiesThemToTheirPlaces) {
    Random random(4);
    constexpr uint32_t kRows = 3, kN[2] = {2 * kKeptFloats + 77, 100}, kPlaces = 5;
    const uint32_t to[kRows] = {4, 0, 2};
    for (simt::Order order : orders()) {
        std::vector<Buffer> from, kept;
        KeepRowsArgs args = {};
        for (uint32_t i = 0; i < 2; ++i) {
            from.push_back(fenced(random.normals(kRows * (kN[i] + i))));
            kept.push_back(fenced(std::vector<float>(kPlaces * kN[i], 0.5f)));
            args.part[i] = {from[i].floats(), kept[i].floats(), kN[i] + i, kN[i]};
        }
        args.to = to;
        args.rows = kRows;
        launch(kernel_keep_rows, args, launch_shape(args), order);
        for (uint32_t i = 0; i < 2; ++i) {
            std::vector<float> want(kPlaces * kN[i], 0.5f);
            for (uint32_t r = 0; r < kRows; ++r)
                memcpy(&want[to[r] * kN[i]], from[i].floats() + r * (kN[i] + i), kN[i] * 4);
            EXPECT_TRUE(same_floats(kept[i].floats(), want.data(), want.size())) << i;
        }
    }
}

// Rows of layers that lie alike, with scales and without, move after move: what one has left the next one takes.
TEST(SimtRows, MoveRowsMovesOneAfterTheOther) {
    Random random(5);
    constexpr uint32_t kHeads = 3, kLayers = 2, kRows = 64, kLayer = kHeads * 27 * kRows, kPage = kLayers * kLayer + 64;
    MoveRowsArgs args = {};
    args.k = {kKvF16, 20, 0, 0, 0, 20 * kRows, {}};
    args.v = {kKvQ8_0, 5, 2, kHeads * 20 * kRows, kHeads * 20 * kRows + 5 * kRows, 7 * kRows, {}};
    args.layer_bytes = kLayer;
    args.layers = kLayers;
    args.kv_heads = kHeads;
    const MoveRowsArgs::Move moves[] = {{0, 0, 62, 63}, {0, kPage, 63, 1}, {kPage, kPage, 0, 3}};
    args.count = 3;
    std::copy(std::begin(moves), std::end(moves), args.move);
    std::vector<uint8_t> before(2 * kPage);
    for (uint8_t& byte : before) byte = static_cast<uint8_t>(random.bits());
    std::vector<uint8_t> want = before;
    for (const auto& m : moves)
        for (uint32_t plane = 0; plane < kLayers * kHeads; ++plane)
            for (const KvRows* rows : {&args.k, &args.v}) {
                const uint64_t head = plane / kHeads * args.layer_bytes + plane % kHeads * rows->head_bytes;
                uint8_t *to = want.data() + m.to_page + head, *from = want.data() + m.from_page + head;
                memcpy(to + rows->codes + m.to_row * rows->code_bytes,
                       from + rows->codes + m.from_row * rows->code_bytes, rows->code_bytes);
                memcpy(to + rows->scales + m.to_row * rows->scale_bytes,
                       from + rows->scales + m.from_row * rows->scale_bytes, rows->scale_bytes);
            }
    for (simt::Order order : orders()) {
        Buffer memory(before.size());
        memcpy(memory.data(), before.data(), before.size());
        args.base = memory.data();
        launch(kernel_move_rows, args, launch_shape(args), order);
        EXPECT_EQ(0, memcmp(memory.data(), want.data(), want.size()));
    }
}

}  // namespace
}  // namespace keel_test
