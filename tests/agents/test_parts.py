"""Rewards of named parts: what is correct, and penalties over calls as they are recorded."""

import asyncio
import dataclasses
import json
import random
import re
import time
from functools import partial
from itertools import islice

import pytest

from agentrl.agents.contract import JudgeOutput, WorkflowOutput, check_signatures
from agentrl.agents.episode import run_episode
from agentrl.agents.judges.parts import Penalty
from agentrl.agents.judges.penalties import (
    impatient,
    malformed,
    mixed,
    no_print,
    overlong,
    repetitive,
    unclosed,
)
from agentrl.agents.judges.text import exact, matches
from agentrl.agents.tools import PYTHON_TOOL
from agentrl.algorithms.named import load_algorithm
from agentrl.callables import callable_name, experiment_modules, load_callable
from agentrl.cli import to_json
from agentrl.types import Call, Episode, Group
from experiments import gsm8k, gsm8k_offline
from tests.support.families import DEEPSEEK_R1, LLAMA3, MISTRAL, QWEN3, QWEN25, write
from tests.support.scripted_model import ScriptedModel
from tests.support.spy import Scripted

ASK = [{"role": "user", "content": "How much is 2+3?"}]
CHINESE = [{"role": "user", "content": "二加三等于几?"}]


def code(source: str, tool: str = "python", argument: str = "code") -> list[dict]:
    return [{"name": tool, "arguments": {argument: source}}]


def transcript(*says, family=QWEN25, asks=ASK, tools=(PYTHON_TOOL,), ended=True) -> Episode:
    """An episode in which the model says this, call by call; a tool call is answered by 5."""
    scripted, messages = Scripted(family), list(asks)
    for said in says:
        text = said if isinstance(said, str) else write(family, None, "", said)
        scripted.says(text, ended=ended)
        reply = scripted.ask(messages, **({"tools": [*tools]} if tools else {}))
        calls = reply.get("tool_calls") or ()
        told = [{"role": "tool", "tool_call_id": call["id"], "content": "5"} for call in calls]
        messages += [reply, *told]
    scripted.client.close()
    scripted.serving.server.close()
    return Episode(task={}, index=0, calls=scripted.calls)


