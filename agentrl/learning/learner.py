"""Learner: the policy, what it is compared with, and AdamW, which moves it."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agentrl.config import OptimConfig
from agentrl.learning.loading import WithoutAdapters
from agentrl.learning.policy import Policy
from agentrl.learning.ranks import Ranks


def adamw(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameters,
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        # One pass over the weights, with nothing beside them. A CPU's rounds otherwise.
        fused=torch.cuda.is_available(),
    )


@dataclass(frozen=True)
class Learner:
    """What is trained."""

    policy: Policy
    reference: Policy | WithoutAdapters | None
    optimizer: torch.optim.Optimizer

    def clip(self, ranks: Ranks, config: OptimConfig, divisor: float | None = None) -> Tensor:
        """Bound the norm of the gradient, and return what it was.

        divisor: what the gradient is still to be divided by.
        """
        ranks.wait("gradients")
        for parameter in self.policy.trainable():
            if divisor is not None and parameter.grad is not None:
                parameter.grad.div_(divisor)
        return ranks.clip(self.policy, config.max_grad_norm)

    def step(self, rate: float, learns: bool = True) -> None:
        """Make one optimizer step, and forget the gradient.

        learns: not where no sample has an advantage: then there is nothing to learn, and AdamW
        would move all the same.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if learns:
            self.optimizer.step()
        self.optimizer.zero_grad()
