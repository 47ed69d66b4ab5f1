// Where tests find data: the source tree, and the optional conformance directory (skipped with a message when absent).
#pragma once
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace keel_test {

// In the tree that the environment's KEEL_SOURCE_DIR names, for programs that were carried elsewhere; else in the one
// they were built from.
inline std::string source_path(const std::string& relative) {
    const char* root = getenv("KEEL_SOURCE_DIR");
    return std::string(root ? root : KEEL_SOURCE_DIR) + "/" + relative;
}

// The directory named by KEEL_SHARED (environment), else by the build option KEEL_SHARED_DIR, else ../shared beside the
// checkout; empty when none exists.
inline std::string shared_dir() {
    const char* env = getenv("KEEL_SHARED");
    for (std::string dir : {std::string(env ? env : ""), std::string(KEEL_SHARED_DIR), source_path("../shared")}) {
        std::error_code ignored;
        if (!dir.empty() && std::filesystem::is_directory(dir, ignored)) return dir;
    }
    return {};
}

// A name in the directory for temporary files that no other process has: halves of a program run beside each other.
inline std::string temp_path(const std::string& name) {
    return testing::TempDir() + "keel_" + std::to_string(getpid()) + "_" + name;
}

inline std::vector<char> read_file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace keel_test

// Skips the test, saying so, when the file or directory under the shared data is missing; else names it in `variable`.
#define KEEL_SHARED_OR_SKIP(variable, relative)                                                                     \
    const std::string variable = keel_test::shared_dir().empty() ? "" : keel_test::shared_dir() + "/" + (relative); \
    if (variable.empty() || !std::filesystem::exists(variable))                                                     \
    GTEST_SKIP() << "skipped: no shared conformance data (" << (relative) << ")"
