"""Turn credit, of ``model.reward(x)``: MT-GRPO (arXiv 2505.11821), or returns from each turn on.

A[turn] = A_outcome + turn_weight * A_turn, A_turn of its reward among the same turn's in the group;
with returns of its reward + discount * the next turn's return, the outcome being the last turn's
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from agentrl.algorithms.advantages import compared, credit, gae, group_normalised
from agentrl.algorithms.grpo import GRPO


@dataclass(frozen=True, kw_only=True)
class Turns(GRPO):
    turn_credit: Literal["rewards", "returns"] = "rewards"
    turn_weight: float = 1.0
    discount: float = 1.0

    def ignored(self):
        return (*super().ignored(), "turn_weight" if self.turn_credit == "returns" else "discount")

    def advantages(self, groups):
        samples = credit(groups)
        seen, same = Counter(), []
        for sample in samples:
            owner = sample.group, sample.call.agent, sample.episode
            same.append((*owner[:2], seen[owner]))
            seen[owner] += 1
        if self.turn_credit == "returns":
            returns = [s.advantage[0] for s in gae(credit(groups, list), self.discount)]
            found = compared(same, returns, group_normalised)
        else:
            own = compared(same, [s.call.reward or 0.0 for s in samples], group_normalised)
            found = [s.advantage + self.turn_weight * a for s, a in zip(samples, own, strict=True)]
        return [replace(s, advantage=a) for s, a in zip(samples, found, strict=True)]


algorithm = Turns()
