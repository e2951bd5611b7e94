"""Log-probabilities, forward and backward: our tiles against other ways to the same gradient.

    python -m bench.logprob

All take turns on the same tensors, and medians are compared; on a GPU the peak of memory, inputs
included, is beside them. The loss weighs log-probabilities only: Liger has no entropy. A speed-up
over naive is printed only where log-probabilities and gradients of the first 256 rows are as near
to fp64 as twice naive's. The GEMMs alone are the three that no way can do without.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kernels.logprob import linear_logprob, reference

try:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
except ImportError:
    LigerFusedLinearCrossEntropyLoss = None

CUDA = torch.cuda.is_available()
N, C, V, DTYPE = (8192, 4096, 151_936, torch.bfloat16) if CUDA else (4000, 128, 800, torch.float32)
REPEATS = 10


def naive(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return reference(hidden, weight, target, 1.0)[0]


def checkpointed(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    pieces = zip(hidden.split(1024), target.split(1024), strict=True)
    return torch.cat([checkpoint(naive, h, weight, t, use_reentrant=False) for h, t in pieces])


def ours(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return linear_logprob(hidden, weight, target)[0]


def liger(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return -LigerFusedLinearCrossEntropyLoss(reduction="sum")(weight, hidden, target)


def step(score: Callable, hidden: Tensor, weight: Tensor, target: Tensor) -> list[Tensor]:
    logprobs = score(hidden, weight, target)
    return [logprobs.detach(), *torch.autograd.grad(logprobs.sum(), (hidden, weight))]


@torch.no_grad()
def gemms(hidden: Tensor, weight: Tensor, target: Tensor) -> None:
    logits = hidden @ weight.T
    logits @ weight, logits.T @ hidden


def parity(score: Callable, hidden: Tensor, weight: Tensor, target: Tensor) -> bool:
    few = [hidden[:256].detach().requires_grad_(), weight, target[:256]]
    wide = [x.detach().double().requires_grad_() for x in few[:2]]
    exact = step(naive, *wide, few[2])

    def errors(way: Callable) -> list[float]:
        results = zip(step(way, *few), exact, strict=True)
        return [(x.double() - y).abs().max().item() for x, y in results]

    rule = [x <= 2 * y + 1e-6 for x, y in zip(errors(score), errors(naive), strict=True)]
    # Of the log-probabilities Liger has only the sum.
    return all(rule[1:] if score is liger else rule)


def measure(run: Callable) -> tuple[float, float]:
    """Milliseconds, and GiB at the peak."""
    if not CUDA:
        started = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - started), float("nan")
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - started), torch.cuda.max_memory_allocated() / 2**30


def make_inputs(n: int = N) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, the weight and targets."""
    torch.manual_seed(0)
    options = {"device": "cuda" if CUDA else "cpu", "dtype": DTYPE}
    hidden = torch.randn(n, C, **options).requires_grad_()
    weight = (torch.randn(V, C, **options) / C**0.5).requires_grad_()
    return hidden, weight, torch.randint(V, (n,), device=options["device"])


def medians(ways: Sequence[Callable], inputs: Sequence[Tensor], repeats: int) -> dict[str, list]:
    """Of the ways and of the GEMMs alone, in turn: milliseconds, and GiB at the peak."""
    runs = {way.__name__: lambda way=way: step(way, *inputs) for way in ways}
    runs["gemms"] = lambda: gemms(*inputs)
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(2 + repeats):
        for name, run in runs.items():
            measured[name].append(measure(run))
    # The first two rounds warm up.
    return {
        name: [statistics.median(x) for x in zip(*rounds[2:], strict=True)]
        for name, rounds in measured.items()
    }


def main() -> None:
    torch.set_num_threads(2)
    inputs = make_inputs()
    ways = [naive, checkpointed, ours] + [liger] * (LigerFusedLinearCrossEntropyLoss is not None)
    agree = {way.__name__: parity(way, *inputs) for way in ways}
    taken = medians(ways, inputs, REPEATS)
    print(f"N={N} C={C} V={V} {DTYPE}\n{'':>14} {'ms':>8} {'GiB':>6} {'speed-up':>9}")
    for name, (ms, gib) in taken.items():
        ratio = f"{taken['naive'][0] / ms:8.2f}x" if agree.get(name) else "no parity"
        print(f"{name:>14} {ms:8.1f} {gib:6.1f} {ratio if name in agree else '':>9}")
    if LigerFusedLinearCrossEntropyLoss is None:
        print(f"{'liger':>14} not installed")


if __name__ == "__main__":
    main()
