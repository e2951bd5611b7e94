"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): momentum, made orthogonal.

A tiny model learns from it in half of AdamW's steps. torch has one, but that iterates in bfloat16,
which costs a CPU more than the rest of the step; this one stays in the weights' own precision and
takes matrices of one shape together.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that drives singular values towards 1."""


class Muon(torch.optim.Optimizer):
    """For hidden matrices only; the update's size is that of AdamW at the same rate."""

    def __init__(self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95):
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            same_shape = defaultdict(list)
            for weight in group["params"]:
                same_shape[weight.shape].append(weight)
            for shape, weights in same_shape.items():
                nesterov = torch.stack([self._nesterov(w, group["momentum"]) for w in weights])
                step_size = group["lr"] * 0.2 * max(shape) ** 0.5
                for weight, update in zip(weights, orthogonalized(nesterov), strict=True):
                    weight.sub_(update, alpha=step_size)

    def _nesterov(self, weight: Tensor, momentum: float) -> Tensor:
        mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
        mean.lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(mean, momentum)


def orthogonalized(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Matrices [B, m, n] with their singular values brought near 1 (between about 0.7 and 1.2)."""
    a, b, c = NEWTON_SCHULZ
    wide = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    x = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if wide is not matrices else x
