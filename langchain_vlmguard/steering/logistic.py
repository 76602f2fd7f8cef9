"""Logistic regression with a ridge penalty: small, deterministic, and stored as plain tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Logistic:
    """`score(x) = w · (x - mean) / scale + b`; all tensors are float32 on the CPU."""

    PARTS: ClassVar[tuple[str, ...]] = ("mean", "scale", "weights", "bias", "threshold")

    mean: Tensor
    """`(features,)`"""

    scale: Tensor
    """`(features,)`"""

    weights: Tensor
    """`(features,)`"""

    bias: Tensor
    """`(1,)`"""

    threshold: Tensor
    """`(1,)`; 0 is even odds."""

    @classmethod
    def fit(cls, x: Tensor, positive: Tensor, penalty: float) -> Logistic:
        """Minimise mean cross-entropy, both classes weighed alike, plus `penalty · |w|²`, by L-BFGS.

        Args:
            x: `(rows, features)` float32.
            positive: `(rows,)` bool.
            penalty: Weight of the squared norm.
        """
        mean, scale = x.mean(0), x.std(0) + 1e-3
        standard, target = (x - mean) / scale, positive.float()
        share = target.mean().clamp(1e-6, 1 - 1e-6)
        weight = torch.where(positive, 0.5 / share, 0.5 / (1 - share))
        weights = torch.zeros(x.shape[1], requires_grad=True)
        bias = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights, bias], max_iter=60, history_size=20, line_search_fn="strong_wolfe")

        def loss() -> float:
            optimizer.zero_grad()
            value = binary_cross_entropy_with_logits(standard @ weights + bias, target, weight=weight)
            value = value + penalty * weights.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return float(value.detach())

        with torch.inference_mode(mode=False), torch.enable_grad():
            optimizer.step(loss)  # type: ignore[no-untyped-call]
        return cls(mean, scale, weights.detach(), bias.detach(), torch.zeros(1))

    def score(self, x: Tensor) -> Tensor:
        """Return log-odds of the positive class, `(rows,)`."""
        return ((x - self.mean) / self.scale) @ self.weights + self.bias
