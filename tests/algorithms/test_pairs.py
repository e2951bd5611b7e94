"""Every pair of presets that does not clash makes an update together, without an engine."""

import math
from dataclasses import replace
from functools import cache
from itertools import combinations

import pytest
import torch

from agentrl.algorithms import GRPO
from agentrl.algorithms.named import algorithm_names, load_algorithm
from agentrl.learning.policy import Policy
from agentrl.types import Group
from tests.support.small_samples import groups
from tests.support.updating import language_model, rewarded, updated

PAIRS = [*combinations(algorithm_names(), 2)]


@cache
def recorded() -> list[Group]:
    """Two groups, each with a success and a failure."""
    few = [[replace(e, calls=e.calls[:2]) for e in g.episodes[:2]] for g in groups()]
    small = [replace(g, episodes=tuple(e)) for g, e in zip(groups(), few, strict=True)]
    return [rewarded(group, 1.0, 0.0) for group in small]


def loaded(names: str) -> GRPO | None:
    """None where two of them clash, which a sentence says."""
    try:
        algorithm = load_algorithm(names)
    except ValueError as refused:
        return None if str(refused).endswith("choose one") else pytest.fail(str(refused))
    if hasattr(algorithm, "teacher"):
        algorithm = replace(algorithm, teacher="a folder")
    if hasattr(algorithm, "max_tokens"):
        algorithm = replace(algorithm, max_tokens=64)
    return replace(algorithm, updates=min(2, algorithm.updates))


def update_of(algorithm: GRPO):
    reference = Policy(language_model(seed=1)).requires_grad_(False)
    reference = reference if algorithm.reference else None
    return updated(Policy(language_model()), algorithm, recorded(), reference)


@pytest.mark.slow
def test_every_pair_makes_an_update():
    made = {pair: algorithm for pair in PAIRS if (algorithm := loaded("+".join(pair)))}
    # So many go together; each change of a preset's methods or numbers shows here.
    assert (len(PAIRS), len(made)) == (276, 164)
    for pair, algorithm in made.items():
        found = update_of(algorithm)
        assert found.run.num_updates == algorithm.updates, pair
        assert math.isfinite(found.metrics["loss"]), pair
        assert all(weight.isfinite().all() for weight in found.moved), pair
        assert not found.metrics["degenerate"], pair
        assert found.metrics["grad_norm"] > 0, pair


@pytest.mark.parametrize("names", ["kl+cispo", "entropy_bonus+icepop+sapo"])
def test_the_order_of_names_is_of_no_consequence(names):
    there, back = (
        update_of(loaded("+".join(n))) for n in (names.split("+"), names.split("+")[::-1])
    )
    assert all(map(torch.equal, there.moved, back.moved))
