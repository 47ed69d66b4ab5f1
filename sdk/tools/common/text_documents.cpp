#include "sdk/tools/common/text_documents.h"

#include <map>
#include <sstream>

#include "sdk/tools/common/console.h"
#include "sdk/tools/common/statistics.h"

namespace keel::tools {

std::vector<TextDocument> read_documents(const std::string& path, uint32_t most) {
    const bool lines = path.size() > 6 && path.ends_with(".jsonl");
    if (!lines) return {{read_text(path), {}, {}}};
    std::istringstream in(read_text(path));
    std::vector<TextDocument> documents;
    size_t number = 0;
    for (std::string line; std::getline(in, line) && (most == 0 || documents.size() < most);) {
        ++number;
        if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
        const Json row = Json::parse(line, nullptr, false);
        if (!row.is_object() || !row.contains("text") || !row["text"].is_string())
            throw ToolError(kExitFile,
                            strf("%s, line %zu: not a JSON object with a string field \"text\"", path.c_str(), number));
        TextDocument document = {row["text"], {}, {}};
        for (const char* field : {"title", "source"})
            if (row.contains(field) && row[field].is_string()) document.source = row[field];
        if (row.contains("kind") && row["kind"].is_string()) document.kind = row["kind"];
        documents.push_back(std::move(document));
    }
    return documents;
}

std::vector<uint32_t> source_numbers(const std::vector<TextDocument>& documents) {
    std::map<std::string, uint32_t> known;
    std::vector<uint32_t> numbers;
    for (const TextDocument& document : documents)
        numbers.push_back(document.source.empty()
                              ? kOwnSource
                              : known.emplace(document.source, static_cast<uint32_t>(known.size())).first->second);
    return numbers;
}

}  // namespace keel::tools