GOOD, BAD = code("print(2+3)"), code("2+3")
DONE, THOUGHT = r"It is \boxed{5}.", "<think>\n2, 3\n</think>\n\n"
BOTH = write(QWEN25, None, DONE, GOOD)
CALLED = write(QWEN3, None, "", GOOD)
LOOP = "so it is five, and " * 30
MATHS = "Für \u03c0, \u03b1, \u211d, \u00b5m, \u2135: naïve."
CUT = {"ended": False}
TALK, ZH = {"tools": ()}, {"tools": (), "asks": CHINESE}
QWEN, R1 = {"family": QWEN3}, {"family": DEEPSEEK_R1, "tools": ()}
# A habit, what the model says, how much of the habit a person would see in it, and the setting.
SEEN = {
    "the demo's own way": (no_print, (GOOD, DONE), 0, {}),
    "code without print": (no_print, (BAD, DONE), 1, {}),
    "only then with print": (no_print, (BAD, GOOD, DONE), 1, {}),
    "another tool's arguments": (no_print, (code("2+3", "add"), DONE), 0, {}),
    "code of a tool by name": (no_print(0.0, tool="add"), (code("2+3", "add"), DONE), 1, {}),
    "an answer after the tool": (impatient, (GOOD, DONE), 0, {}),
    "a question back": (impatient, ("What is +?",), 0, {}),
    "an answer before the tool": (impatient, (DONE,), 1, {}),
    "an answer beside the call": (impatient, (BOTH, DONE), 1, {}),
    "an answer of another form": (impatient(0.0, answer="It is"), (DONE,), 1, {}),
    "a call and an answer": (malformed, (GOOD, DONE), 0, {}),
    "JSON that is an answer": (malformed, ('{"name": "Ann", "age": 5}',), 0, {}),
    "marks where there are no tools": (malformed, ("HTML has no <tool_call>.",), 0, TALK),
    "a tool that is not": (malformed, (code("print(5)", "pyton"), DONE), 1, {}),
    "an argument that is not": (malformed, (code("print(5)", argument="c"), DONE), 1, {}),
    "a call that is cut": (malformed, ('<tool_call>\n{"name": "py',), 1, CUT),
    "thought, then said": (unclosed, (f"{THOUGHT}5",), 0, QWEN),
    "thought, then called": (unclosed, (THOUGHT + CALLED,), 0, QWEN),
    "not thought": (unclosed, ("5",), 0, QWEN),
    "thought where the prompt begins it": (unclosed, ("2, 3\n</think>\n\n5",), 0, R1),
    "thought that is text": (unclosed, (f"{THOUGHT}5",), 0, {}),
    "thought to the end": (unclosed, ("<think>\n2, 3",), 1, QWEN | CUT),
    "thought, then nothing": (unclosed, (THOUGHT,), 1, QWEN),
    "thought, said, thought": (unclosed, (f"{THOUGHT}5 <think> or 6?",), 1, QWEN),
    "thought to the end of what the prompt begins": (unclosed, ("2, 3",), 1, R1),
    "thought to the end of a text": (unclosed, ("<think>\n2, 3",), 1, {}),
    "thought that is all of a text": (unclosed, (THOUGHT,), 1, {}),
    "English": (mixed, ("Two and three is five.",), 0, TALK),
    "formulas and names": (mixed, (MATHS,), 0, TALK),
    "Chinese to Chinese": (mixed, ("等于五 (five)",), 0, ZH),
    "Chinese to English": (mixed, ("答案是five",), 3 / 7, R1),
    "two different calls": (repetitive, (GOOD, DONE), 0, {}),
    "the same said twice": (repetitive, (DONE, DONE), 0, {}),
    "a loop": (repetitive, (LOOP,), 0.96, R1),
    "a short answer": (overlong(0.0, max_tokens=1000), (LOOP,), 0, R1),
    "a long answer": (overlong(0.0, max_tokens=100), (LOOP,), 1, R1),
    "a longer call than others": (overlong(0.0, max_tokens=200, buffer=1.0), (DONE, LOOP), 1, R1),
}


@pytest.mark.parametrize("name", SEEN)
def test_a_habit_is_seen(name):
    penalty, says, share, options = SEEN[name]
    assert penalty.measure(transcript(*says, **options)) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("family", [QWEN25, QWEN3, LLAMA3, MISTRAL], ids=lambda family: family.name)
def test_calls_of_every_family_that_cannot_be_read(family):
    """What the family's parser gives back as text, as it was written."""
    written = write(family, None, "", GOOD)
    episodes = [transcript(written, family=family)]
    episodes += [
        transcript(written.replace(*cut), family=family) for cut in (('"code"', "code"), ("}", ""))
    ]
    assert [malformed.measure(episode) for episode in episodes] == [False, True, True]
    assert [len(e.calls[0].reply.get("tool_calls", ())) for e in episodes] == [1, 0, 0]


def test_penalties_of_an_episode_without_calls_are_none():
    nothing = Episode(task={}, index=0)
    every = (
        malformed,
        no_print,
        impatient,
        unclosed,
        mixed,
        repetitive,
        overlong(0.0, max_tokens=9),
    )
    assert [float(penalty.measure(nothing)) for penalty in every] == [0.0] * 7


@pytest.mark.parametrize(
    ("tokens", "share"), [(0, 0), (80, 0), (85, 0.25), (90, 0.5), (100, 1), (300, 1)]
)
def test_a_soft_limit_of_length_is_dapos(tokens, share):
    """Its penalty is that of the preset, which is part of the credit."""
    call = Call(prompt_ids=[1], completion_ids=[2] * tokens, logprobs=[0.0] * tokens)
    episode = Episode(task={}, index=0, calls=(call,), reward=1.0)
    assert overlong(-1.0, max_tokens=100).measure(episode) == pytest.approx(share)
    dapo = dataclasses.replace(load_algorithm("dapo"), max_tokens=100)
    assert 1 - dapo.overlong(episode, "agent") == pytest.approx(share)


