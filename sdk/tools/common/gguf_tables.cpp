#include "sdk/tools/common/gguf_tables.h"

#include "keel/keel.hpp"
#include "sdk/tools/common/console.h"

namespace keel::tools {

GgufTables scan_gguf(const keel_reader& file, const std::string& name) {
    GgufTables t;
    keel_limits limits{};
    keel_error error = make<keel_error>();
    check(resolve_limits(nullptr, &limits), "cannot set limits");
    check(gguf_scan(file, limits, nullptr, nullptr, &t.view, &error), "cannot use " + name, &error);
    t.values.resize(t.view.value_count);
    t.tensors.resize(t.view.tensor_count);
    check(gguf_scan(file, limits, t.values.data(), t.tensors.data(), &t.view, &error), "cannot use " + name, &error);
    return t;
}

}  // namespace keel::tools
