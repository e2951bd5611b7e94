"""M2PO (arXiv 2510.01161): the tokens of a batch that are furthest from their sampler get no
gradient, until the second moment of what is left is small.

A = 0 for the tokens of the largest (log pi - log mu) ** 2, so that the mean of the rest is <= bound
"""

from dataclasses import dataclass, replace

import numpy as np

from agentrl.algorithms import GRPO


@dataclass(frozen=True, kw_only=True)
class M2PO(GRPO):
    bound: float = 0.04
    scores = True
    separable = False

    def advantages(self, groups):
        samples = super().advantages(groups)
        gaps = [np.subtract(s.call.scores.logprobs, s.call.logprobs) ** 2 for s in samples]
        ordered = np.sort(np.concatenate([*gaps, np.zeros(0)]))
        means = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
        largest = ordered[means <= self.bound].max(initial=-1.0)
        kept = [np.where(g <= largest, s.advantage, 0.0).tolist() for s, g in zip(samples, gaps)]
        return [replace(s, advantage=a) for s, a in zip(samples, kept, strict=True)]


algorithm = M2PO()
