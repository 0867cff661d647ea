// A smoke test's stand-in for TensorRT's header of this name, on machines that have none: just what our plugins and
// libaurora use.
//
// Written for this project from NVIDIA's public API reference (docs.nvidia.com, TensorRT C++ API, "Class Reference" of
// each interface: names, signatures, order of the member functions, values of the enumerations). It is no copy of a
// header, and never used in a build that ships: such a build needs the TensorRT of the device, by TENSORRT_ROOT.
// A library built with it shows the source to be well formed, and a real plugin registry accepts its creators and
// plugins; expressions of dimensions have another layout here (only our test calls them), and no real builder has called it.
#pragma once

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#define NV_TENSORRT_MAJOR 0
#define NV_TENSORRT_MINOR 0
#define NV_TENSORRT_PATCH 0

namespace nvinfer1 {

using AsciiChar = char;
class ILoggerFinder;
class IPluginResourceContext;

enum class APILanguage : int32_t { kCPP = 0, kPYTHON = 1 };
enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kUINT8 = 5, kBF16 = 7 };
enum class TensorFormat : int32_t { kLINEAR = 0, kCHW2 = 1 };
enum class TensorRTPhase : int32_t { kBUILD = 0, kRUNTIME = 1 };
enum class PluginCapabilityType : int32_t { kCORE = 0, kBUILD = 1, kRUNTIME = 2 };
enum class PluginFieldType : int32_t { kFLOAT32 = 1, kINT32 = 5 };

struct Dims64 {
  static constexpr int32_t MAX_DIMS = 8;
  int32_t nbDims;
  int64_t d[MAX_DIMS];
};
using Dims = Dims64;

struct PluginTensorDesc {
  Dims dims;
  DataType type;
  TensorFormat format;
  float scale;
};

struct DynamicPluginTensorDesc {
  PluginTensorDesc desc;
  Dims min, max, opt;
};

struct PluginField {
  const AsciiChar* name;
  const void* data;
  PluginFieldType type;
  int32_t length;
};

struct PluginFieldCollection {
  int32_t nbFields;
  const PluginField* fields;
};

struct IDimensionExpr {
  int64_t value;  // negative: not a constant
  bool isConstant() const { return value >= 0; }
  int64_t getConstantValue() const { return value; }
};

struct DimsExprs {
  int32_t nbDims;
  const IDimensionExpr* d[Dims::MAX_DIMS];
};

class IExprBuilder {};

struct InterfaceInfo {
  const char* kind;
  int32_t major, minor;
};

class IVersionedInterface {
 public:
  virtual APILanguage getAPILanguage() const noexcept { return APILanguage::kCPP; }
  virtual InterfaceInfo getInterfaceInfo() const noexcept = 0;
  virtual ~IVersionedInterface() noexcept = default;
};

class IPluginCapability : public IVersionedInterface {};

class IPluginV3 : public IVersionedInterface {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN", 1, 0}; }
  virtual IPluginCapability* getCapabilityInterface(PluginCapabilityType) noexcept = 0;
  virtual IPluginV3* clone() noexcept = 0;
};

class IPluginV3OneCore : public IPluginCapability {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN_V3ONE_CORE", 1, 0}; }
  virtual const AsciiChar* getPluginName() const noexcept = 0;
  virtual const AsciiChar* getPluginVersion() const noexcept = 0;
  virtual const AsciiChar* getPluginNamespace() const noexcept = 0;
};

class IPluginV3OneBuild : public IPluginCapability {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN_V3ONE_BUILD", 1, 0}; }
  virtual int32_t configurePlugin(
      const DynamicPluginTensorDesc*, int32_t, const DynamicPluginTensorDesc*, int32_t) noexcept = 0;
  virtual int32_t getOutputDataTypes(DataType*, int32_t, const DataType*, int32_t) const noexcept = 0;
  virtual int32_t getOutputShapes(
      const DimsExprs*, int32_t, const DimsExprs*, int32_t, DimsExprs*, int32_t, IExprBuilder&) noexcept = 0;
  virtual bool supportsFormatCombination(int32_t, const DynamicPluginTensorDesc*, int32_t, int32_t) noexcept = 0;
  virtual int32_t getNbOutputs() const noexcept = 0;
  virtual size_t getWorkspaceSize(
      const DynamicPluginTensorDesc*, int32_t, const DynamicPluginTensorDesc*, int32_t) const noexcept {
    return 0;
  }
  virtual int32_t getValidTactics(int32_t*, int32_t) noexcept { return 0; }
  virtual int32_t getNbTactics() noexcept { return 0; }
  virtual const char* getTimingCacheID() noexcept { return nullptr; }
  virtual int32_t getFormatCombinationLimit() noexcept { return 100; }
  virtual const char* getMetadataString() noexcept { return nullptr; }
};

