"""Certificate: what enumeration says of a preset."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial

from torch import Tensor

from agentrl.algorithms import GRPO
from bench.certify.cases import Case, Enumerated
from bench.certify.controls import CONTROLS
from bench.certify.estimates import estimate
from bench.certify.reference import REFERENCE, reference_of, with_credit_of, with_weights_of
from bench.certify.trials import Trial, enumerate_world, load
from bench.certify.truth import Worth, expected_reward, gradient
from bench.certify.worlds import SMALL, WORLDS, World

SIZES = (2, 3)
"""Episodes of a group."""
MOST = 6_000
"""Batches of a case at most."""
UNBIASED = 1e-5
"""What fp32 leaves of a bias of 0: advantages and weights are packed in it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A preset in a world; lists are by the size of the groups."""

    world: str
    objective: str
    batches: list[int]
    cosines: list[float]
    biases: list[float]
    variances: list[float]
    """In units of RLOO's; only where the objective is what episodes are worth."""
    of_credit: float
    """The bias that is left with RLOO's weights, in the smallest groups."""
    of_weights: float | None
    """The bias that is left with RLOO's credit, in the smallest groups, where it is of the same
    objective."""

    @property
    def is_unbiased(self) -> bool:
        return max(self.biases) < UNBIASED


enumerated = cache(enumerate_world)
taught = cache(partial(enumerate_world, is_taught=True))
case_of = cache(Case)


@cache
def reward_gradient(world: Enumerated, worth: Worth = Trial.worth) -> Tensor:
    return gradient(expected_reward(world, worth), world)


def truth_of(trial: Trial, algorithm: GRPO, world: Enumerated) -> Tensor:
    if trial.objective is None:
        return reward_gradient(world, trial.worth)
    return gradient(trial.objective(world, algorithm), world)


@cache
def rloo_variance(case: Case, worth: Worth) -> float:
    truth = reward_gradient(case.world, worth)
    return estimate(reference_of(worth), case).relative_variance(truth)


def worlds_of(name: str) -> list[World]:
    return WORLDS if load(name)[0].separable else SMALL


def certify(name: str) -> Iterator[Row]:
    """A preset in each of its worlds."""
    for world in worlds_of(name):
        yield certify_in(name, world)


def certify_in(name: str, world: World, sizes: tuple[int, ...] = SIZES) -> Row:
    algorithm, trial = load(name)
    num_groups = 1 if algorithm.separable else 2
    every = taught(world) if trial.is_taught else enumerated(world)
    cases = [case_of(every, size, num_groups) for size in sizes]
    cases = [case for case in cases if case.size <= MOST]
    if trial.memory:
        algorithm.load_state(trial.memory(every))
    truth = truth_of(trial, algorithm, every)
    found = [estimate(algorithm, case) for case in cases]
    is_worth = trial.objective is None
    weights_alone = with_credit_of(reference_of(trial.worth), algorithm)
    return Row(
        world=world.name,
        objective=trial.named,
        batches=[case.size for case in cases],
        cosines=[one.cosine(truth) for one in found],
        biases=[one.bias(truth) for one in found],
        variances=[
            one.relative_variance(truth) / rloo_variance(case, trial.worth)
            for one, case in zip(found, cases, strict=True)
            if is_worth
        ],
        of_credit=estimate(with_weights_of(REFERENCE, algorithm), cases[0]).bias(truth),
        of_weights=estimate(weights_alone, cases[0]).bias(truth) if is_worth else None,
    )


def controls(world: World = WORLDS[1]) -> dict[str, float]:
    """The bias of RLOO with sums over episodes, by what is wrong."""
    case = case_of(enumerated(world), 2)
    truth = reward_gradient(case.world)
    return {name: run(REFERENCE, case).bias(truth) for name, run in CONTROLS.items()}
