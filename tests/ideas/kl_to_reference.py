"""GRPO's own KL term (arXiv 2402.03300, eq. 4): k3, to the model that the run began with.

loss += beta * (exp(d) - d - 1),  d = log pi_ref - log pi
"""

from dataclasses import dataclass, replace

from agentrl.algorithms import GRPO


@dataclass(frozen=True, kw_only=True)
class KLToReference(GRPO):
    beta: float = 0.04
    reference = True
    every_call = True

    def loss(self, terms):
        plain, difference = super().loss(terms), terms.ref_logprobs - terms.logprobs
        k3 = difference.exp() - difference - 1
        measures = {**plain.measures, "kl/reference": k3}
        return replace(plain, values=plain.values + self.beta * k3, measures=measures)


algorithm = KLToReference()