@pytest.mark.parametrize("part", ["<tool_call>", '{"name": "', "<think>", "</think>", "答", "a "])
def test_no_text_takes_a_penalty_long(part):
    said = (part * 100_000)[:100_000]
    reply = {"role": "assistant", "content": said, "reasoning_content": said}
    fields = {"completion_ids": [*map(ord, said)], "logprobs": [0.0] * len(said), "text": said}
    call = Call(prompt_ids=[1], reply=reply, tools=(PYTHON_TOOL,), messages=tuple(ASK), **fields)
    episode = Episode(task={}, index=0, calls=(call,))
    for penalty in (malformed, unclosed, mixed, repetitive, no_print, impatient):
        started = time.process_time()
        penalty.measure(episode)
        assert time.process_time() - started < 0.5


# The sum.


def plain(task, response):
    return response == task["answer"]


async def awaited(task, response, auxiliary_models, episode):
    assert (auxiliary_models, episode.response) == ({}, response)
    return JudgeOutput(reward=float(plain(task, response)), metrics={"own": 1.0})


@Penalty
def rude(episode):
    return "idiot" in episode.response


def judged(judge, response="5", calls=(), weights=None) -> Episode:
    """What a run makes of it: an episode of these calls, judged."""
    model = ScriptedModel()
    model.calls = tuple(calls)

    async def solve(task, model):
        return WorkflowOutput(response=response)

    task = {"id": "t", "answer": "5"}
    options = {"model": model, "seconds": 5.0, "part_weights": weights}
    return run_episode(task, 0, workflow=solve, judge=judge, **options)


@pytest.mark.parametrize("correct", [exact, matches("^(5)$"), plain, awaited, partial(plain)])
def test_the_sum_of_what_is_correct_and_of_penalties(correct):
    """Of any judge; success is what it was without them."""
    judge = correct + no_print(-0.25) + impatient(-0.5) + rude
    check_signatures(gsm8k.config.workflow, judge)
    calls = transcript(BAD, DONE).calls
    episode = judged(judge, calls=calls)
    assert episode.error is None
    assert episode.parts == {"correct": 1.0, "no_print": -0.25, "impatient": 0.0}
    assert (episode.reward, episode.success) == (0.75, True)
    habits = {"habit/no_print": 1.0, "habit/impatient": 0.0, "habit/rude": 0.0}
    assert episode.metrics == habits | ({"own": 1.0} if correct is awaited else {})
    weighed = judged(judge, calls=calls, weights={"correct": 2.0, "no_print": 4.0})
    assert (weighed.reward, weighed.success) == (1.0, True)
    wrong = judged(judge, "six", transcript(DONE).calls)
    assert (wrong.reward, wrong.success, wrong.parts["impatient"]) == (-0.5, False, -0.5)


def test_penalties_without_a_weight_leave_the_verdict_as_it_is():
    async def by_agent(task, response):
        return {"agent": 0.5}

    episode = judged(exact + no_print + rude(0.0), "idiot", transcript(BAD, DONE).calls)
    assert (episode.reward, episode.parts, episode.success) == (0.0, {}, False)
    assert episode.metrics == {"habit/no_print": 1.0, "habit/rude": 1.0}
    assert judged(by_agent + rude, "so").reward == {"agent": 0.5}


def test_a_judge_of_parts_keeps_them():
    async def own(task, response):
        return JudgeOutput(parts={"right": 0.5, "short": 0.5}, success=False)

    episode = judged(own + rude(-1.0), "idiot")
    assert (episode.parts, episode.success) == ({"right": 0.5, "short": 0.5, "rude": -1.0}, False)


@pytest.mark.parametrize(
    ("returned", "cause"),
    [
        ({"reward": {"agent": 1.0}}, "rude cannot be added to a reward for each agent"),
        ({"parts": {"rude": 1.0}}, "rude cannot be added to .* or to parts of these names"),
        ({"parts": {"a": 1.0}, "reward": 1.0}, "a reward and parts were returned"),
        ({}, "the judge returned no reward"),
    ],
)
def test_verdicts_to_which_nothing_can_be_added(returned, cause):
    async def own(task, response):
        return JudgeOutput(**returned)

    episode = judged(own + rude(-1.0), "idiot")
    assert (episode.status, episode.reward) == ("error", None)
    assert re.search(cause, episode.error)


