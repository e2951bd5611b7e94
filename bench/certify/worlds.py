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
                (*_, so_far) = self.said(task, (*calls, call))
                call = replace(call, reward=drawn("call", so_far, (None, 0.5, 1.0)))
                yield from self.episodes(task, (*calls, call))

    def judged(self, task: Task, calls: tuple[Call, ...]) -> Episode:
        """Each call adds to each agent's reward what its tokens, and those before it, draw; of one
        agent alone a part of the reward is drawn so, too, and the rest is the other part."""
        said = self.said(task, calls)
        some, *worth = (
            sum(drawn(who, one, (0.0, 0.5, 1.0)) for one in said) for who in ("some", *self.agents)
        )
        if len(worth) > 1:
            reward, parts = dict(zip(self.agents, worth, strict=True)), {}
        else:
            (reward,), parts = worth, {"some": some, "rest": worth[0] - some}
        return Episode(task=task, index=0, calls=calls, reward=reward, parts=parts)

    def said(self, task: Task, calls: Sequence[Call]) -> list[tuple]:
        """Of each call the task, and the tokens of all calls up to its end."""
        words = [[self.vocabulary.index(i) for i in call.completion_ids] for call in calls]
        return [(task["number"], words[: i + 1]) for i in range(len(calls))]


def drawn(who: str, said: tuple, values: Sequence) -> float | None:
    """Always the same of what was said."""
    return random.Random(repr((who, said))).choice(values)


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
