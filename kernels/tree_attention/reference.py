"""Tree attention with a dense T x T mask: obviously right, on any device, in any dtype."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.tree.plan import TreePlan


def reference(q: Tensor, k: Tensor, v: Tensor, plan: TreePlan, scale: float) -> Tensor:
    """Return softmax(scale * q k^T + mask) v. Shapes as in ``tree_attention``."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # (1, H or K, T, D)
    mask = ancestor_mask(plan.end)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
    return out[0].transpose(0, 1)  # (T, H, D)


def ancestor_mask(end: Tensor) -> Tensor:
    """[T, T], True where token i (row) sees token j (column): j <= i < end[j].

    >>> ancestor_mask(torch.tensor([3, 2, 3])).int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    """
    i = torch.arange(len(end), device=end.device)
    return (i[None, :] <= i[:, None]) & (i[:, None] < end[None, :])
