"""Rejection sampling (RAFT, arXiv 2304.06767): the likelihood of what succeeded.

loss = - logprob, the mean over the tokens of the episodes with r >= threshold
"""

from dataclasses import dataclass

from agentrl.algorithms.advantages import credit
from agentrl.algorithms.sft import SFT


@dataclass(frozen=True, kw_only=True)
class Rejection(SFT):
    """Supervised fine-tuning on what is kept of the policy's own episodes."""

    threshold: float = 1.0

    def advantages(self, groups):
        samples = credit(groups, lambda rewards: [float(r >= self.threshold) for r in rewards])
        return [sample for sample in samples if sample.advantage]


algorithm = Rejection()
