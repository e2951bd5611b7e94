"""Episodes one at a time, over an engine of this process, of another one, or somebody's server."""

import os
import re
import signal
from argparse import Namespace
from dataclasses import replace

import pytest

import rollout
from agentrl.agents.contract import WorkflowOutput, run_episode
from agentrl.cli import load_experiment
from agentrl.config import AuxiliaryModel
from agentrl.debug import command
from agentrl.debug.episodes import debug
from agentrl.runs.progress import Display
from agentrl.serving.client import Serving
from agentrl.serving.dialects import chat_completions
from agentrl.serving.dialects.chat_completions import ChatBody
from agentrl.serving.forwarded import Forwarded, _body
from agentrl.serving.lent import LentServing, settings_of
from agentrl.serving.server import Server
from agentrl.types import EngineStopped
from tests.support.families import QWEN25, write
from tests.support.lending import KEY, borrow, config_of, debug_command, lend, run, write_agent
from tests.support.spy import Scripted

TASKS = [{"id": "0"}, {"id": "1"}]
ASK = [{"role": "user", "content": "2+3?"}]
ADD = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
}


async def solve(task, model):
    """Two agents, two turns, tools: what a record has to keep."""
    for one in (model, model.agent("checker")):
        messages = [*ASK]
        for _ in range(2):
            answer = await one.openai.chat.completions.create(
                model=one.name, messages=messages, tools=[ADD], max_tokens=6
            )
            reply = answer.choices[0].message.model_dump(exclude_none=True)
            messages += [reply, {"role": "user", "content": "And now?"}]
    return WorkflowOutput(reward=1.0)


def episode_over(serving, workflow=solve):
    model, auxiliary = serving.open(step=3, task_id="t", episode=0)
    episode = run_episode(
        {"id": "t"}, 0, workflow=workflow, judge=None, model=model, seconds=60.0,
        auxiliary_models=auxiliary,
    )  # fmt: skip
    serving.release(model)
    return episode


def test_a_lent_engine_leaves_the_same_record(serving):
    """Token for token, and number for number, what the door in this process records."""
    lent = borrow(lend(serving))
    here, there = episode_over(serving), episode_over(lent)
    assert (here.status, len(here.calls)) == ("truncated", 4)
    assert [call.agent for call in here.calls] == ["agent", "agent", "checker", "checker"]
    assert there.calls == here.calls
    assert there.status == here.status
    assert there.calls[0].tools == (ADD,)
    ids = here.calls[-1].ids
    assert lent.decode(ids) == serving.decode(ids)
    # The lender's own seat alone is left.
    assert set(serving.endpoint.seats) == {KEY}


def test_a_workflow_that_uses_the_address(serving):
    """A program with the episode's environment ends with it, on the borrower's side."""
    import subprocess
    import sys

    started = []

    async def leaves_a_program(task, model):
        program = [sys.executable, "-c", "import time; time.sleep(60)"]
        started.append(subprocess.Popen(program, env=model.environment))
        return 1.0

    episode = episode_over(borrow(lend(serving)), leaves_a_program)
    assert episode.reward == 1.0
    assert started[0].wait(timeout=10) == -9


def test_two_borrowers_of_one_task(serving):
    """One that stands at a breakpoint is not ended by another that comes to its end."""
    one, two = borrow(url := lend(serving)), borrow(url)
    paused, _ = one.open(step=-1, task_id="t", episode=0)
    seats = len(serving.endpoint.seats)
    assert episode_over(two).status == "truncated"
    assert one.ask("record", key=paused.api_key)["calls"] == []
    assert len(serving.endpoint.seats) == seats
    paused.close()
    one.raise_if_stopped()
    with pytest.raises(EngineStopped, match="401"):
        one.ask("record", key=paused.api_key)


def test_a_lender_by_another_address(serving):
    """Through a tunnel, the agents' calls go where the borrower's go."""
    url = lend(serving)
    lent = LentServing(url.replace("127.0.0.1", "localhost"), KEY, settings_of(config_of()), {})
    model, _ = lent.open(step=0, task_id="t", episode=0)
    assert re.fullmatch(rf"{lent.url}/episode/\d+/v1", model.base_url)
    assert episode_over(lent).status == "truncated"


