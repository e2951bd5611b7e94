"""SAPO (arXiv 2511.20347, eq. 5 to 7): a gate that closes softly, in the way of clipping.

loss = - importance * 4 / tau * sigmoid(tau * (ratio - 1)) * A, the mean over calls;
tau  = tau_positive where A > 0, else tau_negative
"""

from dataclasses import dataclass

from agentrl.algorithms.grpo import GRPO
from agentrl.algorithms.terms import Losses
from agentrl.algorithms.weights import Aggregation


@dataclass(frozen=True, kw_only=True)
class SAPO(GRPO):
    tau_positive: float = 1.0
    tau_negative: float = 1.05
    aggregation: Aggregation = "call"
    updates: int = 4

    def ignored(self):
        return ("clip_low", "clip_high")

    def loss(self, terms):
        ratio, weight = (terms.logprobs - terms.proximal_logprobs).exp(), self.importance(terms)
        is_good = terms.advantages > 0
        tau = ratio.new_tensor(self.tau_positive).where(is_good, self.tau_negative)
        gate = 4 / tau * (tau * (ratio - 1)).sigmoid()
        return Losses(-weight * gate * terms.advantages, {"importance": weight})


algorithm = SAPO()
