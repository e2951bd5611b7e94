"""Four turns with a reward each: what they are worth, and that all presets read the same sum."""

import asyncio
import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from agentrl.agents.contract import scored
from agentrl.algorithms.advantages import turn_rewards
from agentrl.algorithms.named import load_algorithm
from agentrl.types import Episode, Group
from tests.experiments.four_turns import play
from tests.support.scripted_model import CALL

SAID = {"n": "Tom", "m": "Ann", "t": "pens"}
TASK = {"id": "a", "start": 12, "steps": [2, 3, -4, -2], "said": SAID}
EARLIER_AND_LAST = {"earlier": 0.0, "last": 0.0}


# The second turn of the first forgets to print, and its third calls nothing.
TURNS = (
    ("print(12+2)", "(14+3)", None, "print(14-2)"),
    ("print(12+2)", "print(14+3)", "print(17-4)", "print(13-2)"),
)


class Told:
    """A model that calls the tool with what it is told to, and its own client."""

    name = "policy"

    def __init__(self, codes: Sequence[str | None]):
        self.calls, self.key, self._codes = [], None, [*codes]
        self.openai = Namespace(chat=Namespace(completions=self))

    def state(self, key: str) -> None:
        self.key = key

    def reward(self, value: float) -> None:
        self.calls[-1] = replace(self.calls[-1], reward=value)

    async def create(self, *, model, messages, tools) -> Namespace:
        self.calls.append(replace(CALL, state=self.key, messages=tuple(messages)))
        if (code := self._codes.pop(0)) is None:
            return Namespace(choices=[Namespace(message=Namespace(tool_calls=None))])
        called = Namespace(function=Namespace(arguments=json.dumps({"code": code})))
        return Namespace(choices=[Namespace(message=Namespace(tool_calls=[called]))])


@pytest.fixture(scope="module")
def group():
    """Of those two, with what a preset's ``part_weights`` make of their rewards."""
    models = [Told(codes) for codes in TURNS]
    outputs = [asyncio.run(play(TASK, model)) for model in models]
    episodes = [Episode(task=TASK, index=i, calls=tuple(m.calls)) for i, m in enumerate(models)]

    def weighed(weights: Mapping[str, float]) -> Group:
        both = zip(episodes, outputs, strict=True)
        return Group(TASK, tuple(scored(one, output, output, weights) for one, output in both))

    return weighed


def test_a_turn_builds_on_what_was_right(group):
    first, second = group({}).episodes
    assert [call.reward for call in first.calls] == [0.25, 0.0, 0.0, 0.25]
    assert [call.state for call in first.calls] == ["0: 12", "1: 14", "2: 14", "3: 14"]
    assert [call.state for call in second.calls] == ["0: 12", "1: 14", "2: 17", "3: 13"]
    assert "Tom has 14 pens. Ann gives Tom 3 more." in first.calls[1].messages[-1]["content"]
    assert (first.success, first.metrics) == (False, {"turns/right": 0.5})
    assert (second.success, second.metrics) == (True, {"turns/right": 1.0})


@pytest.mark.parametrize(
    ("reads", "weights", "without"),
    [
        (lambda e: e.reward, {}, [0.5, 1.0]),
        (lambda e: turn_rewards(e, "agent")[-1], {"last": 0.0}, [0.75, 1.25]),
        (lambda e: sum(turn_rewards(e, "agent")), EARLIER_AND_LAST, [1.0, 2.0]),
    ],
    ids=["the episode's", "the last step's", "all turns'"],
)
def test_every_preset_reads_the_same_sum(group, reads, weights, without):
    assert [*map(reads, group(weights).episodes)] == [0.5, 1.0]
    assert [*map(reads, group({}).episodes)] == without


def test_what_a_turn_is_credited_with(group):
    def credit(name: str, weights: Mapping[str, float]) -> list[float]:
        return [s.advantage for s in load_algorithm(name).advantages([group(weights)])][:4]

    # Two that differ are 2 ** -0.5 from their mean, in stds; the first turns are equally right.
    assert credit("grpo", {}) == pytest.approx([-(0.5**0.5)] * 4, abs=1e-5)
    assert credit("multi_step_grpo", {"last": 0.0}) == credit("grpo", {})
    assert credit("turns", {}) == pytest.approx(
        [-(0.5**0.5), -(2**0.5), -(2**0.5), -(0.5**0.5)], abs=1e-5
    )
    # Where both came to, the return from there on; where one came alone, the episode's part alone.
    own = credit("gigpo", EARLIER_AND_LAST)
    assert own[2:] == [-0.25, -0.25]
    assert own[0] == pytest.approx(-0.25 + 0.25 * (0.95**3 - (0.95 + 0.95**2 + 0.95**3)) / 2)
