"""Log-probabilities and entropies from one tile of logits at a time, forward and backward.

As in online softmax, tiles of l = hidden weight^T / temperature are folded into four numbers a
row, the state:

    largest = max_v l_v                 mass   = sum_v exp(l_v - largest)
    chosen  = l_target                  moment = sum_v exp(l_v - largest) (l_v - largest)

Then logprob = chosen - largest - log mass and entropy = log mass - mean, mean = moment / mass. With
a and b the gradients of the two and u_v = l_v - largest, the backward pass uses

    d l_v = a 1[v = target] - exp(u_v) (a + b (u_v - mean)) / mass.

log Z = largest + log mass is never formed: fp32 would round it, and every probability with it.
The vocabulary is the outer loop: a tile of the weight is cast once, and its gradient is summed in
one fp32 tile. The products' operands keep their dtype; logits and sums are fp32 (or fp64).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# A finite -inf: the first fold multiplies its distance to a logit by a mass of 0.
LOWEST = -1e30

Fold = Callable[[Tensor, Tensor, Tensor, float], None]
Differentiate = Callable[[Tensor, Tensor, Tensor, float, torch.dtype], Tensor]


class Plan(NamedTuple):
    """How one call is cut into tiles, and what works on them."""

    dtype: torch.dtype
    scale: float
    chunk: int
    vocab_chunk: int
    fold: Fold
    differentiate: Differentiate


def tile_shape(N: int, C: int, V: int, cuda: bool) -> tuple[int, int]:
    """Rows and columns of a tile of logits.

    >>> tile_shape(8192, 4096, 151_936, cuda=True), tile_shape(4000, 128, 800, cuda=False)
    ((8192, 8064), (2048, 896))
    """
    # A GPU wants few large products, with 256 MiB a tile; a CPU, what is near its caches and yet
    # worth waking its threads for.
    rows, size = (8192, 2**26) if cuda else (2048, 2**22)
    rows = max(1, min(rows, N))
    # Of a piece of the vocabulary there are its logits, and its gradient of C columns.
    pieces = max(1, -(-V // max(128, size // max(rows, C))))
    return rows, -(-V // (128 * pieces)) * 128


def fold(logits: Tensor, target: Tensor, state: Tensor, scale: float) -> None:
    """Fold a tile [n, v] of unscaled logits, which it overwrites, into state [4, n].

    target [n] counts from the tile's first column; it may lie outside the tile.
    """
    largest, mass, moment, chosen = state
    column = target.clamp(0, logits.shape[1] - 1)
    here = logits.gather(1, column[:, None])[:, 0] * scale  # (n,)
    chosen.copy_(torch.where(column == target, here, chosen))
    top = torch.maximum(largest, logits.amax(1) * scale)  # (n,)
    drop = largest - top
    shifted = torch.add(-top[:, None], logits, alpha=scale, out=logits)  # (n, v)
    weights = shifted.exp()
    moment.add_(mass * drop).mul_(drop.exp()).add_(shifted.mul_(weights).sum(1))
    mass.mul_(drop.exp()).add_(weights.sum(1))
    largest.copy_(top)


def differentiate(
    logits: Tensor, target: Tensor, table: Tensor, scale: float, dtype: torch.dtype
) -> Tensor:
    """Return the gradient of a tile of unscaled logits, which it overwrites, in ``dtype``.

    table [4, n] holds ``largest`` and what d l is made of:
    ``at_target`` 1[v = target] + exp(u_v) (``constant`` + ``slope`` u_v).
    """
    largest, at_target, constant, slope = table
    shifted = torch.add(-largest[:, None], logits, alpha=scale, out=logits)  # (n, v)
    weights = shifted.exp()
    d_logits = torch.addcmul(constant[:, None], shifted, slope[:, None], out=shifted).mul_(weights)
    column = target.clamp(0, logits.shape[1] - 1)
    at_target = torch.where(column == target, at_target, 0)
    return d_logits.scatter_add_(1, column[:, None], at_target[:, None]).to(dtype)


def _spans(total: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, total)) for start in range(0, total, step))


def _add_product(out: Tensor, a: Tensor, b: Tensor, first: bool) -> Tensor:
    """out += a b, or out = a b the first time; summed and rounded in out's dtype."""
    # The forms of addmm with out= are outside autocast, so that needs no switching off.
    beta = 0 if first else 1
    if a.dtype == out.dtype:
        return torch.addmm(out, a, b, beta=beta, out=out)
    if a.is_cuda:
        return torch.addmm(out, a, b, out_dtype=out.dtype, beta=beta, out=out)
    return torch.addmm(out, a.to(out.dtype), b.to(out.dtype), beta=beta, out=out)


def _logits(hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    out = hidden.new_empty(len(hidden), len(weight), dtype=dtype)
    return _add_product(out, hidden, weight.T, first=True)


class LinearLogprob(torch.autograd.Function):
    """(hidden, weight, target, plan) -> (logprobs, entropies)."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, target: Tensor, plan: Plan):
        operand = hidden.to(plan.dtype)
        wide = torch.promote_types(plan.dtype, torch.float32)
        state = torch.zeros(4, len(hidden), dtype=wide, device=hidden.device)
        largest, mass, moment, chosen = state
        largest.fill_(LOWEST)
        chosen.fill_(torch.nan)
        for v in _spans(len(weight), plan.vocab_chunk):
            piece = weight[v].to(plan.dtype)
            for n in _spans(len(hidden), plan.chunk):
                # Bound to no name, so that the next tile takes its memory.
                plan.fold(
                    _logits(operand[n], piece, wide), target[n] - v.start, state[:, n], plan.scale
                )
        ctx.plan = plan
        ctx.save_for_backward(hidden, weight, target, state)
        return chosen - largest - mass.log(), mass.log() - moment / mass

    @staticmethod
    @once_differentiable
    def backward(ctx, d_logprob: Tensor, d_entropy: Tensor):
        dtype, scale, chunk, vocab_chunk, _, differentiate = ctx.plan
        hidden, weight, target, state = ctx.saved_tensors
        wants_hidden, wants_weight, *_ = ctx.needs_input_grad
        wide = state.dtype
        largest, mass, moment, _ = state
        a, b = scale * d_logprob, scale * d_entropy
        table = torch.stack((largest, a, (b * moment / mass - a) / mass, -b / mass))
        operand = hidden.to(dtype)
        d_hidden = torch.empty_like(hidden, dtype=wide) if wants_hidden else None
        d_weight = torch.empty_like(weight) if wants_weight else None
        for v in _spans(len(weight), vocab_chunk):
            piece = weight[v].to(dtype)
            # Zeros, for a batch of no rows.
            d_piece = torch.zeros_like(piece, dtype=wide) if wants_weight else None
            for n in _spans(len(hidden), chunk):
                logits = _logits(operand[n], piece, wide)
                d_logits = differentiate(logits, target[n] - v.start, table[:, n], scale, dtype)
                if wants_hidden:
                    _add_product(d_hidden[n], d_logits, piece, first=v.start == 0)
                if wants_weight:
                    _add_product(d_piece, d_logits.T, operand[n], first=n.start == 0)
                # The next tile takes their memory.
                del logits, d_logits
            if wants_weight:
                d_weight[v] = d_piece
        return d_hidden.to(hidden.dtype) if wants_hidden else None, d_weight, None, None
