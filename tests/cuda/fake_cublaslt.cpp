// cuBLASLt for machines without one: it takes the place of platform/cuda/cublaslt.cpp, on the streams of the fake
// driver. Products are sums in an order of its own. It refuses what the real one would, or what Keel must not do: an
// algorithm for another product than it was chosen for, addresses that are not aligned as was said, bytes that are
// nobody's.
#include <string.h>

#include "kernels/formats/numeric.h"
#include "platform/cuda/cublaslt.h"
#include "tests/cuda/fake_driver.h"

namespace keel_test {
namespace {

namespace cuda = keel::platform::cuda;
using cuda::Result;

constexpr Result kNotInitialised = 1, kInvalid = 7, kNotSupported = 15;
constexpr size_t kNeededWorkspace = 1 << 16;

struct FakeHandle {};
struct FakeLayout {
    int type;
    uint64_t rows, columns, column_elements;
};
struct FakeProduct {
    int32_t transpose_a = 0;
    uint32_t epilogue = 1;
    const float* bias = nullptr;
};
struct FakePreference {
    uint64_t workspace_bytes = 0;
    uint32_t alignment[4] = {256, 256, 256, 256};  // of A, B, C, D
};
// What an algorithm is for.
struct Chosen {
    uint64_t rows, columns, k;
    uint32_t alignment[4];
    int type;
    uint32_t epilogue;
    uint64_t workspace_bytes, mark;
};
constexpr uint64_t kMark = 0x6b65656c;
static_assert(sizeof(Chosen) == sizeof(cuda::LtAlgorithm));

Result enter() {
    FakeDriver& d = FakeDriver::get();
    return ++d.cublas_calls == d.cublas_fail_at || d.lost ? d.fail_with : cuda::kSuccess;
}
#define KEEL_ENTER()                                                \
    const std::lock_guard<std::recursive_mutex> lock(fake_mutex()); \
    if (const Result refused = enter(); refused != cuda::kSuccess) return refused

template <class T>
Result make(void** out, const T& value) {
    *out = new T(value);
    ++FakeDriver::get().open_objects;
    return cuda::kSuccess;
}
// Gives the object back even where the call is to fail: nothing of the test's is left.
template <class T>
Result unmake(void* object) {
    const std::lock_guard<std::recursive_mutex> lock(fake_mutex());
    delete static_cast<T*>(object);
    --FakeDriver::get().open_objects;
    return enter();
}
template <class T>
Result set(T* to, const void* value, size_t bytes) {
    if (bytes != sizeof *to) return kInvalid;
    memcpy(to, value, bytes);
    return cuda::kSuccess;
}

Result create(cuda::LtHandle* handle) {
    KEEL_ENTER();
    return make(handle, FakeHandle());
}
Result destroy(cuda::LtHandle handle) {
    return unmake<FakeHandle>(handle);
}
Result layout_create(cuda::LtLayout* layout, int type, uint64_t rows, uint64_t columns, int64_t column_elements) {
    KEEL_ENTER();
    if (column_elements < static_cast<int64_t>(rows)) return kInvalid;
    return make(layout, FakeLayout{type, rows, columns, static_cast<uint64_t>(column_elements)});
}
Result layout_set(cuda::LtLayout layout, int attribute, const void* value, size_t bytes) {
    KEEL_ENTER();
    return attribute == cuda::kLtColumns ? set(&static_cast<FakeLayout*>(layout)->columns, value, bytes) : kInvalid;
}
Result layout_destroy(cuda::LtLayout layout) {
    return unmake<FakeLayout>(layout);
}
Result product_create(cuda::LtProduct* product, int compute, int scale_type) {
    KEEL_ENTER();
    if (compute != cuda::kLtComputeF32 || scale_type != cuda::kLtF32) return kNotSupported;
    return make(product, FakeProduct());
}
Result product_set(cuda::LtProduct product, int attribute, const void* value, size_t bytes) {
    KEEL_ENTER();
    FakeProduct* p = static_cast<FakeProduct*>(product);
    switch (attribute) {
        case cuda::kLtTransposeA:
            return set(&p->transpose_a, value, bytes);
        case cuda::kLtEpilogue:
            return set(&p->epilogue, value, bytes);
        case cuda::kLtBiasPointer:
            return set(&p->bias, value, bytes);
    }
    return kInvalid;
}
Result product_destroy(cuda::LtProduct product) {
    return unmake<FakeProduct>(product);
}
Result preference_create(cuda::LtPreference* preference) {
    KEEL_ENTER();
    return make(preference, FakePreference());
}
Result preference_set(cuda::LtPreference preference, int attribute, const void* value, size_t bytes) {
    KEEL_ENTER();
    FakePreference* p = static_cast<FakePreference*>(preference);
    if (attribute == cuda::kLtMaxWorkspaceBytes) return set(&p->workspace_bytes, value, bytes);
    const int i = attribute - cuda::kLtMinAlignmentA;
    return i >= 0 && i < 4 ? set(&p->alignment[i], value, bytes) : kInvalid;
}
Result preference_destroy(cuda::LtPreference preference) {
    return unmake<FakePreference>(preference);
}

// The product that these describe; its sizes are 0 where they describe none.
Chosen product_of(const FakeProduct& p, const FakeLayout& a, const FakeLayout& b, const FakeLayout& c,
                  const FakeLayout& d) {
    const bool fits = p.transpose_a == cuda::kLtTranspose && (a.type == cuda::kLtF16 || a.type == cuda::kLtBf16) &&
                      b.type == a.type && c.type == cuda::kLtF32 && d.type == c.type && a.rows == b.rows &&
                      c.rows == a.columns && c.columns == b.columns && d.rows == c.rows && d.columns == c.columns;
    return fits ? Chosen{a.columns, b.columns, a.rows, {}, a.type, p.epilogue, 0, kMark} : Chosen{};
}
Result heuristic(cuda::LtHandle, cuda::LtProduct product, cuda::LtLayout a, cuda::LtLayout b, cuda::LtLayout c,
                 cuda::LtLayout d, cuda::LtPreference with, int wanted, cuda::LtHeuristic* found, int* count) {
    KEEL_ENTER();
    const FakePreference& preference = *static_cast<FakePreference*>(with);
    Chosen chosen =
        product_of(*static_cast<FakeProduct*>(product), *static_cast<FakeLayout*>(a), *static_cast<FakeLayout*>(b),
                   *static_cast<FakeLayout*>(c), *static_cast<FakeLayout*>(d));
    *count = 0;
    if (!chosen.rows || wanted < 1 || preference.workspace_bytes < kNeededWorkspace) return kNotSupported;
    chosen.workspace_bytes = kNeededWorkspace;
    memcpy(chosen.alignment, preference.alignment, sizeof chosen.alignment);
    *found = {};
    memcpy(&found->algorithm, &chosen, sizeof chosen);
    found->workspace_bytes = kNeededWorkspace;
    *count = 1;
    return cuda::kSuccess;
}

float widen(int type, uint16_t half) {
    return type == cuda::kLtF16 ? keel::kernels::f16_to_f32(half) : keel::kernels::bf16_to_f32(half);
}
Result refuse(const char* why) {
    fake_fault(std::string("cublasLtMatmul: ") + why);
    return kInvalid;
}
Result multiply(cuda::LtHandle handle, cuda::LtProduct product, const void* alpha, const void* a,
                cuda::LtLayout a_layout, const void* b, cuda::LtLayout b_layout, const void* beta, const void* c,
                cuda::LtLayout c_layout, void* d, cuda::LtLayout d_layout, const cuda::LtAlgorithm* algorithm,
                void* workspace, size_t workspace_bytes, cuda::Stream stream) {
    KEEL_ENTER();
    if (!handle) return kNotInitialised;
    const FakeProduct p = *static_cast<FakeProduct*>(product);
    const FakeLayout la = *static_cast<FakeLayout*>(a_layout), lb = *static_cast<FakeLayout*>(b_layout),
                     ld = *static_cast<FakeLayout*>(d_layout);
    const Chosen asked = product_of(p, la, lb, *static_cast<FakeLayout*>(c_layout), ld);
    Chosen chosen;
    memcpy(&chosen, algorithm, sizeof chosen);
    if (!asked.rows || chosen.mark != kMark || chosen.rows != asked.rows || chosen.columns != asked.columns ||
        chosen.k != asked.k || chosen.type != asked.type || chosen.epilogue != asked.epilogue)
        return refuse("an algorithm of another product");
    const void* const operands[] = {a, b, c, d};
    for (uint32_t i = 0; i < 4; ++i)
        if (reinterpret_cast<uintptr_t>(operands[i]) % chosen.alignment[i]) return refuse("alignment");
    const auto bytes = [](const FakeLayout& l, size_t element) {
        return ((l.columns - 1) * l.column_elements + l.rows) * element;
    };
    const bool biased = p.epilogue == cuda::kLtEpilogueBias;
    if (!fake_on_device(a, bytes(la, 2)) || !fake_on_device(b, bytes(lb, 2)) || !fake_on_device(d, bytes(ld, 4)) ||
        c != d || (biased && !fake_on_device(p.bias, ld.rows * 4)))
        return refuse("not in device memory");
    if (workspace_bytes < chosen.workspace_bytes || !fake_on_device(workspace, workspace_bytes) ||
        reinterpret_cast<uintptr_t>(workspace) % 256)
        return refuse("the workspace");
    const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
    const auto run = [=] {
        const uint16_t *w = static_cast<const uint16_t*>(a), *x = static_cast<const uint16_t*>(b);
        float* y = static_cast<float*>(d);
        memset(workspace, 0xff, kNeededWorkspace);
        for (uint64_t column = 0; column < ld.columns; ++column)
            for (uint64_t row = 0; row < ld.rows; ++row) {
                float sum = 0;
                for (uint64_t k = la.rows; k-- > 0;)
                    sum += widen(la.type, w[row * la.column_elements + k]) *
                           widen(la.type, x[column * lb.column_elements + k]);
                float* to = y + column * ld.column_elements + row;
                *to = scale * sum + (keep != 0 ? keep * *to : 0) + (biased ? p.bias[row] : 0);
            }
        return cuda::kSuccess;
    };
    ++FakeDriver::get().cublas_products;
    return fake_put(stream, run) ? cuda::kSuccess : kInvalid;
}

}  // namespace
}  // namespace keel_test

namespace keel::platform::cuda {

const char* load_cublaslt(CublasLt* out) {
    *out = {};
    if (!keel_test::FakeDriver::get().cublas_present) return "this machine has no cuBLASLt";
#define KEEL_SET(name, symbol, parameters) out->name = keel_test::name;
    KEEL_CUBLASLT(KEEL_SET)
#undef KEEL_SET
    return nullptr;
}

}  // namespace keel::platform::cuda
