"""CISPO (MiniMax-M1, arXiv 2506.13585, eq. 4): the ratio is clipped and detached, so that no token
loses its gradient.

loss = - importance * sg(clip(ratio, 1 - clip_low, 1 + clip_high)) * A * logprob

Elsewhere the upper bound is a number of its own, 5 in ScaleRL (arXiv 2510.13786): 1 + clip_high.
"""

from dataclasses import dataclass

from agentrl.algorithms.grpo import GRPO
from agentrl.algorithms.terms import Losses


@dataclass(frozen=True, kw_only=True)
class CISPO(GRPO):
    clip_low: float = 1.0
    """1: no lower bound."""
    clip_high: float = 4.0
    updates: int = 16

    def loss(self, terms):
        ratio = (terms.logprobs.detach() - terms.proximal_logprobs).exp()
        bounded, weight = ratio.clamp(1 - self.clip_low, 1 + self.clip_high), self.importance(terms)
        values = -weight * bounded * terms.advantages * terms.logprobs
        measures = {"clipped": (bounded != ratio).to(values.dtype), "importance": weight}
        return Losses(values, measures)


algorithm = CISPO()
