"""Custom operators, one folder per family: what README.md in each folder describes."""

from __future__ import annotations

DOMAIN = "aurora"
"""Domain of our operators in ONNX files, and namespace of the torch ops and of the plugins. TensorRT allows no dot."""

OP_VERSION = 1

WKV_OPS = {6: "Wkv6", 7: "Wkv7"}
"""RWKV version -> ONNX operator; one node of it stands in every layer of the language graph."""

NODE_ATTRIBUTES = {"plugin_namespace": DOMAIN, "plugin_version": str(OP_VERSION)}
"""On every node of ours: by these TensorRT finds a plugin (and prefers it to the function); others ignore them."""
