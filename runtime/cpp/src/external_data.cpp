#include "external_data.h"

#include <charconv>
#include <cstring>
#include <stdexcept>

#include "error.h"
#include "mapped_file.h"
#include "text.h"

namespace aurora {
namespace {

constexpr int MAX_DEPTH = 64;

// Messages of onnx.proto on the way to a tensor.
enum class Message { model, graph, node, attribute, function, training, tensor, sparse_tensor, entry, other };

struct Child {
    Message parent;
    std::uint32_t field;
    Message child;
};

// onnx.proto, IR version 13.
constexpr Child CHILDREN[] = {
    {Message::model, 7, Message::graph},           {Message::model, 20, Message::training},      {Message::model, 25, Message::function},
    {Message::training, 1, Message::graph},        {Message::training, 2, Message::graph},       {Message::graph, 1, Message::node},
    {Message::graph, 5, Message::tensor},          {Message::graph, 15, Message::sparse_tensor}, {Message::function, 7, Message::node},
    {Message::function, 11, Message::attribute},   {Message::node, 5, Message::attribute},       {Message::attribute, 5, Message::tensor},
    {Message::attribute, 6, Message::graph},       {Message::attribute, 10, Message::tensor},    {Message::attribute, 11, Message::graph},
    {Message::attribute, 22, Message::sparse_tensor}, {Message::attribute, 23, Message::sparse_tensor},
    {Message::sparse_tensor, 1, Message::tensor},  {Message::sparse_tensor, 2, Message::tensor}, {Message::tensor, 13, Message::entry},
};

Message child_of(Message parent, std::uint32_t field) {
    for (const Child& child : CHILDREN)
        if (child.parent == parent && child.field == field) return child.child;
    return Message::other;
}

class Reader {
public:
    explicit Reader(std::string_view bytes) : bytes_(bytes) {}

    bool is_at_end() const { return bytes_.empty(); }

    std::uint64_t varint() {
        std::uint64_t value = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            const auto byte = static_cast<std::uint8_t>(take(1).front());
            value |= std::uint64_t{byte & 0x7Fu} << shift;
            if (byte < 0x80) return value;
        }
        throw std::runtime_error("a number in it has over ten bytes");
    }

    std::string_view take(std::uint64_t n) {
        if (n > bytes_.size()) throw std::runtime_error("a field in it ends behind the file");
        const std::string_view taken = bytes_.substr(0, static_cast<std::size_t>(n));
        bytes_.remove_prefix(taken.size());
        return taken;
    }

private:
    std::string_view bytes_;
};

// Calls on_bytes(field, content) for each field that has a length; the others are skipped.
template <class OnBytes>
void for_each_field(std::string_view message, const OnBytes& on_bytes) {
    Reader reader(message);
    while (!reader.is_at_end()) {
        const std::uint64_t key = reader.varint();
        const auto field = static_cast<std::uint32_t>(key >> 3);
        switch (key & 7) {
            case 0: reader.varint(); break;
            case 1: reader.take(8); break;
            case 2: on_bytes(field, reader.take(reader.varint())); break;
            case 5: reader.take(4); break;
            default: throw std::runtime_error("a field in it has an unknown type");
        }
    }
}

std::uint64_t number_of(std::string_view text, const char* what) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) throw std::runtime_error(std::string("the ") + what + " of external data is no number");
    return value;
}

void read_entry(std::string_view entry, ExternalData& data) {
    std::string_view key, value;
    for_each_field(entry, [&](std::uint32_t field, std::string_view content) {
        if (field == 1) key = content;
        if (field == 2) value = content;
    });
    if (key == "location") data.location = value;
    if (key == "offset") data.offset = number_of(value, "offset");
    if (key == "length") data.length = number_of(value, "length");
}

void walk(std::string_view message, Message kind, int depth, std::vector<ExternalData>& found) {
    if (depth > MAX_DEPTH) throw std::runtime_error("its graphs are nested deeper than " + std::to_string(MAX_DEPTH) + " levels");
    ExternalData data;
    bool is_external = false;
    for_each_field(message, [&](std::uint32_t field, std::string_view content) {
        const Message child = child_of(kind, field);
        if (child == Message::entry) {
            read_entry(content, data);
            is_external = true;
        } else if (child != Message::other) {
            walk(content, child, depth + 1, found);
        }
    });
    if (is_external) found.push_back(std::move(data));
}

}  // namespace

std::vector<ExternalData> find_external_data(std::string_view model) {
    std::vector<ExternalData> found;
    walk(model, Message::model, 0, found);
    return found;
}

void check_external_data(const std::string& bundle, const Manifest& manifest, const std::string& role) {
    const std::string path = resolve(bundle, manifest, role), &relative = manifest.files.at(role);
    const char* hint = "do not use this bundle unless you made it yourself; build it again";
    const MappedFile file(path, "not an ONNX graph", hint);
    std::vector<ExternalData> found;
    try {
        found = find_external_data(file.content());
    } catch (const std::runtime_error& error) {
        throw Error(Status::integrity, path + ": not an ONNX graph: " + error.what(), hint);
    }
    const std::size_t slash = relative.rfind('/');
    const std::string folder = slash == relative.npos ? "" : relative.substr(0, slash + 1);
    for (const ExternalData& data : found) {
        const std::string location = decode_lossy(data.location);
        check_relative_path(location, path);
        const auto entry = manifest.digests.find(folder + location);
        if (entry == manifest.digests.end())
            throw Error(Status::integrity, path + ": its weights lie in " + repr(first_characters(location, 400)) + ", which the manifest does not name", hint);
        const std::uint64_t size = entry->second.size;
        if (data.offset > size || data.length > size - data.offset)
            throw Error(Status::integrity,
                        path + ": weights of " + std::to_string(data.length) + " bytes from " + std::to_string(data.offset) + " on; " + folder + location +
                            " has " + std::to_string(size) + " bytes",
                        hint);
    }
}

}  // namespace aurora
