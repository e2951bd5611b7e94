"""RLOO (arXiv 2402.14740): an episode's baseline is the mean of the others of its group.

A_i = r_i - mean of r_j, j != i
"""

from dataclasses import dataclass

from agentrl.algorithms import GRPO
from agentrl.algorithms.advantages import credit


def leave_one_out(rewards):
    total, others = sum(rewards), len(rewards) - 1
    return [reward - (total - reward) / others if others else 0.0 for reward in rewards]


@dataclass(frozen=True, kw_only=True)
class RLOO(GRPO):
    def advantages(self, groups):
        return credit(groups, leave_one_out)


algorithm = RLOO()
