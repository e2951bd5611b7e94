"""Pass@k as the objective (arXiv 2508.10751): choices of k of a group's n episodes are compared,
and one succeeds where any of its episodes does. In closed form, with p = pass@k of the group:
    A = (1 - p - [r < 1] * C(failed - 1, k - 1) / C(n - 1, k - 1)) / sqrt(p * (1 - p))
"""

from dataclasses import dataclass, replace
from math import comb, sqrt
from statistics import fmean

from agentrl.algorithms import GRPO
from agentrl.algorithms.advantages import credit
from experiments import gsm8k_offline


def pass_at(k, rewards):
    """The unbiased estimate from n episodes (arXiv 2107.03374, eq. 1)."""
    return 1 - comb(sum(r < 1 for r in rewards), k) / comb(len(rewards), k)


@dataclass(frozen=True, kw_only=True)
class PassAtK(GRPO):
    k: int = 4

    def advantages(self, groups):
        return credit(groups, self.compare)

    def compare(self, rewards):
        n, failed, k = len(rewards), sum(r < 1 for r in rewards), self.k
        if n < k or pass_at(k, rewards) in (0, 1):
            return [0.0] * n
        p, all_fail = pass_at(k, rewards), comb(failed - 1, k - 1) / comb(n - 1, k - 1)
        return [(1 - p - (r < 1) * all_fail) / sqrt(p * (1 - p)) for r in rewards]


def measure(moment):
    rewards = [[e.reward for e in group.scored] for group in moment.groups]
    return {f"pass@{k}": fmean(pass_at(k, r) for r in rewards if len(r) >= k) for k in (1, 4)}


config = replace(gsm8k_offline.config, algorithm=PassAtK(), after_step=measure)
