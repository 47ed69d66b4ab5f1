// Text files as documents, for verbs that score or measure text.
#pragma once
#include <stdint.h>

#include <string>
#include <vector>

namespace keel::tools {

// A .jsonl file is one document per line, its field "text", at most `most` of them (0: all); anything else is one
// document. Throws ToolError (kExitFile) for a file that cannot be read or a line that is no such object.
std::vector<std::string> read_documents(const std::string& path, uint32_t most);

}  // namespace keel::tools
