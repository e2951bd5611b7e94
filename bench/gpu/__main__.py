"""Everything that only a GPU can tell, in one command; each half takes less than four minutes.

    make gpu      or      python -m bench.gpu [--only A | B | NAMES] [--out FILE]

    A   machine, attention, flash, logprob, gradients, memory, sharding, compiled
    B   launches, attention-speed, logprob-speed, step
        engine                                                           where vLLM is installed

Each row is a number beside what is expected of it: met, missed, or unmeasured. Rows are kept in a
file of the machine and the day, those of a later call beside those of an earlier one. The command
ends with 1 where a check raised or found something wrong; a speed that was missed is not wrong.

It needs torch 2.11, Triton 3.6, transformers, accelerate, and what ``make gpu-carry`` puts into a
folder: PYTHONPATH=.carry python -m bench.gpu. On a CPU all of it runs at tiny sizes, the kernels in
Triton's interpreter; then what is right is judged, and no speed.
"""

import argparse
import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.gpu import engine, parity, report, timing, training
from bench.gpu.report import Row


@dataclass(frozen=True)
class Check:
    half: str
    rows: Callable[[], Iterator[Row]]


CHECKS = {
    "machine": Check("A", timing.machine),
    "attention": Check("A", parity.attention),
    "flash": Check("A", parity.flash),
    "logprob": Check("A", parity.logprob),
    "gradients": Check("A", training.gradients),
    "memory": Check("A", training.memory),
    "sharding": Check("A", training.sharding),
    "compiled": Check("A", timing.compiled),
    "launches": Check("B", timing.launches),
    "attention-speed": Check("B", timing.attention),
    "logprob-speed": Check("B", timing.logprob),
    "step": Check("B", timing.step),
    "engine": Check("", engine.checks),
}


def carried_out(name: str) -> Iterator[Row]:
    """A check's rows, and one more where it raises."""
    started = time.perf_counter()
    try:
        for row in CHECKS[name].rows():
            now = time.perf_counter()
            yield replace(row, name=f"{name}: {row.name}", seconds=now - started)
            started = now
    except Exception as error:
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        yield Row(name=name, error=said, seconds=time.perf_counter() - started)
    gc.collect()
    torch.cuda.empty_cache()


def chosen(only: Sequence[str]) -> list[str]:
    """The names of the checks, in their order."""
    return [name for name, check in CHECKS.items() if not only or {name, check.half} & set(only)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu")
    parser.add_argument("--only", nargs="+", default=[], choices=["A", "B", *CHECKS])
    parser.add_argument("--out", type=Path, default=report.default_path())
    options = parser.parse_args(arguments)
    print(report.heading(), flush=True)
    rows: list[Row] = []
    for name in chosen(options.only):
        for row in carried_out(name):
            rows.append(row)
            print(report.line(row), flush=True)
            # What was measured stays, however the rest of it ends.
            report.write(options.out, rows)
    print(f"{report.summary(rows)}\n{options.out}")
    sys.exit(any(row.has_failed for row in rows))


if __name__ == "__main__":
    main()
