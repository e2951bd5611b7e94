"""KL to the model that the run began with, in the reward (RLHF: arXiv 2203.02155, eq. 2).

r -= kl_weight * sum over the agent's tokens of logprob - reference; then any credit
"""

from dataclasses import dataclass

from agentrl.algorithms.advantages import shaped
from agentrl.algorithms.grpo import GRPO
from agentrl.types import Episode


@dataclass(frozen=True, kw_only=True)
class KLInReward(GRPO):
    """Goes around the credit of any other; the records keep the reward as it was given."""

    kl_weight: float = 0.02
    reference = True
    scores = True

    def advantages(self, groups):
        return super().advantages(shaped(groups, self.penalised))

    def penalised(self, episode: Episode, agent: str) -> float:
        scores = [c.scores for c in episode.calls if c.agent == agent and c.scores is not None]
        kl = sum(sum(s.logprobs) - sum(s.ref_logprobs) for s in scores)
        return episode.reward_of(agent) - self.kl_weight * kl


algorithm = KLInReward()