def test_a_request_keeps_its_names_for_somebodys_server():
    body = ChatBody(messages=ASK, max_completion_tokens=5, reasoning_effort="low")
    assert _body(chat_completions.turn(body, {}), "theirs") == {
        **{"model": "theirs", "messages": ASK},
        **{"max_completion_tokens": 5, "reasoning_effort": "low"},
    }


def test_somebodys_server(serving):
    """The lender's plain API as one: everything is recorded but the token ids."""
    url = lend(serving)
    forwarded = Serving(Server(), Forwarded(f"{url}/v1", KEY), seed=0)
    episode = episode_over(forwarded)
    assert [call.agent for call in episode.calls] == ["agent", "agent", "checker", "checker"]
    for call in episode.calls:
        assert call.prompt_ids == call.completion_ids == call.logprobs == []
        assert call.finish_reason == "length"
        assert call.reply["content"]
    first, second = episode.calls[:2]
    assert second.messages[:2] == (*first.messages, first.reply)
    # Nothing of it was kept where it was drawn.
    assert serving.endpoint.seats[KEY].session.calls == []

    async def asks_too_much(task, model):
        content = "a" * 9000
        await model.openai.chat.completions.create(
            model="any", messages=[{"role": "user", "content": content}]
        )

    assert episode_over(forwarded, asks_too_much).status == "truncated"


def test_tool_calls_of_somebodys_server():
    script = Scripted(QWEN25)
    url = lend(script.serving)
    forwarded = Serving(Server(), Forwarded(f"{url}/v1", KEY), seed=0)
    script.says(write(QWEN25, None, "", [{"name": "add", "arguments": {"a": 1}}]))
    script.says("done")

    async def calls_a_tool(task, model):
        client = model.openai.chat.completions
        reply = (await client.create(model="any", messages=ASK, tools=[ADD])).choices[0]
        assert reply.finish_reason == "tool_calls"
        result = {"role": "tool", "tool_call_id": reply.message.tool_calls[0].id, "content": "5"}
        messages = [*ASK, reply.message.model_dump(exclude_none=True), result]
        done = await client.create(model="any", messages=messages, tools=[ADD])
        return float(done.choices[0].message.content == "done")

    episode = episode_over(forwarded, calls_a_tool)
    assert (episode.error, episode.reward) == (None, 1.0)
    (call,) = episode.calls[0].reply["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": '{"a": 1}'}
    script.serving.endpoint.close()


def test_a_debugged_episode_is_shown(serving, tmp_path, capsys):
    config = load_experiment(str(write_agent(tmp_path)))
    debug(TASKS, config, borrow(lend(serving)), step=-1, display=Display())
    said = capsys.readouterr().out
    assert re.search(r"user: QUESTION 0\nassistant: .+", said)
    assert "user: QUESTION 1" in said
    # Where breakpoints work.
    assert re.search(r"metadata thread +MainThread", said)
    assert re.search(r"reward +0\.25", said)
    assert re.search(r"success +False", said)
    assert re.search(r"calls +1\.0", said)
    assert re.search(r"1 calls, (\d+) raw tokens, \1 unique, 0 forks", said)


def test_forks_are_shown(serving, tmp_path, capsys):
    asks = (
        "answer = await model.openai.chat.completions.create(model=model.name, messages=messages)"
    )
    path = write_agent(tmp_path, (asks, f"{asks}\n    {asks}"))
    debug(TASKS[:1], load_experiment(str(path)), serving, step=-1, display=Display())
    said = capsys.readouterr().out
    assert re.search(r"fork at token \d+: call 1 leaves call 0 \(sampled again\): the same", said)
    assert re.search(r"  was '.+'\n  now '.+'", said)


def test_all_that_was_said_is_shown(serving, tmp_path, capsys):
    """A history that was edited, and a plain prompt."""
    asks = (
        "answer = await model.openai.chat.completions.create(model=model.name, messages=messages)"
    )
    edited = f"messages = [*messages, {{'role': 'user', 'content': 'EDIT'}}]\n    {asks}"
    edited += "\n    messages[0] = {'role': 'user', 'content': 'HIDDEN'}"
    plain = "answer = await model.openai.completions.create(model=model.name, prompt='PLAIN')"
    path = write_agent(
        tmp_path,
        (asks, f"{edited}\n    {asks}\n    {plain}"),
        ("answer.choices[0].message.content", "answer.choices[0].text"),
    )
    debug(TASKS[:1], load_experiment(str(path)), serving, step=-1, display=Display())
    said = re.findall(r"^(user|prompt): (.*)", capsys.readouterr().out, re.M)
    assert said == [
        *[("user", "QUESTION 0"), ("user", "EDIT")],
        *[("user", "HIDDEN"), ("user", "EDIT")],
        ("prompt", "PLAIN"),
    ]


