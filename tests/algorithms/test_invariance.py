"""The gradient of every preset is the batch's, however it is split, merged, ordered or dealt."""

from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from agentrl.algorithms import GRPO
from agentrl.algorithms.named import algorithm_names, load_algorithm
from agentrl.learning.packing import pack
from agentrl.learning.policy import Policy
from agentrl.types import Call, CallScores, Group
from tests.support.small_samples import TEMPERATURE, groups
from tests.support.updating import Weights, language_model, largest_difference

EXACT, WRONG = 1e-6, 1e-3
"""Differences relative to a weight's largest entry; what is packed is fp32."""
DEPENDS_ON_ORDER = {"rae"}
"""Its baseline is the mean of what came before."""


def scored(call: Call, rng: np.random.Generator) -> Call:
    """With a policy before the first step, and a reference, unlike the one that is trained."""
    count = len(call.completion_ids)
    proximal, reference = (tuple(rng.normal(-4.5, 0.3, count).tolist()) for _ in range(2))
    scores = CallScores(logprobs=proximal, entropies=(0.0,) * count, ref_logprobs=reference)
    return replace(call, scores=scores)


@cache
def batch() -> list[Group]:
    """Two tasks of three episodes; one of them has succeeded, and calls share what came before."""
    rng = np.random.default_rng(1)
    made = []
    for group, rewards in zip(groups(), [(1.0, 0.0, 0.25), (0.0, 1.0, 0.0)], strict=True):
        episodes = [
            replace(e, reward=r, calls=tuple(scored(c, rng) for c in e.calls[2 : 3 + i % 2]))
            for i, (e, r) in enumerate(zip(group.episodes, rewards))
        ]
        made.append(Group(group.task, tuple(episodes)))
    return made


@cache
def policy() -> Policy:
    return Policy(language_model())


def gradient(
    algorithm: GRPO,
    groups: list[Group],
    *,
    budget: int = 10_000,
    ranks: int = 1,
    mean_of_means: bool = False,
) -> Weights:
    """As ``train.update`` makes it of ratios that are off 1."""
    algorithm = deepcopy(algorithm)  # what it remembers stays here
    samples = algorithm.advantages(groups)
    weights, divisor = algorithm.weigh(samples)
    trees = pack(samples, budget, weights, proximal=True)
    policy().zero_grad()
    for rank in range(ranks):
        for micro in trees.deal(rank, ranks):
            losses = algorithm.loss(policy().terms(micro, TEMPERATURE))
            own = algorithm.weigh([samples[i] for i in micro.samples])[1] * len(trees)
            (losses.values * micro.weights / (own if mean_of_means else divisor)).sum().backward()
    return [weight.grad.clone() for weight in policy().parameters()]


def reordered(groups: list[Group]) -> list[Group]:
    return [replace(g, episodes=g.episodes[1:] + g.episodes[:1]) for g in groups[::-1]]


@pytest.mark.parametrize("name", algorithm_names())
def test_the_gradient_is_the_batchs(name):
    numbers = {"dapo": {"max_tokens": 8}, "opd": {"teacher": "t"}}.get(name, {})
    algorithm = replace(load_algorithm(name), **numbers)
    whole = gradient(algorithm, batch())
    assert largest_difference(gradient(algorithm, batch(), budget=1), whole) < EXACT
    assert largest_difference(gradient(algorithm, batch(), budget=40, ranks=3), whole) < EXACT
    if name not in DEPENDS_ON_ORDER:
        assert largest_difference(gradient(algorithm, reordered(batch())), whole) < EXACT


@pytest.mark.parametrize("name", ["grpo", "sapo", "kl"])
def test_a_mean_of_means_would_be_another(name):
    algorithm = replace(load_algorithm(name), aggregation="token")
    wrong = gradient(algorithm, batch(), budget=40, mean_of_means=True)
    assert largest_difference(wrong, gradient(algorithm, batch())) > WRONG


@pytest.mark.parametrize("name", ["grpo", "rloo", "reinforce_pp_baseline"])
def test_groups_are_split_where_credit_allows_it(name):
    """Of two halves of a batch, undivided, the gradients add up: see ``separable``."""
    algorithm = load_algorithm(name)
    whole, halves = gradient(algorithm, batch()), []
    total = algorithm.weigh(algorithm.advantages(batch()))[1]
    for group in batch():
        share = algorithm.weigh(algorithm.advantages([group]))[1] / total
        halves.append([share * weight for weight in gradient(algorithm, [group])])
    added = [a + b for a, b in zip(*halves, strict=True)]
    assert (largest_difference(added, whole) < EXACT) == algorithm.separable
