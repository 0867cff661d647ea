// Which of a bundle's engines this machine can open, or the field that differs and the command that builds anew.
// Mirrors runtime/engine_files.py.
#pragma once

#include <string>

#include "manifest.h"
#include "nvidia_driver.h"

namespace aurora {

// The engines of TensorRT for a GPU and the version that is installed. `version` may have more numbers than a manifest
// names (10.16.1.11 for 10.16.1): what the manifest does not name agrees. Throws Error(incompatible) with what differs.
const EngineVariant& fitting_engines(const std::string& bundle, const Manifest& manifest, const Gpu& gpu,
                                     const std::string& version);

}  // namespace aurora
