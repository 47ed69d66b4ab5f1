// Recorded answers drafted again, without a model: exact, as drafts never change a text, and fast, so that a controller
// can be judged on all of them at once, with the step costs of any machine.
#pragma once
#include <stdint.h>

#include <string>
#include <vector>

namespace keel_speculation {

// The eight likeliest of a row of logits, of equal ones the lowest id first.
constexpr uint32_t kRecordedRanks = 8;
std::vector<int32_t> likeliest(const float* logits, uint32_t vocabulary);

// A line of a file of `keel_speculation --record`: the number of the prompt's tokens, all tokens, and behind a bar the
// likeliest tokens of the rows that those behind the prompt were drawn from.
struct Recorded {
    uint32_t prompt = 0;
    std::vector<int32_t> tokens, likeliest;  // [behind the prompt][kRecordedRanks]; empty: not recorded
};
std::vector<Recorded> read_recorded(const std::string& path);  // exits with a message

bool wanted(const std::string& list, const char* name);  // whether a list, a,b,c, has it; an empty one has all

struct ReplayOptions {
    std::vector<std::string> files;
    std::vector<std::string> costs;  // names in replay.cpp, or times of steps of 1, 2, ... tokens
    std::string only;                // names of drafters in replay.cpp; empty: all
    uint32_t drafts = 15;            // most of a step
    uint32_t fold = 0, folds = 1;    // only answers fold, fold + folds, ... count
};
// A line for each file, cost table and drafter: speed over plain decoding by the costs, of all answers and of the least
// one of at least 128 tokens.
void replay(const ReplayOptions& options);

}  // namespace keel_speculation
