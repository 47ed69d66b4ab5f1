#include "sdk/tools/common/help_text.h"

#include <algorithm>

namespace keel::tools {
namespace {

constexpr size_t kDescriptionColumn = 30;  // of CLI11

// Where the next line begins: below the text of this one.
size_t indent_of(const std::string& line) {
    const size_t first = line.find_first_not_of(' ');
    const bool described = line.size() > kDescriptionColumn && line[kDescriptionColumn] != ' ' &&
                           line[kDescriptionColumn - 1] == ' ' && first != std::string::npos && first >= 2;
    return described ? kDescriptionColumn : std::min(first + 2, kDescriptionColumn);
}

// One behind the last character of `line` that stays, within `columns`: a blank or a bar lies before it.
size_t break_of(const std::string& line, size_t indent, size_t columns) {
    const size_t blank = line.rfind(' ', columns);
    if (blank != std::string::npos && blank > indent && line.find_first_not_of(' ') < blank) return blank;
    const size_t bar = line.rfind('|', columns - 1);
    return bar != std::string::npos && bar > indent ? bar + 1 : columns;
}

}  // namespace

std::string wrap_help(const std::string& help, size_t columns) {
    std::string out;
    for (size_t begin = 0; begin < help.size();) {
        const size_t end = std::min(help.find('\n', begin), help.size());
        std::string line = help.substr(begin, end - begin);
        begin = end + 1;
        const bool example = line.compare(0, 7, "  keel ") == 0 || line.compare(0, 9, "  printf ") == 0;
        const size_t indent = example ? 6 : indent_of(line);
        while (line.size() > columns) {
            const size_t at = break_of(line, indent, example ? columns - 2 : columns);
            const size_t rest = std::min(line.find_first_not_of(' ', at), line.size());
            out += line.substr(0, at) + (example ? " \\\n" : "\n");
            line = std::string(indent, ' ') + line.substr(rest);
        }
        out += line + "\n";
    }
    return out;
}

}  // namespace keel::tools
