"""TOPR (arXiv 2503.14286): good calls count whole, bad ones as far as the policy still makes them.

loss  = - alpha * A * logprob, A = r - baseline
alpha = 1 where A > 0, else min(pi / mu of the call, 1)
"""

from dataclasses import dataclass

from agentrl.algorithms import GRPO, Losses
from agentrl.algorithms.advantages import credit


@dataclass(frozen=True, kw_only=True)
class TOPR(GRPO):
    baseline: float = 0.5
    updates: int = 4

    def advantages(self, groups):
        return credit(groups, lambda rewards: [reward - self.baseline for reward in rewards])

    def loss(self, terms):
        ratio = terms.sum_of_call(terms.logprobs.detach() - terms.sampler_logprobs).exp()
        alpha = ratio.clamp(max=1.0).where(terms.advantages <= 0, 1.0)
        return Losses(-alpha * terms.advantages * terms.logprobs, {"importance": alpha})


algorithm = TOPR()
