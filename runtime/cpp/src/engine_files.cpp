#include "engine_files.h"

#include <algorithm>
#include <vector>

#include "error.h"

namespace aurora {
namespace {

constexpr const char* PACKAGE = "tensorrt";  // key of the builder's version

using Numbers = std::vector<std::uint64_t>;

// The whole numbers between the dots; what is none is left out.
Numbers numbers(const std::string& version) {
    Numbers found;
    for (std::size_t begin = 0; begin <= version.size();) {
        const std::size_t end = std::min(version.find('.', begin), version.size());
        const std::string part = version.substr(begin, end - begin);
        const bool is_number = part.find_first_not_of("0123456789") == part.npos;
        if (!part.empty() && is_number && part.size() < 10) found.push_back(std::stoull(part));
        begin = end + 1;
    }
    return found;
}

bool holds(const std::vector<std::string>& list, const char* text) { return std::find(list.begin(), list.end(), text) != list.end(); }

// As many numbers of a version as another one has.
std::string cut(const std::string& version, const std::string& like) {
    std::size_t n_dots = static_cast<std::size_t>(std::count(like.begin(), like.end(), '.')), end = 0;
    for (++n_dots; n_dots-- > 0;) end = std::min(version.find('.', end == 0 ? 0 : end + 1), version.size());
    return version.substr(0, end);
}

// The first field by which an engine does not fit; empty if none.
std::string difference(const EngineVariant& variant, const Gpu& gpu, const std::string& installed) {
    const std::string& built = variant.builder.at(PACKAGE);
    const std::string version = cut(installed, built);
    const Numbers here = numbers(version), there = numbers(built);
    const bool newer = here >= there && !here.empty() && !there.empty() && here[0] == there[0];
    if (version != built && !(holds(variant.compatible, "version") && newer))
        return "TensorRT is " + built + ", here " + version;
    const auto& capabilities = variant.compute_capabilities;
    const bool on_ampere_or_newer = holds(variant.compatible, "ampere+") && numbers(gpu.compute_capability) >= Numbers{8, 0};
    if (!holds(capabilities, gpu.compute_capability.c_str()) && !on_ampere_or_newer) {
        std::string list;
        for (const std::string& capability : capabilities) list += (list.empty() ? "" : ", ") + capability;
        return "compute capability is " + list + ", here " + gpu.compute_capability;
    }
    if (variant.gpu && *variant.gpu != gpu.name && !holds(variant.compatible, "ampere+") && !holds(variant.compatible, "same"))
        return "GPU is " + *variant.gpu + ", here " + gpu.name;
    return {};
}

}  // namespace

const EngineVariant& fitting_engines(const std::string& bundle, const Manifest& manifest, const Gpu& gpu,
                                     const std::string& version) {
    std::string target, problems;
    for (const auto& [name, variant] : manifest.engines) {
        if (variant.builder.count(PACKAGE) == 0) continue;
        if (target.empty()) target = name;
        const std::string differs = difference(variant, gpu, version);
        if (differs.empty()) return variant;
        problems += (problems.empty() ? "engines/" : "; engines/") + name + ": " + differs;
    }
    throw Error(Status::incompatible, bundle + ": " + (target.empty() ? "has no engines of TensorRT" : problems),
                "aurora-export build " + bundle + " --target " + (target.empty() ? PACKAGE : target) + "   (on this device)");
}

}  // namespace aurora
