"""Supervised fine-tuning: the likelihood of every call, whatever its episode's reward.

loss = - logprob        for what a ``collect`` of one's own brings, such as a teacher's episodes
"""

from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.algorithms.advantages import credit
from agentrl.algorithms.grpo import GRPO
from agentrl.algorithms.losses import likelihood
from agentrl.algorithms.terms import Losses, Terms
from agentrl.types import Group, Sample


@dataclass(frozen=True, kw_only=True)
class SFT(GRPO):
    """Neither ratio nor correction."""

    def advantages(self, groups: Sequence[Group]) -> list[Sample]:
        return credit(groups, lambda rewards: [1.0] * len(rewards))

    def loss(self, terms: Terms) -> Losses:
        return likelihood(terms)


algorithm = SFT()
