"""Packing of samples into token-tree micro-batches.

All calls of a batch are merged into trees of at most ``budget`` tokens. A tree token that was
sampled in several calls is computed once and has as many loss terms: terms are never merged, so
clipping and weights stay exact however much is shared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from agentrl.learning.transfer import on_device
from agentrl.types import Call, Sample
from kernels.tree import build_tree, cut
from kernels.tree.plan import TreePlan, plan


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """One token tree and its loss terms; see ``agentrl.types`` for the axes."""

    ids: Int[Tensor, " T"]
    depth: Int[Tensor, " T"]
    parent: Int[Tensor, " T"]
    plan: TreePlan
    trained: Int[Tensor, " M"]
    """Tree positions of the tokens whose log-probability is needed, ascending."""
    term: Int[Tensor, " N"]
    """The entry of ``trained`` that each loss term points at."""
    call: Int[Tensor, " N"]
    """Which of the micro-batch's calls each loss term is of, counted from 0."""
    sampler_logprobs: Float[Tensor, " N"]
    advantages: Float[Tensor, " N"]
    weights: Float[Tensor, " N"]
    """How much each term counts."""
    proximal_logprobs: Float[Tensor, " N"] | None = None
    ref_logprobs: Float[Tensor, " N"] | None = None
    proximal_others: dict[str, Float[Tensor, " N"]] = field(default_factory=dict)
    samples: tuple[int, ...]
    """Which of the packed samples these are; their terms follow one another in this order."""

    def to(self, device: torch.device) -> "MicroBatch":
        """On a device, with the plan's tiles that there are: see ``transfer``."""
        moved = on_device(vars(self) | {"plan": self.plan.tensors}, device)
        return MicroBatch(**moved | {"plan": self.plan.with_tensors(moved["plan"])})


