// Reading JSON objects field by field: each is there, of its type and in its range, and there is no other one.
// Mirrors what pydantic does for the classes of core/config.py and core/manifest.py, in its words; stricter in that a
// number is no text, and a truth value no number.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "json_text.h"

namespace aurora {

// The first field that is wrong; the caller adds the file.
struct FieldError {
    std::string where, what;
};

using Choices = std::initializer_list<std::string_view>;

constexpr std::int64_t NO_LIMIT = std::numeric_limits<std::int64_t>::max();

// One value and its place, like `config.merge.sort`.
class Field {
public:
    Field(const Json& value, std::string where) : value_(&value), where_(std::move(where)) {}

    std::int64_t integer(std::int64_t least = std::numeric_limits<std::int64_t>::min(), std::int64_t most = NO_LIMIT) const;
    std::int64_t positive_integer(std::int64_t most) const;
    double number() const;  // finite
    double positive_number() const;
    bool truth() const;
    std::string text() const;
    std::string choice(Choices choices) const;
    std::string hex_digest() const;  // 64 hexadecimal digits
    std::vector<Field> items() const;
    // Key and value of an object that may have any keys.
    std::vector<std::pair<std::string, Field>> entries() const;

    const std::string& where() const { return where_; }
    const Json& json() const { return *value_; }
    [[noreturn]] void fail(const std::string& what) const { throw FieldError{where_, what}; }

private:
    const Json* value_;
    std::string where_;
};

// An object with known keys. Read all fields in the order of the Python class, then call `finish`.
class Fields {
public:
    explicit Fields(const Field& object);

    Field operator[](const char* key);  // required
    bool has(const char* key) const { return object_.json().contains(key); }
    void finish() const;  // refuses keys that were not asked for
    [[noreturn]] void fail(const std::string& what) const { object_.fail(what); }

private:
    Field object_;
    std::vector<std::string> known_;
};

}  // namespace aurora
