"""Synthetic batches of calls, one for each way in which agents' contexts overlap."""

from collections.abc import Callable, Iterator

import numpy as np

from agentrl.types import Call, Sample

Numbers = np.random.Generator
VOCABULARY = 800


def append_only(rng: Numbers) -> Iterator[list[Sample]]:
    """8 episodes of 10 turns that only grow."""
    yield from _episodes(rng, episodes=8, turns=10, prompt=100, completion=40, observation=40)


def long_observations(rng: Numbers) -> Iterator[list[Sample]]:
    """4 episodes of 20 turns that only grow, mostly by what the tools say."""
    yield from _episodes(rng, episodes=4, turns=20, prompt=100, completion=20, observation=80)


def shared_prompt(rng: Numbers) -> Iterator[list[Sample]]:
    """16 short episodes of one long prompt."""
    yield from _episodes(rng, episodes=16, turns=2, prompt=1500, completion=40, observation=20)


def stripped_thinking(rng: Numbers) -> Iterator[list[Sample]]:
    """8 episodes of 8 turns whose history keeps the answers and drops the thinking."""
    prompt = _tokens(rng, 200)
    for _ in range(8):
        context, calls = prompt, []
        for _ in range(8):
            answer = _tokens(rng, 20)
            calls.append(_sample(rng, context, _tokens(rng, 60) + answer))
            context = context + answer + _tokens(rng, 30)
        yield calls


def two_agents(rng: Numbers) -> Iterator[list[Sample]]:
    """8 episodes in which two agents go on apart from one context, for 5 turns each."""
    prompt = _tokens(rng, 100)
    for _ in range(8):
        shared, calls = prompt + _tokens(rng, 300), []
        for _ in range(2):
            context = shared
            for _ in range(5):
                calls.append(_sample(rng, context, _tokens(rng, 40)))
                context = calls[-1].call.ids + _tokens(rng, 20)
        yield calls


def single_turn(rng: Numbers) -> Iterator[list[Sample]]:
    """8 samples of a single turn for each of 4 tasks."""
    for _ in range(4):
        yield from _episodes(rng, episodes=8, turns=1, prompt=200, completion=150, observation=0)


WORKLOADS: dict[str, Callable[[Numbers], Iterator[list[Sample]]]] = {
    "append-only, 10 turns": append_only,
    "append-only, 20 turns": long_observations,
    "long shared prompt": shared_prompt,
    "thinking stripped": stripped_thinking,
    "two agents": two_agents,
    "single turn": single_turn,
}


def make(name: str, copies: int = 1) -> list[list[Sample]]:
    """The episodes of a workload, each its calls in order; the same every time."""
    seeds = (np.random.default_rng(seed) for seed in range(copies))
    return [calls for rng in seeds for calls in WORKLOADS[name](rng)]


def _episodes(
    rng: Numbers, *, episodes: int, turns: int, prompt: int, completion: int, observation: int
) -> Iterator[list[Sample]]:
    start = _tokens(rng, prompt)
    for _ in range(episodes):
        context, calls = start, []
        for _ in range(turns):
            calls.append(_sample(rng, context, _tokens(rng, completion)))
            context = calls[-1].call.ids + _tokens(rng, observation)
        yield calls


def _tokens(rng: Numbers, count: int) -> list[int]:
    return rng.integers(0, VOCABULARY, count).tolist()


def _sample(rng: Numbers, prompt: list[int], completion: list[int]) -> Sample:
    logprobs = rng.normal(-6.7, 0.1, len(completion)).tolist()
    call = Call(prompt_ids=prompt, completion_ids=completion, logprobs=logprobs)
    return Sample(call, advantage=float(rng.normal()))
