"""Advantages of calls, from the rewards of a group (GRPO: arXiv 2402.03300, section 4.1.2).

The difference from it: where an episode has several agents, each is a group of its own. An agent's
reward is compared with the same agent's rewards in the group's other episodes, and with no one
else's.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
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
    """r - mean; exactly 0 where all are equal."""
    # Rounding puts the mean of equal rewards beside them.
    mean = max(min(rewards_G), min(max(rewards_G), sum(rewards_G) / len(rewards_G)))
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
    scored = [
        (g, i, e) for g, of in enumerate(groups) for i, e in enumerate(of.episodes) if e.scored
    ]
    rewards = {(g, i, agent): e.reward_of(agent) for g, i, e in scored for agent in e.agents}
    rewards = {owner: reward for owner, reward in rewards.items() if reward is not None}
    agents = [(g, agent) for g, _, agent in rewards]
    found = dict(zip(rewards, compared(agents, [*rewards.values()], compare), strict=True))
    return [
        Sample(call, found[g, i, call.agent], group=g, episode=i)
        for g, i, episode in scored
        for call in episode.calls
        if (g, i, call.agent) in found
    ]


def shaped(groups: Sequence[Group], reward: Callable[[Episode, str], float]) -> list[Group]:
    """The groups with what ``reward(episode, agent)`` makes of each agent's reward."""

    def rewarded(episode: Episode) -> Episode:
        agents = [a for a in episode.agents if episode.scored and episode.reward_of(a) is not None]
        return (
            replace(episode, reward={a: reward(episode, a) for a in agents}) if agents else episode
        )

    return [replace(g, episodes=tuple(map(rewarded, g.episodes))) for g in groups]


def turn_rewards(episode: Episode, agent: str) -> list[float]:
    """Of each call of an agent its own reward; the episode's comes on top, with the last."""
    rewards = [call.reward or 0.0 for call in episode.calls if call.agent == agent]
    return [*rewards[:-1], rewards[-1] + episode.reward_of(agent)]


def gae(
    samples: Sequence[Sample], discount: float, decay: float = 1.0, values: str | None = None
) -> list[Sample]:
    """Generalised advantage estimates (arXiv 1506.02438, eq. 16), over an agent's calls in an
    episode, whose reward comes with the last of them: ``credit(groups, list)`` has it.

    values: one for each sampled token, in ``call.scores.others``; without, a call has one, of 0,
    and what comes out with a decay of 1 is the discounted return from the call on.
    """
    found, later = [], {}
    for sample in reversed(samples):
        call, owner = sample.call, (sample.group, sample.episode, sample.call.agent)
        reward, after, estimate = later.get(owner, (sample.advantage, 0.0, 0.0))
        reward, estimates = reward + (call.reward or 0.0), []
        # A call that is not trained is not scored: what it was worth comes with the one before.
        each = [0.0] if values is None else call.scores.others[values] if call.scores else ()
        for value in reversed(each):
            estimate = reward + discount * (after + decay * estimate) - value
            reward, after = 0.0, value
            estimates.append(estimate)
        later[owner] = reward, after, estimate
        found.append(replace(sample, advantage=estimates[::-1]))
    return found[::-1]


def compared(keys: Sequence[Hashable], values: Sequence[float], compare: Compare) -> list[float]:
    """Each value beside the others of its key."""
    members = defaultdict(list)
    for i, key in enumerate(keys):
        members[key].append(i)
    found = {}
    for rows in members.values():
        found |= zip(rows, compare([values[i] for i in rows]), strict=True)
    return [found[i] for i in range(len(values))]


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
