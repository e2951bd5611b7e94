"""Tree attention as a few batches of ordinary attention, in plain PyTorch: the path for CPUs.

A tree is cut into segments, each a row of queries that see what is above them and, causally, each
other. Segments of like sizes share one call of ``scaled_dot_product_attention``, with keys and
values gathered along their root paths. The work is that of the pairs that see each other, not of
T x T.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.tree.plan import Chain, TreePlan

PIECE = 128
"""Longest masked segment: half of its own square is computed in vain."""
PADDING = 1.2
"""How much larger than its parts a batch may be."""


@dataclass(frozen=True)
class Segment:
    """The queries of ``run``, or of its whole root path where those above are computed again."""

    run: Chain
    is_row: bool

    @property
    def keys(self) -> int:
        return sum(stop - start for start, stop in self.run.above) + self.queries_kept

    @property
    def queries_kept(self) -> int:
        return self.run.stop - self.run.start

    @property
    def queries(self) -> int:
        return self.keys if self.is_row else self.queries_kept


@dataclass(frozen=True, eq=False)
class SegmentBatch:
    """Segments in one call: B of up to L queries and S keys. Padding repeats the first token."""

    query: Tensor
    """[B, L] tree positions."""
    key: Tensor
    """[B, S] tree positions."""
    mask: Tensor | None
    """[B, 1, L, S] to be added to the scores; None: causal."""


@dataclass(frozen=True, eq=False)
class Batches:
    """All segments of a tree, and where their outputs go."""

    batches: list[SegmentBatch]
    place: Tensor
    """[T] where the token's output stands in those of all batches, one after the other."""


def segments(q: Tensor, k: Tensor, v: Tensor, plan: TreePlan, scale: float) -> Tensor:
    """Return what ``reference`` returns. Shapes as in ``tree_attention``."""
    if len(plan.runs) == 1:
        return _attend(q[None], k[None], v[None], None, scale)[0]
    made = plan.once(("segments", q.dtype), partial(_batches, plan, q.dtype))
    outs = [
        _attend(
            _Rows.apply(q, batch.query),
            _Rows.apply(k, batch.key),
            _Rows.apply(v, batch.key),
            batch.mask,
            scale,
        ).flatten(0, 1)
        for batch in made.batches
    ]
    return _Rows.apply(torch.cat(outs), made.place)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """[B, L, H, D] and [B, S, K, D] -> [B, L, H, D]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
    ).transpose(1, 2)


class _Rows(torch.autograd.Function):
    """``x[index]`` by way of what is quick on a CPU, in both directions."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = x.shape
        return F.embedding(index, x.reshape(len(x), -1)).view(*index.shape, *x.shape[1:])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        rows = grad.reshape(index.numel(), -1)
        total = rows.new_zeros(ctx.shape[0], rows.shape[1])
        total.scatter_add_(0, index.reshape(-1, 1).expand_as(rows), rows)
        return total.view(ctx.shape), None


def _batches(plan: TreePlan, dtype: torch.dtype) -> Batches:
    groups = list(_alike(_segments(plan.runs)))
    place, offset = np.empty(len(plan), np.int64), 0
    batches = []
    for group in groups:
        longest = max(segment.queries for segment in group)
        for b, segment in enumerate(group):
            stop = offset + b * longest + segment.queries
            kept = segment.queries_kept
            place[segment.run.start : segment.run.stop] = np.arange(stop - kept, stop)
        offset += len(group) * longest
        batches.append(_batch(group, longest, dtype, plan.device))
    return Batches(batches, torch.from_numpy(place).to(plan.device))


def _segments(runs: Sequence[Chain]) -> Iterator[Segment]:
    for run in runs:
        length, above = run.stop - run.start, sum(b - a for a, b in run.above)
        # Pairs computed: half the square of the whole path, or oblongs of short pieces.
        if (above + length) ** 2 / 2 <= length * (above + (length + min(length, PIECE)) / 2):
            yield Segment(run, is_row=True)
            continue
        for start in range(run.start, run.stop, PIECE):
            piece_above = (*run.above, (run.start, start)) if start > run.start else run.above
            yield Segment(Chain(start, min(start + PIECE, run.stop), piece_above), is_row=False)


def _alike(every: Iterator[Segment]) -> Iterator[list[Segment]]:
    """Groups of segments of one kind that waste little when they are padded to the largest."""
    group: list[Segment] = []
    area = 0
    for segment in sorted(every, key=lambda s: (s.is_row, s.keys, s.queries)):
        new = [*group, segment]
        padded = len(new) * max(s.queries for s in new) * segment.keys
        area_of_it = segment.queries * segment.keys
        if group and (group[0].is_row != segment.is_row or padded > PADDING * (area + area_of_it)):
            yield group
            new, area = [segment], 0
        group, area = new, area + area_of_it
    yield group


def _batch(
    group: list[Segment], longest: int, dtype: torch.dtype, device: torch.device
) -> SegmentBatch:
    widest = max(segment.keys for segment in group)
    query, key = np.zeros((len(group), longest), np.int64), np.zeros((len(group), widest), np.int64)
    for b, segment in enumerate(group):
        stretches = (*segment.run.above, (segment.run.start, segment.run.stop))
        path = np.concatenate([np.arange(start, stop) for start, stop in stretches])
        key[b, : len(path)] = path
        query[b, : segment.queries] = path[len(path) - segment.queries :]
    tensors = [torch.from_numpy(array).to(device) for array in (query, key)]
    if group[0].is_row:
        return SegmentBatch(*tensors, None)
    above = torch.tensor([segment.keys - segment.queries for segment in group], device=device)
    last_seen = above[:, None] + torch.arange(longest, device=device)  # (B, L)
    unseen = torch.arange(widest, device=device) > last_seen[:, :, None]  # (B, L, S)
    mask = torch.zeros(unseen.shape, dtype=dtype, device=device).masked_fill_(unseen, -torch.inf)
    return SegmentBatch(*tensors, mask[:, None])


__all__ = ["segments"]
