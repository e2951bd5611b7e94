"""GPG (arXiv 2504.02546): the policy gradient, scaled up by the share of episodes that say nothing.

A = alpha * (r - mean(r)), alpha = episodes / episodes whose A is not 0        loss = - A * logprob
"""

from dataclasses import dataclass, replace

from agentrl.algorithms import GRPO, Losses
from agentrl.algorithms.advantages import centred, credit


@dataclass(frozen=True, kw_only=True)
class GPG(GRPO):
    separable = False

    def advantages(self, groups):
        samples = credit(groups, centred)
        every = {(s.group, s.episode, s.call.agent): s.advantage for s in samples}
        alpha = len(every) / max(1, sum(a != 0 for a in every.values()))
        return [replace(s, advantage=alpha * s.advantage) for s in samples]

    def loss(self, terms):
        return Losses(-terms.advantages * terms.logprobs)


algorithm = GPG()
