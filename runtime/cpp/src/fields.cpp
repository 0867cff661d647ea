#include "fields.h"

#include <algorithm>
#include <cmath>

namespace aurora {
namespace {

std::string joined_place(const std::string& where, const std::string& key) { return where.empty() ? key : where + "." + key; }

}  // namespace

std::int64_t Field::integer(std::int64_t least, std::int64_t most) const {
    if (!value_->is_number_integer()) fail("Input should be a valid integer");
    // What is over 2^63 is over every limit here.
    const bool is_huge = value_->is_number_unsigned() && value_->get<std::uint64_t>() > static_cast<std::uint64_t>(NO_LIMIT);
    if (is_huge && most == NO_LIMIT) fail("Input should be less than 9223372036854775808");
    const std::int64_t value = is_huge ? NO_LIMIT : value_->get<std::int64_t>();
    if (value < least) fail("Input should be greater than or equal to " + std::to_string(least));
    if (value > most) fail("Input should be less than or equal to " + std::to_string(most));
    return value;
}

std::int64_t Field::positive_integer(std::int64_t most) const {
    if (integer(std::numeric_limits<std::int64_t>::min(), most) < 1) fail("Input should be greater than 0");
    return integer();
}

double Field::number() const {
    if (!value_->is_number()) fail("Input should be a valid number");
    const double value = value_->get<double>();
    if (!std::isfinite(value)) fail("Input should be a finite number");
    return value;
}

double Field::positive_number() const {
    const double value = number();
    if (value <= 0) fail("Input should be greater than 0");
    return value;
}

bool Field::truth() const {
    if (!value_->is_boolean()) fail("Input should be a valid boolean");
    return value_->get<bool>();
}

std::string Field::text() const {
    if (!value_->is_string()) fail("Input should be a valid string");
    return value_->get<std::string>();
}

std::string Field::choice(Choices choices) const {
    if (value_->is_string())
        for (const std::string_view choice : choices)
            if (value_->get_ref<const std::string&>() == choice) return std::string(choice);
    std::string what = "Input should be ";
    for (auto choice = choices.begin(); choice != choices.end(); ++choice) {
        if (choice != choices.begin()) what += choice + 1 == choices.end() ? " or " : ", ";
        const std::string_view shown = *choice == "\n" ? "\\n" : *choice;
        what += "'" + std::string(shown) + "'";
    }
    fail(what);
}

std::string Field::hex_digest() const {
    std::string digits = text();
    const bool is_hex = std::all_of(digits.begin(), digits.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
    if (digits.size() != 64 || !is_hex) fail("String should match pattern '^[0-9a-f]{64}$'");
    return digits;
}

std::vector<Field> Field::items() const {
    if (!value_->is_array()) fail("Input should be a valid list");
    std::vector<Field> items;
    for (std::size_t i = 0; i < value_->size(); ++i) items.emplace_back((*value_)[i], joined_place(where_, std::to_string(i)));
    return items;
}

std::vector<std::pair<std::string, Field>> Field::entries() const {
    if (!value_->is_object()) fail("Input should be a valid dictionary");
    std::vector<std::pair<std::string, Field>> entries;
    for (const auto& [key, value] : value_->items()) entries.emplace_back(key, Field(value, joined_place(where_, key)));
    return entries;
}

Fields::Fields(const Field& object) : object_(object) {
    if (!object.json().is_object()) object.fail("Input should be a valid dictionary");
}

Field Fields::operator[](const char* key) {
    known_.emplace_back(key);
    const auto found = object_.json().find(key);
    const std::string where = joined_place(object_.where(), key);
    if (found == object_.json().end()) throw FieldError{where, "Field required"};
    return {*found, where};
}

void Fields::finish() const {
    for (const auto& entry : object_.json().items())
        if (std::find(known_.begin(), known_.end(), entry.key()) == known_.end())
            throw FieldError{joined_place(object_.where(), entry.key()), "unknown key"};
}

}  // namespace aurora
