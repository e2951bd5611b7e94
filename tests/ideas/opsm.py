"""Off-policy sequence masking (DeepSeek-V3.2, arXiv 2512.02556): bad calls that the policy has left
are not pushed further away.

loss = 0 where A < 0 and the mean over the call of log mu - log pi is above delta
"""

from dataclasses import dataclass, replace

from agentrl.algorithms import GRPO


@dataclass(frozen=True, kw_only=True)
class OPSM(GRPO):
    delta: float = 0.1
    updates: int = 4

    def loss(self, terms):
        plain = super().loss(terms)
        left = terms.mean_of_call(terms.sampler_logprobs - terms.logprobs.detach())
        is_masked = (terms.advantages < 0) & (left > self.delta)
        return replace(plain, values=plain.values.where(~is_masked, 0.0))


algorithm = OPSM()
