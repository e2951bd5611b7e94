"""Rejection-sampling fine-tuning (RAFT, arXiv 2304.06767): the likelihood of what succeeded.

loss = mean over the tokens of episodes with r >= threshold of - log pi
"""

from dataclasses import dataclass

from agentrl.algorithms import GRPO, Losses
from agentrl.algorithms.advantages import credit


@dataclass(frozen=True, kw_only=True)
class RejectionSampling(GRPO):
    threshold: float = 1.0

    def advantages(self, groups):
        samples = credit(groups, lambda rewards: [float(r >= self.threshold) for r in rewards])
        return [sample for sample in samples if sample.advantage]

    def loss(self, terms):
        return Losses(-terms.logprobs)


algorithm = RejectionSampling()
