"""Group-relative advantages (GRPO: DeepSeekMath, arXiv 2402.03300, section 4.1.2).

The difference from it: where an episode has several agents, each is a group of its own. An agent's
reward is compared with the same agent's rewards in the group's other episodes, and with no one
else's.
"""

from collections.abc import Sequence

import numpy as np

from agentrl.types import Episode, Group, Sample


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
    """Every rewarded call, with its agent's advantage in its episode.

    An episode in which an agent made no call, or has no reward, is not compared for that agent.
    """
    return [sample for group in groups for sample in _samples(group.scored)]


def trainable(samples: Sequence[Sample], agents: Sequence[str] | None) -> list[Sample]:
    """The samples of these agents' calls, or of all where agents is None.

    None of those that were drawn under a grammar: a masked distribution is not the policy's.
    """
    return [
        sample
        for sample in samples
        if (agents is None or sample.call.agent in agents) and not sample.call.under_grammar
    ]


def _samples(episodes: Sequence[Episode]) -> list[Sample]:
    advantages = {}
    for agent in {agent for episode in episodes for agent in episode.agents}:
        rewards = {
            i: episode.reward_of(agent)
            for i, episode in enumerate(episodes)
            if agent in episode.agents and episode.reward_of(agent) is not None
        }
        compared = group_advantages(list(rewards.values()))
        advantages |= {(i, agent): a for i, a in zip(rewards, compared, strict=True)}
    return [
        Sample(call, advantages[i, call.agent])
        for i, episode in enumerate(episodes)
        for call in episode.calls
        if (i, call.agent) in advantages
    ]
