"""Advantages of calls, from the rewards of a group (GRPO: arXiv 2402.03300, section 4.1.2).

The difference from it: where an episode has several agents, each is a group of its own. An agent's
reward is compared with the same agent's rewards in the group's other episodes, and with no one
else's.
"""

from collections.abc import Callable, Sequence

import numpy as np

from agentrl.types import Group, Sample

Compare = Callable[[Sequence[float]], list[float]]
"""The rewards of one agent in the G episodes of a group -> the advantage of each."""


def group_normalised(rewards_G: Sequence[float]) -> list[float]:
    """(r - mean) / (std + 1e-6) with the sample's std (ddof 1); exactly 0 where all are equal.

    >>> [round(advantage, 4) for advantage in group_normalised([1.0, 0.0, 0.0])]
    [1.1547, -0.5773, -0.5773]
    >>> group_normalised([0.1, 0.1, 0.1])
    [0.0, 0.0, 0.0]
    """
    rewards = np.asarray(rewards_G, dtype=np.float64)
    # Rounding makes the mean of equal rewards differ from them; a tiny std would blow that up.
    if len(rewards) < 2 or (rewards == rewards[0]).all():
        return [0.0] * len(rewards)
    return ((rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)).tolist()


def credit(groups: Sequence[Group], compare: Compare = group_normalised) -> list[Sample]:
    """Every rewarded call, with its agent's advantage in its episode.

    An episode in which an agent made no call, or has no reward, is not compared for that agent.
    """
    return [sample for g, group in enumerate(groups) for sample in _of_group(g, group, compare)]


def trainable(samples: Sequence[Sample], agents: Sequence[str] | None) -> list[Sample]:
    """The samples of these agents' calls, or of all where agents is None.

    None of those that were drawn under a grammar: a masked distribution is not the policy's.
    """
    return [
        sample
        for sample in samples
        if (agents is None or sample.call.agent in agents) and not sample.call.under_grammar
    ]


def _of_group(number: int, group: Group, compare: Compare) -> list[Sample]:
    episodes = {i: episode for i, episode in enumerate(group.episodes) if episode.scored}
    advantages = {}
    for agent in {agent for episode in episodes.values() for agent in episode.agents}:
        rewards = {
            i: episode.reward_of(agent)
            for i, episode in episodes.items()
            if agent in episode.agents and episode.reward_of(agent) is not None
        }
        compared = compare(list(rewards.values()))
        advantages |= {(i, agent): a for i, a in zip(rewards, compared, strict=True)}
    return [
        Sample(call, advantages[i, call.agent], group=number, episode=i)
        for i, episode in episodes.items()
        for call in episode.calls
        if (i, call.agent) in advantages
    ]
