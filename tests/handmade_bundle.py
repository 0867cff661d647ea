"""A bundle written by hand: graphs of a few standard operators under the real contract. Needs onnx, not torch.

It computes nothing sensible, but every output depends on every input, on the order of tokens too, so that a frame
left out, a state mixed up or a wrong embedding shows in the logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from aurora_export.config import AuroraConfig, config_from_parts
from aurora_export.contract import GraphSpec, graphs
from aurora_export.manifest import Manifest, Verification, digest_files, write_manifest
from aurora_export.runtime.engine_onnx import OnnxEngine
from made_inputs import FILES, SIZES_6, VOCABULARY_SIZE

OPSET = 20


def handmade_config(**overrides: dict[str, object]) -> AuroraConfig:
    """16 patches of a frame of 16 pixels, of which 10 tokens stay; 257 ids in the vocabulary: the bytes."""
    return config_from_parts(SIZES_6, overrides=[overrides])


def write_bundle(folder: Path, config: AuroraConfig | None = None, *, seed: int = 0) -> Path:
    """Write a bundle; another seed is another model of the same sizes."""
    config = config or handmade_config()
    rng = np.random.default_rng(seed)
    for name in FILES.values():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    specs = graphs(config)
    onnx.save(_vision(config, specs["vision"], rng), folder / FILES["vision"])
    onnx.save(_language(config, specs["language"], rng), folder / FILES["language"])
    table = rng.normal(size=(VOCABULARY_SIZE, config.language.width)).astype(np.float32)
    np.save(folder / FILES["embeddings"], table)
    lines = [f"{byte + 1} {chr(byte) if byte < 128 else bytes([byte])!r} 1\n" for byte in range(256)]
    lines[:128] = [f"{byte + 1} {chr(byte)!r} 1\n" for byte in range(128)]
    (folder / FILES["vocabulary"]).write_text("".join(lines), encoding="utf-8")
    _write_selfcheck(folder, specs, rng)
    write_manifest(folder, _manifest(folder, config))
    return folder


def _write_selfcheck(folder: Path, specs: Mapping[str, GraphSpec], rng: np.random.Generator) -> None:
    """Inputs, and what the graphs make of them now: a later change of a graph fails the check."""
    arrays = {}
    for name, spec in specs.items():
        inputs = {
            tensor.name: rng.integers(0, 256, shape, dtype=np.uint8)
            if tensor.dtype == "uint8"
            else rng.normal(size=shape).astype(np.float32)
            for tensor in spec.inputs
            for shape in [tensor.resolve(F=2, B=1, T=5)]
        }
        arrays |= inputs | OnnxEngine(folder / FILES[name], spec, threads=1).run(inputs)
    save_file(arrays, folder / FILES["selfcheck"])


def rewrite_manifest(folder: Path, **changes: object) -> None:
    """Change fields of the manifest, and bring its digests up to date."""
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    manifest = Manifest.model_validate_json(text)
    write_manifest(folder, manifest.model_copy(update={"digests": dict(digest_files(folder)), **changes}))


def _manifest(folder: Path, config: AuroraConfig) -> Manifest:
    return Manifest(
        name=folder.name,
        created="2026-01-01T00:00:00Z",
        source={"layout": "handmade"},
        precision="fp32",
        config=config,
        contract=dict(graphs(config)),
        files=FILES,
        digests=dict(digest_files(folder)),
        layer_outputs={"vision": [], "language": []},
        tools={"onnx": onnx.__version__},
        verification=Verification(outputs={}, merge_flips=0, n_frames=0, n_tokens=0),
    )


def _model(spec: GraphSpec, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    types = {"uint8": TensorProto.UINT8, "int32": TensorProto.INT32, "float32": TensorProto.FLOAT}
    values = {
        tensor.name: helper.make_tensor_value_info(tensor.name, types[tensor.dtype], tensor.shape)
        for tensor in (*spec.inputs, *spec.outputs)
    }
    graph = helper.make_graph(
        nodes,
        "handmade",
        [values[tensor.name] for tensor in spec.inputs],
        [values[tensor.name] for tensor in spec.outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def _vision(config: AuroraConfig, spec: GraphSpec, rng: np.random.Generator) -> onnx.ModelProto:
    """Tokens: rows of pixels times a matrix. Owners: token i took patch i; the last token took the rest."""
    n_kept, n_patches, side = config.tokens_per_frame, config.vision.n_patches, config.vision.image_size
    owners = np.minimum(np.arange(n_patches), n_kept - 1).astype(np.int32)
    width = config.language.width
    constants = {
        "scale": np.float32(1 / 255),
        "flat": np.array([0, n_kept, -1]),
        "cut": np.array([n_kept * (side * side * 3 // n_kept)]),
        "zero": np.array([0]),
        "axis": np.array([1]),
        "row": np.array([0, -1]),
        "projection": rng.normal(size=(side * side * 3 // n_kept, width)).astype(np.float32) / 8,
        "sizes": np.bincount(owners, minlength=n_kept).astype(np.int32)[None],
        "owners": owners[None],
        "nothing": np.int32(0),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["frames"], ["pixels"], to=TensorProto.FLOAT),
        node("Mul", ["pixels", "scale"], ["scaled"]),
        node("Reshape", ["scaled", "row"], ["rows"]),
        node("Slice", ["rows", "zero", "cut", "axis"], ["used"]),
        node("Reshape", ["used", "flat"], ["patches"]),
        node("MatMul", ["patches", "projection"], ["visual_tokens"]),
        # int32 [F, 1] of zeros, so that the constants get the batch.
        node("ReduceMin", ["rows", "axis"], ["least"]),
        node("Cast", ["least"], ["whole"], to=TensorProto.INT32),
        node("Mul", ["whole", "nothing"], ["batch"]),
        node("Add", ["batch", "sizes"], ["token_sizes"]),
        node("Add", ["batch", "owners"], ["token_of_patch"]),
    ]
    return _model(spec, nodes, constants)


def _language(config: AuroraConfig, spec: GraphSpec, rng: np.random.Generator) -> onnx.ModelProto:
    """Decaying sums of the mean and the last embedding; the outer product of both goes into wkv."""
    language = config.language
    n_heads, head_size, width = language.n_heads, language.head_size, language.width
    constants = {
        "one": np.array([1]),
        "half": np.float32(0.5),
        "most": np.float32(0.9),
        "last": np.array(-1),
        "heads": np.array([0, n_heads, 1, head_size]),
        "columns": np.array([0, n_heads, head_size, 1]),
        "flat": np.array([0, -1]),
        "first": np.array(0),
        "head_of_shift": rng.normal(size=(width, language.vocabulary_size)).astype(np.float32),
        "head_of_wkv": rng.normal(size=(width * head_size, language.vocabulary_size)).astype(np.float32),
    }
    node = helper.make_node
    nodes = [
        node("ReduceMean", ["embeddings", "one"], ["mean"], keepdims=0),
        node("Gather", ["embeddings", "last"], ["end"], axis=1),
        node("Mul", ["att_shift", "half"], ["att_left"]),
        node("Add", ["att_left", "mean"], ["next_att_shift"]),
        node("Mul", ["ffn_shift", "most"], ["ffn_left"]),
        node("Add", ["ffn_left", "end"], ["next_ffn_shift"]),
        node("Reshape", ["mean", "heads"], ["row"]),
        node("Reshape", ["end", "columns"], ["column"]),
        node("Mul", ["column", "row"], ["outer"]),
        node("Mul", ["wkv", "most"], ["wkv_left"]),
        node("Add", ["wkv_left", "outer"], ["next_wkv"]),
        node("Gather", ["next_ffn_shift", "first"], ["shift_0"], axis=0),
        node("Gather", ["next_wkv", "first"], ["wkv_0"], axis=0),
        node("Reshape", ["wkv_0", "flat"], ["wkv_flat"]),
        node("MatMul", ["shift_0", "head_of_shift"], ["from_shift"]),
        node("MatMul", ["wkv_flat", "head_of_wkv"], ["from_wkv"]),
        node("Add", ["from_shift", "from_wkv"], ["logits"]),
    ]
    return _model(spec, nodes, constants)
