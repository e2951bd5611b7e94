"""Group-relative advantages (GRPO: DeepSeekMath, arXiv 2402.03300, section 4.1.2)."""

from collections.abc import Sequence

import numpy as np

from agentrl.types import Group, Sample


def group_advantages(rewards_G: Sequence[float]) -> list[float]:
    """(r - mean) / (std + 1e-6) with the sample's std (ddof 1); exactly 0 where all are equal.

    >>> [round(advantage, 4) for advantage in group_advantages([1.0, 0.0, 0.0])]
    [1.1547, -0.5773, -0.5773]
    >>> group_advantages([0.1, 0.1, 0.1])
    [0.0, 0.0, 0.0]
    """
    rewards = np.asarray(rewards_G, dtype=np.float64)
    # Rounding makes the mean of equal rewards differ from them; a tiny std would blow that up.
    if len(rewards) < 2 or (rewards == rewards[0]).all():
        return [0.0] * len(rewards)
    return ((rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)).tolist()


def samples(groups: Sequence[Group]) -> list[Sample]:
    """Every call of every scored episode, with its episode's advantage; none under a grammar."""
    return [
        Sample(call, advantage)
        for group in groups
        for episode, advantage in zip(
            group.scored, group_advantages([e.reward for e in group.scored]), strict=True
        )
        for call in episode.calls
        if not call.under_grammar
    ]
