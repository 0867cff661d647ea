#include "manifest.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "error.h"
#include "fields.h"
#include "text.h"

namespace aurora {
namespace {

constexpr std::array<const char*, 5> ROLES = {{"vision", "language", "embeddings", "vocabulary", "selfcheck"}};
// Files that decide what a saved state means: they make the fingerprint.
constexpr std::array<const char*, 4> STATE_ROLES = {{"vision", "language", "embeddings", "vocabulary"}};
constexpr const char* HINT = "a bundle is a folder made by `aurora-export build`; build it again if it was damaged";
constexpr std::array<std::string_view, 15> KEYS = {{"schema_version", "name", "created", "source", "precision", "config", "contract",
                                                    "files", "digests", "layer_outputs", "residual_divisor", "tools",
                                                    "verification", "engines", "quantization"}};

std::map<std::string, std::string> read_texts(const Field& field) {
    std::map<std::string, std::string> texts;
    for (const auto& [key, value] : field.entries()) texts[key] = value.text();
    return texts;
}

std::vector<std::string> read_list(const Field& field) {
    std::vector<std::string> texts;
    for (const Field& item : field.items()) texts.push_back(item.text());
    return texts;
}

std::vector<TensorSpec> read_tensors(const Field& field) {
    std::vector<TensorSpec> tensors;
    for (const Field& item : field.items()) {
        Fields fields(item);
        TensorSpec tensor;
        tensor.name = fields["name"].text();
        tensor.dtype = fields["dtype"].choice({"uint8", "int32", "float32"});
        for (const Field& size : fields["shape"].items()) {
            if (size.json().is_string())
                tensor.shape.emplace_back(size.text());
            else
                tensor.shape.emplace_back(size.integer());
        }
        fields.finish();
        tensors.push_back(std::move(tensor));
    }
    return tensors;
}

std::map<std::string, GraphSpec> read_contract(const Field& field) {
    std::map<std::string, GraphSpec> contract;
    for (const auto& [name, graph] : field.entries()) {
        Fields fields(graph);
        contract[name].inputs = read_tensors(fields["inputs"]);
        contract[name].outputs = read_tensors(fields["outputs"]);
        fields.finish();
    }
    return contract;
}

std::map<std::string, std::string> read_roles(const Field& field) {
    std::map<std::string, std::string> files = read_texts(field);
    bool is_complete = files.size() == ROLES.size();
    std::string expected, found;
    for (const char* role : ROLES) {
        is_complete = is_complete && files.count(role);
        expected += (expected.empty() ? "" : ", ") + std::string(role);
    }
    for (const auto& entry : files) found += (found.empty() ? "" : ", ") + entry.first;
    if (!is_complete) field.fail("roles are " + expected + "; found " + (found.empty() ? "none" : found));
    return files;
}

std::map<std::string, FileEntry> read_digests(const Field& field) {
    std::map<std::string, FileEntry> digests;
    const auto entries = field.entries();
    if (entries.size() > MAX_FILES)
        field.fail(std::to_string(entries.size()) + " files; at most " + std::to_string(MAX_FILES) + " are read");
    for (const auto& [path, entry] : entries) {
        Fields fields(entry);
        const auto size = static_cast<std::uint64_t>(fields["size"].integer(0));
        digests[path] = {size, fields["sha256"].hex_digest()};
        fields.finish();
    }
    return digests;
}

void read_verification(const Field& field, Manifest& manifest) {
    Fields fields(field);
    for (const auto& [name, output] : fields["outputs"].entries()) {
        Fields measured(output);
        const double error = measured["error"].number(), limit = measured["limit"].number();
        manifest.verified_outputs[name] = {error, limit, measured["metric"].text()};
        measured.finish();
    }
    manifest.merge_flips = fields["merge_flips"].integer(0);
    manifest.n_frames = fields["n_frames"].integer(0);
    manifest.n_tokens = fields["n_tokens"].integer(0);
    fields.finish();
}

EngineVariant read_engine(const Field& field) {
    Fields fields(field);
    EngineVariant variant;
    variant.files = read_texts(fields["files"]);
    variant.builder = read_texts(fields["builder"]);
    if (fields.has("gpu")) {
        const Field gpu = fields["gpu"];
        if (!gpu.json().is_null()) variant.gpu = gpu.text();
    }
    if (fields.has("compatible")) variant.compatible = read_list(fields["compatible"]);
    variant.compute_capabilities = read_list(fields["compute_capabilities"]);
    for (const auto& [graph, profiles] : fields["profiles"].entries()) {
        auto& of_graph = variant.profiles[graph];
        for (const Field& profile : profiles.items()) {
            of_graph.emplace_back();
            for (const auto& [letter, sizes] : profile.entries()) {
                const std::vector<Field> items = sizes.items();
                if (items.size() != 3) sizes.fail("expected 3 sizes, found " + std::to_string(items.size()));
                for (std::size_t i = 0; i < 3; ++i) of_graph.back()[letter][i] = items[i].integer();
            }
        }
    }
    fields.finish();
    return variant;
}

// Checked as Python does; nothing here depends on it.
void check_quantization(const Field& field) {
    if (field.json().is_null()) return;
    Fields fields(field);
    fields["rest"].choice({"fp32", "fp16"});
    fields["method"].text();
    read_list(fields["groups"]);
    read_list(fields["kept"]);
    fields["error_feedback"].truth();
    const Field maximum = fields["residual_maximum"];
    if (maximum.number() < 0) maximum.fail("Input should be greater than or equal to 0");
    fields.finish();
}

Manifest read_fields(const Json& content) {
    Fields fields(Field(content, ""));
    Manifest m;
    m.schema_version = fields["schema_version"].text();
    m.name = fields["name"].text();
    m.created = fields["created"].text();
    m.source = read_texts(fields["source"]);
    m.precision = fields["precision"].choice({"fp32", "fp16", "int8", "int4", "int8-qdq", "fp8-qdq", "int4-qdq"});
    m.config = read_config(fields["config"]);
    m.contract = read_contract(fields["contract"]);
    m.files = read_roles(fields["files"]);
    m.digests = read_digests(fields["digests"]);
    for (const auto& [graph, names] : fields["layer_outputs"].entries()) m.layer_outputs[graph] = read_list(names);
    if (fields.has("residual_divisor")) m.residual_divisor = fields["residual_divisor"].integer(1);
    if (fields.has("quantization")) check_quantization(fields["quantization"]);
    m.tools = read_texts(fields["tools"]);
    read_verification(fields["verification"], m);
    if (fields.has("engines"))
        for (const auto& [target, variant] : fields["engines"].entries()) m.engines[target] = read_engine(variant);
    fields.finish();
    return m;
}

[[noreturn]] void refuse(const std::string& path, const std::string& what) { throw Error(Status::integrity, path + ": " + what, HINT); }

struct Version {
    std::string major, minor;
};

// Nothing if the text is not two numbers with a point between.
bool split_version(const std::string& text, Version& version) {
    const std::size_t point = text.find('.');
    if (point == text.npos || text.size() > 20) return false;
    version = {text.substr(0, point), text.substr(point + 1)};
    const auto is_number = [](const std::string& part) {
        return !part.empty() && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    };
    return is_number(version.major) && is_number(version.minor) && version.minor.size() < 10;
}

// Checks the version, and takes out keys that a newer minor version added.
void leave_known_keys(Json& content, const std::string& path, const std::function<void(const std::string&)>& warn) {
    const auto entry = content.find("schema_version");
    std::string found = "missing";
    if (entry != content.end()) found = entry->is_string() ? entry->get<std::string>() : entry->dump();
    Version known, version;
    split_version(SCHEMA_VERSION, known);
    if (entry == content.end() || !entry->is_string() || !split_version(found, version) || version.major != known.major)
        throw Error(Status::incompatible, path + ": schema_version is " + first_characters(found, 40) + "; this version reads " + known.major + ".x",
                    "build the bundle again, or install the version of aurora-export that made it");
    if (std::stoi(version.minor) <= std::stoi(known.minor)) return;
    std::string unknown;
    for (auto key = content.begin(); key != content.end();) {
        if (std::find(KEYS.begin(), KEYS.end(), key.key()) == KEYS.end()) {
            unknown += (unknown.empty() ? "" : ", ") + repr(key.key());
            key = content.erase(key);
        } else {
            ++key;
        }
    }
    if (warn) warn(path + ": schema_version " + found + " is newer than " + SCHEMA_VERSION + "; keys left out: [" + unknown + "]");
}

void check_named_paths(const Manifest& manifest, const std::string& path) {
    std::vector<std::pair<std::string, std::string>> named;
    for (const char* role : ROLES) named.emplace_back(std::string("files.") + role, manifest.files.at(role));
    for (const auto& [target, variant] : manifest.engines)
        for (const auto& [graph, relative] : variant.files) named.emplace_back("engines." + target + ".files." + graph, relative);
    for (const auto& entry : named) check_relative_path(entry.second, path);
    for (const auto& entry : manifest.digests) check_relative_path(entry.first, path);
    for (const auto& [where, relative] : named)
        if (!manifest.digests.count(relative)) refuse(path, where + ": " + relative + " has no digest");
}

std::string parent_of(const std::string& relative) {
    const std::size_t slash = relative.rfind('/');
    return slash == relative.npos ? "." : relative.substr(0, slash);
}

// Whole content of a plain file of at most MAX_MANIFEST_BYTES.
std::string read_whole(const std::string& bundle, const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat status {};
    const bool is_file = descriptor >= 0 && ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
    std::string text;
    const char* problem = nullptr;
    if (is_file && static_cast<std::uint64_t>(status.st_size) <= MAX_MANIFEST_BYTES) {
        text.resize(static_cast<std::size_t>(status.st_size));
        std::size_t n_read = 0;
        while (n_read < text.size()) {
            const ssize_t n = ::read(descriptor, text.data() + n_read, text.size() - n_read);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) problem = std::strerror(errno);
            if (n <= 0) break;
            n_read += static_cast<std::size_t>(n);
        }
        text.resize(n_read);
    }
    if (descriptor >= 0) ::close(descriptor);
    if (!is_file) refuse(bundle, std::string("has no ") + MANIFEST_NAME);
    if (problem) refuse(path, std::string("cannot be read: ") + problem);
    if (static_cast<std::uint64_t>(status.st_size) > MAX_MANIFEST_BYTES)
        refuse(path, std::to_string(status.st_size) + " bytes, over the limit of " + std::to_string(MAX_MANIFEST_BYTES));
    return text;
}

}  // namespace

