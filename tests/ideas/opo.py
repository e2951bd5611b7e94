"""OPO (arXiv 2505.23585): the baseline of the least variance, where gradients grow with length.

A = r - sum(length * r) / sum(length) over the group
"""

from collections import Counter
from dataclasses import dataclass, replace

from agentrl.algorithms import GRPO
from agentrl.algorithms.advantages import credit


@dataclass(frozen=True, kw_only=True)
class OPO(GRPO):
    def advantages(self, groups):
        samples, rewards, lengths = credit(groups, list), Counter(), Counter()
        for sample in samples:
            length, owner = len(sample.call.completion_ids), (sample.group, sample.call.agent)
            rewards[owner] += length * sample.advantage
            lengths[owner] += length
        means = {owner: rewards[owner] / lengths[owner] for owner in lengths}
        return [replace(s, advantage=s.advantage - means[s.group, s.call.agent]) for s in samples]


algorithm = OPO()
