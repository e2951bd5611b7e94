"""The ready agent: whose turn it is, what it is shown, and who earned what."""

import asyncio
import dataclasses
import textwrap
from pathlib import Path

import pytest

import rollout
from agentrl.agents.episode import run_episode
from agentrl.config import Config, ModelConfig
from agentrl.environments import game
from agentrl.environments.agent import play
from agentrl.environments.named import environment
from agentrl.environments.random_play import random_play
from tests.environments.worlds import ECHO, Steps, Table
from tests.support.families import QWEN25
from tests.support.playing import call, played
from tests.support.spy import Scripted

ROOT = Path(__file__).parents[2]
WORLDS = str(Path(__file__).parent / "worlds.py")
LAKE = "gymnasium:FrozenLake-v1?is_slippery=false"
SHORTEST = ("down", "down", "right", "right", "down", "right")


def test_by_text_to_the_end():
    episode = played({"env": LAKE}, *SHORTEST)
    assert (episode.status, episode.reward, episode.success) == ("ok", 1.0, True), episode.error
    assert [call.reward for call in episode.calls] == [None] * 5 + [1.0]
    assert episode.metrics == {"turns": 6.0}
    # Each prompt goes on from the exact ids of the last.
    for last, later in zip(episode.calls, episode.calls[1:], strict=False):
        assert later.prompt_ids[: len(last.ids)] == last.ids
    shown = [m["content"] for m in episode.calls[-1].messages if m["role"] == "user"]
    assert shown[0] == "Answer with one of left, down, right, up.\n[S]FFF\nFHFH\nFFFH\nHFFG"
    assert shown[-1] == "  (Down)\nSFFF\nFHFH\nFFFH\nHF[F]G"


def test_a_hole_is_an_end_without_success():
    episode = played({"env": LAKE}, "right", "down")
    assert (episode.status, episode.reward, episode.success) == ("ok", 0.0, False)


def test_what_names_no_action_is_asked_again_and_ends_after_three():
    episode = played({"env": LAKE}, "I go up, no: Down!", "hm", "x" * 100_000, "")
    assert (episode.reward, len(episode.calls)) == (0.0, 4)
    said = [m["content"] for m in episode.calls[-1].messages if m["role"] == "user"]
    # The last that is named is taken.
    assert said[1].startswith("  (Down)\nSFFF\n[F]HFH")
    assert said[2] == said[3] == "Answer with one of left, down, right, up."


def call_of(*arguments: str) -> str:
    return "\n".join(call("echo", one) for one in arguments)


def test_by_tools():
    said = call_of('{"text": "ho"}', '{"text": "no"}')
    episode = played({"env": f"{WORLDS}:Loop", "way": "well"}, said)
    assert (episode.status, episode.reward, episode.success) == ("ok", 1.0, True), episode.error
    assert [tool["function"]["name"] for tool in episode.calls[0].tools] == ["echo"]


def test_each_call_of_an_answer_has_its_reply():
    episode = played(
        {"env": f"{WORLDS}:Steps"}, call_of('{"text": "a"}', '{"text": "b"}', "{}"), "enough"
    )
    assert episode.status == "ok", episode.error
    messages = episode.calls[1].messages
    replies = [(m["role"], m["content"]) for m in messages if m["role"] != "assistant"]
    assert replies == [
        ("user", "begin"),
        ("tool", "echo({'text': 'a'})"),
        ("tool", "echo({'text': 'b'})"),
        ("tool", "echo({})"),
    ]
    assert [m["tool_call_id"] for m in messages if m["role"] == "tool"] == [
        call["id"] for call in messages[1]["tool_calls"]
    ]
    assert ([c.reward for c in episode.calls], episode.reward) == ([3.0, 10.0], 13.0)


def test_players_take_turns_and_earn_their_own():
    episode = played({"env": f"{WORLDS}:Table"}, "1", "2", "1", "2")
    assert episode.reward == {"left": -1.0, "right": 1.0}
    assert [(c.agent, c.reward) for c in episode.calls] == [
        *(("left", None), ("right", None)),
        *(("left", -1.0), ("right", 1.0)),
    ]
    # Each sees what it was shown, and not the other's conversation.
    assert [m["content"] for m in episode.calls[3].messages] == [
        *("The other said 1.", "2", "The other said 1.")
    ]


def test_an_auxiliary_model_of_a_players_name_plays_it():
    one, other = Scripted(QWEN25), Scripted(QWEN25)
    for text in ("2", "2"):
        one.says(text)
        other.says("1")
    task = {"id": "t", "env": f"{WORLDS}:Table"}
    asked = {"model": one.client, "auxiliary_models": {"right": other.client}}
    episode = run_episode(task, 0, workflow=play, judge=None, seconds=20.0, **asked)
    assert {call.agent for call in episode.calls} == {"left"}
    assert (episode.reward, len(other.calls)) == (1.0, 2)
    assert all(call.reward is None for call in other.calls)


