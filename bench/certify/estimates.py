"""Estimates: what an algorithm's gradient is in expectation, and how much it varies.

The expectation is one pass of the real thing: for every batch there can be, ``advantages`` and
``weigh`` say what each call counts; the sums over all batches, each with its chance, are the
weights of one tree, which goes through packing, the policy and ``loss`` as in training. At the
first optimizer step of a batch, with the policy that drew it: ratios are 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from torch import Tensor

from agentrl.algorithms import GRPO
from agentrl.algorithms.advantages import trainable
from agentrl.algorithms.weights import Aggregation
from agentrl.learning.packing import MicroBatch, pack, split, with_gradient
from agentrl.types import Sample
from bench.certify.cases import BUDGET, TEMPERATURE, Case, Enumerated, nodes


@dataclass(frozen=True)
class Credit:
    """What calls count in each batch: ``value`` is weight / divisor of the sample ``column`` in the
    batch ``row``."""

    samples: list[Sample]
    """Each call with each advantage that it ever has."""
    row: np.ndarray
    column: np.ndarray
    value: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """Of the direction in which the weights go: minus the gradient."""

    mean: Tensor
    variance: float
    """The trace of the covariance."""

    def cosine(self, truth: Tensor) -> float:
        return (self.mean @ truth / (self.mean.norm() * truth.norm())).item()

    def scale(self, truth: Tensor) -> float:
        """How long it is, in units of the truth."""
        return (self.mean @ truth / (truth @ truth)).item()

    def bias(self, truth: Tensor) -> float:
        """What is not along the truth, in units of what is."""
        along = self.scale(truth) * truth
        return ((self.mean - along).norm() / along.norm()).item()

    def relative_variance(self, truth: Tensor) -> float:
        """Of the estimate, brought to the length of the truth, in units of the truth's square."""
        return self.variance / (self.scale(truth) ** 2 * (truth @ truth).item())


def credit(algorithm: GRPO, case: Case) -> Credit:
    """Every batch through the real methods, up to the first optimizer step; once for all algorithms
    that differ in their loss alone."""
    kind = type(algorithm)
    if (kind.advantages, kind.weigh) == (GRPO.advantages, GRPO.weigh):
        # No more parts than groups.
        return _of_grpo(case, algorithm.aggregation, min(algorithm.updates, case.num_groups))
    return _credit(algorithm, case)


@cache
def _of_grpo(case: Case, aggregation: Aggregation, updates: int) -> Credit:
    return _credit(GRPO(aggregation=aggregation, updates=updates), case)


def _credit(algorithm: GRPO, case: Case) -> Credit:
    state = algorithm.state() if hasattr(algorithm, "state") else None
    numbers: dict[tuple, int] = {}
    samples, entries = [], []
    for row, batch in enumerate(case.batches()):
        if state is not None:
            # What it remembers is what it began with.
            algorithm.load_state(state)
        part = split(trainable(algorithm.advantages(batch), None), algorithm.updates)[0]
        weights, divisor = algorithm.weigh(part)
        for sample, weight in zip(part, weights, strict=True):
            number = numbers.setdefault(_name(sample), len(samples))
            if number == len(samples):
                samples.append(sample)
            entries.append((row, number, weight / divisor))
    row, column, value = map(np.array, zip(*entries, strict=True))
    return Credit(samples, row, column, value)


def _name(sample: Sample) -> tuple:
    """A call and an advantage. Copies of a call share the list of its tokens."""
    is_one = not isinstance(sample.advantage, Sequence)
    advantage = sample.advantage if is_one else tuple(sample.advantage)
    return id(sample.call.completion_ids), advantage


@dataclass(frozen=True)
class Pipeline:
    """The pass from samples to a gradient; what a control does wrong in it."""

    temperature: float = TEMPERATURE
    alter: Callable[[MicroBatch], MicroBatch] = field(default=lambda micro: micro)

    def mean(
        self, algorithm: GRPO, world: Enumerated, found: Credit, chances: np.ndarray
    ) -> Tensor:
        """The expectation, in one pass as in training."""
        weights = np.bincount(found.column, chances[found.row] * found.value, len(found.samples))
        samples, weights = list(found.samples), weights.tolist()
        if not algorithm.every_call:
            samples, weights = with_gradient(samples, weights)
        policy = world.policy
        total = torch.zeros((), dtype=torch.float64)
        for micro in pack(samples, BUDGET, weights, proximal=algorithm.has_proximal):
            micro = self.alter(micro)
            losses = algorithm.loss(policy.terms(micro, self.temperature))
            total = total + (losses.values * micro.weights).sum()
        gradient = torch.autograd.grad(total, policy.trainable())
        return -torch.cat([part.flatten() for part in gradient]).double()


def factors(algorithm: GRPO, world: Enumerated, samples: list[Sample]) -> Tensor:
    """[samples, 2M]: by how much each sample's loss moves with each node's log-probability, and
    with its entropy."""
    found = torch.zeros(len(samples), 2 * len(world.node), dtype=torch.float64)
    (micro,) = pack(samples, 1 << 20, proximal=algorithm.has_proximal)
    terms = world.policy.terms(micro, TEMPERATURE)
    values = algorithm.loss(terms).values.sum()
    slopes = torch.autograd.grad(values, (terms.logprobs, terms.entropies), allow_unused=True)
    order = micro.samples
    row = torch.tensor([order[i] for i in micro.call.tolist()])
    node = torch.tensor([world.node[n] for i in order for n in nodes(samples[i].call)])
    for i, slope in enumerate(slopes):
        if slope is not None:
            where = row, node + i * len(world.node)
            found.index_put_(where, slope.double(), accumulate=True)
    return found


def of_batches(algorithm: GRPO, case: Case, found: Credit) -> Tensor:
    """[batches, 2M]: by how much each batch's loss moves with what each node has."""
    slopes = factors(algorithm, case.world, found.samples)
    row, column, value = map(torch.from_numpy, (found.row, found.column, found.value))
    each = torch.zeros(case.size, slopes.shape[1], dtype=torch.float64)
    return each.index_add_(0, row, value[:, None] * slopes[column])


def estimate(algorithm: GRPO, case: Case, pipeline: Pipeline | None = None) -> Estimate:
    """Expectation and variance of an algorithm's first step on a batch; of the right pipeline, the
    variance."""
    found = credit(algorithm, case)
    mean = (pipeline or Pipeline()).mean(algorithm, case.world, found, case.chances)
    each, jacobian = of_batches(algorithm, case, found), case.world.jacobian
    squares = ((each @ (jacobian @ jacobian.T)) * each).sum(1)
    return Estimate(mean, (torch.from_numpy(case.chances) @ squares - mean @ mean).item())
