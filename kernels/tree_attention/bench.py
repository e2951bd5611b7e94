"""Tree attention, forward and backward: the blocked path against the dense reference.

    make bench      or      python -m kernels.tree_attention.bench

Both sides run in turn on the same tree, and the medians are compared. A speed-up is printed only
where the two agree. The tree: 16 episodes of one prompt, each of 3 turns.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kernels.tree import build_tree
from kernels.tree_attention import blocked, reference

HEADS, KV_HEADS, DIM = 4, 2, 32
REPEATS = 20


def episodes(turn: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 1000, 200).tolist()
    return [prompt + rng.integers(0, 1000, 3 * turn).tolist() for _ in range(16)]


def step(attend: Callable, inputs: list[Tensor], end: Tensor) -> list[Tensor]:
    q, k, v = inputs
    out = attend(q, k, v, end, DIM**-0.5)
    return [out, *torch.autograd.grad(out.square().sum(), inputs)]


def main() -> None:
    torch.set_num_threads(2)
    print(
        f"{'tokens':>8} {'reference ms':>13} {'blocked ms':>11} {'speed-up':>9}  largest difference"
    )
    for turn in (10, 30, 60):
        end = torch.from_numpy(build_tree(episodes(turn)).end)
        shapes = [(len(end), heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS)]
        inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
        pairs = zip(step(reference, inputs, end), step(blocked, inputs, end), strict=True)
        difference = max(((a - b).abs().max() / a.abs().max()).item() for a, b in pairs)
        seconds: dict[Callable, list[float]] = {reference: [], blocked: []}
        for _ in range(REPEATS):
            for attend, times in seconds.items():
                started = time.perf_counter()
                step(attend, inputs, end)
                times.append(time.perf_counter() - started)
        slow, fast = (1e3 * statistics.median(times) for times in seconds.values())
        ratio = f"{slow / fast:8.2f}x" if difference < 1e-5 else "no parity"
        print(f"{len(end):>8} {slow:>13.1f} {fast:>11.1f} {ratio:>9}  {difference:.1e}")


if __name__ == "__main__":
    main()
