"""Tree attention with a dense T x T mask: obviously right, on any device, in any dtype."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.tree.plan import TreePlan


def reference(q: Tensor, k: Tensor, v: Tensor, plan: TreePlan, scale: float) -> Tensor:
    """Return softmax(scale * q k^T + mask) v. Shapes as in ``tree_attention``."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # (1, H or K, T, D)
    mask = ancestor_mask(plan.end)
    # Of a GPU's kernels only this one takes tensors of any strides.
    with sdpa_kernel(SDPBackend.MATH) if q.is_cuda else nullcontext():
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
    return out[0].transpose(0, 1)  # (T, H, D)


def spelled_out(q: Tensor, k: Tensor, v: Tensor, plan: TreePlan, scale: float) -> Tensor:
    """The same, each step in the inputs' dtype: the error that whoever writes it down must expect.

    What ``reference`` errs depends on which of its kernels torch chooses.
    """
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))  # (T, H, D)
    scores = torch.einsum("ihd,jhd->hij", q, k) * scale
    scores = scores.masked_fill(~ancestor_mask(plan.end), float("-inf"))
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1), v)


def ancestor_mask(end: Tensor) -> Tensor:
    """[T, T], True where token i (row) sees token j (column): j <= i < end[j].

    >>> ancestor_mask(torch.tensor([3, 2, 3])).int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    """
    i = torch.arange(len(end), device=end.device)
    return (i[None, :] <= i[:, None]) & (i[:, None] < end[None, :])
