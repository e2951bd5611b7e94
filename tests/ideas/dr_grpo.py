"""Dr. GRPO (arXiv 2503.20783): no division by the standard deviation, none by a length.

A = r - mean(r)        loss = sum over all terms / (calls * max_tokens)
"""

from dataclasses import dataclass
from statistics import fmean

from agentrl.algorithms import GRPO
from agentrl.algorithms.advantages import credit


@dataclass(frozen=True, kw_only=True)
class DrGRPO(GRPO):
    max_tokens: int = 64
    """The longest that a completion may be: a constant in the place of its length."""

    def advantages(self, groups):
        return credit(groups, lambda rewards: [reward - fmean(rewards) for reward in rewards])

    def weigh(self, samples):
        return [1.0] * len(samples), float(len(samples) * self.max_tokens)


algorithm = DrGRPO()
