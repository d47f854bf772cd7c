"""Muon: momentum whose matrices are made orthogonal before they are applied.

Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024): the update
of a matrix is its momentum with all singular values near one, found by five steps of a quintic
Newton-Schulz iteration, in bfloat16. On this corpus it needs fewer tokens than AdamW for the same
loss, which matters on two cores; embeddings and norms stay with AdamW.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Jordan's: they reach the neighbourhood of one in the fewest steps, and stay near it."""
_STEPS = 5


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly; `matrices` is (count, rows, columns)."""
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16()
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.transpose(1, 2)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.transpose(1, 2) if is_tall else x).float()


class Muon(torch.optim.Optimizer):
    """For the matrices between embeddings.

    `lr` is the spectral norm of a step, but for tall matrices, which move as much further as they
    are taller. The decay is decoupled and scaled by `lr`.
    """

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95, decay: float = 0.1
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply the gradients, matrices of one shape together."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                by_shape[matrix.shape].append(matrix)
            for shape, matrices in by_shape.items():
                updates = torch.stack([self._direction(one, group["momentum"]) for one in matrices])
                size = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for matrix, update in zip(matrices, orthogonalised(updates), strict=True):
                    matrix.mul_(1 - group["lr"] * group["decay"])
                    matrix.add_(update, alpha=-size)

    def _direction(self, matrix: Tensor, momentum: float) -> Tensor:
        """Nesterov's look ahead."""
        state = self.state[matrix]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(matrix)
        average: Tensor = state["momentum"]
        assert matrix.grad is not None
        average.lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(average, momentum)
