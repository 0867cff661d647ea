"""The projector: from the vision width to the language width (LLaVA-1.5's two-layer MLP)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu

from aurora_export.config import AuroraConfig


class Projector(nn.Module):
    """Linear · GELU(erf) · Linear. Parameter names `model.0` and `model.2` are xtuner's."""

    def __init__(self, config: AuroraConfig) -> None:
        super().__init__()
        hidden = config.projector.hidden_width
        self.model = nn.ModuleDict(
            {"0": nn.Linear(config.vision.width, hidden), "2": nn.Linear(hidden, config.language.width)}
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: shape (F, K, D).  Returns shape (F, K, E)."""
        return self.model["2"](gelu(self.model["0"](tokens)))
