"""Dual clip (arXiv 1912.09729, eq. 5): a bad token that became far likelier counts so much at most.

loss = - importance * max(min(ratio * A, clip(ratio) * A), dual * A) where A < 0
"""

from dataclasses import dataclass

from agentrl.algorithms.grpo import GRPO
from agentrl.algorithms.losses import clipped


@dataclass(frozen=True, kw_only=True)
class DualClip(GRPO):
    """GRPO's loss, bounded on the side where clipping does not bound it."""

    dual: float = 3.0
    """Above 1 + clip_high."""

    def loss(self, terms):
        ratio, weight = (terms.logprobs - terms.proximal_logprobs).exp(), self.importance(terms)
        bounds = {"clip_low": self.clip_low, "clip_high": self.clip_high, "dual": self.dual}
        return clipped(terms, ratio, weight, **bounds)


algorithm = DualClip()
