"""PPO's critic (arXiv 1707.06347), a head on the policy's trunk, with GAE over an agent's calls:
A = delta + discount * decay * A[next token]    delta = r + discount * V[next token] - V
loss += (V - R) ** 2 / 2, R = A + V before the batch's first optimizer step"""

from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from agentrl.algorithms import GRPO
from agentrl.algorithms.advantages import credit, gae
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
    decay: float = 0.95
    discount: float = 1.0
    scores = every_call = True

    def advantages(self, groups):
        return gae(credit(groups, list), self.discount, self.decay, "values")

    def loss(self, terms):
        plain, target = super().loss(terms), terms.advantages + terms.proximal_others["values"]
        return replace(plain, values=plain.values + (terms.others["values"] - target) ** 2 / 2)


config = replace(demo, algorithm=Critic(updates=4), load_policy=partial(load_as, ActorCritic))
