"""Gradients, memory and checkpoints of a policy as it is trained: by ``Ranks``, in bf16."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from agentrl.config import Config, ModelConfig, OptimConfig
from agentrl.learning import checkpoint
from agentrl.learning.learner import Learner, adamw
from agentrl.learning.policy import ATTENTION, Policy
from agentrl.learning.ranks import Ranks
from agentrl.runs.trial import trial_step
from agentrl.signals import Signals
from bench.gpu import ON_GPU
from bench.gpu.report import ROOT, Row, right, speed
from bench.step import layouts, workloads
from bench.step.layouts import Options, Way, make_model, make_step

OPTIONS = Options(shape="qwen3-0.6b" if ON_GPU else "tiny", layers=2)
WHOLE = Options(shape="qwen3-0.6b") if ON_GPU else OPTIONS
EPISODES, CALLS = (None, None) if ON_GPU else (1, 2)
"""Of a workload, and of an episode; None: all."""
TREES, ROWS = Way("C", "tree", 16_384), Way("A", "packed", 16_384)
ROUNDING = 1.25
"""How much further from fp32 a tree's gradients may be than those of rows."""
BATCHES = {"append-only, 10 turns": 2, **({"long shared prompt": 5} if ON_GPU else {})}
"""And how often: up to the budget's tokens, some deep and some wide."""
BUDGET, LONGEST = (16_384, 4096) if ON_GPU else (256, 64)
"""Tokens of the trial's micro-batch, and of a call."""
PEAKS = {"off": 48, "selective": 14, "full": 13}
"""GiB of a step of 16k tokens at most."""
OPTIM = OptimConfig(lr=1e-3)
Model = tuple[nn.Module, Policy, torch.device]


@cache
def ranks() -> Ranks:
    """One for the process: Accelerate keeps its state there."""
    return Ranks("bfloat16", Signals())


def episodes(name: str = "thinking stripped", copies: int = 1) -> list:
    return [calls[:CALLS] for calls in workloads.make(name, copies)[:EPISODES]]


def prepared(model: Model) -> tuple[Model, Learner]:
    """The model with its policy as it is trained."""
    lm, policy, device = model
    # Accelerate keeps what it has prepared.
    ranks().accelerator.free_memory()
    policy, optimizer = ranks().prepare(policy, adamw(policy.trainable(), OPTIM))
    return (lm, policy, device), Learner(policy, None, optimizer)


def gradients_of(model: Model, way: Way) -> list[Tensor]:
    """Whole ones, in the precision that the policy has."""
    step = make_step(way, episodes(), OPTIONS, model)
    return [whole(gradient) for gradient in layouts.gradients(step, model[0])]


def whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def relative(mine: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The norm of the difference, over that of the exact ones."""
    pairs = [(a.double(), b.double()) for a, b in zip(mine, exact, strict=True)]
    squares = [sum(x.square().sum() for x in xs) for xs in ([a - b for a, b in pairs], exact)]
    return (squares[0] / squares[1]).sqrt().item()


def errors() -> tuple[float, float, list[Tensor]]:
    """Of a tree's and rows' gradients, beside fp32 and transformers' attention; and the tree's."""
    model = make_model(OPTIONS)
    exact = gradients_of(model, Way("A", "padded", 4096))
    model, _ = prepared(model)
    tree, rows = (gradients_of(model, way) for way in (TREES, ROWS))
    return relative(tree, exact), relative(rows, exact), tree


def gradients() -> Iterator[Row]:
    tree, rows, found = errors()
    note = f"against fp32: {tree:.4f}, {rows:.4f}"
    yield right("a tree's error over rows'", tree / rows, most=ROUNDING, note=note)
    calls: dict[str, int] = {}
    for recompute, runs in {"off": 1, "selective": 1, "full": 2}.items():
        model, _ = prepared(make_model(replace(OPTIONS, recompute=recompute)))
        with CountAttention() as counted:
            again = gradients_of(model, TREES)
        calls[recompute] = counted.times
        yield right(f"{recompute}: difference", relative(again, found), most=1e-6)
        times = calls[recompute] / calls["off"]
        yield right(f"{recompute}: attention calls over off's", times, least=runs, most=runs)
    name = "numbers that differ in a third step after two, saved and loaded"
    yield right(name, num_different_after_load(), most=0)


class CountAttention(TorchDispatchMode):
    """Counted below autograd: how often attention is computed, forward."""

    times = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.times += operator.name() in ATTENTION
        return operator(*args, **(kwargs or {}))


def num_different_after_load() -> int:
    """Numbers of the weights after a third step, gone on from a checkpoint of the second."""
    model, learner = prepared(make_model(OPTIONS))
    with tempfile.TemporaryDirectory() as out:
        folder = Path(out) / "step-00002"
        for step in range(3):
            if step == 2:
                state = checkpoint.get_random_state()
                saved = (learner.policy, learner.optimizer, Tokenizer(), ranks(), state, {})
                checkpoint.save(folder, *saved)
            update(model, learner)
        alone = [weight.cpu() for _, weight in model[1].weights()]
        policy = Policy.load(folder)
        model, learner = prepared((policy.lm, policy, model[2]))
        checkpoint.load(folder, learner.policy, learner.optimizer, ranks())
    update(model, learner)
    pairs = zip(alone, model[1].weights(), strict=True)
    return sum(int((a != b.cpu()).sum()) for a, (_, b) in pairs)


class Tokenizer:
    """What a checkpoint saves as one."""

    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


def update(model: Model, learner: Learner, of: Sequence | None = None) -> None:
    make_step(TREES, of or episodes(), OPTIONS, model)()
    learner.clip(ranks(), OPTIM)
    learner.step(OPTIM.lr)


def memory() -> Iterator[Row]:
    """The trial before the first rollout, and whether later steps need more than it."""
    for recompute, most in PEAKS.items():
        trial, later, lost = peaks(recompute)
        largest = max(later, key=later.get)
        note = f"{later[largest]:.2f} GiB, {largest}; the trial {trial:.2f}"
        ratio = later[largest] / trial if trial else None
        name = f"{recompute}: later peak over the trial's"
        yield speed(name, ratio, most=1.05, is_needed=True, note=note)
        yield speed(f"{recompute}: peak", later[largest], unit="GiB", most=most)
        yield speed(f"{recompute}: what an engine could not take", lost, unit="GiB", most=1)


def peaks(recompute: str) -> tuple[float, dict[str, float], float]:
    """Of the trial step, and of steps after the first; and what is held in pieces after them."""
    model, learner = prepared(make_model(replace(WHOLE, recompute=recompute)))
    trial = peak_of(partial(trial_step, learner, config(), ranks()))
    update(model, learner)
    later = {
        name: peak_of(partial(update, model, learner, episodes(name, copies)))
        for name, copies in BATCHES.items()
    }
    return trial, later, pieces()


def pieces() -> float:
    """GiB that torch keeps beside what is allocated, and cannot give back; 0 without a GPU."""
    if not ON_GPU:
        return 0.0
    torch.cuda.empty_cache()
    return (torch.cuda.memory_reserved() - torch.cuda.memory_allocated()) / 2**30


def peak_of(run: Callable[[], Any]) -> float:
    """GiB; 0 without a GPU."""
    if ON_GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 2**30


def config() -> Config:
    return Config(
        workflow=solve,
        tasks=lambda data: ([], []),
        model=ModelConfig(path="m", max_model_len=LONGEST),
        micro_batch_tokens=BUDGET,
    )


async def solve(task, model):
    return 0.0


def sharding() -> Iterator[Row]:
    """FSDP2 on a world of one that was launched, over NCCL or gloo; the process is its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
        command = [sys.executable, *launcher, "-m", "bench.gpu.sharded", str(out)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
        if ended.returncode:
            raise RuntimeError(f"the sharded policy failed: {ended.stderr.strip()[-2000:]}")
        found = json.loads(out.read_text())
    note = f"against fp32: {found['tree']:.4f}, {found['rows']:.4f}"
    yield right(
        "a tree's error over rows'", found["tree"] / found["rows"], most=ROUNDING, note=note
    )
    yield right("numbers of whole weights that differ", found["weights"], most=0)
    yield right("norm over that of whole gradients", found["norm"], least=0.999, most=1.001)
    yield right("bytes of a number of the residual", found["residual"], least=2, most=2)
    name = "numbers that differ in a third step after two, saved and loaded"
    yield right(name, found["resumed"], most=0)
