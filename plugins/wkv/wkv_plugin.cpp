#include "wkv_plugin.h"

#include <stdio.h>
#include <string.h>

#include <new>

#include "wkv_device_sizes.h"
#include "wkv_launch.h"

using namespace nvinfer1;

namespace aurora {

const Operator kWkv6{"Wkv6", 6, {"receptance", "key", "value", "log_decay", "bonus", "state"}, 3, 4, 5};
const Operator kWkv7{
    "Wkv7", 7, {"receptance", "log_decay", "key", "value", "removal", "replacement", "state"}, 1, -1, 6};

namespace {

constexpr int32_t kOk = 0, kRefused = -1;
constexpr int64_t kUnknown = -1;

int32_t refuse(const Operator& op, const char* reason) {
  fprintf(stderr, "aurora::%s: %s\n", op.name, reason);
  return kRefused;
}

bool is_supported(DataType type) {
  return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
}

AuroraElementType element_type_of(DataType type) {
  return type == DataType::kHALF ? AURORA_FLOAT16 : type == DataType::kBF16 ? AURORA_BFLOAT16 : AURORA_FLOAT32;
}

// Sizes of one tensor; kUnknown for what is decided at run time.
struct Shape {
  int32_t n_dims;
  int64_t sizes[Dims::MAX_DIMS];
};

Shape shape_of(const Dims& dims) {
  Shape shape{dims.nbDims, {}};
  for (int32_t i = 0; i < dims.nbDims; ++i) shape.sizes[i] = dims.d[i];
  return shape;
}

Shape shape_of(const DimsExprs& dims) {
  Shape shape{dims.nbDims, {}};
  for (int32_t i = 0; i < dims.nbDims; ++i) {
    shape.sizes[i] = dims.d[i]->isConstant() ? dims.d[i]->getConstantValue() : kUnknown;
  }
  return shape;
}

// Check the shapes of all inputs against each other and against what the kernels take; kUnknown fits everything.
// sizes: what was found. Returns kOk, or kRefused once it has said why.
int32_t check_shapes(const Operator& op, const Shape* inputs, int32_t n_inputs, AuroraWkvSizes* sizes) {
  if (n_inputs != op.n_inputs) return refuse(op, message("has %d inputs; takes %d", n_inputs, op.n_inputs));
  enum { kB, kT, kH, kN, kLetters };
  constexpr int32_t kPerToken[] = {kB, kT, kH, kN}, kBonus[] = {kH, kN}, kState[] = {kB, kH, kN, kN};
  constexpr const char* kNames = "BTHN";
  int64_t found[kLetters] = {kUnknown, kUnknown, kUnknown, kUnknown};
  for (int32_t i = 0; i < n_inputs; ++i) {
    const int32_t* letters = i == op.bonus ? kBonus : i == op.state ? kState : kPerToken;
    const int32_t n_dims = i == op.bonus ? 2 : 4;
    if (inputs[i].n_dims != n_dims) {
      return refuse(op, message("%s: has %d dimensions; takes %d", op.inputs[i], inputs[i].n_dims, n_dims));
    }
    for (int32_t d = 0; d < n_dims; ++d) {
      const int64_t size = inputs[i].sizes[d];
      int64_t& known = found[letters[d]];
      if (size == kUnknown) continue;
      if (known != kUnknown && known != size) {
        return refuse(op, message("%s: %c is %lld; it is %lld in the inputs before", op.inputs[i], kNames[letters[d]],
                                  static_cast<long long>(size), static_cast<long long>(known)));
      }
      known = size;
    }
  }
  const auto or_one = [](int64_t size) { return size == kUnknown ? 1 : size; };
  const int64_t head_size = found[kN] == kUnknown ? kHeadSize : found[kN];
  *sizes = {or_one(found[kB]), or_one(found[kT]), or_one(found[kH]), head_size};
  const char* refusal = aurora_wkv_refusal(sizes, AURORA_FLOAT32);
  return refusal == nullptr ? kOk : refuse(op, refusal);
}

template <typename Described, typename ShapeOf>
int32_t check_described(
    const Operator& op, const Described* inputs, int32_t n_inputs, AuroraWkvSizes* sizes, ShapeOf shape_of_input) {
  Shape shapes[kMaxInputs];
  for (int32_t i = 0; i < n_inputs && i < kMaxInputs; ++i) shapes[i] = shape_of_input(inputs[i]);
  return check_shapes(op, shapes, n_inputs, sizes);
}

int32_t check_described(const Operator& op, const PluginTensorDesc* inputs, int32_t n_inputs, AuroraWkvSizes* sizes) {
  return check_described(
      op, inputs, n_inputs, sizes, [](const PluginTensorDesc& input) { return shape_of(input.dims); });
}

}  // namespace

WkvPlugin::WkvPlugin(const Operator& op, bool aliased_state)
    : op_(op),
      aliased_state_(aliased_state ? 1 : 0),
      fields_{{kAliasedState, &aliased_state_, PluginFieldType::kINT32, 1}},
      serialized_{1, fields_} {}

IPluginCapability* WkvPlugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
  switch (type) {
    case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuildV2*>(this);
    case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

IPluginV3* WkvPlugin::clone() noexcept { return new (std::nothrow) WkvPlugin(op_, aliased_state_ != 0); }

IPluginV3* WkvPlugin::attachToContext(IPluginResourceContext*) noexcept { return clone(); }

int32_t WkvPlugin::getOutputDataTypes(
    DataType* outputs, int32_t n_outputs, const DataType* inputs, int32_t n_inputs) const noexcept {
  if (n_inputs != op_.n_inputs || n_outputs != kOutputs) {
    return refuse(op_, message("has %d inputs and %d outputs; takes %d and %d", n_inputs, n_outputs, op_.n_inputs,
                               kOutputs));
  }
  for (int32_t i = 0; i < n_inputs; ++i) {
    const bool fits = op_.is_float32_always(i) ? inputs[i] == DataType::kFLOAT
                                               : is_supported(inputs[i]) && inputs[i] == inputs[0];
    if (!fits) {
      return refuse(op_, message("%s: data type %d; %s", op_.inputs[i], static_cast<int>(inputs[i]),
                                 op_.is_float32_always(i)
                                     ? "takes float32"
                                     : "takes float32, float16 or bfloat16, the same as receptance"));
    }
  }
  outputs[0] = inputs[0];
  outputs[1] = DataType::kFLOAT;
  return kOk;
}

int32_t WkvPlugin::getOutputShapes(
    const DimsExprs* inputs, int32_t n_inputs, const DimsExprs*, int32_t, DimsExprs* outputs, int32_t,
    IExprBuilder&) noexcept {
  AuroraWkvSizes sizes;
  const auto shape_of_input = [](const DimsExprs& input) { return shape_of(input); };
  if (check_described(op_, inputs, n_inputs, &sizes, shape_of_input) != kOk) return kRefused;
  outputs[0] = inputs[0];
  outputs[1] = inputs[op_.state];
  return kOk;
}

bool WkvPlugin::supportsFormatCombination(
    int32_t position, const DynamicPluginTensorDesc* tensors, int32_t n_inputs, int32_t n_outputs) noexcept {
  if (n_inputs != op_.n_inputs || n_outputs != kOutputs || position < 0 || position >= n_inputs + n_outputs) {
    return false;
  }
  const PluginTensorDesc& tensor = tensors[position].desc;
  if (tensor.format != TensorFormat::kLINEAR) return false;
  const bool is_next_state = position == n_inputs + 1;
  if (is_next_state || (position < n_inputs && op_.is_float32_always(position))) return tensor.type == DataType::kFLOAT;
  return is_supported(tensor.type) && tensor.type == tensors[0].desc.type;
}

int32_t WkvPlugin::configurePlugin(
    const DynamicPluginTensorDesc* inputs, int32_t n_inputs, const DynamicPluginTensorDesc*, int32_t) noexcept {
  AuroraWkvSizes sizes;
  const auto least = [](const DynamicPluginTensorDesc& input) { return shape_of(input.min); };
  const auto most = [](const DynamicPluginTensorDesc& input) { return shape_of(input.max); };
  if (check_described(op_, inputs, n_inputs, &sizes, least) != kOk) return kRefused;
  return check_described(op_, inputs, n_inputs, &sizes, most);
}

int32_t WkvPlugin::onShapeChange(
    const PluginTensorDesc* inputs, int32_t n_inputs, const PluginTensorDesc*, int32_t) noexcept {
  AuroraWkvSizes sizes;
  return check_described(op_, inputs, n_inputs, &sizes);
}

int32_t WkvPlugin::enqueue(
    const PluginTensorDesc* input_descs, const PluginTensorDesc*, const void* const* inputs, void* const* outputs,
    void*, cudaStream_t stream) noexcept {
  AuroraWkvSizes sizes;
  if (check_described(op_, input_descs, op_.n_inputs, &sizes) != kOk) return kRefused;
  const AuroraElementType element_type = element_type_of(input_descs[0].type);
  const auto floats = [&](int32_t i) { return static_cast<const float*>(inputs[i]); };
  float* next_state = static_cast<float*>(outputs[1]);
  const char* refusal;
  if (&op_ == &kWkv6) {
    const AuroraWkv6Arrays arrays{inputs[0], inputs[1], inputs[2], floats(3), floats(4), floats(5), outputs[0],
                                  next_state};
    refusal = aurora_wkv6_enqueue(&arrays, &sizes, element_type, stream);
  } else {
    const AuroraWkv7Arrays arrays{inputs[0], floats(1),  inputs[2],  inputs[3], inputs[4],
                                  inputs[5], floats(6), outputs[0], next_state};
    refusal = aurora_wkv7_enqueue(&arrays, &sizes, element_type, stream);
  }
  return refusal == nullptr ? kOk : refuse(op_, refusal);
}

WkvCreator::WkvCreator(const Operator& op)
    : op_(op), fields_{{kAliasedState, nullptr, PluginFieldType::kINT32, 1}}, known_{1, fields_} {}

IPluginV3* WkvCreator::createPlugin(
    const AsciiChar*, const PluginFieldCollection* fields, TensorRTPhase) noexcept {
  int32_t aliased_state = 0;
  for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i) {
    const PluginField& field = fields->fields[i];
    if (strcmp(field.name, kAliasedState) != 0) {
      refuse(op_, message("field %s: unknown; %s is all there is", field.name, kAliasedState));
      return nullptr;
    }
    if (field.type != PluginFieldType::kINT32 || field.length != 1 || field.data == nullptr) {
      refuse(op_, message("field %s: takes one int32", kAliasedState));
      return nullptr;
    }
    memcpy(&aliased_state, field.data, sizeof aliased_state);
    if (aliased_state != 0 && aliased_state != 1) {
      refuse(op_, message("field %s: is %d; takes 0 or 1", kAliasedState, aliased_state));
      return nullptr;
    }
  }
  return new (std::nothrow) WkvPlugin(op_, aliased_state != 0);
}

}  // namespace aurora
