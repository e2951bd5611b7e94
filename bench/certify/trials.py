"""Trials: with which numbers, in which worlds and against which objective a preset is certified."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from agentrl.algorithms import GRPO
from agentrl.algorithms.named import algorithm_names, load_algorithm
from bench.certify.cases import Enumerated, micro_model
from bench.certify.truth import divergence, expected_reward
from bench.certify.worlds import World

Objective = Callable[[Enumerated, GRPO], Tensor]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How a preset is tried where it is not tried as it stands, for the expected reward."""

    numbers: dict[str, Any] = field(default_factory=dict)
    objective: Objective = lambda world, algorithm: expected_reward(world)
    """What its gradient should be of."""
    named: str = "r"


def less_divergence(world: Enumerated, algorithm: GRPO) -> Tensor:
    return expected_reward(world) - algorithm.kl_weight * divergence(world)


TRIALS = {
    "kl": Trial(objective=less_divergence, named="r - KL"),
    "kl_in_reward": Trial(objective=less_divergence, named="r - KL"),
    "maxrl": Trial(
        objective=lambda world, algorithm: expected_reward(world, value=torch.log), named="log r"
    ),
    "opd": Trial(
        numbers={"teacher": "another micro model"},
        objective=lambda world, algorithm: -divergence(world),
        named="-KL",
    ),
    "rejection": Trial(
        objective=lambda world, algorithm: expected_reward(world, lambda r: float(r >= 1)),
        named="r >= 1",
    ),
}
"""By the name of a preset."""
NOT_TRIED = {
    "rae": "it remembers: what a batch is given depends on those before it",
    "sft": "the likelihood of what it is given: no policy's draws, no reward",
}


def load(name: str) -> tuple[GRPO, Trial]:
    """A preset with the numbers that it is tried with."""
    trial = TRIALS.get(name, Trial())
    return replace(load_algorithm(name), **trial.numbers), trial


def presets() -> list[str]:
    return [name for name in algorithm_names() if name not in NOT_TRIED]


def not_tried() -> list[str]:
    return [name for name in algorithm_names() if name in NOT_TRIED]


def enumerate_world(world: World) -> Enumerated:
    size = len(world.vocabulary)
    return Enumerated(world, micro_model(size), micro_model(size, seed=1))
