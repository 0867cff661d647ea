"""State files of Python, the values in them, edits of their headers and what the reader says of each."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import golden_manifest
import numpy as np

from aurora_export.config import config_from_parts
from aurora_export.contract import state_specs
from aurora_export.errors import AuroraError
from aurora_export.runtime.state import LENGTH_BYTES, State, StateHeader
from aurora_export.sampling import SplitMix64
from made_inputs import SIZES_6

MODEL = "ab" * 32
SPECIAL = ("-0x0p+0", "0x1p-149", "0x1.fffffep+127", "0x1.000002p+0", "-0x1.8p-127")
"""The first values of each array: zero, subnormal, largest, next to one."""

HEADERS: dict[str, dict[str, Any]] = {
    "full": {
        "phase": "answered",
        "tokens_seen": 12345678901,
        "frames_seen": 77,
        "position_s": 0.1 + 0.2,
        "video_digest": "cd" * 32,
        "prompt_form": "primed",
        "primed_for": 'What "moves"? é 😀\n',
        "sampling": "1 fps",
        "parent_digest": "ef" * 32,
    },
    "bare": {},
}
FILES = ("full_raw", "full_packed", "bare_raw", "version_1")

Change = dict[str, Any]
HEADER_CHANGES: list[Change] = [
    {},
    *(
        {"metadata": {field: value}}
        for field, value in (
            ("format_version", "3"),
            ("tokens_seen", "-1"),
            ("tokens_seen", "many"),
            ("tokens_seen", ""),
            ("frames_seen", "7.5"),
            ("phase", "asleep"),
            ("position_s", "nan"),
            ("position_s", "late"),
            ("position_s", "1e3"),
            ("encoding", "pickle"),
            ("prompt_form", "secret"),
            ("primed_for", "é" * 501),
            ("primed_for", "é" * 500),
            ("sampling", "x" * 41),
            ("surprise", "1"),
            ("fingerprint", "00" * 32),
        )
    ),
    *({"metadata_without": key} for key in ("format_version", "fingerprint", "precision", "phase", "encoding")),
    {"rename": ["wkv", "extra"]},
    *(
        {"tensor": "wkv", "entry": entry}
        for entry in (
            {"shape": [2, 1, 2, 4, 5]},
            {"shape": [10**18]},
            {"shape": [1, 2, 2, 4, 4]},
        )
    ),
]
"""Changes of the header of full_raw whose outcome is the same in both languages, to the word."""


def small_config() -> Any:
    """RWKV-6, two layers of width 8."""
    return config_from_parts(SIZES_6)


def arrays() -> dict[str, np.ndarray]:
    """Float32, in the shapes of small_config: SPECIAL, then floats of SplitMix64 less one half."""
    random, result = SplitMix64(3), {}
    for spec in state_specs(small_config()):
        array = np.empty(spec.resolve(B=1), np.float32)
        flat = array.reshape(-1)
        flat[:] = [np.float32(random.next_float() - 0.5) for _ in range(flat.size)]
        flat[: len(SPECIAL)] = [np.float32(float.fromhex(value)) for value in SPECIAL]
        result[spec.name] = array
    return result


def state(header: str) -> State:
    """One of HEADERS with the arrays above."""
    identity = {"fingerprint": MODEL, "precision": "fp32", "backend": "onnxruntime-cpu"}
    return State(arrays(), StateHeader.model_validate({**identity, **HEADERS[header]}))


def write_files(folder: Path) -> None:
    """Write the state files. Their bytes differ from run to run: safetensors orders metadata at random."""
    folder.mkdir(exist_ok=True)
    state("full").save(folder / "full_raw.aurstate")
    state("full").save(folder / "full_packed.aurstate", packed=True)
    state("bare").save(folder / "bare_raw.aurstate")
    header, body = pieces(folder / "bare_raw.aurstate")
    del header["__metadata__"]["encoding"]
    header["__metadata__"]["format_version"] = "1"
    write_pieces(folder / "version_1.aurstate", header, body)


def pieces(path: Path) -> tuple[dict[str, Any], bytes]:
    """JSON header and tensor bytes of a safetensors file."""
    data = path.read_bytes()
    end = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    return json.loads(data[LENGTH_BYTES:end]), data[end:]


def write_pieces(path: Path, header: dict[str, Any], body: bytes) -> None:
    """The opposite of `pieces`."""
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(LENGTH_BYTES, "little") + text + body)


def changed(header: dict[str, Any], change: Change) -> dict[str, Any]:
    """The header with one of HEADER_CHANGES made; tests/runtime/cpp/test_state_file.cpp does the same."""
    header = json.loads(json.dumps(header))
    header["__metadata__"] |= change.get("metadata", {})
    if "metadata_without" in change:
        del header["__metadata__"][change["metadata_without"]]
    if "rename" in change:
        header[change["rename"][1]] = header.pop(change["rename"][0])
    if "tensor" in change:
        header[change["tensor"]] |= change["entry"]
    return header


def cases() -> dict[str, Any]:
    """What is in the files, and what is said of damaged ones."""
    config = small_config()
    results = []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "s.aurstate"
        state("full").save(path)
        header, body = pieces(path)
        for change in HEADER_CHANGES:
            write_pieces(path, changed(header, change), body)
            case = {"change": change, "status": 0, "message": ""}
            try:
                State.load(path, config, fingerprint=MODEL)
            except AuroraError as error:
                case |= {"status": error.exit_code, "message": error.message.replace(str(path), "S")}
            results.append(case)
    return {
        "fingerprint": MODEL,
        "manifest": golden_manifest.manifest_of(config),
        "special": SPECIAL,
        "seed": 3,
        "headers": {name: state(name).header.model_dump(exclude_none=True) for name in HEADERS},
        "digest": state("bare").digest,
        "changes": results,
    }
