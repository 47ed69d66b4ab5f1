// The layout of every public struct against tests/abi/layout.txt, and the rules of keel.h about structs. A field
// appended to a struct is a new row at its end and keeps the promise; any other change of a row breaks it
// (KEEL_API_VERSION). KEEL_WRITE_LAYOUT=1 writes the table anew.
#include "tests/abi/layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "tests/test_paths.h"

namespace {

const std::set<std::string> kFixed = {"keel_engine", "keel_session", "keel_region", "keel_region_plan",
                                      "keel_region_stats"};

struct Field {
    std::string name;
    size_t offset, bytes;
};
struct Layout {
    size_t bytes = 0;
    std::vector<Field> fields;
};

std::map<std::string, Layout> layouts(const keel_layout_row* rows, size_t count) {
    std::map<std::string, Layout> out;
    for (size_t i = 0; i < count; ++i) {
        Layout& layout = out[rows[i].type];
        if (rows[i].field)
            layout.fields.push_back({rows[i].field, rows[i].offset, rows[i].bytes});
        else
            layout.bytes = rows[i].bytes;
    }
    return out;
}
std::map<std::string, Layout> all_layouts() {
    return layouts(keel_layout_experimental, keel_layout_experimental_count);
}

std::string table() {
    std::ostringstream out;
    out << "# Public structs of 64-bit targets: name and bytes; then offset, bytes and name of each field.\n"
           "# Compared by keel_abi_tests. Rows are only ever appended to a struct.\n";
    for (size_t i = 0; i < keel_layout_experimental_count; ++i) {
        const keel_layout_row& row = keel_layout_experimental[i];
        if (row.field)
            out << "    " << row.offset << " " << row.bytes << " " << row.field << "\n";
        else
            out << row.type << " " << row.bytes << "\n";
    }
    return out.str();
}

std::string header(const std::string& name) {
    const std::vector<char> bytes = keel_test::read_file(keel_test::source_path("include/keel/" + name));
    return std::regex_replace(std::string(bytes.begin(), bytes.end()), std::regex("/\\*[^*]*\\*+([^/*][^*]*\\*+)*/"),
                              "");
}

// Calls use(name, body) for every struct that a public header defines.
template <class Use>
void for_each_struct(Use use) {
    for (const char* name : {"keel.h", "keel_lab.h", "keel_pack.h"}) {
        const std::string text = header(name);
        const std::regex definition("struct (keel_\\w+) \\{([^}]*)\\}");
        for (std::sregex_iterator at(text.begin(), text.end(), definition), end; at != end; ++at)
            use((*at)[1].str(), (*at)[2].str());
    }
}

TEST(AbiLayout, IsTheCommittedOne) {
    if (sizeof(void*) != 8) GTEST_SKIP() << "the table is that of 64-bit targets";
    const std::string path = keel_test::source_path("tests/abi/layout.txt");
    if (getenv("KEEL_WRITE_LAYOUT")) std::ofstream(path) << table();
    const std::vector<char> committed = keel_test::read_file(path);
    std::istringstream was(std::string(committed.begin(), committed.end())), is(table());
    std::string old_line, new_line, type;
    while (std::getline(was, old_line) && std::getline(is, new_line)) {
        if (!new_line.empty() && new_line[0] != ' ') type = new_line;
        ASSERT_EQ(old_line, new_line) << "in " << type << ": a field was added, moved or changed";
    }
    EXPECT_FALSE(std::getline(is, new_line)) << "new: " << new_line;
    EXPECT_EQ(committed.size(), table().size());
}

TEST(AbiLayout, TheMacroChangesNothing) {
    const auto basic = layouts(keel_layout_basic, keel_layout_basic_count), all = all_layouts();
    EXPECT_EQ(basic.size() + 1, all.size()) << "keel_wproj_options alone needs the macro";
    for (const auto& [type, layout] : basic) {
        const Layout& other = all.at(type);
        EXPECT_EQ(layout.bytes, other.bytes) << type;
        ASSERT_EQ(layout.fields.size(), other.fields.size()) << type;
        for (size_t i = 0; i < layout.fields.size(); ++i) EXPECT_EQ(layout.fields[i].offset, other.fields[i].offset);
    }
}

// A hole is a field that a later version cannot use: callers of today leave anything in it.
TEST(AbiLayout, NoStructHasAHole) {
    for (const auto& [type, layout] : all_layouts()) {
        size_t end = 0;
        for (const Field& field : layout.fields) {
            EXPECT_EQ(field.offset, end) << type << "." << field.name;
            end = field.offset + field.bytes;
        }
        EXPECT_EQ(layout.bytes, end) << type;
    }
}

TEST(AbiLayout, EveryStructIsListedAndKnowsItsSize) {
    const auto all = all_layouts();
    size_t count = 0;
    for_each_struct([&](const std::string& type, const std::string&) {
        ++count;
        ASSERT_TRUE(all.count(type)) << type << " is not in layout_rows.h";
        const Field& first = all.at(type).fields.at(0);
        EXPECT_EQ(first.name == "struct_size", !kFixed.count(type)) << type;
    });
    EXPECT_EQ(count, all.size());
}

TEST(AbiLayout, NothingThatCanGrowLiesInsideAStruct) {
    const auto all = all_layouts();
    for_each_struct([&](const std::string& type, const std::string& body) {
        const std::regex member("(^|\\n)\\s*(keel_\\w+) (\\w+)(\\[\\w+\\])?;");
        for (std::sregex_iterator at(body.begin(), body.end(), member), end; at != end; ++at) {
            const std::string inner = (*at)[2];
            EXPECT_TRUE(!all.count(inner) || kFixed.count(inner)) << type << "." << (*at)[3] << " is a " << inner;
        }
    });
}

// Regions by number have room for kinds to come.
TEST(AbiLayout, ArraysOfRegionsHaveSixteenSlots) {
    int arrays = 0;
    for_each_struct([&](const std::string& type, const std::string& body) {
        const std::regex member("keel_region\\w* (\\w+)\\[(\\w+)\\]");
        for (std::sregex_iterator at(body.begin(), body.end(), member), end; at != end; ++at, ++arrays)
            EXPECT_EQ((*at)[2], "KEEL_REGION_SLOTS") << type;
    });
    EXPECT_EQ(arrays, 3);
}

}  // namespace
