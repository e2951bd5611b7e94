"""Truth: what a gradient should be of, as a sum over all episodes, each with its chance.

By autograd and transformers alone: no tree, no kernel, no packing.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from agentrl.types import Episode
from bench.certify.cases import Enumerated

Worth = Callable[[Episode, str], float]
"""What an episode is worth to an agent."""


def expected_reward(
    world: Enumerated,
    worth: Worth = Episode.reward_of,
    value: Callable[[Tensor], Tensor] = lambda expected: expected,
) -> Tensor:
    """The mean over tasks; what is each agent's own, as a function of its own tokens alone.

    value: of what a task's are worth in expectation.
    """
    of_node, _ = world.node_logprobs(world.policy)
    expected = [
        value(_expected(world, of_node, of_task, agent, worth))
        for of_task in world.episodes
        for agent in world.world.agents
    ]
    return torch.stack(expected).sum() / len(world.episodes)


def _expected(
    world: Enumerated,
    of_node: Tensor,
    episodes: Sequence[Episode],
    agent: str,
    worth: Worth,
) -> Tensor:
    total = of_node.new_zeros(())
    for episode in (e for e in episodes if agent in e.agents):
        own = [call for call in episode.calls if call.agent == agent]
        others = [call for call in episode.calls if call.agent != agent]
        logprob = world.logprob(of_node, own) + world.logprob(of_node, others).detach()
        total = total + worth(episode, agent) * logprob.exp()
    return total


def divergence(world: Enumerated) -> Tensor:
    """KL of the policy's episodes from the reference's."""
    of_node, _ = world.node_logprobs(world.policy)
    with torch.no_grad():
        theirs, _ = world.node_logprobs(world.reference)
    total = of_node.new_zeros(())
    for episode in (e for of_task in world.episodes for e in of_task):
        mine = world.logprob(of_node, episode.calls)
        gap = mine - world.logprob(theirs, episode.calls)
        total = total + mine.exp() * gap / len(world.episodes)
    return total


def likelihood(world: Enumerated) -> Tensor:
    """The expected log-probability of what the sampler draws."""
    of_node, _ = world.node_logprobs(world.policy)
    pairs = [
        (chance, world.logprob(of_node, episode.calls))
        for of_task, chances in zip(world.episodes, world.chances, strict=True)
        for episode, chance in zip(of_task, chances, strict=True)
    ]
    return sum(chance * logprob for chance, logprob in pairs) / len(world.episodes)


def gradient(objective: Tensor, world: Enumerated) -> Tensor:
    parts = torch.autograd.grad(objective, world.policy.trainable())
    return torch.cat([part.flatten() for part in parts]).double()
