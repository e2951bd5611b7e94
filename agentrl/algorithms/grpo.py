"""GRPO (DeepSeekMath, arXiv 2402.03300), and what every other algorithm here derives from.

Differences from it as published: no reference model and no KL term (``grpo+kl`` has them); the loss
is the mean over all trained tokens of the batch, not of each episode (``aggregation``); one
optimizer step a batch, so that it is strictly on-policy; a truncated importance weight corrects for
the sampler's numerics.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar

from agentrl.algorithms.advantages import credit
from agentrl.algorithms.losses import clipped, importance
from agentrl.algorithms.parts import PartWeights
from agentrl.algorithms.terms import Losses, Tensor, Terms
from agentrl.algorithms.weights import Aggregation, aggregate
from agentrl.types import Group, Sample


@dataclass(frozen=True, kw_only=True)
class GRPO:
    """Group-relative policy optimization. A subclass says what it does differently."""

    clip_low: float = 0.2
    """A token's ratio stops counting below 1 - clip_low."""
    clip_high: float = 0.2
    """A token's ratio stops counting above 1 + clip_high."""
    importance_sampling_cap: float = 2.0
    """Largest importance weight of the trainer's distribution over the sampler's."""
    aggregation: Aggregation = "token"
    """What the loss is a mean over; a number: the sum over each episode, divided by it. See
    ``weights``."""
    part_weights: PartWeights = field(default_factory=dict)
    """NAME=NUMBER: what a named part of the reward counts; 1 where it is not named."""
    updates: int = 1
    """Optimizer steps a batch, each on its share of the groups. More than one step: ratios are to
    the policy before the first."""
    passes: int = 1
    """How often the batch is gone through."""

    reference: ClassVar[bool | str] = False
    """The loss, or credit, reads ``ref_logprobs``: a frozen model scores every call. True: a copy
    of the run's first; a folder or hub name: that one, such as a teacher."""
    scores: ClassVar[bool] = False
    """Credit reads ``call.scores``: every call is scored, without a gradient, before it."""
    separable: ClassVar[bool] = True
    """The credit of a group needs that group alone."""
    every_call: ClassVar[bool] = False
    """The loss has a gradient where the advantage is 0 (KL, entropy, likelihood, a critic)."""
    collect: ClassVar[str | None] = None
    """The ``collect`` seam that it needs, as ``package.module:function``."""

    def __post_init__(self):
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        unread = f"{self.name} does not read it, leave it out"
        for name, is_right, remedy in (
            ("clip_low", 0 < self.clip_low <= 1, "give above 0, at most 1"),
            ("clip_high", self.clip_high > 0, "give above 0"),
            ("importance_sampling_cap", self.importance_sampling_cap > 0, "give above 0"),
            ("aggregation", self.aggregation != 0, "give a length, or what to take the mean over"),
            ("updates", self.updates > 0, "give at least 1"),
            ("passes", self.passes > 0, "give at least 1"),
            *((n, own[n] == getattr(type(self), n), unread) for n in self.ignored()),
            # Whatever numbers a subclass has: NaN alone is unlike itself.
            *((name, value == value, "give a number") for name, value in own.items()),
        ):
            if not is_right:
                raise ValueError(f"algorithm.{name} is {getattr(self, name)}: {remedy}")

    def ignored(self) -> tuple[str, ...]:
        """Numbers that it has from elsewhere and does not read: to give one is refused."""
        return ()

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def has_proximal(self) -> bool:
        """Whether a batch has several optimizer steps, so that ratios are to what came before."""
        return self.updates * self.passes > 1

    def advantages(self, groups: Sequence[Group]) -> list[Sample]:
        """Credit: every rewarded call with its advantage."""
        return credit(groups)

    def weigh(self, samples: Sequence[Sample]) -> tuple[list[float], float]:
        """A number a call, which counts for each of its tokens, and the optimizer step's divisor,
        which adds up over groups; see ``weights``."""
        return aggregate(samples, self.aggregation)

    def importance(self, terms: Terms) -> Tensor:
        """[N] weights, without a gradient, that correct for the sampler; every loss multiplies by
        them."""
        return importance(terms, self.importance_sampling_cap)

    def loss(self, terms: Terms) -> Losses:
        """The clipped surrogate of each term; see ``losses``."""
        ratio, weight = (terms.logprobs - terms.proximal_logprobs).exp(), self.importance(terms)
        return clipped(terms, ratio, weight, clip_low=self.clip_low, clip_high=self.clip_high)


algorithm = GRPO()
