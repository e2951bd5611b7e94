"""GDPO (arXiv 2601.05242): each named reward is compared by itself, so that none drowns another.

A = sum over parts of weight * (part - mean) / std of its group, whitened over the batch's tokens
"""

from dataclasses import dataclass, replace

from agentrl.algorithms.advantages import credit, shaped, whitened
from agentrl.algorithms.grpo import GRPO
from agentrl.types import Episode, weighted_sum


@dataclass(frozen=True, kw_only=True)
class GDPO(GRPO):
    """What a reward is more than its parts, such as a penalty, is a part, too."""

    separable = False

    def advantages(self, groups):
        total = credit(shaped(groups, self.rest))
        for name in dict.fromkeys(n for g in groups for e in g.scored for n in e.parts):
            weight = self.part_weights.get(name, 1.0)
            part = credit(shaped(groups, lambda e, _, name=name: e.parts.get(name, 0.0)))
            added = [t.advantage + weight * p.advantage for t, p in zip(total, part, strict=True)]
            total = [replace(s, advantage=a) for s, a in zip(total, added, strict=True)]
        return whitened(total)

    def rest(self, episode: Episode, agent: str) -> float:
        return episode.reward_of(agent) - weighted_sum(episode.parts, self.part_weights)


algorithm = GDPO()
