"""Episodes one at a time, over an engine of this process or somebody's server."""

import os
import re
import signal
from argparse import Namespace
from dataclasses import replace
from functools import partial

import pytest

import rollout
from agentrl.agents.contract import WorkflowOutput
from agentrl.agents.episode import run_episode
from agentrl.cli import load_experiment
from agentrl.config import AuxiliaryModel, Config, ModelConfig
from agentrl.debug import command
from agentrl.debug.episodes import debug
from agentrl.debug.upstream import Upstream
from agentrl.runs.progress import Display
from agentrl.serving.remote import RemoteModel
from tests.support.debugging import debug_command, run, write_agent
from tests.support.families import QWEN25, write
from tests.support.spy import Scripted

TASKS = [{"id": "0"}, {"id": "1"}]
ASK = [{"role": "user", "content": "2+3?"}]
ADD = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
}
ASKS = "answer = await model.openai.chat.completions.create(model=model.name, messages=messages)"


async def solve(task, model):
    """Two agents, two turns, tools: what a transcript has to show."""
    for one in (model, model.agent("checker")):
        messages = [*ASK]
        for _ in range(2):
            answer = await one.openai.chat.completions.create(
                model=one.name, messages=messages, tools=[ADD], max_tokens=6
            )
            reply = answer.choices[0].message.model_dump(exclude_none=True)
            messages += [reply, {"role": "user", "content": "And now?"}]
    return WorkflowOutput(reward=1.0)


def episode_over(upstream, workflow=solve):
    model, auxiliary = upstream.open(step=3, task_id="t", episode=0)
    episode = run_episode(
        {"id": "t"}, 0, workflow=workflow, judge=None, model=model, seconds=60.0,
        auxiliary_models=auxiliary,
    )  # fmt: skip
    upstream.release(model)
    return episode


def upstream_of(serving) -> Upstream:
    """The API that one episode's key opens, as if it were somebody's server."""
    model, _ = serving.open(step=0, task_id="theirs", episode=0)
    return Upstream(model.base_url, model.api_key, None, {})


def test_somebodys_server(serving):
    """Its messages are noted, and nothing of it has token ids."""
    upstream = upstream_of(serving)
    episode = episode_over(upstream)
    assert (episode.status, episode.reward) == ("truncated", 1.0)
    assert [call.agent for call in episode.calls] == ["agent", "agent", "checker", "checker"]
    for call in episode.calls:
        assert call.prompt_ids == call.completion_ids == call.logprobs == []
        assert call.finish_reason == "length"
        assert call.reply["content"]
    first, second = episode.calls[:2]
    assert second.messages[:2] == (*first.messages, first.reply)

    async def asks_too_much(task, model):
        content = "a" * 9000
        await model.openai.chat.completions.create(
            model="any", messages=[{"role": "user", "content": content}]
        )

    episode = episode_over(upstream, asks_too_much)
    assert (episode.status, episode.calls) == ("truncated", ())
    assert "maximum context length" in episode.error


def test_what_is_asked_of_somebodys_server_in_other_ways(serving):
    """Parts, a plain prompt and a stream."""

    async def asks(task, model):
        parts = [{"role": "user", "content": [{"type": "text", "text": "in parts"}]}]
        chat = partial(model.openai.chat.completions.create, model="any", messages=parts)
        await chat(max_tokens=2)
        await model.openai.completions.create(model="any", prompt="PLAIN", max_tokens=2)
        async for _ in await chat(stream=True, max_tokens=2):
            pass
        # No completion.
        return float(len((await model.openai.models.list()).data))

    episode = episode_over(upstream_of(serving), asks)
    assert (episode.error, episode.reward) == (None, 1.0)
    assert [call.messages[0] for call in episode.calls] == [
        {"role": "user", "content": "in parts"},
        {"role": "prompt", "content": "PLAIN"},
        {"role": "user", "content": "in parts"},
    ]
    assert episode.calls[2].reply["content"] == "[streamed, and not noted]"


def test_tool_calls_of_somebodys_server():
    script = Scripted(QWEN25)
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

    episode = episode_over(upstream_of(script.serving), calls_a_tool)
    assert (episode.error, episode.reward) == (None, 1.0)
    (call,) = episode.calls[0].reply["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": '{"a": 1}'}
    script.serving.server.close()


