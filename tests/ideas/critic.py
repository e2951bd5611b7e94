"""A critic: PPO's value baseline (arXiv 1707.06347), on the policy's trunk; lambda and discount 1.
A = r - V        loss += value_weight * (V - r) ** 2
"""

from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from agentrl.algorithms import GRPO
from agentrl.algorithms.advantages import credit
from agentrl.learning.loading import load_as
from agentrl.learning.policy import Policy
from experiments.gsm8k_offline import config as demo


class ActorCritic(Policy):
    def __init__(self, lm, **options):
        super().__init__(lm, **options)
        self.head = nn.Linear(lm.config.hidden_size, 1)

    def others(self, drawn_from):
        return {"values": self.head(drawn_from)[:, 0]}


@dataclass(frozen=True, kw_only=True)
class Critic(GRPO):
    value_weight: float = 0.5
    every_call = True

    def advantages(self, groups):
        return credit(groups, list)  # the rewards, as they are

    def loss(self, terms):
        error = terms.advantages - terms.others["values"]
        plain = super().loss(replace(terms, advantages=error.detach()))
        return replace(plain, values=plain.values + self.value_weight * error**2)


config = replace(demo, algorithm=Critic(), load_policy=partial(load_as, ActorCritic))
