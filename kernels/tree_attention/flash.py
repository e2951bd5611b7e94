"""Tree attention by flash attention's own kernels: one call over sequences of different lengths.

A sequence is a run of the tree. Its queries are the run itself; its keys and values are gathered
along its root path: what is above it, then the run. Shared prefixes are read once for each run
below them, where ``kernel.py`` reads them in place.
"""

import inspect
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kernels.tree.plan import TreePlan

try:
    from flash_attn import flash_attn_varlen_func
except ImportError:
    flash_attn_varlen_func = None


class Gather(NamedTuple):
    """Where each run's keys lie in the tree, and how long the sequences are."""

    index: Tensor
    """int64: the tokens of all root paths, one run's after the other's."""
    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    """int32 [R + 1]"""
    max_q: int
    max_k: int


def flash_attention(q: Tensor, k: Tensor, v: Tensor, plan: TreePlan, scale: float) -> Tensor:
    """Return what ``reference`` returns for the plan's tree. Shapes as in ``tree_attention``.

    On a GPU gradients are summed in no fixed order, but for where torch is told to use
    deterministic algorithms.
    """
    g = gathered(plan)
    k, v = _GatherRows.apply(k, g.index), _GatherRows.apply(v, g.index)
    return _varlen(q, k, v, g.cu_seqlens_q, g.cu_seqlens_k, g.max_q, g.max_k, scale)


def gathered(plan: TreePlan) -> Gather:
    return plan.once("flash", lambda: _gather(plan))


class _GatherRows(torch.autograd.Function):
    """``index_select`` along the first axis, whose gradient is summed in fp32: in bf16 a prompt's
    keys, which are in many runs' paths, would lose a bit with each of them."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = x.shape
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        wide = torch.promote_types(grad.dtype, torch.float32)
        total = grad.new_zeros(ctx.shape, dtype=wide)
        return total.index_add_(0, index, grad.to(wide)).to(grad.dtype), None


def _varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    scale: float,
) -> Tensor:
    """Causal attention within each sequence, its last query at its last key."""
    lengths = (cu_q, cu_k, max_q, max_k)
    if flash_attn_varlen_func is not None:
        # torch's own looks for itself.
        repeats = torch.are_deterministic_algorithms_enabled()
        options = {"softmax_scale": scale, "causal": True, "deterministic": repeats}
        return flash_attn_varlen_func(q, k, v, *lengths, **options)
    from torch.nn.attention.varlen import varlen_attn

    # torch 2.11 groups heads without being told to.
    can_be_told = "enable_gqa" in inspect.signature(varlen_attn).parameters
    options = {"enable_gqa": True} if can_be_told else {}
    # A window that ends at the query itself: torch's name for causal, aligned at the ends.
    return varlen_attn(q, k, v, *lengths, scale=scale, window_size=(-1, 0), **options)


def _gather(plan: TreePlan) -> Gather:
    runs = plan.runs
    stretches = np.array([s for run in runs for s in (*run.above, (run.start, run.stop))])
    lengths_q = np.array([run.stop - run.start for run in runs])
    above = np.array([sum(stop - start for start, stop in run.above) for run in runs])
    lengths_k = above + lengths_q

    def on_device(array: np.ndarray, dtype: type) -> Tensor:
        return torch.from_numpy(array.astype(dtype)).to(plan.device)

    return Gather(
        on_device(_tokens_of(stretches), np.int64),
        on_device(_starts(lengths_q), np.int32),
        on_device(_starts(lengths_k), np.int32),
        int(lengths_q.max()),
        int(lengths_k.max()),
    )


def _tokens_of(stretches: np.ndarray) -> np.ndarray:
    """The numbers in all stretches, one after the other.

    >>> _tokens_of(np.array([[0, 2], [5, 8]])).tolist()
    [0, 1, 5, 6, 7]
    """
    starts, stops = stretches.T
    cu_lengths = _starts(stops - starts)
    return np.arange(cu_lengths[-1]) + np.repeat(starts - cu_lengths[:-1], stops - starts)


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], lengths.cumsum()])
