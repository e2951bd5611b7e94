"""An entropy bonus (A3C, arXiv 1602.01783): each term less beta times the entropy at its token.

loss -= beta * H(pi)
"""

from dataclasses import dataclass, replace

from agentrl.algorithms import GRPO


@dataclass(frozen=True, kw_only=True)
class EntropyBonus(GRPO):
    beta: float = 0.01
    every_call = True

    def loss(self, terms):
        plain = super().loss(terms)
        return replace(plain, values=plain.values - self.beta * terms.entropies)


algorithm = EntropyBonus()
