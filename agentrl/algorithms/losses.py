"""Losses of the policy gradient, per term: the clipped surrogate and its correction.

    ratio      = exp(logprob - proximal)
    importance = min(exp(proximal - sampler), cap)
    loss       = - importance * min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)

Clipping is PPO's (arXiv 1707.06347, eq. 7), with unequal bounds as in DAPO (arXiv 2503.14476).
``importance`` corrects for a sampler whose numerics differ from the trainer's (truncated importance
sampling). Strictly on-policy the ratio is 1 and the gradient is that of ``-A * logprob``.
"""

from jaxtyping import Float

from agentrl.algorithms.terms import Losses, Tensor, Terms


def importance(terms: Terms, cap: float) -> Float[Tensor, " N"]:
    """The truncated importance weight of the trainer's distribution over the sampler's."""
    return (terms.proximal_logprobs - terms.sampler_logprobs).exp().clamp(max=cap)


def clipped(
    terms: Terms, ratio: Float[Tensor, " N"], *, clip_low: float, clip_high: float, cap: float
) -> Losses:
    """The clipped surrogate for a ratio of the algorithm's own, corrected for the sampler.

    Measures ``clipped``: 1 where clipping cut the gradient off, and ``importance``.
    """
    weight = importance(terms, cap)
    free = ratio * terms.advantages
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high) * terms.advantages
    values = -weight * free.minimum(bounded)
    return Losses(values, {"clipped": (bounded < free).to(values.dtype), "importance": weight})
