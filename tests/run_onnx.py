"""Two ways to run an ONNX file, for tests of types: as a runtime does, and as the file says."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from aurora_export.plugins import DOMAIN
from aurora_export.plugins.wkv.reference import wkv6_recurrent, wkv7_recurrent


def run_onnxruntime(path, inputs):
    """ONNX Runtime on a CPU computes many float16 nodes in float32, and leaves out the rounding between them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


class Wkv6(OpRun):
    op_domain = DOMAIN
    recurrence = staticmethod(wkv6_recurrent)

    def _run(self, *inputs, **_attributes):
        assert {array.dtype for array in inputs} == {np.dtype(np.float32)}
        return tuple(value.numpy() for value in self.recurrence(*map(torch.tensor, inputs)))


class Wkv7(Wkv6):
    recurrence = staticmethod(wkv7_recurrent)


class GatherElements(OpRun):
    """That of onnx takes indices up to 64."""

    def _run(self, data, indices, axis=0):
        return (np.take_along_axis(data, indices, axis),)


def run_literally(path, inputs):
    """Every node in the type that the file says, its result rounded to it."""
    model = onnx.load(path)
    del model.functions[:]  # it knows a Scan over axis 0 only
    evaluator = ReferenceEvaluator(model, new_ops=[Wkv6, Wkv7, GatherElements])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # overflows
        return dict(zip(evaluator.output_names, evaluator.run(None, inputs), strict=True))
