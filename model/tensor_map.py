"""From files of weights to one stored tensor for each name of ours: prefixes, precedence, duplicates, unknown names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor

from aurora_export.errors import IncompatibleError, IntegrityError
from aurora_export.model.checkpoint_folder import Origin, WeightSource
from aurora_export.model.key_names import PARTS, Name, Part, name_tensor
from aurora_export.model.weight_files import StoredTensor

_N_SHOWN = 3
_SMALLEST_FLOAT16 = 2.0**-24
_ALIGNMENT_BYTES = 64
"""that of torch's own allocations"""


@dataclass(frozen=True)
class MappedTensor:
    """A stored tensor that takes the place of a parameter."""

    stored: StoredTensor
    transposed: bool
    origin: Origin

    @property
    def shape(self) -> tuple[int, ...]:
        """As the model uses it, up to axes of size 1."""
        return self.stored.shape[::-1] if self.transposed else self.stored.shape

    def read(self, shape: torch.Size, *, mapped: bool = True) -> Tensor:
        """Read it as float32; it stays memory-mapped if that is what the file holds, aligned.

        mapped: False makes a copy of its own always, and gives the file's pages back.
        """
        tensor = self.stored.read()
        tensor = tensor.mT if self.transposed else tensor
        tensor = tensor.to(torch.float32, copy=not mapped).reshape(shape).contiguous()
        if not mapped:
            self.stored.release()
        # A matrix product takes another path, and rounds otherwise, where its operand is not aligned. PyTorch's files
        # align, safetensors does not: without a copy, the same weights give logits that differ in the last bit.
        return tensor.clone() if tensor.data_ptr() % _ALIGNMENT_BYTES else tensor


@dataclass
class TensorMap:
    """All tensors of a checkpoint by our names, and what became of the others."""

    tensors: dict[str, MappedTensor] = field(default_factory=dict)
    duplicates: list[tuple[str, MappedTensor]] = field(default_factory=list)
    """further copies, whose numbers must be the same"""
    unknown: list[StoredTensor] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)
    """how many tensors were left out, by what they are"""
    warnings: list[str] = field(default_factory=list)

    def parts(self) -> set[str]:
        """Parts that have any tensor."""
        return {key.partition(".")[0] for key in self.tensors}

    def misfit(self, missing: Collection[str] = (), unknown: Collection[StoredTensor] | None = None) -> NoReturn:
        """Raise IntegrityError that names tensors which are missing or which no layout knows."""
        unknown = self.unknown if unknown is None else unknown
        problems = []
        if missing:
            problems.append(f"lacks {_count_and_show(missing)}")
        if unknown:
            problems.append(f"has {_count_and_show(unknown, 'unknown ')}")
        raise IntegrityError(
            f"the checkpoint {' and '.join(problems)}",
            hint="every tensor is either used or known to be unused; a renamed one shows up on both lists",
        )


def map_tensors(sources: Iterable[WeightSource]) -> TensorMap:
    """Give every tensor its name here; of copies the one from the better origin is taken.

    Raises IncompatibleError for a variant that is refused by name, IntegrityError for copies of different shapes.
    """
    result = TensorMap()
    sources = sorted(sources, key=lambda source: source.origin)
    explicit = {source.default_part for source in sources if source.origin == Origin.EXPLICIT}
    for source in sources:
        taken = source.parts if source.origin == Origin.EXPLICIT else source.parts - explicit
        for file in source.files:
            result.warnings.extend(file.warnings)
            left_out: Counter[Part] = Counter()
            for stored in file.tensors.values():
                name = name_tensor(stored.name, source.default_part)
                if name.part not in taken:
                    left_out[name.part] += 1
                else:
                    _add(result, name, stored, source.origin)
            for part, n_tensors in left_out.items():
                why = (
                    "that part was given by itself"
                    if part in explicit
                    else f"only its {source.default_part} was asked for"
                )
                result.warnings.append(f"{file.path}: {n_tensors} {part} tensors are not used, because {why}")
    return result


def _add(result: TensorMap, name: Name, stored: StoredTensor, origin: Origin) -> None:
    if name.refused:
        raise IncompatibleError(f"{stored}: {name.refused}")
    if name.unused:
        result.unused[name.unused] += 1
    elif name.key is None:
        result.unknown.append(stored)
    else:
        mapped = MappedTensor(stored, name.transposed, origin)
        first = result.tensors.setdefault(name.key, mapped)
        if first is not mapped:
            if _without_ones(first.shape) != _without_ones(mapped.shape):
                raise _difference(first, mapped, name.part)
            result.duplicates.append((name.key, mapped))


def check_duplicate(kept: Tensor, first: MappedTensor, other: MappedTensor, part: Part) -> None:
    """Refuse a copy that holds other numbers; rounding to its own or the first one's type does not count.

    kept: what was read of `first`, in the parameter's own shape.
    """
    types = [mapped.stored.dtype for mapped in (first, other)]
    numbers = other.read(kept.shape)
    if types[0] == types[1]:
        same = torch.equal(kept, numbers)
    else:
        tolerance = max(torch.finfo(dtype).eps for dtype in types if dtype is not None)
        same = torch.allclose(kept, numbers, rtol=tolerance, atol=_SMALLEST_FLOAT16)
    if not same:
        raise _difference(first, other, part)


def _difference(first: MappedTensor, other: MappedTensor, part: Part) -> IntegrityError:
    return IntegrityError(
        f"{first.stored} and {other.stored} stand for the same parameter, but differ",
        hint=f"name the one to use, --{part} PATH, or move the other one away",
    )


def refuse_wrong_shapes(tensors: dict[str, MappedTensor], expected: dict[str, torch.Size]) -> None:
    """Raise for the first tensor whose shape or type does not fit; axes of size 1 do not count."""
    for key, shape in expected.items():
        mapped = tensors[key]
        if _without_ones(mapped.shape) != _without_ones(shape):
            theirs = list(shape)[::-1] if mapped.transposed else list(shape)
            raise IntegrityError(f"{mapped.stored} has shape {list(mapped.stored.shape)}; expected {theirs}")
        if mapped.stored.dtype is None:
            raise IncompatibleError(
                f"{mapped.stored} is no floating-point tensor of 16, 32 or 64 bits",
                hint="quantised checkpoints are not read; give the weights that they were made from",
            )


def types_of(tensors: dict[str, MappedTensor], part: Part) -> list[str]:
    """Types that the tensors of one part have in their files."""
    prefix = f"{part}."
    return sorted({str(t.stored.dtype).removeprefix("torch.") for key, t in tensors.items() if key.startswith(prefix)})


def part_of(key: str) -> Part:
    """The part that a name of ours belongs to."""
    return next(part for part in PARTS if key.startswith(f"{part}."))


def _count_and_show(things: Collection[object], adjective: str = "") -> str:
    shown = ", ".join(str(thing) for thing in list(things)[:_N_SHOWN])
    more = f" and {len(things) - _N_SHOWN} more" if len(things) > _N_SHOWN else ""
    return f"{len(things)} {adjective}tensor{'s' if len(things) > 1 else ''}: {shown}{more}"


def _without_ones(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
