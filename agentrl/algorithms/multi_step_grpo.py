"""Multi-step GRPO (Trinity-RFT, arXiv 2505.17826): the last step's reward is every step's.

A[step] = (r - mean(r)) / (std(r) + 1e-6), with step_norm divided by the number of steps
"""

from collections import Counter
from dataclasses import dataclass, replace
from statistics import stdev
from typing import Literal

from agentrl.algorithms.advantages import centred, credit, group_normalised, shaped, turn_rewards
from agentrl.algorithms.grpo import GRPO


@dataclass(frozen=True, kw_only=True)
class MultiStepGRPO(GRPO):
    step_norm: bool = False
    std_over: Literal["group", "batch"] = "group"

    @property
    def separable(self) -> bool:
        return self.std_over == "group"

    def advantages(self, groups):
        groups = shaped(groups, lambda e, agent: turn_rewards(e, agent)[-1])
        samples = credit(groups, group_normalised if self.separable else centred)
        owners = [(s.group, s.episode, s.call.agent) for s in samples]
        rewards = {o: s.advantage for o, s in zip(owners, credit(groups, list), strict=True)}
        std = 1.0 if self.separable else stdev(rewards.values()) + 1e-6
        steps = Counter(owners if self.step_norm else set(owners))
        pairs = zip(samples, owners, strict=True)
        return [replace(s, advantage=s.advantage / (std * steps[owner])) for s, owner in pairs]


algorithm = MultiStepGRPO()