std::string Manifest::fingerprint() const {
    // With whatever stands beside them: the weights of a graph are in a file that the manifest has no role for.
    std::set<std::string> folders;
    for (const char* role : STATE_ROLES) folders.insert(parent_of(files.at(role)));
    std::string list;
    for (const auto& [path, entry] : digests)
        if (folders.count(parent_of(path))) list += (list.empty() ? "" : ", ") + json_of_text(path) + ": \"" + entry.sha256 + "\"";
    const std::string identity = "{\"config\": " + json_of_config(config) + ", \"digests\": {" + list + "}, \"precision\": \"" + precision + "\"}";
    Sha256 digest;
    digest.update(identity.data(), identity.size());
    return digest.hex();
}

Manifest manifest_from_text(std::string_view text, const std::string& path, const std::function<void(const std::string&)>& warn) {
    if (text.size() > MAX_MANIFEST_BYTES)
        refuse(path, std::to_string(text.size()) + " bytes, over the limit of " + std::to_string(MAX_MANIFEST_BYTES));
    Json content;
    try {
        content = parse_json(text);
    } catch (const std::runtime_error& error) {
        refuse(path, std::string("not valid JSON: ") + error.what());
    }
    if (!content.is_object()) refuse(path, std::string("expected a JSON object, found ") + python_type(content));
    leave_known_keys(content, path, warn);
    try {
        Manifest manifest = read_fields(content);
        check_named_paths(manifest, path);
        return manifest;
    } catch (const FieldError& error) {
        refuse(path, (error.where.empty() ? "the manifest" : first_characters(error.where, 400)) + ": " + error.what);
    }
}

