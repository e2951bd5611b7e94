"""vLLM in this process: what it costs to start, push, sleep and draw, and whether it does it right.

Where vLLM is not installed, nothing of it is measured. On a CPU the same, as far as one can.

    python -m bench.gpu.engine FOLDER       the gap alone, with flash attention in both engines
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from bench.gpu import DEVICE, ON_GPU
from bench.gpu.report import ROOT, Row, right, speed

DTYPE, GAP = ("bfloat16", 0.02) if ON_GPU else ("float32", 1e-4)
CALLS, TOKENS = (256, 128) if ON_GPU else (16, 16)
START_SECONDS = 120
NAPS = 3


def checks() -> Iterator[Row]:
    if not find_spec("vllm"):
        yield Row(name="all of it", note="vLLM is not installed")
        return
    # What it is imported with is set first; and it, and what it needs, is not everywhere.
    from agentrl.serving.process import prepare_process

    prepare_process()
    from bench.rollout import tiny_model

    folder = tiny_model()
    policy = load(folder)
    before = used()
    started = time.perf_counter()
    with closing(start(folder)) as engine:
        seconds = time.perf_counter() - started
        yield Row(name="start", value=seconds, unit="s", most=START_SECONDS)
        yield from _pushes(engine, policy)
        yield from _naps(engine, policy, before)
        yield from _draws(engine)
        yield from _cancelled(engine)
        yield _second(folder)
    yield _tensor_parallel(folder)
    yield _batch_invariant(folder)


def load(folder: Path, attention: str = "auto") -> Any:
    from agentrl.learning.policy import Policy

    return Policy.load(folder, attention=attention).to(DEVICE)


def start(folder: Path, use: str = "training") -> Any:
    from agentrl.config import EngineConfig
    from agentrl.serving.engine import Engine
    from agentrl.serving.vllm_args import start_vllm

    options = {"max_model_len": 512, "dtype": DTYPE, "config": EngineConfig()}
    return Engine(start_vllm(folder, **options, use=use))


def gap(engine: Any, policy: Any, scores: list[float]) -> float:
    """Of the probe: the largest difference of sampler and trainer, in nats."""
    with torch.autocast(DEVICE, torch.bfloat16, enabled=ON_GPU):
        return policy.probe_gap(engine.probe, scores)


def perturb(policy: Any) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.05 * torch.randn_like(weight))


def used() -> float:
    """GiB of the GPU that are not free; what torch has cached is."""
    if not ON_GPU:
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**30


def _pushes(engine: Any, policy: Any) -> Iterator[Row]:
    yield right("gap after a push", gap(engine, policy, engine.sync(policy.weights())), most=GAP)
    perturb(policy)
    stale = gap(engine, policy, engine.score(engine.probe))
    yield right("gap where other weights were not pushed", stale, least=10 * GAP)
    started = time.perf_counter()
    scores = engine.sync(policy.weights())
    seconds = time.perf_counter() - started
    yield right("gap after other weights", gap(engine, policy, scores), most=GAP)
    yield Row(name="a push", value=seconds, unit="s", most=1)


def _naps(engine: Any, policy: Any, before: float) -> Iterator[Row]:
    for level in (1, 2):
        engine.sleep_level, asleep, gaps = level, [], []
        for _ in range(NAPS):
            engine.sleep()
            asleep.append(used() - before)
            gaps.append(gap(engine, policy, engine.sync(policy.weights(engine.dtype))))
        where = f"at level {level}"
        yield right(f"gap after sleep and a push, {where}", max(gaps), most=GAP)
        yield speed(f"what is held asleep, {where}", asleep[-1], unit="GiB", most=3)
        yield speed(f"how much that grows, {where}", asleep[-1] - asleep[0], unit="GiB", most=0.1)


def _draws(engine: Any) -> Iterator[Row]:
    first, seconds = drawn(engine)
    again, seconds_again = drawn(engine)
    ours = min(seconds, seconds_again)
    different = sum(a != b for a, b in zip(first, again, strict=True))
    # A GPU's products round by the batch that they are in, which threads decide.
    yield Row(
        name="calls whose seeds did not repeat", value=different, most=0, is_needed=not ON_GPU
    )
    plain = min(engine._call(plainly, engine) for _ in range(2))
    rate = f"{CALLS * TOKENS / ours:,.0f} tokens/s"
    least = 0.8 if ON_GPU else 0.3
    yield Row(name="calls beside vLLM stepped alone", value=plain / ours, least=least, note=rate)


def sampling(seed: int) -> Any:
    from agentrl.serving.sampling import Sampling

    options = {"ignore_eos": True}
    return Sampling(temperature=1.0, max_tokens=TOKENS, seed=seed, others=options)


def drawn(engine: Any) -> tuple[list[list[int]], float]:
    """The calls' ids, and the seconds that all took together."""
    started = time.perf_counter()
    calls = [engine.submit([20, 7, i], sampling(i)) for i in range(CALLS)]
    return [call.result(timeout=120).ids for call in calls], time.perf_counter() - started


