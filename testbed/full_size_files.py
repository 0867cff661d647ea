"""Writes files of weights tensor by tensor and block by block: safetensors, and PyTorch's zipped pickles.

Nothing of a file is ever in memory but one block, whatever its size; its readers see no difference.
"""

from __future__ import annotations

import json
import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

_SAFETENSORS_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""of a record in a zip file: signature, then the lengths of name and extra field"""
_DIRECTORY_ENTRY = struct.Struct("<4s12xI8xHHH12x")
"""of a zip's directory: signature, checksum (at byte 16), lengths of name, extra field and comment"""
_DIRECTORY_CHECKSUM_AT = 16
_DESCRIPTOR = b"PK\x07\x08"


@dataclass(frozen=True)
class TensorToWrite:
    """A tensor of a file, whose numbers come when they are written."""

    name: str
    """as the file calls it"""
    shape: tuple[int, ...]
    dtype: torch.dtype
    blocks: Callable[[], Iterator[Tensor]]
    """its numbers in order, flat float32"""

    @property
    def n_bytes(self) -> int:
        """What it takes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_weights(path: Path, tensors: Sequence[TensorToWrite], *, wrapper: str | None = None) -> None:
    """Write a file, safetensors or a pickle by its suffix.

    wrapper: the key of a pickle's outer dict under which the tensors lie, as training tools write it.
    Raises ValueError for two tensors of one name, or a wrapper in safetensors, which has none.
    """
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise ValueError(f"{path}: a file holds one tensor of a name")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".safetensors":
        _write_pickle(path, tensors, wrapper)
    elif wrapper is None:
        _write_safetensors(path, tensors)
    else:
        raise ValueError(f"{path}: safetensors holds tensors only, nothing around them")


def _write_safetensors(path: Path, tensors: Sequence[TensorToWrite]) -> None:
    # The widest types first, as the library itself does: so every tensor starts at a multiple of its item size.
    ordered = sorted(tensors, key=lambda tensor: (-tensor.dtype.itemsize, tensor.name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in ordered:
        start, end = end, end + tensor.n_bytes
        name = _SAFETENSORS_NAMES[tensor.dtype]
        header[tensor.name] = {"dtype": name, "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for tensor in ordered:
            _write_numbers(file, tensor)


def _write_pickle(path: Path, tensors: Sequence[TensorToWrite], wrapper: str | None) -> None:
    """Let torch write the pickle with gaps in place of the numbers, then fill the gaps and mend the checksums."""
    with warnings.catch_warnings(), FakeTensorMode():
        warnings.simplefilter("ignore")
        # Fake tensors of one storage each, which have shape and type and no memory.
        content: dict[str, object] = {t.name: torch.empty(t.shape, dtype=t.dtype) for t in tensors}
        whole = content if wrapper is None else {wrapper: content}
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save(whole, path)
    with zipfile.ZipFile(path) as archive:
        directory_start = archive.start_dir
        records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    checksums = {}
    with path.open("r+b") as file:
        for number, tensor in enumerate(tensors):  # torch numbers storages in the order of the dict
            record = records[f"data/{number}"]
            if record.file_size != tensor.n_bytes:
                raise RuntimeError(f"{path}: {record.filename} has {record.file_size} bytes, not {tensor.n_bytes}")
            file.seek(record.header_offset)
            _, n_name, n_extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            file.seek(n_name + n_extra, 1)
            checksums[record.filename] = _write_numbers(file, tensor)
            _write_checksum_after(file, checksums[record.filename])
        _write_checksums_of_directory(file, directory_start, checksums)


def _write_numbers(file: BinaryIO, tensor: TensorToWrite) -> int:
    """Write a tensor's numbers where the file stands; returns their CRC-32. Raises RuntimeError for a wrong count."""
    checksum = n_bytes = 0
    for block in tensor.blocks():
        numbers = block.to(tensor.dtype).contiguous().view(torch.uint8).numpy().data
        checksum = zlib.crc32(numbers, checksum)
        n_bytes += file.write(numbers)
    if n_bytes != tensor.n_bytes:
        raise RuntimeError(f"{tensor.name}: {n_bytes} bytes were drawn, not {tensor.n_bytes}")
    return checksum


def _write_checksum_after(file: BinaryIO, checksum: int) -> None:
    """Fill in the descriptor that follows a record."""
    if file.read(4) != _DESCRIPTOR:
        raise RuntimeError("torch wrote a zip record without a descriptor after it")
    file.seek(0, 1)  # between reading and writing
    file.write(struct.pack("<I", checksum))


def _write_checksums_of_directory(file: BinaryIO, start: int, checksums: dict[str, int]) -> None:
    """Fill in the checksums at the end of the file, which a reader takes; the other records keep theirs."""
    while True:
        file.seek(start)
        fixed = file.read(_DIRECTORY_ENTRY.size)
        if fixed[:4] != b"PK\x01\x02":
            return
        _, _, n_name, n_extra, n_comment = _DIRECTORY_ENTRY.unpack(fixed)
        name = file.read(n_name).decode()
        if name in checksums:
            file.seek(start + _DIRECTORY_CHECKSUM_AT)
            file.write(struct.pack("<I", checksums[name]))
        start += _DIRECTORY_ENTRY.size + n_name + n_extra + n_comment