def test_what_a_model_writes_is_no_markup_and_no_command(serving, tmp_path, capsys):
    wrong = ("said = answer", 'raise LookupError("[/INST] \\x1b[2J")\n    said = answer')
    path = write_agent(tmp_path, wrong)
    task = {"id": "[/INST] 1"}
    debug([task], load_experiment(str(path)), serving, step=-1, display=Display())
    said = capsys.readouterr().out
    assert "task [/INST] 1, episode 0" in said
    assert "LookupError: [/INST] \\x1b[2J" in said
    assert "\x1b" not in said
    Display().line("[/INST] \x1b[2J")
    assert capsys.readouterr().out == "[/INST] \\x1b[2J\n"


def test_what_a_workflow_raises_is_shown_with_its_lines(serving, tmp_path, capsys):
    path = write_agent(tmp_path, ("said = answer", 'raise LookupError("gone")\n    said = answer'))
    debug(TASKS[:1], load_experiment(str(path)), serving, step=-1, display=Display())
    said = capsys.readouterr().out
    assert re.search(r'❱ 10 │\s+raise LookupError\("gone"\)', said)
    # Not the lines that led there, which are ours.
    assert "workflow.py" not in said
    assert re.search(r"status +error: LookupError: gone", said)
    # The transcript up to there.
    assert "user: QUESTION 0" in said


def test_ctrl_c_ends_all_episodes(serving, tmp_path, capsys):
    stop = (
        "said = answer",
        "__import__('os').kill(__import__('os').getpid(), 2)\n    said = answer",
    )
    path = write_agent(tmp_path, stop)
    debug(TASKS, load_experiment(str(path)), serving, step=-1, display=Display())
    assert capsys.readouterr().out == "stopped\n"


def test_ctrl_c_between_episodes(serving, tmp_path, capsys, monkeypatch):
    path = write_agent(tmp_path)
    monkeypatch.setattr(serving, "release", lambda model: os.kill(os.getpid(), signal.SIGINT))
    debug(TASKS, load_experiment(str(path)), serving, step=-1, display=Display())
    assert capsys.readouterr().out == "stopped\n"


def test_which_tasks_are_looked_at():
    def tasks_of(held_out, **flags):
        flags = {"serve": False, "chat": None, "evaluate": False, "num_tasks": None, **flags}
        config = replace(config_of(), tasks=lambda data: ([{"id": "train"}] * 3, held_out))
        return [task["id"] for task in rollout._choose_tasks(Namespace(**flags), config)]

    many = [{"id": str(i)} for i in range(300)]
    assert tasks_of(many) == ["0"]
    assert tasks_of(many, num_tasks=250) == [str(i) for i in range(250)]
    assert len(tasks_of(many, evaluate=True)) == 200
    # An experiment without held-out tasks can be looked at, and not evaluated.
    assert tasks_of([], num_tasks=2) == ["train"] * 2
    with pytest.raises(ValueError, match="there are no held-out tasks to evaluate"):
        tasks_of([], evaluate=True)


def test_only_what_is_needed_is_served():
    url = AuxiliaryModel(model="m", url="http://127.0.0.1:9/v1")
    config = replace(config_of(), auxiliary_models={"far": url, "here": AuxiliaryModel(model="m")})
    needed = {
        what: command.only_needed(config, Namespace(**{"chat": None, "serve": False} | what_flags))
        for what, what_flags in {"chat": {"chat": "x"}, "serve": {"serve": True}, "": {}}.items()
    }
    assert [list(needed[what].auxiliary_models) for what in ("chat", "serve", "")] == [
        *([], ["here"], ["far", "here"]),
    ]
    repeated = command.only_needed(
        replace(config_of(), deterministic=True), Namespace(chat=None, serve=True)
    )
    assert not repeated.deterministic


