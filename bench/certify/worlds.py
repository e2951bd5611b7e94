"""Worlds so small that every episode there can be is written down.

A world says what the model is asked next, given the calls so far, or that the episode is over. So
one world is enumerated here, and played with a real engine in the tests.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from agentrl.types import Call, Episode, Task


@dataclass(frozen=True)
class Ask:
    """The next call: what the model is given, and how many tokens it may draw."""

    prompt_ids: list[int]
    max_tokens: int
    agent: str = "agent"
    state: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """Two tasks, in a vocabulary of a few tokens, of which the first ends a completion."""

    name: str
    vocabulary: tuple[int, ...]
    next: "Callable[[World, Task, Sequence[Call]], Ask | None]"
    limits: tuple[int, ...]
    """The tokens of each call at most."""
    agents: tuple[str, ...] = ("agent",)
    tasks: tuple[Task, ...] = ({"id": "a", "number": 0}, {"id": "b", "number": 1})

    def prompt(self, task: Task) -> list[int]:
        """Tasks have different first tokens; the last is none that ends."""
        return [self.vocabulary[task["number"]], self.vocabulary[1]]

    def completions(self, max_tokens: int) -> Iterator[list[int]]:
        """
        >>> list(World(name="", vocabulary=(0, 7), next=one_turn, limits=(2,)).completions(2))
        [[0], [7, 0], [7, 7]]
        """
        end, *others = self.vocabulary
        for n in range(max_tokens):
            yield from ([*ids, end] for ids in product(others, repeat=n))
        yield from map(list, product(others, repeat=max_tokens))

    def episodes(self, task: Task, calls: tuple[Call, ...] = ()) -> Iterator[Episode]:
        """Every episode of a task; its calls have no log-probabilities yet."""
        ask = self.next(self, task, calls)
        if ask is None:
            yield self.judged(task, calls)
        else:
            for ids in self.completions(ask.max_tokens):
                nothing = [0.0] * len(ids)
                call = Call(
                    prompt_ids=ask.prompt_ids,
                    completion_ids=ids,
                    logprobs=nothing,
                    agent=ask.agent,
                    state=ask.state,
                )
                yield from self.episodes(task, (*calls, call))

    def judged(self, task: Task, calls: tuple[Call, ...]) -> Episode:
        """Each call adds to each agent's reward what its tokens, and those before it, draw."""
        said = [[self.vocabulary.index(i) for i in call.completion_ids] for call in calls]
        seeds = [(task["number"], said[: i + 1]) for i in range(len(calls))]
        worth = {
            agent: sum(random.Random(repr((agent, seed))).choice((0.0, 0.5, 1.0)) for seed in seeds)
            for agent in self.agents
        }
        reward = worth if len(self.agents) > 1 else worth["agent"]
        return Episode(task=task, index=0, calls=calls, reward=reward)


def one_turn(world: World, task: Task, calls: Sequence[Call]) -> Ask | None:
    return None if calls else Ask(world.prompt(task), world.limits[0])


def two_turns(world: World, task: Task, calls: Sequence[Call]) -> Ask | None:
    """A first token that is the last of the vocabulary calls a tool, which answers in a token."""
    if not calls:
        return Ask(world.prompt(task), world.limits[0], state="start")
    (*_, last) = calls
    if len(calls) == 2 or last.completion_ids[0] != world.vocabulary[-1]:
        return None
    answer = world.vocabulary[len(last.completion_ids) % 2]
    prompt = [*last.ids, answer, world.vocabulary[1]]
    return Ask(prompt, world.limits[1], state=f"answer {answer}")


def two_agents(world: World, task: Task, calls: Sequence[Call]) -> Ask | None:
    """The second agent sees what the first one said; each has a reward of its own."""
    if len(calls) == 2:
        return None
    said = [token for call in calls for token in call.completion_ids]
    prompt = [*world.prompt(task), *said, world.vocabulary[len(calls)]]
    return Ask(prompt, world.limits[len(calls)], world.agents[len(calls)])


BINARY, TERNARY = (0, 1), (0, 1, 2)
WORLDS = [
    World(name="one turn", vocabulary=TERNARY, next=one_turn, limits=(3,)),
    World(name="two turns", vocabulary=TERNARY, next=two_turns, limits=(2, 1)),
    World(
        name="two agents",
        vocabulary=BINARY,
        next=two_agents,
        limits=(2, 2),
        agents=("first", "second"),
    ),
]
"""Of 15, 13 and 9 episodes a task."""
SMALL = [
    replace(world, vocabulary=BINARY, limits=limits)
    for world, limits in zip(WORLDS, ((2,), (2, 1), (1, 2)), strict=True)
]
"""Of 3, 5 and 6: for algorithms whose credit looks at several groups at once."""
