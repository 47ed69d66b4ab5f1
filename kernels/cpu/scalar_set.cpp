// The portable set: no instruction-set flags, the reference for every other one.
#include "kernels/cpu/kernel_sets.h"

namespace keel::kernels {
namespace {

constexpr KernelSet make_set() {
    KernelSet s{};
    s.name = "scalar";
#define KEEL_ENTRY(T)                           \
    s.dequantize_row[T] = dequantize_scalar<T>; \
    s.matmul_f32[T] = matmul_f32_scalar<T>;
    KEEL_WEIGHT_TYPES(KEEL_ENTRY)
#undef KEEL_ENTRY
#define KEEL_ENTRY(T) s.matmul_q8[T] = matmul_q8_scalar<T>;
    KEEL_QUANTIZED_TYPES(KEEL_ENTRY)
#undef KEEL_ENTRY
    s.quantize_q8 = quantize_q8_scalar;
    s.rms_norm = rms_norm_scalar;
    s.rope = rope_scalar;
    s.gate_silu = gate_silu_scalar;
    s.gate_gelu = gate_gelu_scalar;
    s.add = add_scalar;
    s.scale = scale_scalar;
    s.softcap = softcap_scalar;
    s.kv_encode[kKvF16] = kv_encode_f16_scalar;
    s.kv_encode[kKvF32] = kv_encode_f32_scalar;
    s.kv_decode[kKvF16] = kv_decode_f16_scalar;
    s.kv_decode[kKvF32] = kv_decode_f32_scalar;
    s.attention_span = attention_span_scalar;
    s.attention_finish = attention_finish_scalar;
    return s;
}

}  // namespace

constinit const KernelSet kScalarSet = make_set();

}  // namespace keel::kernels
