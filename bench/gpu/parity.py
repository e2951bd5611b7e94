"""Parity of the kernels with plain code: errors against fp64, as shares of what the tests allow."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bench.gpu import DEVICE, ON_GPU
from bench.gpu.report import Row, right, speed
from bench.tree_attention import make_inputs, shares_of_rule, step
from kernels.logprob import linear_logprob, reference
from kernels.logprob.tiled import tile_shape
from kernels.tree import TokenTree, build_tree
from kernels.tree.plan import plan
from kernels.tree_attention.flash import flash_attention
from kernels.tree_attention.operators import Launch, triton_attention
from kernels.tree_attention.reference import reference as dense

# The interpreter's products of bf16 are wrong, and tiles of the table would take it minutes.
HALF = torch.bfloat16 if ON_GPU else torch.float16
LAUNCHES = None if ON_GPU else (Launch(16, 16),) * 3
ON_A_GPU = [
    *[(64, (1, 1)), (64, (14, 2)), (128, (4, 2)), (128, (12, 2))],
    *[(32, (4, 2)), (80, (4, 2)), (256, (4, 2))],
]
SHAPES = ON_A_GPU if ON_GPU else [(16, (2, 1)), (20, (1, 1))]
"""Dimensions of a head, and how many heads of queries and of keys there are."""
FLASH_SHAPES = [(64, (1, 1)), (128, (4, 2)), (64, (7, 1))]
N, C, VOCABULARIES = (1000, 1024, (151_936, 150_001)) if ON_GPU else (12, 16, (96, 101))
"""Of the head; the second number of tokens is not a multiple of 16."""


def trees() -> dict[str, TokenTree]:
    """None ends where a tile does."""
    size = 1 if ON_GPU else 20
    rng = np.random.default_rng(0)
    prompt, turns = [0] * (200 // size), (80 // size, 30 // size)
    forks = [prompt + [i] * turns[0] + [end] * turns[1] for i in range(1, 5) for end in (5, 6)]
    return {
        "chain": build_tree([list(range(1000 // size))]),
        "star": build_tree([[0, leaf] for leaf in range(1, 700 // size)]),
        "forest": build_tree([rng.integers(0, 3, n).tolist() for n in range(1, 120 // size, 2)]),
        "episodes": build_tree([*forks, [9] * (280 // size)]),
    }


@contextmanager
def new_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def largest(values: list[float]) -> float:
    """NaN, where one is."""
    return torch.tensor(values).max().item()


def attention() -> Iterator[Row]:
    """Output and three gradients; new memory is NaN, so that whatever is not written shows."""

    def attend(q: Tensor, k: Tensor, v: Tensor, tree, scale: float) -> Tensor:
        return triton_attention(q, k, v, tree, scale, LAUNCHES)

    with new_memory_is_nan():
        for dim, heads in SHAPES:
            shares = [
                share for tree in trees().values() for share in _shares(attend, tree, dim, heads)
            ]
            yield right(f"error, D={dim}, {heads[0]} heads on {heads[1]}", largest(shares), most=1)
        shares = _shares(attend, trees()["forest"], 32 if ON_GPU else 16, (2, 1), torch.float32)
        yield right("error, fp32", largest(shares), most=1)
        # The rule itself: what is right must not miss it.
        shares = _shares(dense, trees()["forest"], *SHAPES[0])
        yield right("error of torch's own attention", largest(shares), most=1)
        tree = plan(trees()["episodes"], DEVICE)
        inputs = make_inputs(len(tree), SHAPES[0][0], HALF, SHAPES[0][1])
        pairs = zip(step(attend, inputs, tree), step(attend, inputs, tree), strict=True)
        different = sum(int((a != b).sum()) for a, b in pairs)
        yield right("numbers that differ the second time", different, most=0)


def _shares(
    attend: Callable[..., Tensor],
    tree: TokenTree,
    dim: int,
    heads: tuple[int, int],
    dtype: torch.dtype = HALF,
) -> list[float]:
    return shares_of_rule(attend, make_inputs(len(tree), dim, dtype, heads), plan(tree, DEVICE))


def flash() -> Iterator[Row]:
    """Flash attention through torch: fewer queries than keys, aligned at their ends."""
    for dim, heads in FLASH_SHAPES:
        shares = None
        if ON_GPU:
            shares = [s for t in trees().values() for s in _shares(flash_attention, t, dim, heads)]
        name = f"error, D={dim}, {heads[0]} heads on {heads[1]}"
        yield speed(name, shares and largest(shares), most=1, is_needed=True)


def logprob() -> Iterator[Row]:
    """Log-probabilities and entropies from hidden states, and both gradients."""
    half, single = (HALF, nullcontext), (torch.float32, nullcontext)
    autocast = (torch.float32, partial(torch.autocast, DEVICE, torch.bfloat16))
    cases = {"16 bits": half, "fp32": single, "autocast": autocast}
    for vocabulary in VOCABULARIES:
        for name, (dtype, context) in cases.items():
            inputs = _head_inputs(vocabulary, dtype)
            with context():
                shares = _head_shares(inputs, "auto" if name == "autocast" else "triton")
            yield right(f"error, {name}, {vocabulary:,} tokens", largest(shares), most=1)
    yield speed("peak beside the gradients, in tiles", _tiles_at_peak() if ON_GPU else None, most=3)


def _head_inputs(vocabulary: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    options = {"device": DEVICE, "dtype": dtype}
    hidden = torch.randn(N, C, **options).requires_grad_()
    weight = (torch.randn(vocabulary, C, **options) / C**0.5).detach().requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (N,), device=DEVICE)


def _head_step(score: Callable, hidden: Tensor, weight: Tensor, target: Tensor) -> list[Tensor]:
    logprobs, entropies = score(hidden, weight, target, 0.7)
    weights = torch.arange(len(hidden), device=DEVICE) % 5 - 2
    loss = (weights * logprobs + weights.flip(0) * entropies).sum()
    return [logprobs.detach(), entropies.detach(), *torch.autograd.grad(loss, (hidden, weight))]


def _head_shares(inputs: tuple[Tensor, Tensor, Tensor], impl: str) -> list[float]:
    wide = [x.detach().double().requires_grad_() for x in inputs[:2]]
    with torch.autocast(DEVICE, enabled=False):
        truth = _head_step(reference, *wide, inputs[2])
    naive = _head_step(reference, *inputs)
    mine = _head_step(partial(linear_logprob, impl=impl), *inputs)
    errors = [
        [(x.double() - y).abs().max().item() for x, y in zip(found, truth, strict=True)]
        for found in (mine, naive)
    ]
    return [a / (2 * b + 1e-6) for a, b in zip(*errors, strict=True)]


def _tiles_at_peak() -> float:
    inputs = _head_inputs(VOCABULARIES[0], torch.bfloat16)
    _head_step(linear_logprob, *inputs)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    _head_step(linear_logprob, *inputs)
    gradients = sum(x.numel() * x.element_size() for x in inputs[:2])
    rows, columns = tile_shape(N, C, VOCABULARIES[0], cuda=True)
    return (torch.cuda.max_memory_allocated() - before - gradients) / (4 * rows * columns)