def test_what_a_person_typed_wrong():
    with pytest.raises(ValueError, match="^the weight of rude is 0.5: give 0, or less$"):
        rude(0.5)
    with pytest.raises(ValueError, match="^rude is added twice: give it all its weight at once$"):
        exact + rude + rude(-1.0)
    with pytest.raises(ValueError, match=r"<lambda> takes \(task\): it needs task, resp"):
        (lambda task: 1.0) + rude
    assert re.search("TypeError: .*max_tokens", judged(exact + overlong(-1.0)).error)


def test_gdpo_compares_each_part():
    """Of four episodes one is right, and another prints nothing: each stands out in its own part,
    however small the penalty is. With one reward the second would hardly be seen."""
    judge = exact + no_print(-0.01)
    said = [("5", GOOD), ("6", BAD), ("6", GOOD), ("6", GOOD)]
    made = [(response, transcript(call, DONE).calls) for response, call in said]
    episodes = tuple(judged(judge, response, calls) for response, calls in made)
    samples = load_algorithm("gdpo").advantages([Group({"id": "t"}, episodes)])
    found = {sample.episode: sample.advantage for sample in samples}
    # Of (1, 0, 0, 0) the advantages are 1.5 and -0.5 thrice, of (0, -1, 0, 0) -1.5 and 0.5 thrice.
    sums = [1.5 + 0.5, -0.5 - 1.5, 0.0, 0.0]
    assert [found[i] / found[0] for i in range(4)] == pytest.approx([s / 2 for s in sums], abs=0.1)
    grpo = {
        s.episode: s.advantage for s in load_algorithm("grpo").advantages([Group({}, episodes)])
    }
    assert grpo[1] / grpo[0] > -0.5


# As settings and runs see it.

EXPERIMENT = """
from agentrl.agents.judges.penalties import no_print
from agentrl.agents.judges.parts import Penalty
from agentrl.agents.judges.text import exact

def right(task, response):
    return 1.0

@Penalty
def rude(episode):
    return 0.0

judge, ready = right + no_print(-0.5), exact + no_print + rude(-1.0)
"""


def test_a_run_says_what_its_judge_is_made_of(tmp_path):
    """And keeps the file in which its author wrote a part of it."""
    file = tmp_path / "mine.py"
    file.write_text(EXPERIMENT)
    judge, ready = (load_callable(f"{file}:{name}") for name in ("judge", "ready"))
    assert callable_name(judge) == f"{file}:right + no_print(-0.5)"
    assert callable_name(ready) == f"{file}:exact + no_print(0) + rude(-1)"
    assert {*experiment_modules([callable_name(judge)])} == {str(file)}
    config = dataclasses.replace(gsm8k_offline.config, judge=judge)
    assert json.loads(to_json(config))["judge"] == callable_name(judge)
    demo = json.loads(to_json(gsm8k_offline.config))["judge"]
    assert demo == "experiments.gsm8k:is_right + no_print(0) + impatient(0) + malformed(0)"


def test_the_demos_habits_are_what_they_were():
    """Its transcripts of mixed manners: half well, a sixth each with one habit."""
    rng, shown = random.Random(0), []
    for task in islice(gsm8k_offline.problems(0, held_out=False), 40):
        messages = gsm8k_offline.transcript(task, rng)
        turns = [message for message in messages if message["role"] == "assistant"]
        called = [[call["function"] for call in turn.get("tool_calls", ())] for turn in turns]
        says = [calls or turn["content"] for calls, turn in zip(called, turns, strict=True)]
        episode = transcript(*says)
        verdict = asyncio.run(gsm8k.judge(task, messages[-1]["content"], episode))
        shown.append((verdict.reward, *verdict.metrics.values()))
    each = [tuple(float(i == j) for i in range(4)) for j in range(4)]
    assert {*shown} == {*each}
