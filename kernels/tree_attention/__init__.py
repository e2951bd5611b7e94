"""Attention over a token tree: every token sees itself and its ancestors."""

from torch import Tensor

from kernels.tree_attention.blocked import blocked
from kernels.tree_attention.reference import reference


def tree_attention(q: Tensor, k: Tensor, v: Tensor, end: Tensor, scale: float) -> Tensor:
    """Attend from each token to its root path.

    q [T, H, D]; k, v [T, K, D] with H a multiple of K (grouped queries); end [T] as in
    ``kernels.tree``. Returns [T, H, D]. Raises ValueError when the shapes do not belong together.
    """
    tokens, heads, dim = q.shape
    if k.shape != v.shape or k.shape[0] != tokens or k.shape[2] != dim or heads % k.shape[1]:
        raise ValueError(f"q {tuple(q.shape)} does not fit k {tuple(k.shape)}, v {tuple(v.shape)}")
    if end.shape != (tokens,):
        raise ValueError(f"end {tuple(end.shape)} belongs to another tree than q {tuple(q.shape)}")
    return blocked(q, k, v, end, scale)


__all__ = ["blocked", "reference", "tree_attention"]
