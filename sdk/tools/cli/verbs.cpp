// What verbs see of CLI11, which is compiled here.
#include "sdk/tools/cli/verbs.h"

#include <CLI/CLI.hpp>

namespace keel::tools {

VerbOption VerbOption::required(bool value) {
    return VerbOption(option_->required(value));
}
VerbOption VerbOption::capture_default_str() {
    return VerbOption(option_->capture_default_str());
}
VerbOption VerbOption::group(const std::string& name) {
    return VerbOption(option_->group(name));
}
VerbOption VerbOption::needs(VerbOption other) {
    return VerbOption(option_->needs(other.option_));
}
VerbOption VerbOption::excludes(VerbOption other) {
    return VerbOption(option_->excludes(other.option_));
}
VerbOption VerbOption::delimiter(char between) {
    return VerbOption(option_->delimiter(between));
}
VerbOption VerbOption::expected(int count) {
    return VerbOption(option_->expected(count));
}
VerbOption VerbOption::take_all() {
    return VerbOption(option_->take_all());
}
VerbOption VerbOption::allow_extra_args(bool value) {
    return VerbOption(option_->allow_extra_args(value));
}
VerbOption VerbOption::positive() {
    return VerbOption(option_->check(CLI::PositiveNumber));
}
VerbOption VerbOption::not_negative() {
    return VerbOption(option_->check(CLI::NonNegativeNumber));
}
VerbOption VerbOption::check(std::function<std::string(const std::string&)> what) {
    return VerbOption(option_->check(std::move(what)));
}
VerbOption VerbOption::one_of(const std::vector<std::string>& values) {
    return VerbOption(option_->check(CLI::IsMember(values)));
}
template <class T>
VerbOption VerbOption::range(T low, T high) {
    return VerbOption(option_->check(CLI::Range(low, high)));
}
template VerbOption VerbOption::range(int, int);
template VerbOption VerbOption::range(uint64_t, uint64_t);
template VerbOption VerbOption::range(double, double);

VerbOption Verb::add_flag(const std::string& names, bool& value, const std::string& what) {
    return VerbOption(app_->add_flag(names, value, what));
}
VerbOption Verb::get_option(const std::string& name) {
    return VerbOption(app_->get_option(name));
}
void Verb::callback(std::function<void()> work) {
    app_->callback(std::move(work));
}
void Verb::add_footer(const std::string& text) {
    app_->footer(app_->get_footer() + text);
}
Verb Verb::allow_extras() {
    return *app_->allow_extras();
}
Verb Verb::prefix_command() {
    app_->prefix_command()->set_help_flag();
    return *this;
}
template <class T>
VerbOption Verb::add_option(const std::string& names, T& value, const std::string& what) {
    return VerbOption(app_->add_option(names, value, what));
}
template VerbOption Verb::add_option(const std::string&, std::string&, const std::string&);
template VerbOption Verb::add_option(const std::string&, int&, const std::string&);
template VerbOption Verb::add_option(const std::string&, uint32_t&, const std::string&);
template VerbOption Verb::add_option(const std::string&, uint64_t&, const std::string&);
template VerbOption Verb::add_option(const std::string&, float&, const std::string&);
template VerbOption Verb::add_option(const std::string&, double&, const std::string&);
template VerbOption Verb::add_option(const std::string&, std::vector<std::string>&, const std::string&);
template VerbOption Verb::add_option(const std::string&, std::vector<int>&, const std::string&);
template VerbOption Verb::add_option(const std::string&, std::vector<uint32_t>&, const std::string&);
template VerbOption Verb::add_option(const std::string&, std::vector<double>&, const std::string&);

Verb add_subcommand(Verb above, const std::string& name, const std::string& what) {
    CLI::App& app = above;
    return *app.add_subcommand(name, what);
}

Verb add_group(Verb above, const char* name, const char* what) {
    CLI::App& app = above;
    return *app.add_subcommand(name, what)->require_subcommand(1);
}

Verb add_verb(Verb above, Console& console, const char* name, const char* what, const char* examples) {
    Verb verb = add_subcommand(above, name, what);
    verb.add_flag("--json", console.json, "one JSON document on stdout");
    CLI::App& app = verb;
    app.footer(std::string("Examples:\n") + examples);  // in place of the one that it has from above
    return verb;
}

VerbOption add_model_option(Verb verb, std::string& path, const std::string& what) {
    return verb.add_option("model,-m,--model", path, what);
}

}  // namespace keel::tools