class IPluginV3OneBuildV2 : public IPluginV3OneBuild {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN_V3ONE_BUILD", 2, 0}; }
  virtual int32_t getAliasedInput(int32_t) noexcept { return -1; }
};

class IPluginV3OneRuntime : public IPluginCapability {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN_V3ONE_RUNTIME", 1, 0}; }
  virtual int32_t setTactic(int32_t) noexcept { return 0; }
  virtual int32_t onShapeChange(const PluginTensorDesc*, int32_t, const PluginTensorDesc*, int32_t) noexcept = 0;
  virtual int32_t enqueue(
      const PluginTensorDesc*, const PluginTensorDesc*, const void* const*, void* const*, void*,
      cudaStream_t) noexcept = 0;
  virtual IPluginV3* attachToContext(IPluginResourceContext*) noexcept = 0;
  virtual const PluginFieldCollection* getFieldsToSerialize() noexcept = 0;
};

class IPluginCreatorInterface : public IVersionedInterface {};

class IPluginCreatorV3One : public IPluginCreatorInterface {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN CREATOR_V3ONE", 1, 0}; }
  virtual IPluginV3* createPlugin(const AsciiChar*, const PluginFieldCollection*, TensorRTPhase) noexcept = 0;
  virtual const PluginFieldCollection* getFieldNames() noexcept = 0;
  virtual const AsciiChar* getPluginName() const noexcept = 0;
  virtual const AsciiChar* getPluginVersion() const noexcept = 0;
  virtual const AsciiChar* getPluginNamespace() const noexcept = 0;
};

// Of the runtime. In TensorRT these are classes over one of its own; a program that was compiled with this file works with
// tests/runtime/cpp/gpu_stand_in.cpp alone, whose major version is 0 as this one's.
enum class TensorIOMode : int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };

class ILogger {
 public:
  enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
  virtual void log(Severity severity, const AsciiChar* message) noexcept = 0;
  virtual ~ILogger() = default;
};

class IExecutionContext {
 public:
  virtual ~IExecutionContext() noexcept = default;
  virtual bool setOptimizationProfileAsync(int32_t profile, cudaStream_t) noexcept = 0;
  virtual bool setInputShape(const char* name, const Dims&) noexcept = 0;
  virtual bool setTensorAddress(const char* name, void* address) noexcept = 0;
  virtual bool enqueueV3(cudaStream_t) noexcept = 0;
};

class ICudaEngine {
 public:
  virtual ~ICudaEngine() noexcept = default;
  virtual int32_t getNbIOTensors() const noexcept = 0;
  virtual const char* getIOTensorName(int32_t) const noexcept = 0;
  virtual TensorIOMode getTensorIOMode(const char* name) const noexcept = 0;
  virtual DataType getTensorDataType(const char* name) const noexcept = 0;
  virtual Dims getTensorShape(const char* name) const noexcept = 0;
  virtual int32_t getNbOptimizationProfiles() const noexcept = 0;
  virtual IExecutionContext* createExecutionContext() noexcept = 0;
};

class IRuntime {
 public:
  virtual ~IRuntime() noexcept = default;
  virtual ICudaEngine* deserializeCudaEngine(const void*, size_t) noexcept = 0;
};

class IPluginRegistry {
 public:
  virtual ~IPluginRegistry() noexcept = default;
  virtual void* loadLibrary(const AsciiChar* path) noexcept = 0;
  virtual IPluginCreatorInterface* getCreator(
      const AsciiChar* name, const AsciiChar* version, const AsciiChar* plugin_namespace) noexcept = 0;
};

}  // namespace nvinfer1
