"""Tree attention one block of queries at a time, each against the keys that it can see.

Episodes that fork off a prompt do not see each other, so a block's keys are few: its root paths and
itself. The work grows with those, not with T x T. Plain PyTorch: the everyday path on a CPU.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def blocked(q: Tensor, k: Tensor, v: Tensor, end: Tensor, scale: float, block: int = 128) -> Tensor:
    """Return what ``reference`` returns. Shapes as in ``tree_attention``."""
    return torch.cat(
        [_attend_block(q, k, v, end, scale, i, i + block) for i in range(0, len(q), block)]
    )


def _attend_block(
    q: Tensor, k: Tensor, v: Tensor, end: Tensor, scale: float, start: int, stop: int
) -> Tensor:
    i = torch.arange(len(q), device=q.device)[start:stop, None]
    # j < stop and end[j] > start: some token of the block sees it.
    j = (end[:stop] > start).nonzero()[:, 0]
    mask = (j[None, :] <= i) & (i < end[j][None, :])
    q, k, v = (x.transpose(0, 1)[None] for x in (q[start:stop], k[j], v[j]))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
    return out[0].transpose(0, 1)