def test_an_engine_that_goes_away(serving, tmp_path, capsys):
    lent = borrow(lend(serving))
    config = load_experiment(str(write_agent(tmp_path)))
    debug(TASKS[:1], config, lent, step=-1, display=Display())
    serving.endpoint.close()
    with pytest.raises(EngineStopped, match=r"the engine at http://127.0.0.1:\d+ is gone"):
        debug(TASKS[:1], config, lent, step=-1, display=Display())


@pytest.mark.parametrize(
    ("url", "key", "fields", "sentence"),
    [
        ("http://127.0.0.1:9", KEY, {}, "nothing answers at --engine http://127.0.0.1:9 .*--serve"),
        ("no address", KEY, {}, "--engine no address is no address: give the one that --serve"),
        ("URL", "sk-wrong", {}, "has another key: give --api-key the one that --serve printed"),
        (
            *("URL", KEY, {"seed": 3}),
            "serves with seed 0, and here it is 3: give --seed 0, or serve it again with --seed 3",
        ),
    ],
)
def test_an_engine_that_will_not_do(serving, url, key, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        borrow(url.replace("URL", lend(serving)), key, config_of(**fields))


@pytest.mark.parametrize(
    ("url", "key", "sentence"),
    [
        ("http://127.0.0.1:9/v1", KEY, "nothing answers at --base-url .* is the server running?"),
        ("nonsense", KEY, "--base-url nonsense is no address: give one like http"),
        ("URL/v1", "sk-wrong", "does not take this key: give its own, --api-key"),
        ("URL/v2", KEY, "lists no models: does --base-url end in /v1.* name one with --model"),
    ],
)
def test_a_server_that_will_not_do(serving, url, key, sentence):
    with pytest.raises(ValueError, match=sentence):
        Forwarded(url.replace("URL", lend(serving)), key)


FLAGS = [
    ("--debug --evaluate", "argument --evaluate: not allowed with argument --debug"),
    ("--serve --chat DIR", "argument --chat: not allowed with argument --serve"),
    ("--engine U --base-url V", "argument --base-url: not allowed with argument --engine"),
    ("--engine U --checkpoint D", "argument --(engine|checkpoint): not allowed with argument"),
    ("--engine URL", "--engine goes with --debug alone"),
    ("--base-url URL --evaluate", "--base-url goes with --debug alone"),
    ("--chat DIR --checkpoint DIR", "--chat names the checkpoint itself: drop --checkpoint"),
    ("--debug --model NAME", "--model names one at --base-url: give that, too"),
    ("--debug --api-key K", "--api-key goes with --serve, --engine or --base-url"),
    ("--evaluate --num-tasks 3", "--num-tasks goes with --debug, or with nothing else"),
]


@pytest.mark.parametrize(("flags", "sentence"), FLAGS)
def test_flags_that_do_not_go_together(monkeypatch, capsys, flags, sentence):
    argv = ["rollout.py", "--exp", "gsm8k_offline", *flags.split()]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as exit_:
        rollout.main()
    assert exit_.value.code == 2
    assert re.search(sentence, capsys.readouterr().err)


def test_no_key(monkeypatch, capsys):
    monkeypatch.delenv(command.KEY_VARIABLE, raising=False)
    argv = ["rollout.py", "--exp", "gsm8k_offline", "--debug", "--engine", "http://127.0.0.1:9"]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit, match="there is no key: give it with --api-key, or in AGENTRL"):
        rollout.main()


@pytest.mark.slow
def test_the_borrower_imports_nothing_heavy(tmp_path):
    """With a torch, a transformers and a vLLM that cannot be imported, it gets as far as asking."""
    for name in ("torch", "transformers", "vllm"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('slow')")
    for flags in ("--engine http://127.0.0.1:9", "--base-url http://127.0.0.1:9/v1"):
        done = run(
            debug_command("gsm8k_offline", *flags.split(), "--api-key", "x"),
            PYTHONPATH=str(tmp_path),
        )
        assert done.returncode == 1
        assert done.stdout.startswith("error: nothing answers at --"), done.stdout
        assert done.stdout.count("\n") == 1
    # The control.
    done = run(debug_command("gsm8k_offline"), PYTHONPATH=str(tmp_path))
    assert "ImportError: slow" in done.stdout
