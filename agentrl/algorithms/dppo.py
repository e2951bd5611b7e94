"""DPPO (arXiv 2602.04879, eq. 13 and 14): a token stops counting where its probability has moved by
too much, however likely it is; measured from what it was sampled with.

loss = - pi / mu * A, or 0 where D > clip_high, pi > mu, A > 0, or D > clip_low, pi < mu, A < 0
D    = |pi - mu| (tv), or mu log(mu / pi) + (1 - mu) log((1 - mu) / (1 - pi)) (kl)
"""

import math
from dataclasses import dataclass
from typing import Literal

from agentrl.algorithms.grpo import GRPO
from agentrl.algorithms.terms import Losses, Tensor


@dataclass(frozen=True, kw_only=True)
class DPPO(GRPO):
    """Divergence proximal policy optimization; pi / mu is ratio x importance, which has no cap."""

    divergence: Literal["tv", "kl"] = "tv"
    """With kl, bounds are smaller: 0.05."""
    importance_sampling_cap: float = math.inf
    updates: int = 4

    def loss(self, terms):
        ratio, weight = (terms.logprobs - terms.proximal_logprobs).exp(), self.importance(terms)
        pi, mu = terms.logprobs.detach().exp(), terms.sampler_logprobs.exp()
        moved, sign = self.moved(pi, mu), (pi - mu) * terms.advantages
        bound = moved.new_tensor(self.clip_high).where(terms.advantages > 0, self.clip_low)
        kept = ((sign <= 0) | (moved <= bound)).to(ratio.dtype)
        values = -weight * kept * ratio * terms.advantages
        return Losses(values, {"clipped": 1 - kept, "importance": weight})

    def moved(self, pi: Tensor, mu: Tensor) -> Tensor:
        if self.divergence == "tv":
            return (pi - mu).abs()
        return mu * (mu / pi).log() + (1 - mu) * ((1 - mu + 1e-8) / (1 - pi + 1e-8)).log()


algorithm = DPPO()
