"""RLOO with sums over episodes: unbiased, and what the variance of others is measured by.

Its credit, or its weights, come to stand in another algorithm: the bias that is left is the rest's.
"""

from collections.abc import Callable
from dataclasses import fields

from agentrl.algorithms import GRPO
from agentrl.algorithms.rloo import RLOO

REFERENCE = RLOO(aggregation=1)


def with_methods(algorithm: GRPO, **methods: Callable) -> GRPO:
    """The algorithm, with these in the place of its own."""
    kind = type(algorithm.name, (type(algorithm),), methods)
    return kind(**{field.name: getattr(algorithm, field.name) for field in fields(algorithm)})


def with_weights_of(other: GRPO, algorithm: GRPO) -> GRPO:
    return with_methods(algorithm, weigh=lambda self, samples: other.weigh(samples))


def with_credit_of(other: GRPO, algorithm: GRPO) -> GRPO:
    return with_methods(algorithm, advantages=lambda self, groups: other.advantages(groups))
