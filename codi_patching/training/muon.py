"""Muon for matrices and AdamW for everything else, as one optimizer.

Muon (Keller Jordan, https://kellerjordan.github.io/posts/muon/): the momentum of each matrix is
replaced by the nearest semi-orthogonal one, found by Newton-Schulz iterations, and scaled by
sqrt(max(1, rows / columns)). `torch.optim.Muon` runs the iterations in bf16, one matrix at a time,
which costs more than the whole backward pass on CPUs without bf16 instructions: here they run in
float32, all matrices of a shape at once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_EPSILON = 1e-7


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Push all singular values of each matrix `(matrices, rows, columns)` towards 1.

    Quintic Newton-Schulz iterations with Muon's coefficients, which bring singular values into
    about 0.7..1.2 and no nearer.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + _EPSILON)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class MuonAdamW(Optimizer):
    """Muon for `matrices`, AdamW for `others`.

    Args:
        matrices: 2-D parameters.
        others: All other parameters.
        muon_lr: Learning rate of the matrices.
        adam_lr: Learning rate of the others.
        momentum: Of Muon, with Nesterov's correction.
        betas: Of AdamW.
        weight_decay: Of both, decoupled.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        muon_lr: float,
        adam_lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.01,
    ) -> None:
        groups = [
            {"params": list(matrices), "lr": muon_lr, "muon": True},
            {"params": list(others), "lr": adam_lr, "muon": False},
        ]
        super().__init__(
            groups, {"momentum": momentum, "betas": betas, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            updates = [(p, p.grad) for p in group["params"] if p.grad is not None]
            for parameter, _ in updates:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            (self._muon if group["muon"] else self._adam)(updates, group)
        return loss

    def _muon(self, updates: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for matrix, gradient in updates:
            by_shape[matrix.shape].append((matrix, gradient))
        for shape, same in by_shape.items():
            directions = []
            for matrix, gradient in same:
                momentum = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                momentum.lerp_(gradient, 1 - group["momentum"])
                directions.append(gradient.lerp(momentum, group["momentum"]))
            scale = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
            orthogonal = orthogonalize(torch.stack(directions))
            for (matrix, _), direction in zip(same, orthogonal, strict=True):
                matrix.add_(direction, alpha=-scale)

    def _adam(self, updates: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        for parameter, gradient in updates:
            state = self.state[parameter]
            if not state:
                state["step"] = 0
                state["mean"] = torch.zeros_like(parameter)
                state["square"] = torch.zeros_like(parameter)
            state["step"] += 1
            state["mean"].lerp_(gradient, 1 - first)
            state["square"].lerp_(gradient.square(), 1 - second)
            root = (state["square"] / (1 - second ** state["step"])).sqrt().add_(1e-8)
            parameter.addcdiv_(
                state["mean"], root, value=-group["lr"] / (1 - first ** state["step"])
            )
