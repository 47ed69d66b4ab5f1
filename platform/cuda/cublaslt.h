// NVIDIA's library of matrix products, as far as Keel calls it: one table of functions, found like the driver's
// (driver.h) when an engine is made that asks for it. Nothing of it is needed to compile or link this.
//
// Types and numbers are those of its binary interface (cublasLt.h of CUDA 12 and 13), by their names there.
#pragma once
#include "platform/cuda/driver.h"

namespace keel::platform::cuda {

using LtHandle = void*;
using LtProduct = void*;     // cublasLtMatmulDesc_t
using LtLayout = void*;      // cublasLtMatrixLayout_t
using LtPreference = void*;  // cublasLtMatmulPreference_t

// Matrices are described by columns: a row-major matrix [rows][k] is one of k rows and as many columns as it has rows.
enum LtType : int { kLtF32 = 0, kLtF16 = 2, kLtBf16 = 14 };  // cudaDataType
constexpr int kLtComputeF32 = 68;                            // CUBLAS_COMPUTE_32F
enum LtProductAttribute : int { kLtTransposeA = 3, kLtEpilogue = 7, kLtBiasPointer = 8 };
constexpr int32_t kLtTranspose = 1;
constexpr uint32_t kLtEpilogueBias = 4;  // adds bias[row] to each column of D
enum LtLayoutAttribute : int { kLtColumns = 3 };
enum LtPreferenceAttribute : int {
    kLtMaxWorkspaceBytes = 1,
    kLtMinAlignmentA = 5,  // bytes, and so on for B, C and D
    kLtMinAlignmentB = 6,
    kLtMinAlignmentC = 7,
    kLtMinAlignmentD = 8
};

struct LtAlgorithm {
    uint64_t data[8];
};
struct LtHeuristic {
    LtAlgorithm algorithm;
    size_t workspace_bytes;
    int state;  // the others are valid where it is 0
    float waves;
    int reserved[4];
};
static_assert(sizeof(LtAlgorithm) == 64 && sizeof(LtHeuristic) == 96);

// name of the member, symbol in the library, parameters; all return 0 or a cublasStatus_t
#define KEEL_CUBLASLT(X)                                                                                       \
    X(create, "cublasLtCreate", (LtHandle * handle))                                                           \
    X(destroy, "cublasLtDestroy", (LtHandle handle))                                                           \
    X(layout_create, "cublasLtMatrixLayoutCreate",                                                             \
      (LtLayout * layout, int type, uint64_t rows, uint64_t columns, int64_t column_elements))                 \
    X(layout_set, "cublasLtMatrixLayoutSetAttribute",                                                          \
      (LtLayout layout, int attribute, const void* value, size_t bytes))                                       \
    X(layout_destroy, "cublasLtMatrixLayoutDestroy", (LtLayout layout))                                        \
    X(product_create, "cublasLtMatmulDescCreate", (LtProduct * product, int compute, int scale_type))          \
    X(product_set, "cublasLtMatmulDescSetAttribute",                                                           \
      (LtProduct product, int attribute, const void* value, size_t bytes))                                     \
    X(product_destroy, "cublasLtMatmulDescDestroy", (LtProduct product))                                       \
    X(preference_create, "cublasLtMatmulPreferenceCreate", (LtPreference * preference))                        \
    X(preference_set, "cublasLtMatmulPreferenceSetAttribute",                                                  \
      (LtPreference preference, int attribute, const void* value, size_t bytes))                               \
    X(preference_destroy, "cublasLtMatmulPreferenceDestroy", (LtPreference preference))                        \
    X(heuristic, "cublasLtMatmulAlgoGetHeuristic",                                                             \
      (LtHandle handle, LtProduct product, LtLayout a, LtLayout b, LtLayout c, LtLayout d, LtPreference with,  \
       int wanted, LtHeuristic* found, int* count))                                                            \
    X(multiply, "cublasLtMatmul",                                                                              \
      (LtHandle handle, LtProduct product, const void* alpha, const void* a, LtLayout a_layout, const void* b, \
       LtLayout b_layout, const void* beta, const void* c, LtLayout c_layout, void* d, LtLayout d_layout,      \
       const LtAlgorithm* algorithm, void* workspace, size_t workspace_bytes, Stream stream))

struct CublasLt {
#define KEEL_MEMBER(name, symbol, parameters) Result(*name) parameters;
    KEEL_CUBLASLT(KEEL_MEMBER)
#undef KEEL_MEMBER
};

// Finds the library. Returns null, or what is missing, as load_driver. It stays loaded to the end of the process: it
// has a CUDA runtime of its own, which the driver knows.
const char* load_cublaslt(CublasLt* out);

}  // namespace keel::platform::cuda
