"""The CUDA kernels of WKV from Python, as `wkv_kernel.h` declares them: addresses, sizes and a stream; no torch."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aurora_export.errors import DependencyError, UsageError

ARGUMENTS = {
    "Wkv6": ("receptance", "key", "value", "log_decay", "bonus", "state", "output", "next_state"),
    "Wkv7": (
        "receptance",
        "log_decay",
        "key",
        "value",
        "removal",
        "replacement",
        "state",
        "output",
        "next_state",
    ),
}
"""Operator -> inputs and outputs in the order of its schema, and of the structures in `wkv_kernel.h`."""

FLOAT32_ALWAYS = ("log_decay", "bonus", "state", "next_state")
"""Arguments that are float32 whatever the element type of the others."""

ELEMENT_TYPES = {"float32": 0, "float16": 1, "bfloat16": 2}

FORMS = {"auto": 0, "recurrent": 1, "tensor": 2, "tensor_16": 16, "tensor_64": 64}
"""How `Wkv6` may be computed: `AuroraWkv6Form`. A number is the value columns of a block."""

TENSOR_TOKENS = 16
"""From so many tokens on, "auto" is "tensor" for float16 and bfloat16: `AURORA_WKV6_TENSOR_TOKENS`."""


class _Sizes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("n_sequences", "n_tokens", "n_heads", "head_size")]


@dataclass(frozen=True)
class WkvCudaLibrary:
    """The kernels of one shared library."""

    library: ctypes.CDLL

    @classmethod
    def load(cls, path: Path) -> WkvCudaLibrary:
        """Load a library that `plugins/CMakeLists.txt` built. Raises DependencyError if it is none."""
        try:
            library = ctypes.CDLL(str(path))
            for name in ("aurora_wkv6_enqueue", "aurora_wkv7_enqueue"):
                function = getattr(library, name)
                function.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Sizes), ctypes.c_int32, ctypes.c_void_p]
                function.restype = ctypes.c_char_p
            library.aurora_wkv6_enqueue_form.argtypes = [
                *library.aurora_wkv6_enqueue.argtypes[:3],
                ctypes.c_int32,
                ctypes.c_void_p,
            ]
            library.aurora_wkv6_enqueue_form.restype = ctypes.c_char_p
        except (OSError, AttributeError) as error:
            raise DependencyError(f"{path}: not a library of the WKV kernels: {error}", hint="make cuda") from error
        return cls(library)

    def enqueue(
        self,
        op_type: str,
        addresses: Mapping[str, int],
        sizes: Sequence[int],
        *,
        element_type: str = "float32",
        form: str = "auto",
        stream: int = 0,
    ) -> None:
        """Enqueue one call of "Wkv6" or "Wkv7" on a CUDA stream; the arrays must live until it has run.

        addresses: argument -> address of a contiguous array in device memory, of `element_type` or, if named in
        FLOAT32_ALWAYS, float32.  sizes: B, T, H, N.  form: of FORMS; "Wkv7" has no other than "auto".
        Raises UsageError with the library's reason if it refuses.
        """
        names = ARGUMENTS[op_type]
        arrays = (ctypes.c_void_p * len(names))(*(addresses[name] for name in names))
        call = [arrays, ctypes.byref(_Sizes(*sizes)), ELEMENT_TYPES[element_type]]
        if form == "auto":
            refusal = getattr(self.library, f"aurora_{op_type.lower()}_enqueue")(*call, stream)
        elif op_type == "Wkv6":
            refusal = self.library.aurora_wkv6_enqueue_form(*call, FORMS[form], stream)
        else:
            raise UsageError(f"{op_type}: has no form {form}")
        if refusal is not None:
            raise UsageError(f"{op_type}: {refusal.decode()}", hint="plugins/wkv/README.md says what the kernels take")
