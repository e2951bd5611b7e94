"""Attention over a token tree: every token sees itself and its ancestors."""

import os
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from kernels.tree.plan import TreePlan
from kernels.tree_attention.reference import reference
from kernels.tree_attention.segments import segments

Implementation = Literal["reference", "triton", "flash", "segments"]


def tree_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: TreePlan,
    scale: float | None = None,
    impl: Literal["auto"] | Implementation = "auto",
) -> Tensor:
    """Attend from each token to its root path.

    q [T, H, D]; k, v [T, K, D] with H a multiple of K (grouped queries); plan of the tree that the
    T tokens are; scale: D ** -0.5 where none is given. Returns [T, H, D]. Raises ValueError where
    the inputs do not belong together.
    """
    _check(q, k, v, plan)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _function(choose(impl, q.device, q.dtype))(q, k, v, plan, scale)


def choose(impl: str, device: torch.device, dtype: torch.dtype) -> Implementation:
    """What ``auto`` means on a device: segments on a CPU, triton on a GPU.

    Raises ValueError for what is none of them, or cannot run there.
    """
    if impl == "auto":
        return "segments" if device.type == "cpu" else "triton"
    if impl not in get_args(Implementation):
        raise ValueError(
            f"attention {impl!r} is none of auto, {', '.join(get_args(Implementation))}"
        )
    # Its interpreter runs on a CPU, at a speed for tests.
    is_interpreted = impl == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    if impl in ("triton", "flash") and device.type == "cpu" and not is_interpreted:
        raise ValueError(f"attention {impl!r} needs a GPU: use segments on a CPU, or auto")
    if impl == "flash" and dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"attention 'flash' computes in float16 or bfloat16, not in {dtype}: use triton, or "
            "--model.dtype bfloat16"
        )
    return impl


def prepare(plan: TreePlan, impl: Implementation, dim: int, dtype: torch.dtype) -> None:
    """Make what an implementation reads of a plan for heads of this kind, so that the plan takes it
    along to a device, and a compiled graph finds it."""
    if impl == "triton":
        from kernels.tree_attention.operators import prepare as make_tiles

        make_tiles(plan, dim, dtype)
    elif impl == "flash":
        from kernels.tree_attention.flash import gathered

        gathered(plan)


def _function(impl: str) -> Callable[..., Tensor]:
    if impl == "triton":
        from kernels.tree_attention.operators import triton_attention

        return triton_attention
    if impl == "flash":
        from kernels.tree_attention.flash import flash_attention

        return flash_attention
    return {"reference": reference, "segments": segments}[impl]


def _check(q: Tensor, k: Tensor, v: Tensor, plan: TreePlan) -> None:
    axes = [q.ndim, k.ndim, v.ndim] == [3, 3, 3] and q.shape[::2] == k.shape[::2]
    if not axes or k.shape != v.shape or q.shape[1] % k.shape[1] or len(q) != len(plan):
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(
            f"q, k and v of {shapes} and a plan of {len(plan)} tokens do not belong together: "
            "the axes are [T, heads, D]"
        )
    for what, values in {
        "dtype": [x.dtype for x in (q, k, v)],
        "device": [x.device for x in (q, k, v, plan)],
    }.items():
        if len(set(values)) > 1:
            named = ", ".join(map(str, values))
            raise ValueError(f"q, k, v and the plan must have one {what}, not {named}")


__all__ = ["Implementation", "choose", "prepare", "reference", "segments", "tree_attention"]
