// Asks a plugin library what a TensorRT builder and a context ask it, and answers a Python test in plain C.
// Compiled together with the plugins against our declarations of TensorRT and our emulation of CUDA.

#include <NvInferRuntime.h>
#include <string.h>

#include <memory>
#include <vector>

using namespace nvinfer1;

extern "C" IPluginCreatorInterface* const* getCreators(int32_t& n_creators);

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

struct Tensor {
  int32_t type, format, n_dims;
  int64_t dims[Dims::MAX_DIMS];
};

IPluginCreatorV3One* creator_of(const char* op) {
  int32_t n = 0;
  IPluginCreatorInterface* const* creators = getCreators(n);
  for (int32_t i = 0; i < n; ++i) {
    auto* creator = static_cast<IPluginCreatorV3One*>(creators[i]);
    if (strcmp(creator->getPluginName(), op) == 0) return creator;
  }
  return nullptr;
}

std::unique_ptr<IPluginV3> create(const char* op, int32_t aliased) {
  const PluginField field{"aliased_state", &aliased, PluginFieldType::kINT32, 1};
  const PluginFieldCollection fields{1, &field};
  return std::unique_ptr<IPluginV3>(creator_of(op)->createPlugin("node", &fields, TensorRTPhase::kBUILD));
}

IPluginV3OneBuildV2* build_of(IPluginV3& plugin) {
  return static_cast<IPluginV3OneBuildV2*>(plugin.getCapabilityInterface(PluginCapabilityType::kBUILD));
}

IPluginV3OneRuntime* runtime_of(IPluginV3& plugin) {
  return static_cast<IPluginV3OneRuntime*>(plugin.getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

PluginTensorDesc described(const Tensor& tensor) {
  PluginTensorDesc desc{{}, static_cast<DataType>(tensor.type), static_cast<TensorFormat>(tensor.format), 1.0f};
  desc.dims.nbDims = tensor.n_dims;
  memcpy(desc.dims.d, tensor.dims, sizeof tensor.dims);
  return desc;
}

}  // namespace

// "name version namespace field" of creator i, or null.
EXPORTED const char* harness_creator(int32_t i, int32_t part) {
  int32_t n = 0;
  IPluginCreatorInterface* const* creators = getCreators(n);
  if (i >= n) return nullptr;
  auto* creator = static_cast<IPluginCreatorV3One*>(creators[i]);
  const char* parts[] = {creator->getPluginName(), creator->getPluginVersion(), creator->getPluginNamespace(),
                         creator->getFieldNames()->fields[0].name};
  return parts[part];
}

EXPORTED int32_t harness_supports(
    const char* op, int32_t position, const Tensor* tensors, int32_t n_inputs, int32_t n_outputs) {
  std::vector<DynamicPluginTensorDesc> descs;
  for (int32_t i = 0; i < n_inputs + n_outputs; ++i) descs.push_back({described(tensors[i]), {}, {}, {}});
  auto plugin = create(op, 0);
  return build_of(*plugin)->supportsFormatCombination(position, descs.data(), n_inputs, n_outputs);
}

EXPORTED int32_t harness_output_types(const char* op, const int32_t* inputs, int32_t n_inputs, int32_t* outputs) {
  auto plugin = create(op, 0);
  return build_of(*plugin)->getOutputDataTypes(
      reinterpret_cast<DataType*>(outputs), 2, reinterpret_cast<const DataType*>(inputs), n_inputs);
}

EXPORTED int32_t harness_output_shapes(const char* op, const Tensor* inputs, int32_t n_inputs, Tensor* outputs) {
  std::vector<DimsExprs> exprs(n_inputs);
  std::vector<IDimensionExpr> sizes(n_inputs * Dims::MAX_DIMS);
  for (int32_t i = 0; i < n_inputs; ++i) {
    exprs[i].nbDims = inputs[i].n_dims;
    for (int32_t d = 0; d < Dims::MAX_DIMS; ++d) {
      IDimensionExpr& size = sizes[i * Dims::MAX_DIMS + d];
      size.value = inputs[i].dims[d];
      exprs[i].d[d] = &size;
    }
  }
  auto plugin = create(op, 0);
  DimsExprs found[2] = {};
  IExprBuilder builder;
  const int32_t status = build_of(*plugin)->getOutputShapes(exprs.data(), n_inputs, nullptr, 0, found, 2, builder);
  for (int32_t i = 0; status == 0 && i < 2; ++i) {
    outputs[i].n_dims = found[i].nbDims;
    for (int32_t d = 0; d < found[i].nbDims; ++d) outputs[i].dims[d] = found[i].d[d]->value;
  }
  return status;
}

EXPORTED int32_t harness_configure(const char* op, const Tensor* least, const Tensor* most, int32_t n_inputs) {
  std::vector<DynamicPluginTensorDesc> descs;
  for (int32_t i = 0; i < n_inputs; ++i) {
    descs.push_back({described(most[i]), described(least[i]).dims, described(most[i]).dims, described(most[i]).dims});
  }
  auto plugin = create(op, 0);
  return build_of(*plugin)->configurePlugin(descs.data(), n_inputs, nullptr, 2);
}

// As a context does: a clone, attached; the shapes; the work.
EXPORTED int32_t harness_enqueue(
    const char* op, const Tensor* inputs, int32_t n_inputs, const void* const* input_addresses,
    void* const* output_addresses) {
  std::vector<PluginTensorDesc> descs;
  for (int32_t i = 0; i < n_inputs; ++i) descs.push_back(described(inputs[i]));
  const PluginTensorDesc outputs[2] = {descs[0], descs[n_inputs - 1]};
  auto plugin = create(op, 0);
  std::unique_ptr<IPluginV3> attached(runtime_of(*plugin)->attachToContext(nullptr));
  plugin.reset();
  IPluginV3OneRuntime* runtime = runtime_of(*attached);
  if (const int32_t status = runtime->onShapeChange(descs.data(), n_inputs, outputs, 2)) return status;
  return runtime->enqueue(descs.data(), outputs, input_addresses, output_addresses, nullptr, nullptr);
}

// Whether a plugin refuses a field of this name, type, length and value: 1, or 0 if it takes it.
EXPORTED int32_t harness_refuses_field(const char* op, const char* name, int32_t type, int32_t length, int32_t value) {
  const PluginField field{name, &value, static_cast<PluginFieldType>(type), length};
  const PluginFieldCollection fields{1, &field};
  return std::unique_ptr<IPluginV3>(creator_of(op)->createPlugin("node", &fields, TensorRTPhase::kBUILD)) == nullptr;
}

// Build it with `aliased`, serialise its fields, create it again from those; the input that `output` is aliased to.
EXPORTED int32_t harness_aliased_input(const char* op, int32_t aliased, int32_t output) {
  auto built = create(op, aliased);
  const PluginFieldCollection* fields = runtime_of(*built)->getFieldsToSerialize();
  std::unique_ptr<IPluginV3> loaded(creator_of(op)->createPlugin("node", fields, TensorRTPhase::kRUNTIME));
  built.reset();
  std::unique_ptr<IPluginV3> copy(loaded->clone());
  return build_of(*copy)->getAliasedInput(output);
}
