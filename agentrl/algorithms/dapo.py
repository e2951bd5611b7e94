"""DAPO (arXiv 2503.14476): clip-higher, the token mean, refilled batches, and what is overlong.

r += clip((1 - buffer - length / max_tokens) / buffer, -1, 0)  of the agent's longest call (eq. 13)
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
    max_tokens: int | None = None
    """Calls as long lose a whole reward. Absent: ``sampling.max_tokens``; 20480 in the paper."""
    buffer: float = 0.2
    """The last share of them, over which the penalty grows."""
    collect = "rollout:refill"

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.buffer <= 1:
            raise ValueError(f"algorithm.buffer is {self.buffer}: give a share, above 0 to 1")

    def advantages(self, groups):
        return super().advantages(shaped(groups, self.overlong))

    def overlong(self, episode: Episode, agent: str) -> float:
        longest = max(len(c.completion_ids) for c in episode.calls if c.agent == agent)
        penalty = (1 - self.buffer - longest / self.max_tokens) / self.buffer
        return episode.reward_of(agent) + max(-1.0, min(0.0, penalty))


algorithm = DAPO()
