"""Controls: what would be wrong in training, and has to show as bias where there is none."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from agentrl.algorithms import GRPO
from agentrl.learning.packing import MicroBatch
from agentrl.types import Group, Sample
from bench.certify.cases import TEMPERATURE, Case
from bench.certify.estimates import Estimate, Pipeline, estimate
from bench.certify.reference import with_methods


def last_token_lost(micro: MicroBatch) -> MicroBatch:
    """The token that ends a call is not trained."""
    is_last = torch.ones_like(micro.call, dtype=torch.bool)
    is_last[:-1] = micro.call[1:] != micro.call[:-1]
    return replace(micro, weights=micro.weights.masked_fill(is_last, 0.0))


def first_token_twice(micro: MicroBatch) -> MicroBatch:
    """A call's first token has two terms."""
    is_first = torch.ones_like(micro.call, dtype=torch.bool)
    is_first[1:] = micro.call[1:] != micro.call[:-1]
    return replace(micro, weights=micro.weights * (1.0 + is_first))


def wrong_call(algorithm: GRPO) -> GRPO:
    """Each call has the advantage of the one after it."""

    def advantages(self, groups: Sequence[Group]) -> list[Sample]:
        samples = algorithm.advantages(groups)
        moved = [*samples[1:], *samples[:1]]
        return [replace(s, advantage=m.advantage) for s, m in zip(samples, moved, strict=True)]

    return with_methods(algorithm, advantages=advantages)


def mean_of_means(algorithm: GRPO) -> GRPO:
    """Two ranks have every other call, and the mean is over what each divides for itself."""

    def weigh(self, samples: Sequence[Sample]) -> tuple[list[float], float]:
        weights = [0.0] * len(samples)
        for rank in range(2):
            own, divisor = algorithm.weigh(samples[rank::2])
            weights[rank::2] = [weight / divisor for weight in own]
        return weights, 2.0

    return with_methods(algorithm, weigh=weigh)


CONTROLS: dict[str, Callable[[GRPO, Case], Estimate]] = {
    "nothing": estimate,
    "the last token of a call lost": lambda algorithm, case: estimate(
        algorithm, case, Pipeline(alter=last_token_lost)
    ),
    "its first token trained twice": lambda algorithm, case: estimate(
        algorithm, case, Pipeline(alter=first_token_twice)
    ),
    "a temperature off by 0.1": lambda algorithm, case: estimate(
        algorithm, case, Pipeline(temperature=TEMPERATURE + 0.1)
    ),
    "an advantage to the next call": lambda algorithm, case: estimate(wrong_call(algorithm), case),
    "a mean over ranks of means": lambda algorithm, case: estimate(mean_of_means(algorithm), case),
}
"""By what is wrong."""
