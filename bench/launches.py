"""Registers and spilled bytes of every launch of the tables, compiled for sm_90 without a GPU.

    python -m bench.launches --dtypes bfloat16 --dims 64 80 128
    python -m bench.launches --sweep grad_key_kernel       others, at 256 dimensions

The kernels are called as they are in training, on a CPU, but Triton's driver is one that names a
Hopper GPU, and what would be launched is compiled. The compiler is the wheel's own: say its version
with every figure. ``wgmma`` counts Hopper's matrix instructions; where there is none, products are
the older ``mma.sync``.
"""

import os

if __name__ == "__main__":
    # Interpreted kernels are not compiled.
    os.environ.pop("TRITON_INTERPRET", None)

import argparse
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from kernels.logprob import kernel as head
from kernels.tree import build_tree
from kernels.tree.plan import plan
from kernels.tree_attention import operators as attention
from kernels.tree_attention.operators import Launch, Launches

TARGET = GPUTarget("cuda", 90, 32)
DIMS = {"bfloat16": (32, 64, 80, 128, 256), "float32": (32, 64, 128, 256)}
PASSES = {"attend_kernel": "forward", "grad_query_kernel": "dQ", "grad_key_kernel": "dK, dV"}
SWEEP = {
    "grad_query_kernel": [Launch(64, k, 8, 2) for k in (16, 32, 64)],
    "grad_key_kernel": [Launch(q, 64, 8, s) for q in (16, 32, 64) for s in (1, 2)],
}
"""At 256 dimensions; with fewer rows, ``wgmma`` has no product."""
HEADS, KV_HEADS, TOKENS = 16, 8, 256
COLUMNS = {
    **{"kernel": 14, "dtype": 10, "D": 5, "launch": 18, "registers": 11, "spilled": 9},
    **{"shared": 9, "wgmma": 7, "seconds": 9},
}


class Hopper:
    """Triton's driver, as far as compiling asks it: it names a GPU that is not there."""

    def get_current_target(self) -> GPUTarget:
        return TARGET

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiled:
    """A kernel that is compiled where it would be launched."""

    def __init__(self, kernel: triton.JITFunction, found: list[dict]):
        self.kernel, self.found = kernel, found

    def __getitem__(self, grid: tuple) -> Any:
        return partial(self._compile, grid)

    def _compile(self, grid: tuple, *arguments: Any, **constants: Any) -> None:
        started = time.perf_counter()
        made = self.kernel.warmup(*arguments, grid=grid, **constants)
        seconds = time.perf_counter() - started
        shared, wgmma = made.metadata.shared, made.asm["ptx"].count("wgmma.mma_async")
        resources = {**registers(made.asm["cubin"]), "shared": shared, "wgmma": wgmma}
        named = {"kernel": made.metadata.name, "seconds": round(seconds, 1)}
        self.found.append(named | resources)


def registers(cubin: bytes) -> dict[str, int]:
    """Of a thread, and its stack: these kernels have nothing on it but what was spilled."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (used,), (stack,) = (re.findall(rf"{what}:(\d+)", said) for what in ("REG", "STACK"))
    return {"registers": int(used), "spilled": int(stack)}


@contextmanager
def compiling(module: Any, names: Iterable[str], what: Collection[str]) -> Iterator[list[dict]]:
    """What comes of each launch of these kernels, of those in ``what``; nothing is launched."""
    found: list[dict] = []
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        # Triton keeps what it has compiled; a figure is to be of this compiler.
        stack.enter_context(mock.patch.object(knobs.cache, "dir", folder))
        stack.enter_context(mock.patch.object(driver, "_active", Hopper()))
        for name in names:
            instead = Compiled(getattr(module, name), found) if name in what else mock.MagicMock()
            stack.enter_context(mock.patch.object(module, name, instead))
        yield found


def of_attention(
    dim: int,
    dtype: torch.dtype,
    launches: Launches | None = None,
    what: Collection[str] = tuple(PASSES),
) -> list[dict[str, Any]]:
    """Of the forward pass, dQ, and dK and dV, in the launches of the table or in these."""
    launches = launches or attention._launches(dim, dtype)
    tree = plan(build_tree([list(range(TOKENS))]))
    shapes = ((TOKENS, heads, dim) for heads in (HEADS, KV_HEADS, KV_HEADS))
    inputs = [torch.zeros(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    with compiling(attention, PASSES, what) as found:
        out = attention.triton_attention(*inputs, tree, dim**-0.5, launches)
        torch.autograd.grad(out.sum(), inputs)
    launch_of = dict(zip(PASSES, launches, strict=True))
    named = {"dtype": str(dtype).removeprefix("torch."), "D": dim}
    return [
        made
        | named
        | {"kernel": PASSES[made["kernel"]], "launch": tuple(launch_of[made["kernel"]])}
        for made in found
    ]


def of_head(dtype: torch.dtype = torch.bfloat16) -> list[dict[str, Any]]:
    """Of the two steps on a tile of fp32 logits, whose gradient is in ``dtype``."""
    names = "fold_kernel", "differentiate_kernel"
    logits, target = torch.zeros(256, 1024), torch.zeros(256, dtype=torch.long)
    with compiling(head, names, names) as found:
        head.fold(logits, target, torch.zeros(4, 256), 1.0)
        head.differentiate(logits, target, torch.zeros(4, 256), 1.0, dtype)
    named = {"dtype": str(dtype).removeprefix("torch."), "D": "", "launch": (head.BT, head.BV, 8)}
    return [made | named for made in found]


def sweep(dim: int, dtype: torch.dtype, what: Sequence[str]) -> Iterator[dict[str, Any]]:
    """These kernels in other launches than the table's."""
    for name in what:
        for launch in SWEEP[name]:
            yield from of_attention(dim, dtype, (launch,) * 3, [name])


def line(made: dict[str, Any]) -> str:
    return "".join(f"{made[name]!s:>{width}}" for name, width in COLUMNS.items())


def every(dtypes: Sequence[str], dims: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Those of the tables, for dimensions of each of their entries."""
    for name in dtypes:
        for dim in dims or DIMS[name]:
            yield from of_attention(dim, getattr(torch, name))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.launches")
    parser.add_argument("--dtypes", nargs="+", default=list(DIMS), choices=list(DIMS))
    parser.add_argument("--dims", nargs="+", type=int, default=[])
    parser.add_argument("--head", action="store_true", help="the kernels of the head")
    parser.add_argument("--sweep", nargs="+", choices=list(SWEEP), help="others, 256 dimensions")
    parser.add_argument("--json", action="store_true", help="a line of JSON each")
    options = parser.parse_args(arguments)
    found = every(options.dtypes, options.dims)
    if options.sweep:
        found = sweep(256, torch.bfloat16, options.sweep)
    if options.head:
        found = of_head()
    if not options.json:
        print(f"Triton {triton.__version__}, sm_90")
        print("".join(f"{name:>{width}}" for name, width in COLUMNS.items()))
    for made in found:
        print(json.dumps(made) if options.json else line(made), flush=True)


if __name__ == "__main__":
    main()
