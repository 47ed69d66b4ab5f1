#include "sdk/plan/cost.h"

namespace keel {
namespace {

// Bytes and multiply-adds per microsecond and thread. They need only be right within a factor of two or so: the
// executor corrects them by what it measures, and results never depend on them.
struct Rates {
    double bytes_per_us, q8_macs_per_us, f32_macs_per_us, decode_macs_per_us;
};
constexpr Rates kRates[] = {
    // by keel_cpu
    {},
    {8000, 700, 250, 120},          // scalar
    {10000, 60000, 30000, 10000},   // avx2
    {20000, 200000, 60000, 20000},  // avx512
    {20000, 200000, 60000, 20000},  // amx
    {10000, 60000, 30000, 10000},   // neon
};
static_assert(sizeof kRates / sizeof kRates[0] == kernels::kIsaLimit);

}  // namespace

void predict(keel_cpu cpu, bool q8, Op* op) {
    const Rates& rates = kRates[cpu];
    const bool is_float = op->kind != OpKind::kMatmul || kernels::kWeightTypes[op->weight_type].activation_block == 0;
    const double macs_per_us = is_float ? rates.f32_macs_per_us : q8 ? rates.q8_macs_per_us : rates.decode_macs_per_us;
    op->fixed_us = static_cast<double>(op->fixed_bytes) / rates.bytes_per_us;
    op->token_us = static_cast<double>(op->token_bytes) / rates.bytes_per_us;
    op->compute_us = static_cast<double>(op->token_macs) / macs_per_us;
}

uint64_t thread_bytes(const Op& op) {
    switch (op.kind) {
        case OpKind::kMatmul:
            return kernels::matmul_scratch_bytes(op.k);
        case OpKind::kAttention:
            return uint64_t{kernels::attention_scratch_floats(op.k)} * sizeof(float);
        case OpKind::kNorm:  // the f32 row that only its 8-bit layouts are made of
            return op.out == kNoBuffer ? uint64_t{op.k} * sizeof(float) : 0;
        default:
            return 0;
    }
}

}  // namespace keel
