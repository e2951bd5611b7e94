"""Tree leave-one-out: the baseline of a call is what the others got who came to where it begins.

A = r - mean r of the group's other episodes through the node of the token tree where it begins, or
its nearest ancestor with any: RTMC (arXiv 2604.11037) less the own episode, and so without bias.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from statistics import fmean

from agentrl.algorithms.advantages import credit
from agentrl.algorithms.grpo import GRPO
from agentrl.algorithms.nodes import nearest_others


@dataclass(frozen=True, kw_only=True)
class TreeLOO(GRPO):
    states: bool = False
    """Nodes are the states that the agent names, not the beginnings of token ids."""
    max_tokens: int = 64
    """A constant in the place of an episode's tokens."""

    def advantages(self, groups):
        of_agent = defaultdict(list)
        for sample in credit(groups, list):
            of_agent[sample.group, sample.call.agent].append(sample)
        return [sample for samples in of_agent.values() for sample in self.compared(samples)]

    def compared(self, samples):
        rewards = {sample.episode: sample.advantage for sample in samples}
        for sample, others in zip(samples, nearest_others(samples, self.states), strict=True):
            baseline = fmean(rewards[i] for i in others or [sample.episode])
            yield replace(sample, advantage=sample.advantage - baseline)

    def weigh(self, samples):
        episodes = len({(sample.group, sample.episode) for sample in samples})
        return [1.0] * len(samples), float(episodes * self.max_tokens)


algorithm = TreeLOO()
