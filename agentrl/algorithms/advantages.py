"""Advantages of calls, from the rewards of a group (GRPO: arXiv 2402.03300, section 4.1.2).

The difference from it: where an episode has several agents, each is a group of its own. An agent's
reward is compared with the same agent's rewards in the group's other episodes, and with no one
else's.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from agentrl.types import Episode, Group, Sample

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


def centred(rewards_G: Sequence[float]) -> list[float]:
    """r - mean."""
    mean = sum(rewards_G) / len(rewards_G)
    return [reward - mean for reward in rewards_G]


def leave_one_out(rewards_G: Sequence[float]) -> list[float]:
    """r - mean of the others; 0 where there are none.

    >>> leave_one_out([1.0, 0.0, 0.0])
    [1.0, -0.5, -0.5]
    """
    others = max(1, len(rewards_G) - 1)
    return [len(rewards_G) * a / others for a in centred(rewards_G)]


def credit(groups: Sequence[Group], compare: Compare = group_normalised) -> list[Sample]:
    """Every rewarded call, with its agent's advantage in its episode.

    An episode in which an agent made no call, or has no reward, is not compared for that agent.
    """
    return [sample for g, group in enumerate(groups) for sample in _of_group(g, group, compare)]


def shaped(groups: Sequence[Group], reward: Callable[[Episode, str], float]) -> list[Group]:
    """The groups with what ``reward(episode, agent)`` makes of each agent's reward."""

    def rewarded(episode: Episode) -> Episode:
        agents = [a for a in episode.agents if episode.scored and episode.reward_of(a) is not None]
        return (
            replace(episode, reward={a: reward(episode, a) for a in agents}) if agents else episode
        )

    return [replace(g, episodes=tuple(map(rewarded, g.episodes))) for g in groups]


def whitened(samples: Sequence[Sample]) -> list[Sample]:
    """The advantages less their mean over all tokens, divided by their std (ddof 1) over these."""
    counts = [len(sample.call.completion_ids) for sample in samples]
    each = np.repeat(np.array([sample.advantage for sample in samples], np.float64), counts)
    if len(each) < 2 or (each == each[0]).all():
        return [replace(sample, advantage=0.0) for sample in samples]
    scale = 1 / np.sqrt(each.var(ddof=1) + 1e-8)
    return [replace(s, advantage=float((s.advantage - each.mean()) * scale)) for s in samples]


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
