"""RLOO with sums over episodes: unbiased, and what the variance of others is measured by.

Of what episodes are worth: their reward, or what a trial says. Its credit, or its weights, come to
stand in another algorithm: the bias that is left is the rest's.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache

from agentrl.algorithms import GRPO
from agentrl.algorithms.advantages import shaped
from agentrl.algorithms.rloo import RLOO
from agentrl.types import Group, Sample
from bench.certify.truth import Worth

REFERENCE = RLOO(aggregation=1)


def with_methods(algorithm: GRPO, **methods: Callable) -> GRPO:
    """The algorithm, with these in the place of its own."""
    kind = type(algorithm.name, (type(algorithm),), methods)
    made = kind(**{field.name: getattr(algorithm, field.name) for field in fields(algorithm)})
    if hasattr(algorithm, "state"):
        made.load_state(algorithm.state())
    return made


@cache
def reference_of(worth: Worth) -> GRPO:
    def advantages(self, groups: Sequence[Group]) -> list[Sample]:
        return REFERENCE.advantages(shaped(groups, worth))

    return with_methods(REFERENCE, advantages=advantages)


def with_weights_of(other: GRPO, algorithm: GRPO) -> GRPO:
    return with_methods(algorithm, weigh=lambda self, samples: other.weigh(samples))


def with_credit_of(other: GRPO, algorithm: GRPO) -> GRPO:
    return with_methods(algorithm, advantages=lambda self, groups: other.advantages(groups))
