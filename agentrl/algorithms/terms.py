"""Terms and Losses: what a loss is made of, and what it returns; a row a sampled token.

A tree token that was sampled in several calls has a row for each: terms never merge. The terms of a
call follow one another, and no call is split over micro-batches: a sum over a call is local.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int

if TYPE_CHECKING:
    from torch import Tensor
else:
    # Every config knows its algorithm, and what is mistyped is said before torch is imported.
    Tensor = Any


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The loss terms of one micro-batch."""

    logprobs: Float[Tensor, " N"]
    """Of each token under the policy; what the gradient flows through."""
    entropies: Float[Tensor, " N"]
    """Of the policy's distribution where the token was sampled; it has a gradient, too."""
    sampler_logprobs: Float[Tensor, " N"]
    """Under the distribution that the token was sampled from."""
    proximal_logprobs: Float[Tensor, " N"]
    """Under the policy before the batch's first optimizer step, without a gradient: what ratios are
    taken to. Where there is one step, ``logprobs``, detached."""
    ref_logprobs: Float[Tensor, " N"] | None = None
    """Under the frozen reference, where the algorithm has one."""
    advantages: Float[Tensor, " N"]
    call: Int[Tensor, " N"]
    """Which of the micro-batch's calls each term is of, counted from 0."""
    others: Mapping[str, Float[Tensor, " N"]] = field(default_factory=dict)
    """What a policy of one's own computes besides, such as values."""
    proximal_others: Mapping[str, Float[Tensor, " N"]] = field(default_factory=dict)
    """The same before the batch's first optimizer step, without a gradient."""

    def sum_of_call(self, values: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """For each term, the sum of the values of its call."""
        # Numbered anew: how many calls there are the device knows, but not more than terms.
        number = (self.call.diff(prepend=self.call[:1]) != 0).cumsum(0)
        return values.new_zeros(len(values)).index_add(0, number, values)[number]

    def mean_of_call(self, values: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """For each term, the mean of the values of its call."""
        return self.sum_of_call(values) / self.sum_of_call(values.new_ones(len(values)))


@dataclass(frozen=True)
class Losses:
    """The loss of each term, not weighted or divided yet, so that any split of a batch adds up."""

    values: Float[Tensor, " N"]
    measures: Mapping[str, Float[Tensor, " N"]] = field(default_factory=dict)
    """What is logged besides, by name, as the mean over terms; no gradient flows through it."""
