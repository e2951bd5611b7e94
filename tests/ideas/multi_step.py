"""Multi-step GRPO (Trinity-RFT's multi_step_grpo, arXiv 2505.17826): the last step's reward,
compared in its group, for every step, divided by their number; several updates a batch.

    A[step] = (r - mean(r)) / std(r) / steps
"""

from collections import Counter
from dataclasses import dataclass, replace

from agentrl.algorithms import GRPO
from agentrl.algorithms.advantages import credit


@dataclass(frozen=True, kw_only=True)
class MultiStepGRPO(GRPO):
    updates: int = 2

    def advantages(self, groups):
        samples = credit(groups)
        steps = Counter((sample.group, sample.episode) for sample in samples)
        return [replace(s, advantage=s.advantage / steps[s.group, s.episode]) for s in samples]


algorithm = MultiStepGRPO()
