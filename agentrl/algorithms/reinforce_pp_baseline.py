"""REINFORCE++-baseline (arXiv 2501.03262): the group's mean, then whitening over the batch.

a = r - mean(r) of its group        A = (a - mean(a)) / sqrt(var(a) + 1e-8), over all tokens
"""

from dataclasses import dataclass

from agentrl.algorithms.advantages import centred, credit, whitened
from agentrl.algorithms.grpo import GRPO


@dataclass(frozen=True, kw_only=True)
class ReinforcePPBaseline(GRPO):
    """The scale is the batch's, so that no group's small differences are blown up."""

    separable = False

    def advantages(self, groups):
        return whitened(credit(groups, centred))


algorithm = ReinforcePPBaseline()
