"""Timing of a training step's forward and backward pass on one batch of calls.

    python -m bench.step                          a tiny model, six workloads
    python -m bench.step --shape qwen3-0.6b --dtype bfloat16 --copies 2 --budgets 16384
                                                     its shape, random weights, 16k tokens, on GPU

    A  one row per model call       B  one row per chain of growing calls       C  the token tree

A and B run in their best packing and micro-batch size, C in its best micro-batch size; which these
are is tried first. Then the three take turns. ``due`` is the ratio that counted operations predict.
Peak memory is that of one step in a process of its own, in C's micro-batch size for all three. A
ratio is printed only where the gradients agree. The optimizer's step, the same in all, is left out.
"""

import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.step import workloads
from bench.step.layouts import (
    Options,
    Way,
    gradients,
    largest_difference,
    make_model,
    make_step,
    operations,
    peak_mib,
    seconds,
    ways,
)


def fastest(
    side: str, make: Callable[[Way], Callable[[], int]], options: Options, device: torch.device
) -> Way:
    tried = {}
    for way in ways(side, options.budgets):
        step = make(way)
        step()
        tried[way] = seconds(step, device)
    return min(tried, key=tried.get)


def measure(name: str, options: Options, console: Console) -> list[list[str]]:
    """A workload's rows of the table."""
    episodes, model = workloads.make(name, options.copies), make_model(options)
    lm, _, device = model
    make = partial(make_step, episodes=episodes, options=options, model=model)
    chosen = [fastest(side, make, options, device) for side in "ABC"]
    steps = [make(way) for way in chosen]
    exact = gradients(steps[0], lm)
    differences = [largest_difference(gradients(step, lm), exact) for step in steps]
    taken: list[list[float]] = [[], [], []]
    for _ in track(range(options.repeats), name, console=console, transient=True):
        for step, times in zip(steps, taken, strict=True):
            lm.zero_grad()
            times.append(seconds(step, device))
    needed = [operations(way, episodes, lm) for way in chosen]
    limit = 1e-4 if options.dtype == "float32" else 5e-2
    table = []
    for i, way in enumerate(chosen):
        ratio = statistics.median(a / c for a, c in zip(taken[i], taken[2], strict=True))
        due, median = needed[i][0] / needed[2][0], statistics.median(taken[i])
        agrees = differences[i] < limit and differences[2] < limit
        table.append(
            [
                f"{name}: {way.side}" if i == 0 else way.side,
                str(way),
                f"{median:.3f}",
                f"{steps[i]():,}",
                f"{peak_mib(name, replace(way, budget=chosen[2].budget), options):,.0f}",
                f"{differences[i]:.0e}",
                f"{ratio:.2f}" if agrees else "no parity",
                f"{due:.2f}",
                f"{ratio / due:.2f}" if agrees else "",
                f"{needed[0][1] / median:,.0f}",
                f"{needed[i][0] / median / 1e12:.3g}",
            ]
        )
    return table


def main(options: Options) -> None:
    torch.set_num_threads(2)
    console = Console(file=sys.stderr)
    table = Table(title=f"{options.shape}, {options.dtype}, medians of {options.repeats}")
    for heading in (
        *("workload", "layout", "s", "tokens", "MiB", "grad diff"),
        *("time / C's", "due", "share of due", "logical tokens/s", "TFLOP/s"),
    ):
        table.add_column(heading, justify="left" if heading == "workload" else "right")
    for name in options.workloads:
        for row in measure(name, options, console):
            table.add_row(*row)
            print("  ".join(row), file=sys.stderr, flush=True)
        table.add_section()
    Console(width=150).print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
