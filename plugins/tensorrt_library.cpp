// What TensorRT looks for in a plugin library: `IPluginRegistry::loadLibrary`, `trtexec --dynamicPlugins`.

#include <NvInferRuntime.h>

#include "wkv/wkv_plugin.h"

#define AURORA_EXPORTED extern "C" __attribute__((visibility("default")))
#define AURORA_TEXT_OF(x) #x
#define AURORA_TEXT(x) AURORA_TEXT_OF(x)

AURORA_EXPORTED nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& n_creators) {
  static aurora::WkvCreator wkv6(aurora::kWkv6), wkv7(aurora::kWkv7);
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&wkv6, &wkv7};
  n_creators = sizeof creators / sizeof creators[0];
  return creators;
}

// Asked for by name; wkv_plugin.h says why no logger is kept.
AURORA_EXPORTED void setLoggerFinder(nvinfer1::ILoggerFinder*) {}

// Version of the headers that this library was built with, as "10.3"; "0.0" are the declarations of our smoke test,
// and such a library is for tests alone.
AURORA_EXPORTED const char* aurora_tensorrt_headers() {
  return AURORA_TEXT(NV_TENSORRT_MAJOR) "." AURORA_TEXT(NV_TENSORRT_MINOR);
}
