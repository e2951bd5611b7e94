"""The log-probability of given tokens straight from hidden states, without holding all logits."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kernels.logprob.reference import reference


def linear_logprob(
    hidden: Tensor, weight: Tensor, target: Tensor, temperature: float = 1.0, chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """Return log softmax(hidden weight^T / temperature)[target] and that distribution's entropy.

    hidden [N, C], weight [V, C], target [N]; both results are fp32 (fp64 for fp64 inputs) of shape
    [N]. Logits live for ``chunk`` rows at a time; the backward pass computes them again.
    Raises ValueError when the shapes do not belong together.
    """
    if hidden.shape[1] != weight.shape[1] or target.shape != hidden.shape[:1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} does not fit weight {tuple(weight.shape)} "
            f"and target {tuple(target.shape)}"
        )
    pieces = [
        checkpoint(reference, rows, weight, targets, temperature, use_reentrant=False)
        for rows, targets in zip(hidden.split(chunk), target.split(chunk), strict=True)
    ]
    logprobs, entropies = zip(*pieces, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


__all__ = ["linear_logprob"]
