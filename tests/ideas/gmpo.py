"""GMPO (arXiv 2507.20673): the geometric mean of a call's ratios, each clipped before it is taken.

loss = - A * exp(mean over the call of clip(log ratio)), the mean over calls
"""

from dataclasses import dataclass

from agentrl.algorithms import GRPO, Losses
from agentrl.algorithms.weights import Aggregation


@dataclass(frozen=True, kw_only=True)
class GMPO(GRPO):
    bound: float = 0.4
    aggregation: Aggregation = "call"
    updates: int = 4

    def loss(self, terms):
        sign, ratio = terms.advantages.sign(), terms.logprobs - terms.proximal_logprobs
        # The bound holds where it would profit, as in PPO.
        kept = sign * (sign * ratio).minimum(sign * ratio.clamp(-self.bound, self.bound))
        weight = self.importance(terms)
        values = -weight * terms.advantages * terms.mean_of_call(kept).exp()
        return Losses(values, {"importance": weight})


algorithm = GMPO()
