"""GSPO (arXiv 2507.18071): one ratio a call, the geometric mean of its tokens', clipped as a whole.

s    = exp(mean over the call of logprob - proximal)
loss = - importance * min(s * A, clip(s, 1 - clip_low, 1 + clip_high) * A), the mean over calls
"""

from dataclasses import dataclass
from typing import Literal

from agentrl.algorithms.grpo import GRPO
from agentrl.algorithms.losses import clipped
from agentrl.algorithms.weights import Aggregation


@dataclass(frozen=True, kw_only=True)
class GSPO(GRPO):
    clip_low: float = 3e-4
    clip_high: float = 4e-4
    aggregation: Aggregation = "call"
    updates: int = 4
    level: Literal["sequence", "token"] = "sequence"
    """token: the same value, but a token has the gradient of its own advantage (eq. 13)."""

    def loss(self, terms):
        logprobs = terms.logprobs
        ratio = terms.mean_of_call(logprobs - terms.proximal_logprobs).exp()
        if self.level == "token":
            ratio = ratio.detach() * (logprobs - logprobs.detach()).exp()
        bounds = {"clip_low": self.clip_low, "clip_high": self.clip_high}
        return clipped(terms, ratio, self.importance(terms), **bounds)


algorithm = GSPO()
