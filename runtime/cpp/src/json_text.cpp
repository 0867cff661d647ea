#include "json_text.h"

#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "text.h"

namespace aurora {
namespace {

class Guard {
public:
    explicit Guard(const JsonLimits& limits) : limits_(limits) {}

    // Called by the parser at each event, before it stores anything.
    bool operator()(int, Json::parse_event_t event, Json& parsed) {
        using Event = Json::parse_event_t;
        if (event == Event::object_start || event == Event::array_start) {
            keys_.emplace_back();
            if (keys_.size() > limits_.max_depth)
                throw std::runtime_error("nested deeper than " + std::to_string(limits_.max_depth) + " levels");
        }
        if (event == Event::key && !keys_.back().insert(parsed.get_ref<const std::string&>()).second)
            throw std::runtime_error("the key " + repr(first_characters(parsed.get_ref<const std::string&>(), 40)) + " stands twice");
        if (event == Event::object_end || event == Event::array_end) keys_.pop_back();
        if (event != Event::object_end && event != Event::array_end && ++n_values_ > limits_.max_values)
            throw std::runtime_error("over " + std::to_string(limits_.max_values) + " values");
        return true;
    }

private:
    const JsonLimits& limits_;
    std::size_t n_values_ = 0;
    std::vector<std::set<std::string>> keys_;
};

}  // namespace

Json parse_json(std::string_view text, const JsonLimits& limits) {
    if (text.substr(0, 3) == "\xEF\xBB\xBF") throw std::runtime_error("it begins with a byte order mark");
    Guard guard(limits);
    try {
        return Json::parse(text.begin(), text.end(), [&](int depth, Json::parse_event_t event, Json& parsed) { return guard(depth, event, parsed); });
    } catch (const Json::exception& error) {
        std::string what = error.what();
        // [json.exception.parse_error.101] parse error at line 1, column 1: ...
        const std::size_t end = what.find("] ");
        if (what.front() == '[' && end != what.npos) what.erase(0, end + 2);
        throw std::runtime_error(what);
    }
}

const char* python_type(const Json& value) {
    switch (value.type()) {
        case Json::value_t::object: return "dict";
        case Json::value_t::array: return "list";
        case Json::value_t::string: return "str";
        case Json::value_t::boolean: return "bool";
        case Json::value_t::number_integer:
        case Json::value_t::number_unsigned: return "int";
        case Json::value_t::number_float: return "float";
        default: return "NoneType";
    }
}

}  // namespace aurora
