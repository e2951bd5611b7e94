"""MaxRL (arXiv 2602.02710): the likelihood of success, not its rate, so that hard tasks count.

A = (r - mean(r)) / mean(r), and 0 where the mean is not above 0
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from agentrl.algorithms.advantages import centred, credit
from agentrl.algorithms.grpo import GRPO


@dataclass(frozen=True, kw_only=True)
class MaxRL(GRPO):
    def advantages(self, groups):
        return credit(groups, relative)


def relative(rewards_G: Sequence[float]) -> list[float]:
    mean = fmean(rewards_G)
    return [a / mean if mean > 0 else 0.0 for a in centred(rewards_G)]


algorithm = MaxRL()
