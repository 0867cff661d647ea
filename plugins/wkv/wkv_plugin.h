// aurora::Wkv6 and aurora::Wkv7 as TensorRT plugins: what TensorRT asks, answered from a table; the work is the kernels'.
//
// One source for TensorRT 10.3 and newer. What it refuses goes to stderr: the logger's layout differs between TensorRT 10
// and 11, and a library that called it would belong to one of them.
#pragma once

#include <NvInferRuntime.h>

namespace aurora {

constexpr const char* kPluginNamespace = "aurora";
constexpr const char* kPluginVersion = "1";
constexpr const char* kAliasedState = "aliased_state";
constexpr int32_t kOutputs = 2;  // output, next_state
constexpr int32_t kMaxInputs = 7;

// One of the operators, as its ONNX schema says.
struct Operator {
  const char* name;
  int32_t n_inputs;
  const char* inputs[kMaxInputs];
  int32_t log_decay;
  int32_t bonus;  // -1: has none
  int32_t state;

  bool is_float32_always(int32_t input) const { return input == log_decay || input == bonus || input == state; }
};

extern const Operator kWkv6;
extern const Operator kWkv7;

class WkvPlugin final : public nvinfer1::IPluginV3,
                        public nvinfer1::IPluginV3OneCore,
                        public nvinfer1::IPluginV3OneBuildV2,
                        public nvinfer1::IPluginV3OneRuntime {
 public:
  // aliased_state: tell the builder that next_state takes the buffer of state; needs a preview feature of TensorRT.
  WkvPlugin(const Operator& op, bool aliased_state);

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  const nvinfer1::AsciiChar* getPluginName() const noexcept override { return op_.name; }
  const nvinfer1::AsciiChar* getPluginVersion() const noexcept override { return kPluginVersion; }
  const nvinfer1::AsciiChar* getPluginNamespace() const noexcept override { return kPluginNamespace; }

  int32_t getNbOutputs() const noexcept override { return kOutputs; }
  int32_t getOutputDataTypes(
      nvinfer1::DataType* outputs, int32_t n_outputs, const nvinfer1::DataType* inputs,
      int32_t n_inputs) const noexcept override;
  int32_t getOutputShapes(
      const nvinfer1::DimsExprs* inputs, int32_t n_inputs, const nvinfer1::DimsExprs* shape_inputs,
      int32_t n_shape_inputs, nvinfer1::DimsExprs* outputs, int32_t n_outputs,
      nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(
      int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t n_inputs,
      int32_t n_outputs) noexcept override;
  int32_t configurePlugin(
      const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t n_inputs,
      const nvinfer1::DynamicPluginTensorDesc* outputs, int32_t n_outputs) noexcept override;
  int32_t getAliasedInput(int32_t output) noexcept override { return aliased_state_ && output == 1 ? op_.state : -1; }

  int32_t onShapeChange(
      const nvinfer1::PluginTensorDesc* inputs, int32_t n_inputs, const nvinfer1::PluginTensorDesc* outputs,
      int32_t n_outputs) noexcept override;
  int32_t enqueue(
      const nvinfer1::PluginTensorDesc* input_descs, const nvinfer1::PluginTensorDesc* output_descs,
      const void* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override { return &serialized_; }

 private:
  const Operator& op_;
  const int32_t aliased_state_;
  const nvinfer1::PluginField fields_[1];
  const nvinfer1::PluginFieldCollection serialized_;
};

class WkvCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit WkvCreator(const Operator& op);

  nvinfer1::IPluginV3* createPlugin(
      const nvinfer1::AsciiChar* name, const nvinfer1::PluginFieldCollection* fields,
      nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &known_; }
  const nvinfer1::AsciiChar* getPluginName() const noexcept override { return op_.name; }
  const nvinfer1::AsciiChar* getPluginVersion() const noexcept override { return kPluginVersion; }
  const nvinfer1::AsciiChar* getPluginNamespace() const noexcept override { return kPluginNamespace; }

 private:
  const Operator& op_;
  const nvinfer1::PluginField fields_[1];
  const nvinfer1::PluginFieldCollection known_;
};

}  // namespace aurora