def plainly(engine: Any) -> float:
    """Seconds of the same calls, in a loop on the stepper's thread."""
    from agentrl.serving.sampling import to_vllm

    engine._schedule.reset_prefix_cache()
    started = time.perf_counter()
    for i in range(CALLS):
        engine._schedule.add_request(f"plain-{i}", [20, 7, i], to_vllm(sampling(i)))
    while engine._llm.has_unfinished_requests():
        engine._schedule.step()
    return time.perf_counter() - started


def _cancelled(engine: Any) -> Iterator[Row]:
    from tests.support.engine_worker import cancel_one, draw

    before = draw(engine)
    cancel_one(engine)
    left = engine._call(engine._llm.get_num_unfinished_requests)
    yield right("calls left of a cancelled one", left, most=0)
    different = sum(a != b for a, b in zip(before, draw(engine), strict=True))
    name = "calls that differ after it"
    yield Row(name=name, value=different, most=0, is_needed=not ON_GPU)


def _second(folder: Path) -> Row:
    """A second engine works, or is refused in a sentence."""
    from agentrl.types import CannotStart

    note = "works"
    try:
        with closing(start(folder, "auxiliary")) as second:
            works = len(second.score(second.probe)) == len(second.probe) - 1
    except CannotStart as error:
        works, note = True, str(error)
    return right("a second engine works or is refused", float(works), least=1, note=note)


def _tensor_parallel(folder: Path) -> Row:
    """An engine of two GPUs: a push, a cancelled call, and draws that are still those of before."""
    name = "calls that differ on two ranks after a cancelled one"
    if torch.cuda.device_count() < 2:
        return Row(name=name, most=0, note="needs two GPUs")
    with tempfile.TemporaryDirectory() as out:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        worker = ["-m", "tests.support.engine_worker", str(folder), out]
        run([sys.executable, *launcher, *worker])
        found = json.loads((Path(out) / "rank-0.json").read_text())
    first, second = found["drawn"]
    return right(name, sum(a != b for a, b in zip(first, second, strict=True)), most=0)


def _batch_invariant(folder: Path) -> Row:
    """Both engines on flash attention, vLLM's results independent of its batches."""
    name = "gap, batch invariant and the same attention"
    if not ON_GPU:
        return Row(name=name, most=0, note="needs a GPU")
    said = run([sys.executable, "-m", "bench.gpu.engine", str(folder)], VLLM_BATCH_INVARIANT="1")
    return Row(name=name, value=float(said.splitlines()[-1]), unit="nats", most=0)


def run(command: list[str], **variables: str) -> str:
    """What a command prints. Raises RuntimeError with what it said where it fails."""
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=200,
    )
    if ended.returncode:
        raise RuntimeError(f"{command[-2]} failed: {ended.stderr.strip()[-2000:]}")
    return ended.stdout


def main(folder: Path) -> None:
    from agentrl.serving.process import prepare_process

    prepare_process()
    policy = load(folder, attention="flash" if ON_GPU else "auto")
    with closing(start(folder)) as engine:
        print(gap(engine, policy, engine.sync(policy.weights())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
