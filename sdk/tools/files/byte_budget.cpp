#include "sdk/tools/files/byte_budget.h"

#include <filesystem>

#include "sdk/tools/common/console.h"
#include "sdk/tools/common/model_file.h"
#include "sdk/tools/files/pack_writer.h"
#include "sdk/tools/files/zstd_frame.h"

namespace keel::tools {

ByteBudget budget_of(uint64_t bytes, const std::vector<std::string>& code) {
    ByteBudget budget = {bytes};
    for (const std::string& path : code) {
        std::error_code reason;
        const uintmax_t size = std::filesystem::file_size(path, reason);
        if (reason) throw ToolError(kExitFile, "cannot use " + path + ": " + reason.message());
        budget.code += size;
    }
    return budget;
}

uint64_t packed_bytes(const std::string& path) {
    const FileReader file = open_file(path);
    return pack_bytes({{KEEL_PACK_MODEL, 0, "model", file.get()}}, has_zstd() ? PackCodec::kAuto : PackCodec::kRans);
}

const char* budget_codec_name() {
    return has_zstd() ? "auto" : "rans";
}

std::string budget_text(const ByteBudget& budget, uint64_t packed) {
    const uint64_t used = budget.code + packed;
    const auto number = [](uint64_t n) { return static_cast<unsigned long long>(n); };
    return strf("code %llu and pack %llu of %llu bytes: %llu %s", number(budget.code), number(packed),
                number(budget.bytes), number(used > budget.bytes ? used - budget.bytes : budget.bytes - used),
                used > budget.bytes ? "over" : "left");
}

}  // namespace keel::tools
