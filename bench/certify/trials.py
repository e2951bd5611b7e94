"""Trials: with which numbers, in which worlds and against which objective a preset is certified."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from agentrl.algorithms import GRPO
from agentrl.algorithms.named import algorithm_names, load_algorithm
from agentrl.types import Episode
from bench.certify.cases import Enumerated, micro_model
from bench.certify.truth import Worth, divergence, expected_reward, likelihood
from bench.certify.worlds import World

Objective = Callable[[Enumerated, GRPO], Tensor]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How a preset is tried where it is not tried as it stands, for the expected reward."""

    numbers: dict[str, Any] = field(default_factory=dict)
    worth: Worth = Episode.reward_of
    """What is to be expected of an episode."""
    objective: Objective | None = None
    """What its gradient should be of, where that is not what episodes are worth."""
    named: str = "r"
    memory: Callable[[Enumerated], dict] | None = None
    """What it remembers before every batch, where it remembers."""
    is_taught: bool = False
    """The episodes are another model's."""


def own_rewards(episode: Episode, agent: str) -> list[float]:
    return [call.reward or 0.0 for call in episode.calls if call.agent == agent]


def with_calls(episode: Episode, agent: str) -> float:
    """The episode's reward and those of its calls."""
    return episode.reward_of(agent) + sum(own_rewards(episode, agent))


def with_last_call(episode: Episode, agent: str) -> float:
    return episode.reward_of(agent) + own_rewards(episode, agent)[-1]


def less_length(episode: Episode, agent: str) -> float:
    """Of three tokens a whole reward less, of two half of one."""
    longest = max(len(call.completion_ids) for call in episode.calls if call.agent == agent)
    return episode.reward_of(agent) - (longest - 1) / 2


def is_solved(episode: Episode, agent: str) -> float:
    return float(episode.reward_of(agent) >= 1)


def less_divergence(world: Enumerated, algorithm: GRPO) -> Tensor:
    return expected_reward(world) - algorithm.kl_weight * divergence(world)


def mean_rewards(world: Enumerated) -> dict[str, float]:
    """What each agent gets on average."""
    pairs = [
        (chance / len(world.episodes), episode)
        for of_task, chances in zip(world.episodes, world.chances, strict=True)
        for episode, chance in zip(of_task, chances, strict=True)
    ]
    return {a: sum(c * e.reward_of(a) for c, e in pairs) for a in world.world.agents}


TRIALS = {
    "dapo": Trial(numbers={"max_tokens": 3, "buffer": 2 / 3}, worth=less_length, named="r - long"),
    "gigpo": Trial(worth=with_calls, named="r + calls"),
    "kl": Trial(objective=less_divergence, named="r - KL"),
    "kl_in_reward": Trial(objective=less_divergence, named="r - KL"),
    "maxrl": Trial(
        objective=lambda world, algorithm: expected_reward(world, value=torch.log), named="log r"
    ),
    "multi_step_grpo": Trial(worth=with_last_call, named="r + last"),
    "opd": Trial(
        numbers={"teacher": "another micro model"},
        objective=lambda world, algorithm: -divergence(world),
        named="-KL",
    ),
    "rae": Trial(memory=mean_rewards),
    "rejection": Trial(worth=is_solved, named="r >= 1"),
    "sft": Trial(
        objective=lambda world, algorithm: likelihood(world), named="log p", is_taught=True
    ),
    "tree_loo states": Trial(numbers={"states": True}),
    "turns": Trial(worth=with_calls, named="r + calls"),
    "turns returns": Trial(numbers={"turn_credit": "returns"}, worth=with_calls, named="r + calls"),
}
"""By the name of a preset, or of a preset and what is another about it."""


def load(name: str) -> tuple[GRPO, Trial]:
    """A preset with the numbers that it is tried with."""
    trial = TRIALS.get(name, Trial())
    return replace(load_algorithm(name.partition(" ")[0]), **trial.numbers), trial


def presets() -> list[str]:
    return sorted({*algorithm_names(), *TRIALS})


def enumerate_world(world: World, is_taught: bool = False) -> Enumerated:
    """is_taught: the episodes are the other model's."""
    size = len(world.vocabulary)
    other = micro_model(size, seed=1)
    return Enumerated(world, micro_model(size), other, sampler=other if is_taught else None)
