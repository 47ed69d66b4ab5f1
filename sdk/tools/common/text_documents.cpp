#include "sdk/tools/common/text_documents.h"

#include <sstream>

#include "sdk/tools/common/console.h"

namespace keel::tools {

std::vector<std::string> read_documents(const std::string& path, uint32_t most) {
    const bool lines = path.size() > 6 && path.ends_with(".jsonl");
    if (!lines) return {read_text(path)};
    std::istringstream in(read_text(path));
    std::vector<std::string> documents;
    size_t number = 0;
    for (std::string line; std::getline(in, line) && (most == 0 || documents.size() < most);) {
        ++number;
        if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
        const Json row = Json::parse(line, nullptr, false);
        if (!row.is_object() || !row.contains("text") || !row["text"].is_string())
            throw ToolError(kExitFile,
                            strf("%s, line %zu: not a JSON object with a string field \"text\"", path.c_str(), number));
        documents.push_back(row["text"]);
    }
    return documents;
}

}  // namespace keel::tools