class MicroBatches(Sequence):
    """Micro-batches of a batch. Each is made when it is asked for: a rank makes those of its share,
    and a tree is built while a GPU works on the one before."""

    def __init__(
        self, numbers: Sequence[Sequence[int]], make: Callable[[Sequence[int]], MicroBatch]
    ):
        """numbers: the samples that are packed together, for each micro-batch."""
        self._numbers, self._make = numbers, make

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, i: int) -> MicroBatch:
        return self._make(self._numbers[i])

    def deal(self, rank: int, size: int) -> "MicroBatches":
        """One rank's: every size-th. Each rank gets as many, if need be an idle one.

        An idle micro-batch has no loss terms: its gradient is zero, and its collectives are those
        of any other.
        """
        mine, most = self._numbers[rank::size], -(-len(self) // size)
        return MicroBatches([*mine, *[()] * (most - len(mine))], self._make)


OF_TERMS = ("term", "call", "sampler_logprobs", "advantages", "weights", "samples")


def pack(
    samples: Sequence[Sample],
    budget: int,
    weights: Sequence[float] | None = None,
    *,
    proximal: bool = False,
) -> MicroBatches:
    """Pack calls into micro-batches whose trees hold at most ``budget`` tokens.

    A call that is longer by itself gets a micro-batch of its own. weights: what each call's tokens
    count; absent: 1. proximal: ratios are to what the calls were scored with (``call.scores``).
    """
    weights = [1.0] * len(samples) if weights is None else weights
    for sample, weight in zip(samples, weights, strict=True):
        _check(sample, weight)
    scores = [sample.call.scores for sample in samples]
    has_reference = all(s is not None and s.ref_logprobs is not None for s in scores)

    def make(numbers: Sequence[int]) -> MicroBatch:
        if not numbers:
            return _idle(proximal, has_reference)
        chosen = [samples[i] for i in numbers]
        return _micro_batch(numbers, chosen, [weights[i] for i in numbers], proximal, has_reference)

    return MicroBatches(cut([sample.call.ids for sample in samples], budget), make)


def with_gradient(
    samples: Sequence[Sample], weights: Sequence[float]
) -> tuple[list[Sample], list[float]]:
    """The samples whose advantage is not 0 in all their tokens, and their weights.

    The others count in the divisor alone: nothing of them is computed.
    """
    kept = [(s, w) for s, w in zip(samples, weights, strict=True) if s.has_gradient]
    return [sample for sample, _ in kept], [weight for _, weight in kept]


def split(samples: Sequence[Sample], updates: int) -> list[list[Sample]]:
    """Cut a batch's samples by their groups into as many parts as it has optimizer steps.

    A group stays whole, so that the trees keep what it shares; parts may be empty.
    """
    groups = sorted({sample.group or 0 for sample in samples})
    part_of = {group: i for i, part in enumerate(np.array_split(groups, updates)) for group in part}
    parts: list[list[Sample]] = [[] for _ in range(updates)]
    for sample in samples:
        parts[part_of[sample.group or 0]].append(sample)
    return parts


def _check(sample: Sample, weight: float | Sequence[float]) -> None:
    """On every rank, before one of them packs it. Raises ValueError where a call is given too few
    numbers or too many."""
    assert sample.call.prompt_ids, "a call without a prompt"
    count = len(sample.call.completion_ids)
    for value in (sample.advantage, weight):
        if np.ndim(value) and len(value) != count:
            raise ValueError(f"an advantage a token: {len(value)} were given for {count} tokens")


def _idle(proximal: bool, has_reference: bool) -> MicroBatch:
    call = Call(prompt_ids=[0], completion_ids=[0], logprobs=[0.0])
    micro = _micro_batch([0], [Sample(call, 0.0)], [1.0], proximal=False, has_reference=False)
    empty = {name: getattr(micro, name)[:0] for name in OF_TERMS}
    scored = {"proximal_logprobs": proximal, "ref_logprobs": has_reference}
    return replace(micro, **empty, **{n: empty["weights"] for n, there in scored.items() if there})


def _micro_batch(
    numbers: Sequence[int],
    samples: list[Sample],
    weights: list,
    proximal: bool,
    has_reference: bool,
) -> MicroBatch:
    tree = build_tree([np.asarray(sample.call.ids, np.int32) for sample in samples])
    counts = [len(sample.call.completion_ids) for sample in samples]
    # Completions end their sequences, so a call's terms are the last positions of its path.
    positions = [path[len(path) - n :] for path, n in zip(tree.index, counts, strict=True)]
    trained, term = np.unique(np.concatenate(positions), return_inverse=True)
    scores = [sample.call.scores for sample in samples]
    return MicroBatch(
        ids=torch.from_numpy(tree.ids).long(),
        depth=torch.from_numpy(tree.depth).long(),
        parent=torch.from_numpy(tree.parent).long(),
        plan=plan(tree),
        trained=torch.from_numpy(trained).long(),
        term=torch.from_numpy(term),
        call=torch.from_numpy(np.repeat(np.arange(len(samples)), counts)),
        sampler_logprobs=_float32([sample.call.logprobs for sample in samples]),
        advantages=_float32([_per_token(s.advantage, n) for s, n in zip(samples, counts)]),
        weights=_float32([_per_token(w, n) for w, n in zip(weights, counts, strict=True)]),
        proximal_logprobs=_float32([s.logprobs for s in scores]) if proximal else None,
        ref_logprobs=_float32([s.ref_logprobs for s in scores]) if has_reference else None,
        proximal_others={
            name: _float32([s.others[name] for s in scores])
            for name in (scores[0].others if proximal else ())
        },
        samples=tuple(numbers),
    )


def _float32(values_of_calls: Sequence[Any]) -> Float[Tensor, " N"]:
    return torch.from_numpy(np.concatenate(values_of_calls).astype(np.float32))


def _per_token(value: float | Sequence[float], count: int) -> np.ndarray:
    """A call's number for each of its tokens."""
    return np.broadcast_to(np.asarray(value, np.float64), count)
