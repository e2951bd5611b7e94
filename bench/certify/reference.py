"""RLOO with a sum over each episode: unbiased, and what the variance of others is measured by.

``with_methods`` is how its credit, or its weights, come to stand in another algorithm: what bias is
left is that of the rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from agentrl.algorithms import GRPO
from agentrl.algorithms.advantages import credit
from agentrl.types import Group, Sample


def leave_one_out(rewards_G: Sequence[float]) -> list[float]:
    total, others = sum(rewards_G), len(rewards_G) - 1
    return [reward - (total - reward) / others for reward in rewards_G]


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut(GRPO):
    """arXiv 2402.14740, equation 8."""

    def advantages(self, groups: Sequence[Group]) -> list[Sample]:
        return credit(groups, leave_one_out)

    def weigh(self, samples: Sequence[Sample]) -> tuple[list[float], float]:
        return [1.0] * len(samples), float(len({(s.group, s.episode) for s in samples}))


def with_methods(algorithm: GRPO, **methods: Callable) -> GRPO:
    """The algorithm, with these in the place of its own."""
    kind = type(algorithm.name, (type(algorithm),), methods)
    return kind(**{field.name: getattr(algorithm, field.name) for field in fields(algorithm)})


def with_weights_of(other: GRPO, algorithm: GRPO) -> GRPO:
    return with_methods(algorithm, weigh=lambda self, samples: other.weigh(samples))


def with_credit_of(other: GRPO, algorithm: GRPO) -> GRPO:
    return with_methods(algorithm, advantages=lambda self, groups: other.advantages(groups))
