"""Tree attention in Triton as torch's operators: launches, forward and backward; see ``kernel``."""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from kernels.tree.plan import TreePlan
from kernels.tree_attention.kernel import attend_kernel, grad_key_kernel, grad_query_kernel

LOG2E = 1.4426950408889634


class Launch(NamedTuple):
    """Queries and keys of one tile, warps of one program, stages of its loads."""

    size_q: int
    size_k: int
    num_warps: int = 4
    num_stages: int = 1


Launches = tuple[Launch, Launch, Launch]
"""Of the forward pass, of the gradient of q, and of those of k and v."""


# By the bytes of a number, and by the dimensions of a head, up to and including. At 2 bytes the
# fastest of five to eleven on an H200 with Triton 3.6 at 16k tokens, and up to 128 dimensions at
# 64k; for dK and dV those of like speed that spill the least under Triton 3.7, nothing up to 128.
# At 4 bytes, where all is fp32 arithmetic, of two; 32 and 256 dimensions are not timed.
LAUNCHES: dict[int, dict[int, Launches]] = {
    2: {
        64: (Launch(128, 64, 4, 3), Launch(64, 64, 4, 2), Launch(64, 64, 4, 1)),
        128: (Launch(128, 128, 8, 2), Launch(128, 64, 8, 3), Launch(32, 64, 4, 3)),
        256: (Launch(128, 64, 8, 2), Launch(64, 64, 8, 2), Launch(32, 64, 8, 2)),
    },
    4: {
        32: (Launch(128, 64, 4, 3), Launch(64, 128, 8, 2), Launch(64, 128, 8, 2)),
        64: (Launch(128, 64, 8, 3), Launch(32, 32, 4, 2), Launch(32, 32, 4, 2)),
        128: (Launch(32, 32, 4, 2), Launch(32, 32, 4, 2), Launch(32, 32, 4, 2)),
        256: (Launch(32, 32, 8, 1), Launch(32, 32, 8, 1), Launch(32, 32, 8, 1)),
    },
}


def triton_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: TreePlan,
    scale: float,
    launches: Launches | None = None,
) -> Tensor:
    """Return what ``reference`` returns for the plan's tree. Shapes as in ``tree_attention``.

    ``launches`` replaces those of the table. In a compiled graph the plan must have been through
    ``prepare``. Raises ValueError for a dtype other than fp16, bf16 and fp32, and for more than 256
    head dimensions.
    """
    dim = q.shape[2]
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32) or dim > 256:
        raise ValueError(f"{q.dtype} x {dim}: use fp16, bf16 or fp32, and up to 256 dimensions")
    forward, by_query, by_key = launches or _launches(dim, q.dtype)
    forward_tiles = _query_lists(plan, forward)
    backward_tiles = _query_lists(plan, by_query) + _key_ranges(plan, by_key)
    backward = [*by_query, *by_key]
    out, _ = tree_attention(
        q, k, v, plan.end, forward_tiles, backward_tiles, list(forward), backward, scale
    )
    return out


def prepare(plan: TreePlan, dim: int, dtype: torch.dtype) -> None:
    """Make the plan's tiles for heads of this kind: a compiled graph reads them but makes none."""
    for launch in _launches(dim, dtype):
        plan.blocks(launch.size_q, launch.size_k)


def _launches(dim: int, dtype: torch.dtype) -> Launches:
    of_dims = LAUNCHES[dtype.itemsize]
    return next(launches for limit, launches in of_dims.items() if dim <= limit)


def _query_lists(plan: TreePlan, launch: Launch) -> list[Tensor]:
    blocks = plan.blocks(launch.size_q, launch.size_k)
    return [blocks.key_block, blocks.list_start, blocks.list_mixed, blocks.query_order]


def _key_ranges(plan: TreePlan, launch: Launch) -> list[Tensor]:
    blocks = plan.blocks(launch.size_q, launch.size_k)
    return [blocks.first, blocks.full_first, blocks.full_stop, blocks.stop, blocks.key_order]


