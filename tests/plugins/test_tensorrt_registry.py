"""The plugin library in the real plugin registry, that of TensorRT's lean runtime, which needs no GPU for this.

A smoke test: the library is built with our own declarations of TensorRT's interfaces, and no builder calls it.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pytest

from aurora_export.plugins import DOMAIN, OP_VERSION, WKV_OPS

pytestmark = pytest.mark.tensorrt

# In a process of its own: a library cannot be taken out of the registry again while Python holds one of its plugins.
ASK = """
import json, sys
import numpy as np
import tensorrt_lean as trt

registry = trt.get_plugin_registry()
before = {(c.name, c.plugin_version, c.plugin_namespace) for c in registry.all_creators}
handle = registry.load_library(sys.argv[1])
after = {(c.name, c.plugin_version, c.plugin_namespace) for c in registry.all_creators}
answer = {"loaded": handle is not None, "creators": sorted(after - before), "ops": {}}
for name, version, namespace in answer["creators"]:
    creator = registry.get_creator(name, version, namespace)

    def create(field, phase):
        value = np.array([1], np.int32)
        fields = [trt.PluginField(field, value, trt.PluginFieldType.INT32)]
        return creator.create_plugin("node", trt.PluginFieldCollection(fields), phase)

    op = answer["ops"][name] = {"fields": [[f.name, str(f.type)] for f in creator.field_names], "phases": {}}
    for phase in (trt.TensorRTPhase.BUILD, trt.TensorRTPhase.RUNTIME):
        plugin = create("aliased_state", phase)
        core, build, runtime = (
            plugin.get_capability_interface(kind)
            for kind in (
                trt.PluginCapabilityType.CORE, trt.PluginCapabilityType.BUILD, trt.PluginCapabilityType.RUNTIME
            )
        )
        infos = [plugin.interface_info, core.interface_info, build.interface_info, runtime.interface_info]
        op["phases"][str(phase)] = {
            "interfaces": [[info.kind, info.major, info.minor] for info in infos],
            "named": [core.plugin_name, core.plugin_version, core.plugin_namespace],
            "outputs": build.num_outputs,
        }
    op["unknown field refused"] = create("alias", trt.TensorRTPhase.BUILD) is None
print(json.dumps(answer), flush=True)
"""

INTERFACES = [
    ["PLUGIN", 1, 0],
    ["PLUGIN_V3ONE_CORE", 1, 0],
    ["PLUGIN_V3ONE_BUILD", 2, 0],
    ["PLUGIN_V3ONE_RUNTIME", 1, 0],
]


@pytest.fixture(scope="module")
def library(root) -> Path:
    path = root / "build/plugins-smoke/libaurora_tensorrt.so"
    assert path.is_file(), "`make tensorrt` builds it"
    return path


@pytest.fixture(scope="module")
def answer(library) -> dict:
    process = subprocess.run([sys.executable, "-c", ASK, str(library)], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout) | {"stderr": process.stderr}


def test_registry_finds_the_creators_by_the_attributes_of_our_nodes(answer):
    assert answer["loaded"]
    assert answer["creators"] == sorted([name, str(OP_VERSION), DOMAIN] for name in WKV_OPS.values())


@pytest.mark.parametrize("name", WKV_OPS.values())
def test_plugins_are_created_with_their_fields_in_both_phases(answer, name):
    op = answer["ops"][name]
    assert op["fields"] == [["aliased_state", "PluginFieldType.INT32"]]
    for phase in op["phases"].values():
        assert phase["interfaces"] == INTERFACES
        assert phase["named"] == [name, str(OP_VERSION), DOMAIN]
        assert phase["outputs"] == 2
    assert len(op["phases"]) == 2


@pytest.mark.parametrize("name", WKV_OPS.values())
def test_unknown_fields_are_refused(answer, name):
    assert answer["ops"][name]["unknown field refused"]
    assert f"aurora::{name}: field alias: unknown" in answer["stderr"]


def test_library_is_marked_as_one_for_tests(library):
    headers = ctypes.CDLL(str(library)).aurora_tensorrt_headers
    headers.restype = ctypes.c_char_p
    assert headers() == b"0.0"


def test_library_needs_no_library_of_tensorrt(library):
    needed = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=True).stdout
    assert "not found" not in needed
    assert not [line for line in needed.splitlines() if "nvinfer" in line or "cudart" in line]
