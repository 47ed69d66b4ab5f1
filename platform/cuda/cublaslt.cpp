#include "platform/cuda/cublaslt.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace keel::platform::cuda {
namespace {

#if defined(_WIN32)
constexpr const char* kNames[] = {"cublasLt64_13.dll", "cublasLt64_12.dll"};
void* open_library(const char* name) {
    // Beside the program, or where the program says with AddDllDirectory.
    return LoadLibraryExA(name, nullptr, LOAD_LIBRARY_SEARCH_DEFAULT_DIRS);
}
void* find_symbol(void* library, const char* name) {
    return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}
#else
constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
void* open_library(const char* name) {
    return dlopen(name, RTLD_NOW | RTLD_LOCAL);
}
void* find_symbol(void* library, const char* name) {
    return dlsym(library, name);
}
#endif

}  // namespace

const char* load_cublaslt(CublasLt* out) {
    *out = {};
    void* library = nullptr;
    for (const char* name : kNames)
        if (!library) library = open_library(name);
    if (!library) return "this machine has no cuBLASLt of CUDA 12 or 13 where libraries are looked for";
    const char* missing = nullptr;
#define KEEL_FIND(name, symbol, parameters)                                           \
    out->name = reinterpret_cast<Result(*) parameters>(find_symbol(library, symbol)); \
    if (!out->name && !missing) missing = "cuBLASLt lacks " symbol;
    KEEL_CUBLASLT(KEEL_FIND)
#undef KEEL_FIND
    return missing;
}

}  // namespace keel::platform::cuda