@torch.library.custom_op("agentrl::tree_attention", mutates_args=())
def tree_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    end: Tensor,
    forward_tiles: list[Tensor],
    backward_tiles: list[Tensor],
    forward: list[int],
    backward: list[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The output [T, H, D], and the base-2 logarithm of each softmax's sum, fp32 [H, T]."""
    q, k, v = (_with_whole_rows(x) for x in (q, k, v))
    tokens, heads, _ = q.shape
    out, lse = q.new_empty(q.shape), q.new_empty((heads, tokens), dtype=torch.float32)
    launch = Launch(*forward)
    grid = (triton.cdiv(tokens, launch.size_q), heads)
    attend_kernel[grid](
        q, k, v, end, out, lse, *forward_tiles, *_strides(q, k, v), tokens, scale * LOG2E,
        **_constants(q, k, launch),
    )  # fmt: skip
    return out, lse


@tree_attention.register_fake
def _(q, k, v, end, forward_tiles, backward_tiles, forward, backward, scale):
    tokens, heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty((heads, tokens), dtype=torch.float32)


@torch.library.custom_op("agentrl::tree_attention_backward", mutates_args=())
def tree_attention_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    end: Tensor,
    tiles: list[Tensor],
    launch: list[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v; ``launch`` holds that of dQ, then that of dK and dV."""
    q, k, v = (_with_whole_rows(x) for x in (q, k, v))
    grad_out, out = grad_out.contiguous(), out.contiguous()
    (tokens, heads, _), kv_heads = q.shape, k.shape[1]
    # One program to a query head: a prompt's blocks, which all later queries see, are too few to
    # keep a GPU busy otherwise. What the heads of a group give is then summed, in a fixed order.
    is_grouped = heads > kv_heads
    grad_q = q.new_empty(q.shape)
    of_head = torch.float32 if is_grouped else k.dtype
    grad_k, grad_v = (q.new_empty(q.shape, dtype=of_head) for _ in range(2))
    # out * grad_out summed over D, what the softmax's gradient takes off each row; found with dQ.
    delta = torch.empty_like(lse)
    by_query, by_key = Launch(*launch[:4]), Launch(*launch[4:])
    query_lists, key_ranges = tiles[:4], tiles[4:]
    grad_query_kernel[triton.cdiv(tokens, by_query.size_q), heads](
        q, k, v, end, out, grad_out, lse, delta, grad_q, *query_lists,
        *_strides(q, k, v), tokens, scale, scale * LOG2E, **_constants(q, k, by_query),
    )  # fmt: skip
    grad_key_kernel[triton.cdiv(tokens, by_key.size_k), heads](
        q, k, v, end, grad_out, lse, delta, grad_k, grad_v, *key_ranges,
        *_strides(q, k, v), tokens, scale, scale * LOG2E, **_constants(q, k, by_key),
    )  # fmt: skip
    if is_grouped:
        grad_k, grad_v = (
            x.unflatten(1, (kv_heads, -1)).sum(2).to(k.dtype) for x in (grad_k, grad_v)
        )
    return grad_q, grad_k, grad_v


@tree_attention_backward.register_fake
def _(grad_out, q, k, v, out, lse, end, tiles, launch, scale):
    return tuple(x.new_empty(x.shape) for x in (q, k, v))


def _save(ctx, inputs, output) -> None:
    q, k, v, end, forward_tiles, backward_tiles, _, backward, scale = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(q, k, v, out, lse, end, *backward_tiles)
    ctx.launch, ctx.scale, ctx.num_forward_tiles = backward, scale, len(forward_tiles)


def _backward(ctx, grad_out, _):
    q, k, v, out, lse, end, *tiles = ctx.saved_tensors
    grads = tree_attention_backward(grad_out, q, k, v, out, lse, end, tiles, ctx.launch, ctx.scale)
    none = ([None] * ctx.num_forward_tiles, [None] * len(tiles))
    return (*grads, None, *none, None, None, None)


tree_attention.register_autograd(_backward, setup_context=_save)


def _with_whole_rows(x: Tensor) -> Tensor:
    """The kernels take any strides but the last, which is 1."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for x in tensors for stride in x.stride()[:2]]


def _constants(q: Tensor, k: Tensor, launch: Launch) -> dict[str, int]:
    heads, dim = q.shape[1:]
    return {
        "G": heads // k.shape[1],
        "D": dim,
        "BD": max(16, triton.next_power_of_2(dim)),
        "BM": launch.size_q,
        "BN": launch.size_k,
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
    }
