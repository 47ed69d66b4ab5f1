// Files of work done, with which a later run goes on after a stop.
#pragma once
#include <stdint.h>

#include <string>

#include "sdk/tools/common/model_file.h"

namespace keel::tools {

constexpr uint64_t kWorkFileMark = 0x6b726f576c65654b;  // "KeelWork", what such a file begins with

// Throws ToolError where work must not be written to `path`: it is the model or the text that is read, or a file that
// does not begin as one of work does. An empty path is none.
void refuse_as_work_file(const ModelFile& source, const std::string& text, const std::string& path);

}  // namespace keel::tools
