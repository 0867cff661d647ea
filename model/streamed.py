"""A model whose weights stay in the checkpoint's files until a part of it runs: memory for one part, not for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from aurora_export.config import AuroraConfig
from aurora_export.model.aurora import AuroraModel


class StreamedModel(AuroraModel):
    """An AuroraModel on the meta device; `held` puts numbers into a part of it for a while."""

    def __init__(self, config: AuroraConfig, read: Callable[[str], Tensor]) -> None:
        """read: parameter name -> float32 tensor of its own memory; called each time that the parameter is needed."""
        with torch.device("meta"):
            super().__init__(config)
        self._read = read
        self.requires_grad_(requires_grad=False).eval()

    def weight(self, name: str) -> Tensor:
        """Read one parameter; it is not kept. Raises as `load_checkpoint`, and KeyError for another name."""
        return self._read(name)

    @contextmanager
    def held(self, *prefixes: str) -> Iterator[None]:
        """Read the parameters whose names begin with one of `prefixes`; at the end they are let go."""
        found = [name for name, _ in self.named_parameters() if name.startswith(prefixes)]
        empty = {name: self.get_parameter(name) for name in found}
        try:
            for name in found:
                self._put(name, self._read(name))
            yield
        finally:
            for name, parameter in empty.items():
                self._put(name, parameter)

    def _put(self, name: str, value: Tensor) -> None:
        module, _, parameter = name.rpartition(".")
        setattr(self.get_submodule(module), parameter, nn.Parameter(value, requires_grad=False))
