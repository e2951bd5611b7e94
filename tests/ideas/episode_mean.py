"""GRPO's own aggregation (arXiv 2402.03300, eq. 3): the mean over episodes of token means.

loss = 1 / episodes * sum over episodes of 1 / (its tokens) * sum over its terms
"""

from collections import Counter
from dataclasses import dataclass

from agentrl.algorithms import GRPO


@dataclass(frozen=True, kw_only=True)
class EpisodeMean(GRPO):
    def weigh(self, samples):
        tokens = Counter()
        for sample in samples:
            tokens[sample.group, sample.episode] += len(sample.call.completion_ids)
        return [1 / tokens[s.group, s.episode] for s in samples], float(len(tokens))


algorithm = EpisodeMean()
