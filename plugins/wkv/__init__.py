"""WKV: the recurrence of RWKV-6 and RWKV-7, in every form that the project runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the runtime imports this package, and it never loads torch
    from torch import Tensor


class Wkv6(Protocol):
    """Signature of every RWKV-6 implementation: see `reference.wkv6_recurrent` for shapes and meaning."""

    def __call__(  # noqa: D102 - described by the class
        self, receptance: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, bonus: Tensor, state: Tensor, /
    ) -> tuple[Tensor, Tensor]: ...


class Wkv7(Protocol):
    """Signature of every RWKV-7 implementation: see `reference.wkv7_recurrent` for shapes and meaning."""

    def __call__(  # noqa: D102 - described by the class
        self,
        receptance: Tensor,
        log_decay: Tensor,
        key: Tensor,
        value: Tensor,
        removal: Tensor,
        replacement: Tensor,
        state: Tensor,
        /,
    ) -> tuple[Tensor, Tensor]: ...
