"""Throughput of vLLM under busy rollouts, against plain ``LLM.generate``: ``make bench``.

    python -m bench.rollout                       a tiny model, minutes
    python -m bench.rollout --episodes 256 --tokens 32 --turns 4

Episodes of a few calls with a null tool go through ``rollout.collect``, a thread each, and reach
the model in three ways. The plain side gets the same prompts turn by turn, all episodes in a batch,
in a vLLM of its own with the same settings, and draws as many tokens. The sides take turns, each
with an empty prefix cache; medians, and the ratio of each way to the plain side of its round.

    seeded      the plain side with a seed for every request, as the front gives them
    ids         Engine.submit from the episode's event loop: token ids in, token ids out
    openai      model.openai, the client in this process
    loopback    openai's client over HTTP to model.base_url, in this process, too
    openai, 1   the last two in so many workers, for each of --workers

Where the time goes, in seconds of the stepper's: ``step`` in ``engine.step()``, of which ``waits``
without a core or the interpreter; ``add`` taking calls in; ``idle`` nothing to step, or busy with
results. ``CPU ms`` is what a call costs on all other threads of the engine's process: the
episodes', the client's, ours; and none of a worker's.
"""

import os

# One thread computes, so that what the others need can be told apart.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import asyncio
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

import rollout
from agentrl.agents.tools import PYTHON_TOOL
from agentrl.config import Config, EngineConfig, ModelConfig, SamplingConfig
from agentrl.serving.sampling import Sampling
from agentrl.serving.start import serve
from agentrl.serving.vllm_args import arguments
from agentrl.workers.pool import WorkerPool
from bench import rollout_agent
from experiments import gsm8k_offline
from experiments.tiny_model import Recipe, make_tiny_model

MAX_LEN = 2048
HEADINGS = ("", "tokens/s", "of plain", "steps", "step", "waits", "add", "idle", "CPU ms")


@dataclass(frozen=True)
class Options:
    episodes: int = 64
    group_size: int = 8
    """Episodes that begin with the same messages."""
    turns: int = 2
    tokens: int = 128
    """Of every completion."""
    rounds: int = 5
    ways: tuple[str, ...] = ("seeded", "ids", "openai", "loopback")
    workers: tuple[int, ...] = (1, 2)


@dataclass
class Spent:
    """Seconds of one side in one round."""

    wall: float = 0.0
    cpu: float = 0.0
    step: float = 0.0
    add: float = 0.0
    stepper_cpu: float = 0.0
    step_cpu: float = 0.0
    steps: int = 0


@dataclass(frozen=True)
class Recorded:
    """An episode's calls: the first prompt, and what each later one adds to the call before."""

    first: list[int]
    added: tuple[list[int], ...]


def tiny_model() -> Path:
    rng, tasks = random.Random(0), gsm8k_offline.problems(0, held_out=False)
    transcripts = [gsm8k_offline.transcript(next(tasks), rng) for _ in range(64)]
    recipe = Recipe(hidden=128, layers=4, transcripts=64, steps=20, batch=8)
    return make_tiny_model(recipe, transcripts, [PYTHON_TOOL], lambda share, note: None)


