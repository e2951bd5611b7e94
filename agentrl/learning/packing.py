"""Samples -> token-tree micro-batches.

All calls of a batch are merged into trees of at most ``budget`` tokens. A tree token that was
sampled in several calls is computed once and has as many loss terms: terms are never merged, so
clipping and weights stay exact however much is shared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

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
    sampler_logprobs: Float[Tensor, " N"]
    advantages: Float[Tensor, " N"]
    samples: Int[Tensor, " S"]
    """Which of the packed samples these are; their terms follow one another in this order."""

    def to(self, device: torch.device) -> "MicroBatch":
        return MicroBatch(**{name: value.to(device) for name, value in vars(self).items()})


def pack(samples: Sequence[Sample], budget: int) -> list[MicroBatch]:
    """Pack calls into micro-batches whose trees hold at most ``budget`` tokens.

    A call that is longer by itself gets a micro-batch of its own.
    """
    sequences = [np.asarray(sample.call.ids, np.int32) for sample in samples]
    return [
        _micro_batch(piece, [samples[s] for s in piece], [sequences[s] for s in piece])
        for piece in cut(sequences, budget)
    ]


def deal(micro_batches: Sequence[MicroBatch], rank: int, size: int) -> list[MicroBatch]:
    """One rank's micro-batches: every size-th. Each rank gets as many, if need be an idle one.

    An idle micro-batch has no loss terms: its gradient is zero, and its collectives are those of
    any other.
    """
    mine = list(micro_batches[rank::size])
    most = -(-len(micro_batches) // size)
    return [*mine, *[_idle()] * (most - len(mine))]


def _idle() -> MicroBatch:
    call = Call(prompt_ids=[0], completion_ids=[0], logprobs=[0.0])
    micro = _micro_batch([0], [Sample(call, 0.0)], [np.asarray(call.ids, np.int32)])
    of_terms = ("term", "sampler_logprobs", "advantages", "samples")
    return replace(micro, **{name: getattr(micro, name)[:0] for name in of_terms})


def _micro_batch(
    numbers: list[int], samples: list[Sample], sequences: list[np.ndarray]
) -> MicroBatch:
    tree = build_tree(sequences)
    counts = [len(sample.call.completion_ids) for sample in samples]
    # Completions end their sequences, so a call's terms are the last positions of its path.
    positions = [path[len(path) - n :] for path, n in zip(tree.index, counts, strict=True)]
    assert all(len(sample.call.prompt_ids) > 0 for sample in samples), "a call without a prompt"
    trained, term = np.unique(np.concatenate(positions), return_inverse=True)
    logprobs = [sample.call.logprobs for sample in samples]
    advantages = np.repeat([sample.advantage for sample in samples], counts)
    return MicroBatch(
        ids=torch.from_numpy(tree.ids).long(),
        depth=torch.from_numpy(tree.depth).long(),
        parent=torch.from_numpy(tree.parent).long(),
        plan=plan(tree),
        trained=torch.from_numpy(trained).long(),
        term=torch.from_numpy(term),
        sampler_logprobs=torch.from_numpy(np.concatenate(logprobs).astype(np.float32)),
        advantages=torch.from_numpy(advantages.astype(np.float32)),
        samples=torch.tensor(numbers),
    )
