"""Writes the corpus of the fuzzers: small files of each kind, good ones and such as were refused once.

python tests/runtime/cpp/make_corpus.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
GOLDEN = HERE.parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))

import golden_manifest  # noqa: E402

VOCABULARY = (
    b"1 'a' 1\n2 'bb' 2\n3 b'\\xc3' 1\n4 '\\xe9\\n' 3\r\n7 \"it's\" 4\n8 ' ' 1\n9 b'\\xa9' 1\n12 '\\U0001F600' 4"
)


def manifests() -> list[bytes]:
    """The golden manifest, and with engines, of another version, of the other RWKV."""
    recorded = json.loads((GOLDEN / "manifest.json").read_bytes())
    edits = [[], [(["engines"], golden_manifest.ENGINES)], [(["schema_version"], "1.9"), (["more"], [{}])]]
    edits.append(
        [(["config", "language", "version"], 6), (["config", "language", "low_ranks"], {"mix": 2, "decay": 2})]
    )
    return [
        json.dumps(golden_manifest.edited(recorded["manifest"], change), separators=(",", ":")).encode()
        for change in edits
    ]


def npy_files() -> list[bytes]:
    """Headers of numpy and one with everything the other way round."""
    files = []
    for dtype in ("<f4", "<f2"):
        path = CORPUS / "made.npy"
        np.save(path, np.zeros((2, 3), dtype))
        files.append(path.read_bytes())
        path.unlink()
    header = b"{'shape': (1, 2,), 'fortran_order': True, 'descr': '|O'}"
    files.append(b"\x93NUMPY\x03\x00" + len(header).to_bytes(4, "little") + header)
    return files


def onnx_files() -> list[bytes]:
    """Weights outside: of the graph, of a constant, of a subgraph and of a function."""

    def outside(name: str, location: str) -> TensorProto:
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", location), ("offset", "8"), ("length", "8")):
            tensor.external_data.add(key=key, value=value)
        return tensor

    constant = helper.make_node("Constant", [], ["c"], value=outside("v", "a.data"))
    inner = helper.make_graph([constant], "inner", [], [], [outside("i", "b.data")])
    nodes = [constant, helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)]
    function = helper.make_function("d", "F", [], ["c"], [constant], [helper.make_opsetid("", 20)])
    graph = helper.make_graph(nodes, "g", [], [], [outside("w", "model.onnx.data")])
    model = helper.make_model(
        graph, functions=[function], producer_name="", opset_imports=[helper.make_opsetid("", 20)]
    )
    evil = helper.make_model(helper.make_graph([], "g", [], [], [outside("w", "../../etc/passwd")]), producer_name="")
    return [model.SerializeToString(), evil.SerializeToString()]


def main() -> None:
    """Write all of it."""
    states = [path.read_bytes() for path in sorted((GOLDEN / "states").glob("*.aurstate"))]
    kinds = {
        "manifest": manifests(),
        "state_file": states,
        "tokenizer": [VOCABULARY + b"\0abb \xc3\xa9it's", VOCABULARY + b"\0\xc3\xc3a\xa9", b"1 'a' 1\n\0aaaa"],
        "external_data": onnx_files(),
    }
    CORPUS.mkdir(exist_ok=True)
    kinds["npy"] = npy_files()
    for kind, files in kinds.items():
        (CORPUS / kind).mkdir(exist_ok=True)
        for number, content in enumerate(files):
            (CORPUS / kind / f"{number}").write_bytes(content)


if __name__ == "__main__":
    main()