@contextmanager
def measured(llm: Any) -> Iterator[Spent]:
    """What is spent while this vLLM works, on whichever thread steps it."""
    spent = Spent()

    def timed(name: str, function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            wall, cpu = time.perf_counter(), time.thread_time()
            result = function(*args, **kwargs)
            setattr(spent, name, getattr(spent, name) + time.perf_counter() - wall)
            used = time.thread_time() - cpu
            spent.stepper_cpu += used
            if name == "step":
                spent.step_cpu += used
                spent.steps += 1
            return result

        return call

    gc.collect()
    llm.reset_prefix_cache()
    llm.step, llm.add_request = timed("step", llm.step), timed("add", llm.add_request)
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield spent
    finally:
        spent.wall, spent.cpu = time.perf_counter() - wall, time.process_time() - cpu
        del llm.step, llm.add_request


def to_the_end(serving) -> None:
    """Every completion is as long as it may be, whatever the model says."""
    submit = serving.engine.submit
    serving.engine.submit = lambda ids, sampling: submit(
        ids, replace(sampling, others={"ignore_eos": True})
    )


def by_ids(options: Options, recorded: dict[tuple, Recorded]) -> Callable:
    async def solve(task, model):
        episode = recorded[task["id"], model.rng_key[-1]]
        ids, sampling = episode.first, Sampling(temperature=1.0, max_tokens=options.tokens)
        for added in (*episode.added, []):
            call = model._handler.engine.submit(ids, sampling)
            ids = ids + (await asyncio.wrap_future(call)).ids + added
        return 1.0

    return solve


def config_of(options: Options) -> Config:
    return replace(
        rollout_agent.config,
        model=ModelConfig(path="m", max_model_len=MAX_LEN),
        sampling=SamplingConfig(max_tokens=options.tokens),
    )


def collect(serving, way: str, options: Options, recorded: dict[tuple, Recorded]):
    config = config_of(options)
    if way == "ids":
        config = replace(config, workflow=by_ids(options, recorded))
    problems = gsm8k_offline.problems(0, held_out=False)
    tasks = [
        {
            **{"id": str(i), "way": way.partition(",")[0], "turns": options.turns},
            "messages": [{"role": "user", "content": next(problems)["question"]}],
        }
        for i in range(options.episodes // options.group_size)
    ]
    groups = rollout.run_groups(
        tasks,
        config,
        serving,
        step=1,
        group_size=options.group_size,
        report=lambda share, note: None,
    )
    episodes = [episode for group in groups for episode in group.episodes]
    assert not any(episode.failed for episode in episodes), episodes[0].error
    return episodes


def record(serving, options: Options) -> dict[tuple, Recorded]:
    """What the episodes ask, from a first round over the front."""
    found = {}
    for episode in collect(serving, "openai", options, {}):
        added = [
            later.prompt_ids[len(call.ids) :]
            for call, later in zip(episode.calls, episode.calls[1:])
            if later.prompt_ids[: len(call.ids)] == call.ids
        ]
        assert len(added) == options.turns - 1, "a conversation did not go on from its exact ids"
        found[episode.task["id"], episode.index] = Recorded(
            episode.calls[0].prompt_ids, tuple(added)
        )
    return found


def generate(
    llm: Any, options: Options, recorded: dict[tuple, Recorded], *, seeded: bool = False
) -> None:
    from vllm import SamplingParams

    fields = {"temperature": 1.0, "max_tokens": options.tokens, "ignore_eos": True}
    params = [
        SamplingParams(**fields, logprobs=0, detokenize=False, seed=i if seeded else None)
        for i in range(len(recorded))
    ]
    prompts = [episode.first for episode in recorded.values()]
    for turn in range(options.turns):
        requests = [{"prompt_token_ids": ids} for ids in prompts]
        outputs = llm.generate(requests, params, use_tqdm=False)
        if turn < options.turns - 1:
            prompts = [
                ids + list(output.outputs[0].token_ids) + episode.added[turn]
                for ids, output, episode in zip(prompts, outputs, recorded.values(), strict=True)
            ]


def row(name: str, rounds: list[Spent], plain: list[Spent], options: Options) -> list[str]:
    calls = options.episodes * options.turns

    def median(value: Callable[[Spent], float]) -> float:
        return statistics.median(map(value, rounds))

    ratio = statistics.median(b.wall / a.wall for a, b in zip(rounds, plain, strict=True))
    return [
        name,
        f"{calls * options.tokens / median(lambda s: s.wall):,.0f}",
        f"{ratio:.2f}",
        f"{median(lambda s: s.steps):,.0f}",
        f"{median(lambda s: s.step):.2f}",
        f"{median(lambda s: s.step - s.step_cpu):.2f}",
        f"{median(lambda s: s.add):.2f}",
        f"{median(lambda s: s.wall - s.step - s.add):.2f}",
        f"{median(lambda s: 1000 * (s.cpu - s.stepper_cpu) / calls):.2f}",
    ]


def main(options: Options) -> None:
    config = config_of(options)
    folder = tiny_model()
    serving = serve(config, folder)
    # Only now are the variables set that it reads.
    from vllm import LLM

    to_the_end(serving)
    plain = LLM(**arguments(folder, max_model_len=MAX_LEN, dtype="float32", config=EngineConfig()))
    recorded = record(serving, options)
    generate(plain, options, recorded)
    source = (rollout_agent.__file__, None, [])
    pools = {
        f", {n}": WorkerPool(replace(config, workers=n), folder, folder, source).attach(
            serving.engines
        )
        for n in options.workers
    }
    there = [f"{way}{n}" for n in pools for way in ("openai", "loopback") if way in options.ways]
    rounds: dict[str, list[Spent]] = {way: [] for way in ("plain", *options.ways, *there)}
    for _ in range(options.rounds):
        for way, spent in rounds.items():
            is_plain = way in ("plain", "seeded")
            with measured(plain.llm_engine if is_plain else serving.engine._llm) as now:
                if is_plain:
                    generate(plain, options, recorded, seeded=way == "seeded")
                else:
                    serving.workers = pools.get(way[way.find(",") :])
                    collect(serving, way, options, recorded)
            spent.append(now)
    title = (
        f"{options.episodes} episodes of {options.turns} calls, {options.tokens} tokens each; "
        f"medians of {options.rounds} rounds"
    )
    table = Table(*HEADINGS, title=title)
    for way, spent in rounds.items():
        table.add_row(*row(way, spent, rounds["plain"], options))
    Console(width=110).print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
