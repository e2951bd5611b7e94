"""GSPO (arXiv 2507.18071): one ratio a call, the geometric mean of its tokens', clipped as a whole.

s = exp(mean over the call of log pi - log pi_before)
loss = mean over calls of - min(s * A, clip(s, 1 - clip_low, 1 + clip_high) * A)
"""

from dataclasses import dataclass

from agentrl.algorithms import GRPO
from agentrl.algorithms.losses import clipped


@dataclass(frozen=True, kw_only=True)
class GSPO(GRPO):
    clip_low: float = 3e-4
    clip_high: float = 4e-4
    updates: int = 4

    def weigh(self, samples):
        return [1 / len(sample.call.completion_ids) for sample in samples], float(len(samples))

    def loss(self, terms):
        ratio = terms.mean_of_call(terms.logprobs - terms.proximal_logprobs).exp()
        cap = self.importance_sampling_cap
        return clipped(terms, ratio, clip_low=self.clip_low, clip_high=self.clip_high, cap=cap)


algorithm = GSPO()
