#include "platform/cuda/driver.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace keel::platform::cuda {
namespace {

#if defined(_WIN32)
void* open_library() {
    return LoadLibraryExA("nvcuda.dll", nullptr, LOAD_LIBRARY_SEARCH_SYSTEM32);
}
void* find_symbol(void* library, const char* name) {
    return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}
#else
void* open_library() {
    return dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
}
void* find_symbol(void* library, const char* name) {
    return dlsym(library, name);
}
#endif

}  // namespace

const char* load_driver(Driver* out) {
    *out = {};
    void* library = open_library();
    if (!library) return "this machine has no CUDA driver";
    const char* missing = nullptr;
#define KEEL_FIND(name, symbol, parameters)                                           \
    out->name = reinterpret_cast<Result(*) parameters>(find_symbol(library, symbol)); \
    if (!out->name && !missing) missing = "the CUDA driver is too old: it lacks " symbol;
    KEEL_CUDA_DRIVER(KEEL_FIND)
#undef KEEL_FIND
    if (!missing && out->init(0) != kSuccess) missing = "the CUDA driver finds no device that it can use";
    if (missing) *out = {};
    return missing;
}

}  // namespace keel::platform::cuda
