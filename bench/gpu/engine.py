"""vLLM in this process: what it costs to start, push, sleep and draw, and whether it does it right.

Where vLLM is not installed, nothing of it is measured. On a CPU the same, as far as one can.
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
OPERATION = 2**-6 if ON_GPU else 1e-5
"""How far one operation may be from vLLM's, as a share of the largest number: two last places of
bf16, which hold 2**-7; in fp32, a sum in another order."""
CALLS, TOKENS = (256, 128) if ON_GPU else (16, 16)
START_SECONDS = 120
NAPS = 3


def checks() -> Iterator[Row]:
    if not find_spec("vllm"):
        yield Row(name="all of it", note="vLLM is not installed")
        return
    # It, and what it needs, is not everywhere.
    from bench.rollout import tiny_model

    folder = tiny_model()
    policy = load(folder)
    before = used()
    started = time.perf_counter()
    with closing(start(folder)) as engine:
        seconds = time.perf_counter() - started
        yield Row(name="start", value=seconds, unit="s", most=START_SECONDS)
        yield _stream(engine)
        yield from _pushes(engine, policy)
        yield from _naps(engine, policy, before)
        yield from _draws(engine)
        yield from _cancelled(engine)
        yield _second(folder)
    yield _tensor_parallel(folder)
    yield from _repeated(folder)
    yield _ahead(folder)


def load(folder: Path, attention: str = "auto") -> Any:
    """The policy in what both compute in, as FSDP2 casts it: its weights, and no buffer."""
    from agentrl.learning.policy import Policy

    policy = Policy.load(folder, attention=attention).to(DEVICE)
    for weight in policy.parameters():
        weight.data = weight.data.to(getattr(torch, DTYPE))
    return policy


def start(folder: Path, use: str = "training", deterministic: bool = False, **config: Any) -> Any:
    from agentrl.config import EngineConfig
    from agentrl.serving.engine import Engine
    from agentrl.serving.vllm_args import start_vllm

    options = {"max_model_len": 512, "dtype": DTYPE, "config": EngineConfig(**config)}
    llm = start_vllm(folder, **options, use=use, deterministic=deterministic)
    return Engine(llm, lockstep=deterministic)


def gap(engine: Any, policy: Any, scores: list[float]) -> float:
    """Of the probe: the largest difference of sampler and trainer, in nats."""
    return policy.probe_gap(engine.probe, scores)


def probe_of(ids: list[int]) -> Any:
    """The probe's micro-batch."""
    from agentrl.learning.packing import pack
    from agentrl.types import Call, Sample

    call = Call(prompt_ids=ids[:1], completion_ids=ids[1:], logprobs=[0.0] * (len(ids) - 1))
    (micro,) = pack([Sample(call, 0.0)], len(ids))
    return micro.to(torch.device(DEVICE))


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


def _stream(engine: Any) -> Row:
    """vLLM copies its results behind the stream that it was made on."""
    name, apart = "the stepper is on another stream than vLLM was made on", None
    if ON_GPU:
        streams = [
            f().cuda_stream
            for f in (torch.cuda.current_stream, lambda: engine._call(torch.cuda.current_stream))
        ]
        apart = float(streams[0] != streams[1])
    return speed(name, apart, most=0, is_needed=True)


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


def _repeated(folder: Path) -> Iterator[Row]:
    """A deterministic engine, started twice on a GPU; there once more with vLLM's results
    independent of its batches, and flash attention in both engines."""
    command = [sys.executable, "-m", "bench.gpu.bitwise", str(folder)]
    ended = [run(command) for _ in range(1 + ON_GPU)]
    found = [json.loads(each.stdout.splitlines()[-1]) for each in ended]
    first, *draws = [draw for each in found for draw in each["drawn"]]
    different = sum(a != b for draw in draws for a, b in zip(first, draw, strict=True))
    yield right("deterministic: calls that differ a second time", different, most=0)
    blocks = [each["blocks"] for each in found]
    apart, note = max(blocks) - min(blocks), f"{blocks[0]:,} blocks"
    yield right("deterministic: blocks that differ between starts", apart, most=0, note=note)
    errors = sum("CUDA Error" in line for each in ended for line in each.stderr.splitlines())
    yield right("errors where it is closed while it sleeps", errors, most=0)
    if ON_GPU:
        invariant = run(command, VLLM_BATCH_INVARIANT="1")
        found = [json.loads(invariant.stdout.splitlines()[-1])]
    yield from _apart(found[0])


def _apart(found: dict[str, Any]) -> Iterator[Row]:
    """Where the gap comes from. It would be 0 where every operation's bits were vLLM's."""
    differ = {name: pair for name, pair in found["operations"].items() if pair[0]}
    for name, (share, largest) in found["operations"].items():
        note = f"{share:.2%} of its numbers differ"
        yield right(f"{name}: difference on the same inputs", largest, most=OPERATION, note=note)
    said = ", ".join(f"{apart:.1e}" for apart in found["layers"])
    last = found["layers"][-1]
    yield Row(name="difference after the last layer", value=last, note=f"after each: {said}")
    name = f"gap{', batch invariant' * ON_GPU}, by what differs"
    note = ", ".join(differ) or "nothing differs"
    # That it is 0 cannot be had of these operations: docs/running.md.
    yield right(name, found["gap"], unit="nats", most=GAP, note=note)


def _ahead(folder: Path) -> Row:
    """Steps that are scheduled while the one before them computes; vLLM has that on GPUs alone."""
    ratio = None
    if ON_GPU:
        seconds = []
        for ahead in (False, True):
            options = {"async_scheduling": ahead, "gpu_memory_utilization": 0.3}
            with closing(start(folder, "alone", **options)) as engine:
                seconds.append(min(drawn(engine)[1] for _ in range(3)))
        ratio = seconds[0] / seconds[1]
    return speed("calls with async scheduling over those without", ratio, least=1)


def run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """A command that has ended. Raises RuntimeError with what it said where it failed."""
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
    return ended
