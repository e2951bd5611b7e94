"""KL to the model that the run began with, in the loss (GRPO: arXiv 2402.03300, eq. 4).

loss += kl_weight * estimate, of d = logprob - reference (joschu.net/blog/kl-approx.html):
k1 = d (no gradient in expectation)    k2 = d**2 / 2    k3 = exp(-d) + d - 1, as published
k3+ has the value of k3 and the gradient of k2, which is the KL's own
"""

from dataclasses import dataclass, replace
from typing import Literal

from agentrl.algorithms.grpo import GRPO

ESTIMATES = {
    "k1": lambda d: d,
    "k2": lambda d: d**2 / 2,
    "k3": lambda d: (-d).exp() + d - 1,
    "k3+": lambda d: d**2 / 2 + ((-d).exp() + d - 1 - d**2 / 2).detach(),
}


@dataclass(frozen=True, kw_only=True)
class KL(GRPO):
    """Goes around the loss of any other; measures ``kl/reference``."""

    kl_weight: float = 0.04
    kl_estimate: Literal["k1", "k2", "k3", "k3+"] = "k3"
    reference = True
    every_call = True

    def loss(self, terms):
        plain = super().loss(terms)
        estimate = ESTIMATES[self.kl_estimate](terms.logprobs - terms.ref_logprobs)
        values = plain.values + self.kl_weight * estimate
        return replace(plain, values=values, measures={**plain.measures, "kl/reference": estimate})


algorithm = KL()
