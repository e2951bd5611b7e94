"""Learner: the policy, what it is compared with, and AdamW, which moves it."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from agentrl.config import OptimConfig
from agentrl.learning.policy import Policy
from agentrl.learning.ranks import Ranks


def adamw(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
    )


@dataclass(frozen=True)
class Learner:
    """What is trained."""

    policy: Policy
    reference: Policy | None
    optimizer: torch.optim.Optimizer

    def step(
        self,
        ranks: Ranks,
        config: OptimConfig,
        rate: float,
        divisor: float | None = None,
        learns: bool = True,
    ) -> float:
        """Make one optimizer step, and forget the gradient; returns the norm that it had.

        divisor: what the gradient is still to be divided by. learns: not where no sample has an
        advantage: then there is nothing to learn, and AdamW would move all the same.
        """
        ranks.wait("gradients")
        for parameter in self.policy.trainable():
            if divisor is not None and parameter.grad is not None:
                parameter.grad.div_(divisor)
        norm = ranks.clip(self.policy, config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if learns:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm
