"""Times of the machine, of the kernels and of a whole step, beside what is expected of a Hopper."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch._dynamo.utils import counters
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench import logprob as head
from bench import tree_attention as attending
from bench.gpu import DEVICE, ON_GPU
from bench.gpu.parity import HALF
from bench.gpu.report import Row, right, speed
from bench.gpu.training import episodes, prepared, relative, whole
from bench.launches import PASSES
from bench.step.layouts import (
    Options,
    Way,
    gradients,
    make_model,
    make_step,
    operations,
    seconds,
)
from kernels.tree import build_tree
from kernels.tree.plan import plan
from kernels.tree_attention import operators
from kernels.tree_attention.operators import Launch, Launches

PEAK_TFLOPS = 989
"""Of a Hopper's dense bf16 products."""
REPEATS = 10 if ON_GPU else 1
TRIED: list[Launches] = (
    [
        (Launch(128, 64, 8, 3), Launch(64, 64, 4, 2), Launch(64, 64, 4, 2)),
        (Launch(64, 64, 4, 3), Launch(128, 64, 8, 2), Launch(64, 128, 8, 2)),
        (Launch(128, 64, 8, 2), Launch(64, 32, 4, 3), Launch(32, 128, 8, 2)),
    ]
    if ON_GPU
    else []
)
"""Beside the table's."""
DIM, TOKENS = (128, (16_384, 65_536)) if ON_GPU else (16, (200, 400))
STEP = (
    Options(shape="qwen3-0.6b", copies=2, budgets=(16_384,)) if ON_GPU else Options(budgets=(2048,))
)
WORKLOAD = "append-only, 10 turns"
GROUPS = {
    "attention": ("attend_kernel", "grad_query_kernel", "grad_key_kernel"),
    "head": ("fold_kernel", "differentiate_kernel"),
    "GEMM": ("gemm", "nvjet", "cutlass", "cublas", "aten::mm", "aten::addmm"),
    "copies": ("memcpy", "memset"),
}
"""Words in the names of a GPU's kernels; all others are elementwise."""


def mark() -> Any:
    """A moment of the device's work."""
    if not ON_GPU:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(first: Any, last: Any) -> float:
    """Seconds."""
    if not ON_GPU:
        return last - first
    last.synchronize()
    return first.elapsed_time(last) / 1e3


def median_seconds(run: Callable[[], Any], repeats: int = REPEATS) -> float:
    run()
    taken = []
    for _ in range(repeats):
        first = mark()
        run()
        taken.append(between(first, mark()))
    return statistics.median(taken)


class Clocked:
    """A kernel that notes when each launch began and ended."""

    def __init__(self, launched: Any):
        self.launched, self.moments = launched, []

    def __getitem__(self, grid: tuple) -> Callable[..., None]:
        return partial(self._launch, grid)

    def _launch(self, grid: tuple, *arguments: Any, **constants: Any) -> None:
        first = mark()
        self.launched[grid](*arguments, **constants)
        self.moments.append((first, mark()))

    def median(self) -> float:
        """Seconds of a launch, but for the first, which compiles."""
        return statistics.median(between(*moments) for moments in self.moments[1:])


@contextmanager
def clocked() -> Iterator[dict[str, Clocked]]:
    clocks = {what: Clocked(getattr(operators, name)) for name, what in PASSES.items()}
    with ExitStack() as stack:
        for name, what in PASSES.items():
            stack.enter_context(mock.patch.object(operators, name, clocks[what]))
        yield clocks


def machine() -> Iterator[Row]:
    size, numbers = (8192, 2**30) if ON_GPU else (64, 2**10)
    name = torch.cuda.get_device_name() if ON_GPU else ""
    a = torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16)
    tflops = 2 * size**3 / median_seconds(lambda: a @ a) / 1e12
    yield speed("bf16 GEMM of 8192", tflops, unit="TFLOP/s", least=770)
    source = torch.zeros(numbers, device=DEVICE)
    target = torch.empty_like(source)
    tera = 2 * 4 * numbers / median_seconds(lambda: target.copy_(source)) / 1e12
    yield speed("copy of 4 GiB", tera, unit="TB/s", least=4.2 if "H200" in name else 2.9)
    free = torch.cuda.mem_get_info()[0] / 2**30 if ON_GPU else None
    yield speed("free memory", free, unit="GiB", least=70)


def launches() -> Iterator[Row]:
    """Each kernel by itself, in the launch of the table and in others."""
    calls = attending.make_calls(TOKENS[0])
    tree = build_tree([call for episode in calls for call in episode])
    planned = plan(tree, DEVICE)
    inputs = attending.make_inputs(len(tree), DIM, HALF)
    # Of the interpreter's tiles each costs the same.
    table = operators._launches(DIM, HALF) if ON_GPU else (Launch(64, 64),) * 3
    taken: dict[str, dict[Launch, float]] = {what: {} for what in PASSES.values()}
    for tried in (table, *TRIED):
        with clocked() as clocks:
            for _ in range(1 + REPEATS):
                attending.step(partial(operators.triton_attention, launches=tried), inputs, planned)
        for (what, clock), launch in zip(clocks.items(), tried, strict=True):
            taken[what][launch] = clock.median()
    for (what, found), launch in zip(taken.items(), table, strict=True):
        said = ", ".join(f"{tuple(each)} {1e3 * s:.3f}" for each, s in found.items())
        ratio = found[launch] / min(found.values())
        yield speed(f"{what}: the table's over the best", ratio, most=1.03, note=f"ms: {said}")
    pairs = int((tree.depth.astype("int64") + 1).sum())
    tflops = 4 * DIM * attending.HEADS * pairs / taken["forward"][table[0]] / 1e12
    yield speed("forward at 16k alone", tflops, unit="TFLOP/s", least=300)


def attention() -> Iterator[Row]:
    """Beside gathered flash, FlexAttention and a row for each episode."""
    names = ("triton", "flash", "flex", "rows B") if ON_GPU else ("reference", "segments")
    able = {}
    for name in names:
        able[name] = attending.ways()[name]
        if not name.startswith("rows"):
            yield right(f"{name} agrees", float(attending.agrees(able[name], DIM)), least=1)
    for tokens in TOKENS:
        timed = attending.measure(tokens, DIM, able, REPEATS)
        mine, size = timed[names[0]], f"{tokens:,} tokens"
        for name, other in timed.items():
            if other is not mine:
                ratio, ms = other.seconds / mine.seconds, 1e3 * other.seconds
                yield speed(f"{size}: {name} over ours", ratio, least=1, note=f"{ms:.3f} ms")
    whole, forward, backward = mine.tflops
    note = f"{1e3 * mine.seconds:.3f} ms, {whole:.0f} TFLOP/s in all"
    yield speed(f"{size}: forward", forward, unit="TFLOP/s", least=300, note=note)
    yield speed(f"{size}: backward", backward, unit="TFLOP/s", least=150, note=note)


def logprob() -> Iterator[Row]:
    """The head at 8192 x 4096 x 151,936, forward and backward."""
    inputs = head.make_inputs(head.N if ON_GPU else 64)
    yield right("ours agrees", float(head.parity(head.ours, *inputs)), least=1)
    has_liger = head.LigerFusedLinearCrossEntropyLoss is not None
    ways = [head.naive, head.ours, *[head.liger] * (has_liger and ON_GPU)]
    taken = head.medians(ways, inputs, REPEATS)
    ms, gib = taken["ours"]
    yield speed("ours", ms, unit="ms", most=70)
    yield speed("ours at its peak", gib, unit="GiB", most=6)
    yield speed("ours over the GEMMs", ms / taken["gemms"][0], most=1.6)
    yield speed("naive over ours", taken["naive"][0] / ms, least=1)
    liger = taken["liger"][0] / ms if "liger" in taken else None
    yield speed("Liger over ours", liger, least=1, note="" if has_liger else "not installed")


def step() -> Iterator[Row]:
    """A step's forward and backward pass: trees beside rows, and what the GPU does meanwhile."""
    calls, (model, _) = episodes(WORKLOAD, STEP.copies), prepared(make_model(STEP))
    lm, _, device = model
    chosen = {s: Way(s, "tree" if s == "C" else "packed", STEP.budgets[0]) for s in "ABC"}
    steps = {side: make_step(way, calls, STEP, model) for side, way in chosen.items()}
    taken: dict[str, list[float]] = {side: [] for side in chosen}
    for repeat in range(2 + REPEATS // 2):
        for side, run in steps.items():
            lm.zero_grad()
            spent = seconds(run, device)
            # The first one compiles.
            if repeat:
                taken[side].append(spent)
    a, b, c = (statistics.median(times) for times in taken.values())
    due = {side: operations(way, calls, lm) for side, way in chosen.items()}
    tflops = due["C"][0] / c / 1e12
    yield speed("computed tokens", due["C"][1] / c, unit="tokens/s", least=24_000)
    yield speed("logical tokens", due["A"][1] / c, unit="tokens/s", least=150_000)
    yield speed("share of the GPU's products", tflops / PEAK_TFLOPS, least=0.25)
    yield speed("a row a call over trees", a / c, least=0.9 * due["A"][0] / due["C"][0])
    yield speed("a row a chain over trees", b / c, least=1)
    lm.zero_grad()
    yield from _shares(steps["C"])


def compiled() -> Iterator[Row]:
    """The same step with layers that Inductor compiles: ``--compile`` pays where this says so."""
    calls = episodes(WORKLOAD, STEP.copies)
    tree, taken, found = Way("C", "tree", STEP.budgets[0]), [], []
    # On a CPU it would be this check's minute: what is compiled there slow tests look at.
    with torch.compiler.set_stance("default" if ON_GPU else "force_eager"):
        for is_compiled in (False, True):
            model, _ = prepared(make_model(replace(STEP, compile=is_compiled)))
            run = make_step(tree, calls, STEP, model)
            found.append([whole(gradient).cpu() for gradient in gradients(run, model[0])])
            taken.append(median_seconds(run, 1 + REPEATS // 2))
        graphs = counters["stats"]["unique_graphs"]
        make_step(tree, calls[: len(calls) // 2], STEP, model)()
    eager, mine = taken
    note = f"{1e3 * eager:.1f} and {1e3 * mine:.1f} ms"
    yield speed("a step over a compiled one", eager / mine, least=1.2, note=note)
    yield speed("difference of gradients", relative(*reversed(found)), most=0.05)
    yield speed("graphs for another size", counters["stats"]["unique_graphs"] - graphs, most=0)


def _shares(run: Callable[[], int]) -> Iterator[Row]:
    """Of the GPU's time, by what its kernels do."""
    activity = ProfilerActivity.CUDA if ON_GPU else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiled:
        run()
        mark()
        if ON_GPU:
            torch.cuda.synchronize()
    kind = DeviceType.CUDA if ON_GPU else DeviceType.CPU
    spans = [
        (event.name, event.time_range.start, event.time_range.end)
        for event in profiled.events()
        if event.device_type == kind
    ]
    spent = dict.fromkeys((*GROUPS, "elementwise"), 0.0)
    for name, start, stop in spans:
        spent[group_of(name)] += (stop - start) / 1e3
    first, last = min(start for _, start, _ in spans), max(stop for *_, stop in spans)
    idle = 1 - 1e3 * sum(spent.values()) / (last - first)
    said = ", ".join(f"{name} {ms:.1f}" for name, ms in spent.items())
    ratio = spent["elementwise"] / max(spent["GEMM"], 1e-9)
    yield speed("elementwise over GEMM", ratio, most=3, note=f"ms: {said}")
    yield speed("idle", idle, most=0.1)


def group_of(name: str) -> str:
    matching = (g for g, words in GROUPS.items() if any(word in name.lower() for word in words))
    return next(matching, "elementwise")
