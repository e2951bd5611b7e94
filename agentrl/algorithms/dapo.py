"""DAPO (arXiv 2503.14476): clip-higher, the token mean, refilled batches, and what is overlong.

r += clip((max_tokens - buffer - length) / buffer, -1, 0)    of the agent's longest call (eq. 13)
"""

from dataclasses import dataclass

from agentrl.algorithms.advantages import shaped
from agentrl.algorithms.grpo import GRPO
from agentrl.types import Episode


@dataclass(frozen=True, kw_only=True)
class DAPO(GRPO):
    """Decoupled clip and dynamic sampling; the penalty goes around the credit of any other."""

    clip_high: float = 0.28
    updates: int = 16
    max_tokens: int = 20480
    """Longer calls lose a whole reward; give ``sampling.max_tokens``."""
    buffer: int = 4096
    """The penalty begins so many tokens before that."""
    collect = "rollout:refill"

    def advantages(self, groups):
        return super().advantages(shaped(groups, self.overlong))

    def overlong(self, episode: Episode, agent: str) -> float:
        longest = max(len(c.completion_ids) for c in episode.calls if c.agent == agent)
        penalty = (self.max_tokens - self.buffer - longest) / self.buffer
        return episode.reward_of(agent) + max(-1.0, min(0.0, penalty))


algorithm = DAPO()
