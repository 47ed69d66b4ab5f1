// Text files as documents, for verbs that score or measure text.
#pragma once
#include <stdint.h>

#include <string>
#include <vector>

namespace keel::tools {

// What a document is taken from: documents of one source, such as chapters of a book, are not independent. Its field
// "source", else "title"; empty: it stands alone. And its field "kind", such as code; empty: none.
struct TextDocument {
    std::string text, source, kind;
};
// A .jsonl file is one document per line, its field "text", at most `most` of them (0: all); anything else is one
// document. Throws ToolError (kExitFile) for a file that cannot be read or a line that is no such object.
std::vector<TextDocument> read_documents(const std::string& path, uint32_t most);
// A number for each source, in the order they come; kOwnSource (statistics.h) for a document that stands alone.
std::vector<uint32_t> source_numbers(const std::vector<TextDocument>& documents);

}  // namespace keel::tools
