"""The policy loss, as a pure function of log-probabilities.

    ratio  = exp(logprob - proximal)
    weight = min(exp(proximal - sampler), cap)
    loss   = - weight * min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)

Clipping is per token (PPO, arXiv 1707.06347, eq. 7; unequal bounds as in DAPO, arXiv 2503.14476).
``weight`` corrects for a sampler whose numerics differ from the trainer's (truncated importance
sampling). Strictly on-policy, ``proximal`` is the detached log-probability itself: the ratio is 1
and the gradient is that of ``-A * logprob``. There is no KL term and no length normalisation.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LossTerms:
    """Per loss term, so that a caller may sum them over any split of the batch."""

    loss: Float[Tensor, " N"]
    clipped: Float[Tensor, " N"]
    """1 where clipping cut the gradient off."""
    weight: Float[Tensor, " N"]
    """The correction for the sampler; no gradient flows through it."""


def policy_loss(
    logprobs: Float[Tensor, " N"],
    sampler_logprobs: Float[Tensor, " N"],
    advantages: Float[Tensor, " N"],
    *,
    clip_low: float,
    clip_high: float,
    importance_sampling_cap: float,
    proximal_logprobs: Float[Tensor, " N"] | None = None,
) -> LossTerms:
    """Return the loss of each term, not yet divided by anything."""
    proximal = logprobs.detach() if proximal_logprobs is None else proximal_logprobs
    ratio = (logprobs - proximal).exp()
    weight = (proximal - sampler_logprobs).exp().clamp(max=importance_sampling_cap)
    free = ratio * advantages
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    loss = -weight * torch.minimum(free, bounded)
    return LossTerms(loss, (bounded < free).to(logprobs.dtype), weight)
