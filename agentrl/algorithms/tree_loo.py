"""Tree leave-one-out: RTMC (arXiv 2604.11037) without the own episode, and so without bias.

A = r - mean r of the group's other episodes that came to the node of the token tree where the call
begins, or to its nearest ancestor that any of them came to
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from agentrl.algorithms.advantages import credit
from agentrl.algorithms.grpo import GRPO
from agentrl.algorithms.nodes import nearest_others
from agentrl.algorithms.weights import Aggregation
from agentrl.types import Sample


@dataclass(frozen=True, kw_only=True)
class TreeLOO(GRPO):
    """Credit from the tree that the calls are trained in."""

    states: bool = False
    """Nodes are the states that the agent names, not the beginnings of token ids."""
    aggregation: Aggregation = 3000

    def advantages(self, groups):
        of_agent = defaultdict(list)
        for sample in credit(groups, list):
            of_agent[sample.group, sample.call.agent].append(sample)
        return [sample for samples in of_agent.values() for sample in self.compared(samples)]

    def compared(self, samples: Sequence[Sample]) -> Iterator[Sample]:
        rewards = {sample.episode: sample.advantage for sample in samples}
        for sample, others in zip(samples, nearest_others(samples, self.states), strict=True):
            baseline = fmean(rewards[i] for i in others or [sample.episode])
            yield replace(sample, advantage=sample.advantage - baseline)


algorithm = TreeLOO()