Manifest read_manifest(const std::string& bundle, const std::function<void(const std::string&)>& warn) {
    struct stat status {};
    if (::stat(bundle.c_str(), &status) != 0) throw Error(Status::usage, bundle + ": no such bundle", HINT);
    const std::string path = bundle + "/" + MANIFEST_NAME;
    return manifest_from_text(read_whole(bundle, path), path, warn);
}

void check_contract(const std::string& bundle, const Manifest& manifest) {
    const std::map<std::string, GraphSpec> expected = graphs(manifest.config);
    if (expected == manifest.contract) return;
    std::string different;
    for (const char* name : {"vision", "language"}) {
        const auto found = manifest.contract.find(name);
        if (found == manifest.contract.end() || !(found->second == expected.at(name))) different += (different.empty() ? "" : " and ") + std::string(name);
    }
    throw Error(Status::incompatible, bundle + ": the contract of the " + (different.empty() ? "graphs" : different) + " is not that of this version",
                "build the bundle again with this version of aurora-export");
}

void check_relative_path(std::string_view relative, const std::string& named_in) {
    bool is_plain = relative.find_first_of(std::string_view("\\:\0", 3)) == relative.npos;
    for (std::size_t begin = 0; begin <= relative.size();) {
        const std::size_t end = std::min(relative.find('/', begin), relative.size());
        const std::string_view part = relative.substr(begin, end - begin);
        if (part.empty() || part == "." || part == "..") is_plain = false;
        begin = end + 1;
    }
    if (!is_plain)
        throw Error(Status::integrity, named_in + ": " + repr(first_characters(relative, 400)) + " is not a plain path inside the bundle",
                    "do not use this bundle: a path that leaves its folder is a sign of tampering");
}

std::string resolve(const std::string& bundle, const Manifest& manifest, const std::string& role) { return bundle + "/" + manifest.files.at(role); }

}  // namespace aurora
