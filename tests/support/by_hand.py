"""Groups of a few calls, and what an algorithm makes of them: for numbers worked out by hand."""

import torch

from agentrl.algorithms import GRPO
from agentrl.types import Call, Episode, Group
from tests.support.terms import make_terms


def call(num_tokens: int, **fields) -> Call:
    ids = list(range(num_tokens))
    return Call(prompt_ids=[1], completion_ids=ids, logprobs=[-1.0] * num_tokens, **fields)


def group(*episodes: tuple[float, list[int | Call]], task=None) -> Group:
    """Of each episode its reward, and its calls or how many tokens each has."""
    task = task or {"id": "t"}
    made = [
        Episode(
            task=task,
            index=i,
            calls=tuple(one if isinstance(one, Call) else call(one) for one in calls),
            reward=reward,
            success=reward >= 1 if isinstance(reward, float) else None,
        )
        for i, (reward, calls) in enumerate(episodes)
    ]
    return Group(task, tuple(made))


def advantages(algorithm: GRPO, *groups: Group) -> list:
    return [sample.advantage for sample in algorithm.advantages(groups)]


def gradient(algorithm: GRPO, logprobs: list[float], **terms) -> list[float]:
    """Of the sum of the losses, with respect to each log-prob."""
    given = torch.tensor(logprobs, requires_grad=True)
    losses = algorithm.loss(make_terms(given, **terms))
    return torch.autograd.grad(losses.values.sum(), given)[0].tolist()
