"""GiGPO (arXiv 2505.10978): episodes are compared, and calls that were made in the same state.

A = A_episode + omega * A_state, of the sum of rewards, and of the discounted return from a call on;
A_state over the calls of a group whose ``model.state(key)`` is the same, 0 where there is none
"""

from dataclasses import dataclass, replace

from agentrl.algorithms.advantages import (
    centred,
    compared,
    credit,
    gae,
    group_normalised,
    shaped,
    turn_rewards,
)
from agentrl.algorithms.grpo import GRPO


@dataclass(frozen=True, kw_only=True)
class GiGPO(GRPO):
    omega: float = 1.0
    discount: float = 0.95
    std: bool = False
    """Divide by the standard deviation."""

    def advantages(self, groups):
        compare = group_normalised if self.std else centred
        samples = credit(shaped(groups, lambda e, agent: sum(turn_rewards(e, agent))), compare)
        returns = [s.advantage[0] for s in gae(credit(groups, list), self.discount)]
        states = [(s.group, s.call.agent, s.call.state or i) for i, s in enumerate(samples)]
        both = zip(samples, compared(states, returns, compare), strict=True)
        return [replace(s, advantage=s.advantage + self.omega * a) for s, a in both]


algorithm = GiGPO()
