"""Log-probabilities from full logits: obviously right, on any device."""

import torch
from torch import Tensor


def reference(
    hidden: Tensor, weight: Tensor, target: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Shapes and results as in ``linear_logprob``."""
    logits = hidden @ weight.T / temperature  # (N, V)
    logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    chosen = logprobs.gather(-1, target[:, None])[:, 0]  # (N,)
    entropy = -(logprobs.exp() * logprobs).sum(-1)  # (N,)
    return chosen, entropy
