"""Dr. GRPO (arXiv 2503.20783, section 3.2): no division by a standard deviation, none by a length.

A = r - mean(r)        loss = sum over all terms / (episodes * aggregation)
"""

from dataclasses import dataclass

from agentrl.algorithms.advantages import centred, credit
from agentrl.algorithms.grpo import GRPO
from agentrl.algorithms.weights import Aggregation


@dataclass(frozen=True, kw_only=True)
class DrGRPO(GRPO):
    """Its constant is the longest completion, 3000 in the paper; it scales the gradient alone."""

    aggregation: Aggregation = 3000

    def advantages(self, groups):
        return credit(groups, centred)


algorithm = DrGRPO()
