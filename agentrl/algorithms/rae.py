"""RAE (SPIRAL, arXiv 2506.24119): in self-play an agent is compared with what it usually gets.

A = r - mean of its agent, then mean = decay * mean + (1 - decay) * r; from 0, episode by episode
"""

from dataclasses import dataclass

from agentrl.algorithms.advantages import credit, shaped
from agentrl.algorithms.grpo import GRPO
from agentrl.types import Episode


@dataclass(frozen=True, kw_only=True)
class RAE(GRPO):
    """Role-conditioned advantage estimation; a run that goes on remembers the means."""

    decay: float = 0.95
    separable = False

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "_means", {})

    def advantages(self, groups):
        return credit(shaped(groups, self.above_the_mean), list)

    def above_the_mean(self, episode: Episode, agent: str) -> float:
        reward, mean = episode.reward_of(agent), self._means.get(agent, 0.0)
        self._means[agent] = self.decay * mean + (1 - self.decay) * reward
        return reward - mean

    def state(self) -> dict[str, float]:
        return dict(self._means)

    def load_state(self, state: dict[str, float]) -> None:
        self._means.update(state)


algorithm = RAE()
