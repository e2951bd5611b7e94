"""OPMD (Trinity-RFT, arXiv 2505.17826): policy mirror descent, whose baseline is a soft maximum.

A = r - tau * log(mean(exp(r / tau)))        loss = - A * logprob / (1 + tau)
"""

from dataclasses import dataclass
from math import exp, log
from statistics import fmean

from agentrl.algorithms import GRPO, Losses
from agentrl.algorithms.advantages import credit


@dataclass(frozen=True, kw_only=True)
class OPMD(GRPO):
    tau: float = 1.0

    def advantages(self, groups):
        return credit(groups, self.compare)

    def compare(self, rewards):
        top = max(rewards)
        soft = top + self.tau * log(fmean(exp((r - top) / self.tau) for r in rewards))
        return [reward - soft for reward in rewards]

    def loss(self, terms):
        return Losses(-terms.advantages * terms.logprobs / (1 + self.tau))


algorithm = OPMD()