def test_a_context_that_is_full_ends_the_game_as_it_stands():
    one = Scripted(QWEN25)
    one.serving.policy.max_model_len = 170
    for _ in range(9):
        one.says("left")
    task = {"id": "t", "env": LAKE}
    episode = run_episode(task, 0, workflow=play, judge=None, model=one.client, seconds=20.0)
    assert (episode.status, episode.reward, episode.success) == ("truncated", 0.0, False)
    assert 1 <= len(episode.calls) < 9


def test_a_game_without_an_end_is_ended(monkeypatch):
    monkeypatch.setattr(game, "MOST_TURNS", 4)
    episode = played({"env": LAKE}, *["left"] * 9)
    assert (len(episode.calls), episode.success, episode.reward) == (4, False, 0.0)


@pytest.mark.parametrize(
    ("name", "way", "status", "cause"),
    [
        ("Odd", "hangs", "timeout", "the episode ran longer than 0.5 s"),
        ("Odd", "dies", "error", "its process died"),
        ("Odd", "raises", "error", "KeyError: 'go'"),
        ("Loop", "raises", "error", "KeyError: 'lost'"),
    ],
)
def test_what_a_world_does_wrong_is_its_episodes_status(name, way, status, cause):
    episode = played({"env": f"{WORLDS}:{name}", "way": way}, *["go"] * 9, seconds=0.5)
    assert (episode.status, episode.reward, len(episode.calls)) == (status, None, 1)
    assert cause in episode.error


def test_random_play_is_the_seeds():
    async def random_games(seed: int):
        async with environment(LAKE) as world:
            return await world.random_play([{"seed": 0}] * 20, seed)

    first, again, other = (asyncio.run(random_games(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert {reward for reward, _, _ in first} <= {0.0, 1.0}
    assert {m["content"] for _, messages, _ in first for m in messages[1::2]} == {
        *("left", "down", "right", "up")
    }


def test_random_play_has_the_tools_that_were_offered_not_those_of_the_end():
    ((_, messages, tools),) = asyncio.run(random_play(Steps(), [{}], 0))
    assert (tools, messages[-1]) == ([ECHO], {"role": "assistant", "content": ""})
    drawn = [call["function"] for m in messages for call in m.get("tool_calls", ())]
    assert {(call["name"], *call["arguments"]) for call in drawn} == {("echo",), ("echo", "text")}


def test_random_play_of_several_players():
    played = asyncio.run(random_play(Table(), [{}] * 9, 0))
    assert len(played) == 18
    assert {reward for reward, _, _ in played} == {-1.0, 0.0, 1.0}
    assert sum(reward for reward, _, _ in played) == 0.0


def test_the_world_that_the_docs_show_is_played(tmp_path):
    page = (ROOT / "docs/environments.md").read_text(encoding="utf-8")
    shown = page.partition("    # dice.py")[2].partition("\n")[2].partition("\n- ")[0]
    code = textwrap.dedent(shown)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    (tmp_path / "dice.py").write_text(code)
    episode = played({"env": f"{tmp_path}/dice.py:Dice"}, *["roll"] * 9)
    assert (episode.status, episode.reward, episode.success) == ("ok", 0.0, False)
    episode = played({"env": f"{tmp_path}/dice.py:Dice"}, "roll", "stop")
    assert episode.reward == int(episode.calls[1].messages[-1]["content"][0]) / 21


def test_a_world_that_hangs_on_the_event_loop_costs_its_own_episode(monkeypatch):
    """Its thread is interrupted, as any workflow's that blocks; the others go on meanwhile."""
    monkeypatch.setattr(rollout, "GRACE_SECONDS", 0.2)
    one = Scripted(QWEN25)
    for _ in range(3):
        one.says("go")
    tasks = [{"id": way, "env": f"{WORLDS}:Loop", "way": way} for way in ("well", "hangs", "fine")]
    config = Config(workflow=play, tasks=lambda data: (tasks, []), model=ModelConfig(path="m"))
    config = dataclasses.replace(config, episode_seconds=2.0)
    groups = rollout.run_groups(tasks, config, one.serving, step=0, report=lambda *_: None)
    ended = [(group.episodes[0].status, group.episodes[0].reward) for group in groups]
    assert ended == [("ok", 1.0), ("timeout", None), ("ok", 1.0)]
