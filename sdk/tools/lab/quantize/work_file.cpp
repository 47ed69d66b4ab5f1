#include "sdk/tools/lab/quantize/work_file.h"

#include <stdio.h>
#include <string.h>

#include <filesystem>

#include "sdk/tools/common/console.h"
#include "sdk/tools/lab/quantize/model_quantizer.h"

namespace keel::tools {

void refuse_as_work_file(const ModelFile& source, const std::string& text, const std::string& path) {
    if (path.empty()) return;
    refuse_source(source, path);
    std::error_code ignored;
    if (std::filesystem::equivalent(text, path, ignored))
        throw ToolError(kExitUsage, path + " is the text that is read");
    FILE* const file = fopen(path.c_str(), "rb");
    if (!file) return;
    char begin[sizeof kWorkFileMark];
    const size_t bytes = fread(begin, 1, sizeof begin, file);
    fclose(file);
    if (memcmp(begin, &kWorkFileMark, bytes) != 0)
        throw ToolError(kExitUsage, path + " is where work would be kept, and it is another file");
}

}  // namespace keel::tools
