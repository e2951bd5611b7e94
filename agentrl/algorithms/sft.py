"""Supervised fine-tuning: the likelihood of every call, whatever its episode's reward.

loss = - logprob        for what a ``collect`` of one's own brings, such as a teacher's episodes
"""

from dataclasses import dataclass

from agentrl.algorithms.advantages import credit
from agentrl.algorithms.grpo import GRPO
from agentrl.algorithms.terms import Losses


@dataclass(frozen=True, kw_only=True)
class SFT(GRPO):
    def advantages(self, groups):
        return credit(groups, lambda rewards: [1.0] * len(rewards))

    def ignored(self):
        return ("clip_low", "clip_high", "importance_sampling_cap")

    def importance(self, terms):
        """1: a likelihood is of the text, whoever wrote it."""
        return terms.logprobs.new_ones(len(terms.logprobs))

    def loss(self, terms):
        return Losses(-self.importance(terms) * terms.advantages * terms.logprobs)


algorithm = SFT()
