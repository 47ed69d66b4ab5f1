// Help that fits a terminal.
#pragma once
#include <string>

namespace keel::tools {

// Lines of at most `columns` columns: a description goes on below itself, a list of choices breaks behind a bar, an
// example behind a backslash, so that it can be pasted.
std::string wrap_help(const std::string& help, size_t columns = 80);

}  // namespace keel::tools
