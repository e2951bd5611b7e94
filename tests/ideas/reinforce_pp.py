"""REINFORCE++ (arXiv 2501.03262): no group; the return at each token, whitened over the batch.

a[token] = r * discount ** (tokens of the call after it)        A = (a - mean(a)) / std(a)
"""

from dataclasses import dataclass, replace

import numpy as np

from agentrl.algorithms import GRPO
from agentrl.algorithms.advantages import credit


@dataclass(frozen=True, kw_only=True)
class ReinforcePP(GRPO):
    discount: float = 1.0
    separable = False

    def advantages(self, groups):
        samples = credit(groups, list)
        after = [np.arange(len(s.call.completion_ids))[::-1] for s in samples]
        returns = [s.advantage * self.discount**n for s, n in zip(samples, after, strict=True)]
        every = np.concatenate([*returns, np.zeros(0)])
        mean, scale = every.mean(), 1 / np.sqrt(every.var(ddof=1) + 1e-8)
        whitened = [((values - mean) * scale).tolist() for values in returns]
        return [replace(s, advantage=a) for s, a in zip(samples, whitened, strict=True)]


algorithm = ReinforcePP()