def test_a_debugged_episode_is_shown(serving, tmp_path, capsys):
    config = load_experiment(str(write_agent(tmp_path)))
    debug(TASKS, config, serving, step=-1, display=Display())
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
    path = write_agent(tmp_path, (ASKS, f"{ASKS}\n    {ASKS}"))
    debug(TASKS[:1], load_experiment(str(path)), serving, step=-1, display=Display())
    said = capsys.readouterr().out
    assert re.search(r"fork at token \d+: call 1 leaves call 0 \(sampled again\): the same", said)
    assert re.search(r"  was '.+'\n  now '.+'", said)


def test_all_that_was_said_is_shown(serving, tmp_path, capsys):
    """A history that was edited, and a plain prompt."""
    edited = f"messages = [*messages, {{'role': 'user', 'content': 'EDIT'}}]\n    {ASKS}"
    edited += "\n    messages[0] = {'role': 'user', 'content': 'HIDDEN'}"
    plain = "answer = await model.openai.completions.create(model=model.name, prompt='PLAIN')"
    path = write_agent(
        tmp_path,
        (ASKS, f"{edited}\n    {ASKS}\n    {plain}"),
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


def rounds(serving, monkeypatch, agent, *edits, tasks=TASKS[:1]):
    """Debug an experiment, each edit typed before an Enter of its own, then q."""
    todo = list(edits)

    def read():
        if not todo:
            return "q"
        todo.pop(0)()
        return ""

    monkeypatch.setattr("builtins.input", read)
    argv, config = ["--exp", str(agent), "--debug"], load_experiment(str(agent))
    again = partial(command.read_again, argv, Namespace(exp=str(agent)))
    debug(tasks, config, serving, step=-1, display=Display(), read_again=again)


def test_enter_runs_an_edited_experiment(serving, tmp_path, capsys, monkeypatch):
    """Its workflow, its judge, what it imports, and what its modules remember: all anew."""
    agent = write_agent(
        tmp_path,
        ("import threading", "import threading\n\nfrom beside_the_agent import SEEN, WORD"),
        ('f"QUESTION {task', 'f"{WORD} {SEEN.append(1) or len(SEEN)} of {task'),
    )
    beside_the_agent = tmp_path / "beside_the_agent.py"
    beside_the_agent.write_text("WORD, SEEN = 'ONE', []\n")

    def edit():
        # As long as before, within the second.
        beside_the_agent.write_text("WORD, SEEN = 'TWO', []\n")
        agent.write_text(agent.read_text().replace("reward=0.25", "reward=0.75"))

    rounds(serving, monkeypatch, agent, lambda: None, edit)
    said = capsys.readouterr().out
    assert re.findall(r"^user: (.*)", said, re.M) == ["ONE 1 of 0", "ONE 1 of 0", "TWO 1 of 0"]
    assert re.findall(r"^reward +(\S+)", said, re.M) == ["0.25", "0.25", "0.75"]
    assert said.count("Enter runs it again, as the files are by then; q ends\n") == 3


def test_a_broken_edit_can_be_mended(serving, tmp_path, capsys, monkeypatch):
    agent = write_agent(tmp_path)
    good = agent.read_text()

    def write_text(text):
        return lambda: agent.write_text(text)

    rounds(
        *(serving, monkeypatch, agent),
        write_text(good.replace("async def judge", "async deff judge")),
        write_text(good.replace("async def judge", "def judge")),
        write_text(
            good.replace("reward=0.25", "reward=0.5").replace(
                "max_model_len=512", "max_model_len=99"
            )
        ),
    )
    said = " ".join(capsys.readouterr().out.split())
    broken = (
        r"error: cannot import .*agent.py \(SyntaxError: .*\) File .*, line \d+ async deff judge"
    )
    assert re.search(broken, said)
    assert "(ValueError: the judge judge is not async: define it with `async def`)" in said
    assert re.findall(r"reward (\S+)", said) == ["0.25", "0.5"]
    assert "warning: model has changed, which takes a new start to be heeded" in said
    assert said.count("warning") == 1


def test_a_debuggers_quit_ends_the_round(serving, tmp_path, capsys, monkeypatch):
    quits = ("said = answer", "import bdb\n    raise bdb.BdbQuit\n    said = answer")
    fixed = write_agent(tmp_path).read_text()
    agent = write_agent(tmp_path, quits)
    rounds(serving, monkeypatch, agent, lambda: agent.write_text(fixed), tasks=TASKS)
    assert re.findall(r"user: (.*)", capsys.readouterr().out) == ["QUESTION 0", "QUESTION 1"]


def test_which_tasks_are_looked_at():
    def tasks_of(held_out, **flags):
        flags = {"chat": None, "evaluate": False, "num_tasks": None, **flags}
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


def test_a_talk_needs_no_auxiliary_models():
    config = replace(config_of(), auxiliary_models={"far": AuxiliaryModel(model="m", url="u")})
    needed = [command.only_needed(config, Namespace(chat=chat)) for chat in ("x", None)]
    assert [list(one.auxiliary_models) for one in needed] == [[], ["far"]]


def config_of(**fields) -> Config:
    return Config(
        workflow=solve, tasks=lambda data: ([], []), model=ModelConfig(path="unused"), **fields
    )


@pytest.mark.parametrize(
    ("url", "key", "sentence"),
    [
        ("http://127.0.0.1:9/v1", "", "nothing answers at --base-url .* is the server running?"),
        ("nonsense", "", "--base-url nonsense is no address: give one like http"),
        ("URL/v1", "wrong", "does not take this key: give its own, --api-key"),
        ("URL/v2", "", "lists no models: does --base-url end in /v1.* name one with --model"),
    ],
)
def test_a_server_that_will_not_do(serving, url, key, sentence):
    model, _ = serving.open(step=0, task_id="theirs", episode=0)
    with pytest.raises(ValueError, match=sentence):
        Upstream(url.replace("URL", serving.server.url), model.api_key + key, None, {})


def test_a_server_of_several_models(monkeypatch):
    monkeypatch.setattr(Upstream, "_list_models", lambda self: ["a", "b"])
    with pytest.raises(ValueError, match="u/v1/models lists a, b: choose one with --model"):
        Upstream("u/v1/", "k", None, {})
    judge = RemoteModel("j", "v", "l")
    model, auxiliary = Upstream("u/v1/", "k", "b", {"judge": lambda: judge}).open()
    assert (model.name, model.base_url, auxiliary) == ("b", "u/v1", {"judge": judge})


FLAGS = [
    ("--debug --evaluate", "argument --evaluate: not allowed with argument --debug"),
    ("--base-url U --checkpoint D", "argument --(base-url|checkpoint): not allowed with argument"),
    ("--base-url URL --evaluate", "--base-url goes with --debug alone"),
    ("--chat DIR --checkpoint DIR", "--chat names the checkpoint itself: drop --checkpoint"),
    ("--debug --model NAME", "--model names one at --base-url: give that, too"),
    ("--debug --api-key K", "--api-key is of --base-url: give that, too"),
    ("--evaluate --num-tasks 3", "--num-tasks goes with --debug, or with nothing else"),
    ("--serve", "error: --serve rests: --debug holds the engine itself, and Enter runs an edit$"),
    ("--debug --engine=URL", "error: --engine rests: --debug holds the engine itself"),
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
    argv = ["rollout.py", "--exp", "gsm8k_offline", "--debug", "--base-url", "http://127.0.0.1:9"]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit, match="there is no key: give it with --api-key, or in AGENTRL"):
        rollout.main()


@pytest.mark.slow
def test_somebodys_server_needs_nothing_heavy(tmp_path):
    """With a torch, a transformers and a vLLM that cannot be imported, it gets as far as asking."""
    for name in ("torch", "transformers", "vllm"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('slow')")
    flags = ("--base-url", "http://127.0.0.1:9/v1", "--api-key", "x")
    done = run(debug_command("gsm8k_offline", *flags), PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout.startswith("error: nothing answers at --base-url"), done.stdout
    assert done.stdout.count("\n") == 1
    # The control.
    done = run(debug_command("gsm8k_offline"), PYTHONPATH=str(tmp_path))
    assert "ImportError: slow" in done.stdout
