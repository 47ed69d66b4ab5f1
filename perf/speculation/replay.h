// Recorded answers drafted again, without a model: exact, as drafts never change a text, and fast, so that a controller
// can be judged on all of them at once, with the step costs of any machine.
#pragma once
#include <stdint.h>

#include <string>
#include <vector>

namespace keel_speculation {

// A line of a file of `keel_speculation --record`: the number of the prompt's tokens, then all tokens.
struct Recorded {
    uint32_t prompt = 0;
    std::vector<int32_t> tokens;
};
std::vector<Recorded> read_recorded(const std::string& path);  // exits with a message

struct ReplayOptions {
    std::vector<std::string> files;
    std::vector<std::string> costs;  // names in replay.cpp, or times of steps of 1, 2, ... tokens
    bool pool = true;                // shared by the answers of a file, beside suffixes
    uint32_t drafts = 15;            // most of a step
    uint32_t fold = 0, folds = 1;    // only answers fold, fold + folds, ... count
};
// A line for each file and cost table: speed over plain decoding by the costs, of all answers and of the least one of
// at least 128 tokens.
void replay(const ReplayOptions& options);

}  // namespace keel_speculation
