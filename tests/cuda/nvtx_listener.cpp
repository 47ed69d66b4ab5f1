// What a profiler injects into a program with NVTX ranges (NVTX_INJECTION64_PATH): writes a line for each call to the
// file that NVTX_LISTENER_LOG names.
#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <stdlib.h>

namespace {

FILE* file() {
    static FILE* const f = [] {
        const char* path = getenv("NVTX_LISTENER_LOG");
        return path ? fopen(path, "w") : nullptr;
    }();
    return f;
}
void write(const char* call, const char* name, uint32_t category, uint64_t bytes) {
    if (!file()) return;
    fprintf(file(), "%s %s %u %llu\n", call, name, category, static_cast<unsigned long long>(bytes));
    fflush(file());
}
void write(const char* call, const nvtxEventAttributes_t* a) {
    write(call, a->message.ascii, a->category, a->payload.ullValue);
}

nvtxDomainHandle_t NVTX_API create(const char* name) {
    write("domain", name, 0, 0);
    static int domain;
    return reinterpret_cast<nvtxDomainHandle_t>(&domain);
}
nvtxRangeId_t NVTX_API start(nvtxDomainHandle_t, const nvtxEventAttributes_t* a) {
    static nvtxRangeId_t id = 0;
    write("start", a);
    return ++id;
}
void NVTX_API end(nvtxDomainHandle_t, nvtxRangeId_t) {
    write("end", "-", 0, 0);
}
int NVTX_API push(nvtxDomainHandle_t, const nvtxEventAttributes_t* a) {
    write("push", a);
    return 0;
}
int NVTX_API pop(nvtxDomainHandle_t) {
    write("pop", "-", 0, 0);
    return 0;
}

template <class Function>
void set(NvtxFunctionTable table, uint32_t id, Function* function) {
    *table[id] = reinterpret_cast<NvtxFunctionPointer>(function);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get);
int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get) {
    const auto* callbacks = static_cast<const NvtxExportTableCallbacks*>(get(NVTX_ETID_CALLBACKS));
    NvtxFunctionTable table;
    unsigned int size = 0;
    if (!callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size)) return 0;
    set(table, NVTX_CBID_CORE2_DomainCreateA, create);
    set(table, NVTX_CBID_CORE2_DomainRangeStartEx, start);
    set(table, NVTX_CBID_CORE2_DomainRangeEnd, end);
    set(table, NVTX_CBID_CORE2_DomainRangePushEx, push);
    set(table, NVTX_CBID_CORE2_DomainRangePop, pop);
    return 1;
}
