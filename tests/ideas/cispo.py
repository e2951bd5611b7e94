"""CISPO (MiniMax-M1, arXiv 2506.13585): the ratio is clipped and detached,
so that no token loses its gradient.

loss = - sg(importance * min(pi / pi_before, 1 + clip_high)) * A * log pi
"""

from dataclasses import dataclass

from agentrl.algorithms import GRPO, Losses
from agentrl.algorithms.losses import importance


@dataclass(frozen=True, kw_only=True)
class CISPO(GRPO):
    clip_high: float = 0.28
    updates: int = 4

    def loss(self, terms):
        ratio = (terms.logprobs.detach() - terms.proximal_logprobs).exp()
        bounded = ratio.clamp(max=1 + self.clip_high)
        sampled = importance(terms, self.importance_sampling_cap)
        values = -sampled * bounded * terms.advantages * terms.logprobs
        return Losses(values, {"clipped": (bounded < ratio).float(), "importance": sampled})


algorithm = CISPO()
