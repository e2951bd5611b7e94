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


def importance(
    terms: Terms, cap: float, *, floor: float = 0.0, of_call: bool = False
) -> Float[Tensor, " N"]:
    """The truncated importance weight of the trainer's distribution over the sampler's.

    floor: a weight below it, and then one above the cap, is 0. of_call: the product over the call.
    """
    gap = terms.proximal_logprobs - terms.sampler_logprobs
    weight = (terms.sum_of_call(gap) if of_call else gap).exp()
    if floor:
        return weight.where((weight >= floor) & (weight <= cap), 0.0)
    return weight.clamp(max=cap)


def clipped(
    terms: Terms,
    ratio: Float[Tensor, " N"],
    weight: Float[Tensor, " N"],
    *,
    clip_low: float,
    clip_high: float,
    dual: float | None = None,
) -> Losses:
    """The clipped surrogate for a ratio of the algorithm's own, corrected for the sampler.

    dual: where the advantage is negative, what the ratio counts at most (arXiv 1912.09729, eq. 5).
    Measures ``clipped``: 1 where clipping cut the gradient off, and ``importance``.
    """
    free = ratio * terms.advantages
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high) * terms.advantages
    is_cut, surrogate = bounded < free, free.minimum(bounded)
    if dual is not None:
        least = dual * terms.advantages
        is_beyond = (terms.advantages < 0) & (surrogate < least)
        is_cut, surrogate = is_cut | is_beyond, least.where(is_beyond, surrogate)
    return Losses(
        -weight * surrogate, {"clipped": is_cut.to(surrogate.dtype), "importance": weight}
    )
