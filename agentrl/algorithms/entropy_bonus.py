"""An entropy bonus (A3C, arXiv 1602.01783, section 4): each term less a share of its entropy.

loss -= entropy_weight * H(policy)
"""

from dataclasses import dataclass, replace

from agentrl.algorithms.grpo import GRPO


@dataclass(frozen=True, kw_only=True)
class EntropyBonus(GRPO):
    """Goes around the loss of any other."""

    entropy_weight: float = 0.01
    every_call = True

    def loss(self, terms):
        plain = super().loss(terms)
        return replace(plain, values=plain.values - self.entropy_weight * terms.entropies)


algorithm = EntropyBonus()
