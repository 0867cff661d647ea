#include "state_header.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>

#include "error.h"
#include "fields.h"
#include "json_text.h"
#include "text.h"

namespace aurora {
namespace {

constexpr std::uint64_t LENGTH_BYTES = 8;

[[noreturn]] void damaged(const StateSource& source, const std::string& what) {
    throw Error(Status::integrity, source.name() + ": " + what, SAVE_AGAIN);
}

// The fields are strings, whatever they mean.
std::int64_t integer_of(const Field& field) {
    const std::string text = field.text();
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) field.fail("Input should be a valid integer, unable to parse string as an integer");
    if (value < 0) field.fail("Input should be greater than or equal to 0");
    return value;
}

double number_of(const Field& field) {
    const std::string text = field.text();
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) field.fail("Input should be a valid number, unable to parse string as a number");
    if (!std::isfinite(value)) field.fail("Input should be a finite number");
    return value;
}

std::string short_text_of(const Field& field, std::size_t most) {
    std::string text = field.text();
    if (count_characters(text) > most) field.fail("String should have at most " + std::to_string(most) + " characters");
    return text;
}

StateHeader header_of(const Json& metadata) {
    Fields fields(Field(metadata, ""));
    StateHeader h;
    fields["format_version"].text();
    h.fingerprint = fields["fingerprint"].text();
    h.precision = fields["precision"].text();
    h.backend = fields["backend"].text();
    if (fields.has("phase")) h.phase = fields["phase"].choice({"empty", "watching", "answered"});
    if (fields.has("tokens_seen")) h.tokens_seen = integer_of(fields["tokens_seen"]);
    if (fields.has("frames_seen")) h.frames_seen = integer_of(fields["frames_seen"]);
    if (fields.has("position_s")) h.position_s = number_of(fields["position_s"]);
    if (fields.has("video_digest")) h.video_digest = fields["video_digest"].hex_digest();
    if (fields.has("prompt_form")) h.prompt_form = fields["prompt_form"].choice({"generic", "primed"});
    if (fields.has("primed_for")) h.primed_for = short_text_of(fields["primed_for"], MAX_PRIMED_FOR);
    if (fields.has("sampling")) h.sampling = short_text_of(fields["sampling"], 40);
    if (fields.has("parent_digest")) h.parent_digest = fields["parent_digest"].hex_digest();
    fields.finish();
    return h;
}

void read_metadata(const StateSource& source, Json& content, StateFile& file) {
    const auto found = content.find("__metadata__");
    if (found == content.end() || !found->is_object() || !found->contains("format_version"))
        throw Error(Status::integrity, source.name() + ": a safetensors file, but not a state of aurora-export",
                    "a state is made by `aurora-export ingest` or Aurora.save");
    Json metadata = std::move(*found);
    content.erase(found);
    const Json& version = metadata["format_version"];
    file.format_version = version.is_string() ? version.get<std::string>() : version.dump();
    if (!version.is_string() || (file.format_version != "1" && file.format_version != FORMAT_VERSION))
        throw Error(Status::incompatible, source.name() + ": state format " + repr(first_characters(file.format_version, 20)) + "; this version reads 1 and 2",
                    "install the version of aurora-export that saved it");
    file.encoding = "raw";
    if (const auto encoding = metadata.find("encoding"); encoding != metadata.end()) {
        file.encoding = encoding->is_string() ? encoding->get<std::string>() : encoding->dump();
        if (!encoding->is_string() || (file.encoding != "raw" && file.encoding != "packed"))
            damaged(source, "header field encoding: " + repr(first_characters(file.encoding, 20)) + " is none of raw, packed");
        metadata.erase(encoding);
    }
    try {
        file.header = header_of(metadata);
    } catch (const FieldError& error) {
        const bool is_unknown = error.what == "unknown key";
        damaged(source, "header field " + repr(first_characters(error.where, 80)) + ": " + (is_unknown ? "Extra inputs are not permitted" : error.what));
    }
}

std::string shown(const Json& value) { return first_characters(value.dump(-1, ' ', true), 200); }

// Bytes that a tensor of this shape has; saturated, which no file reaches.
std::uint64_t n_bytes_of(const std::vector<std::int64_t>& shape, std::uint64_t value_bytes) {
    std::uint64_t n = value_bytes;
    for (const std::int64_t size : shape)
        if (__builtin_mul_overflow(n, static_cast<std::uint64_t>(size), &n)) return UINT64_MAX;
    return n;
}

