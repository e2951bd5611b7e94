"""RLOO (arXiv 2402.14740, eq. 8): an episode's baseline is the mean of the others of its group.

A_i = r_i - mean of r_j, j != i

As published it sums over each episode's tokens: ``--algorithm.aggregation 1``.
"""

from dataclasses import dataclass

from agentrl.algorithms.advantages import credit, leave_one_out
from agentrl.algorithms.grpo import GRPO


@dataclass(frozen=True, kw_only=True)
class RLOO(GRPO):
    def advantages(self, groups):
        return credit(groups, leave_one_out)


algorithm = RLOO()
