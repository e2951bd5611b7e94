"""Random token trees, and what attends along them."""

import numpy as np
import torch

from kernels.tree import TokenTree, build_tree


def random_tree(seed: int, sequences: int = 12, length: int = 40) -> TokenTree:
    """A forest of few token ids: several roots, forks at every depth, single tokens."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, length, rng.integers(1, sequences))
    return build_tree([rng.integers(0, 3, n).tolist() for n in lengths])


def inputs(tokens: int, heads: int, kv_heads: int, dim: int, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = [(tokens, heads, dim), (tokens, kv_heads, dim), (tokens, kv_heads, dim)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def with_gradients(attend, q, k, v, plan, scale=0.3):
    out = attend(q, k, v, plan, scale)
    torch.manual_seed(1)
    seen = torch.randn_like(out)
    return [out, *torch.autograd.grad(out, (q, k, v), seen)]


def largest_error(mine, truth) -> float:
    return max((a.double() - b).abs().max().item() for a, b in zip(mine, truth, strict=True))


def random_sequences(seed: int) -> list[list[int]]:
    """Few token ids, so that prefixes collide at every depth; duplicates and prefixes occur."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 3, rng.integers(1, 12)).tolist() for _ in range(rng.integers(1, 12))]