// Exactly the tensors of the contract, of one type, side by side, in a file of exactly their size.
void read_tensors(const StateSource& source, const Json& content, std::uint64_t data_begin, StateLayout& layout) {
    bool is_complete = content.size() == N_STATES;
    for (const char* name : STATE_NAMES) is_complete = is_complete && content.contains(name);
    if (!is_complete) {
        std::string names, expected;
        std::size_t n = 0;
        for (const auto& entry : content.items())
            if (n++ < 9) names += (names.empty() ? "" : ", ") + first_characters(entry.key(), 40);
        for (const char* name : STATE_NAMES) expected += (expected.empty() ? "" : ", ") + std::string(name);
        damaged(source, "holds the tensors " + (names.empty() ? "none" : names) + "; expected " + expected);
    }
    const bool is_raw = layout.file.encoding == "raw";
    const std::string dtype = is_raw ? "F32" : "U8";
    std::uint64_t n_needed = 0;
    for (std::size_t i = 0; i < N_STATES; ++i) {
        const Json& entry = content[STATE_NAMES[i]];
        const auto is_size = [](const Json& size) { return size.is_number_unsigned() && size.get<std::uint64_t>() <= static_cast<std::uint64_t>(INT64_MAX); };
        const bool has_shape = entry.is_object() && entry.contains("shape") && entry["shape"].is_array() &&
                               std::all_of(entry["shape"].begin(), entry["shape"].end(), is_size);
        if (!has_shape || !entry.contains("dtype") || entry["dtype"] != dtype)
            damaged(source, std::string(STATE_NAMES[i]) + " is " + shown(entry) + ", expected " + dtype);
        layout.tensors[i].shape = entry["shape"].get<std::vector<std::int64_t>>();
        if (__builtin_add_overflow(n_needed, n_bytes_of(layout.tensors[i].shape, is_raw ? 4 : 1), &n_needed)) n_needed = UINT64_MAX;
    }
    const std::uint64_t n_data = source.size() - data_begin;
    if (n_data != n_needed)
        damaged(source, "not a valid state file: its tensors need " + std::to_string(n_needed) + " bytes, the file has " + std::to_string(n_data));

    for (std::size_t i = 0; i < N_STATES; ++i) {
        const Json& entry = content[STATE_NAMES[i]];
        TensorPlace& place = layout.tensors[i];
        const bool has_offsets = entry.size() == 3 && entry.contains("data_offsets") && entry["data_offsets"].is_array() &&
                                 entry["data_offsets"].size() == 2 && entry["data_offsets"][0].is_number_unsigned() &&
                                 entry["data_offsets"][1].is_number_unsigned();
        if (!has_offsets) damaged(source, "not a valid state file: " + std::string(STATE_NAMES[i]) + " is " + shown(entry));
        const auto begin = entry["data_offsets"][0].get<std::uint64_t>(), end = entry["data_offsets"][1].get<std::uint64_t>();
        if (begin > end || end > n_data || end - begin != n_bytes_of(place.shape, is_raw ? 4 : 1))
            damaged(source, "not a valid state file: " + std::string(STATE_NAMES[i]) + " has the offsets " + std::to_string(begin) + " to " + std::to_string(end));
        place.begin = data_begin + begin, place.end = data_begin + end;
    }
    auto places = layout.tensors;
    std::sort(places.begin(), places.end(), [](const TensorPlace& a, const TensorPlace& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });
    for (std::size_t i = 1; i < N_STATES; ++i)
        if (places[i].begin != places[i - 1].end) damaged(source, "not a valid state file: its tensors overlap");
}

}  // namespace

void MemorySource::read(std::uint64_t at, void* to, std::size_t n_bytes) const {
    if (n_bytes) std::memcpy(to, bytes_.data() + at, n_bytes);
}

FileSource::FileSource(const std::string& path) : StateSource(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)), size_(0) {
    const int problem = errno;
    struct stat status {};
    if (descriptor_ >= 0 && ::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode)) {
        size_ = static_cast<std::uint64_t>(status.st_size);
        return;
    }
    const bool is_missing = descriptor_ >= 0 || problem == ENOENT || problem == ENOTDIR;
    if (descriptor_ >= 0) ::close(descriptor_);
    if (is_missing) throw Error(Status::usage, path + ": no such state file", "a state is made by `aurora-export ingest`");
    throw Error(Status::usage, path + ": cannot be read: " + std::strerror(problem));
}

FileSource::~FileSource() { ::close(descriptor_); }

void FileSource::read(std::uint64_t at, void* to, std::size_t n_bytes) const {
    auto* bytes = static_cast<char*>(to);
    while (n_bytes) {
        const ssize_t n = ::pread(descriptor_, bytes, n_bytes, static_cast<off_t>(at));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw Error(Status::usage, name() + ": cannot be read: " + std::strerror(errno));
        if (n == 0) damaged(*this, "it became shorter while it was read");
        bytes += n, at += static_cast<std::uint64_t>(n), n_bytes -= static_cast<std::size_t>(n);
    }
}

StateLayout read_layout(const StateSource& source) {
    std::uint8_t length[LENGTH_BYTES] = {};
    source.read(0, length, static_cast<std::size_t>(std::min(LENGTH_BYTES, source.size())));
    std::uint64_t n_header = 0;
    for (std::size_t i = 0; i < LENGTH_BYTES; ++i) n_header |= std::uint64_t{length[i]} << (8 * i);
    if (source.size() < LENGTH_BYTES || n_header > std::min<std::uint64_t>(MAX_STATE_HEADER_BYTES, source.size() - LENGTH_BYTES))
        damaged(source, "not a valid state file: it announces a header of " + std::to_string(n_header) + " bytes; the file has " +
                            std::to_string(source.size()) + " bytes and the limit is " + std::to_string(MAX_STATE_HEADER_BYTES));
    std::string text(static_cast<std::size_t>(n_header), '\0');
    source.read(LENGTH_BYTES, text.data(), text.size());
    Json content;
    try {
        content = parse_json(text);
    } catch (const std::runtime_error&) {
        damaged(source, "not a valid state file: its header is not JSON");
    }
    if (!content.is_object()) damaged(source, "not a valid state file: its header is not a JSON object");
    StateLayout layout;
    layout.file.n_bytes = source.size();
    read_metadata(source, content, layout.file);
    read_tensors(source, content, LENGTH_BYTES + n_header, layout);
    return layout;
}

std::string text_of_shape(const std::vector<std::int64_t>& shape, char open, char close) {
    std::string text(1, open);
    for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    if (open == '(' && shape.size() == 1) text += ',';
    return text += close;
}

}  // namespace aurora
