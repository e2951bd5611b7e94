"""Episodes one at a time, over an engine of this process."""

import os
import re
import signal
from argparse import Namespace
from dataclasses import replace
from functools import partial

import openai
import pytest

import rollout
from agentrl.cli import load_experiment
from agentrl.config import Config, ModelConfig
from agentrl.debug import command
from agentrl.debug.episodes import debug
from agentrl.debug.start import choose_tasks
from agentrl.debug.upstream import Upstream
from agentrl.runs.progress import Display
from tests.support.debugging import write_agent

TASKS = [{"id": "0"}, {"id": "1"}]
ASKS = "answer = await model.openai.chat.completions.create(model=model.name, messages=messages)"


async def solve(task, model):
    raise NotImplementedError("nobody runs it")


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


def test_somebodys_server(serving, tmp_path, capsys):
    """The API that one episode's key opens, as if it were somebody's: its workflow is none the
    wiser, and here is nothing of its tokens."""
    theirs, _ = serving.open(step=-1, task_id="theirs", episode=0)
    config = load_experiment(str(write_agent(tmp_path)))
    upstream = Upstream(config, theirs.base_url, theirs.api_key, None)
    debug(TASKS, config, upstream, step=-1, display=Display())
    said = capsys.readouterr().out
    assert re.search(r"reward +0\.25", said)
    assert said.count("0 calls, 0 raw tokens") == 2
    assert [call.messages[0]["content"] for call in theirs.calls] == ["QUESTION 0", "QUESTION 1"]
    with pytest.raises(ValueError, match="does not take this key: give its own, --api-key"):
        Upstream(config, theirs.base_url, "another", None)
    theirs.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "nowhere"])
def test_no_server_is_a_sentence(monkeypatch, url):
    argv = ["rollout.py", "--exp", "gsm8k_offline", "--debug", "--base-url", url]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit, match=f"^error: no list of models at --base-url {url}"):
        rollout.main()


def test_a_server_of_several_models_is_asked_for_one(monkeypatch):
    monkeypatch.setattr(openai.OpenAI, "models", Models("a", "b"))
    config = Config(
        workflow=solve, tasks=lambda data: (TASKS, TASKS), model=ModelConfig(path="unused")
    )
    with pytest.raises(ValueError, match="u/v1/models lists a, b: choose one with --model"):
        Upstream(config, "u/v1", "k", None)
    model, _ = Upstream(config, "u/v1", "k", "b").open(step=0, task_id="0", episode=0)
    assert (model.name, model.agent("seer")) == ("b", model)


class Models:
    def __init__(self, *names: str):
        self._names = names

    def list(self):
        return Namespace(data=[Namespace(id=name) for name in self._names])


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
        return [task["id"] for task in choose_tasks(Namespace(**flags), config)]

    many = [{"id": str(i)} for i in range(300)]
    assert tasks_of(many) == ["0"]
    assert tasks_of(many, num_tasks=250) == [str(i) for i in range(250)]
    assert len(tasks_of(many, evaluate=True)) == 200
    # An experiment without held-out tasks can be looked at, and not evaluated.
    assert tasks_of([], num_tasks=2) == ["train"] * 2
    with pytest.raises(ValueError, match="there are no held-out tasks to evaluate"):
        tasks_of([], evaluate=True)


def test_a_talk_needs_no_auxiliary_models(tmp_path):
    far = "auxiliary_models={'far': AuxiliaryModel(model='m', url='u')},\n    model="
    edits = ("import Config", "import AuxiliaryModel, Config"), ("model=M", f"{far}M")
    argv = ["--exp", str(write_agent(tmp_path, *edits))]
    needed = [command.read([*argv, *flags])[0].auxiliary_models for flags in ([], ["--chat", "x"])]
    assert [list(models) for models in needed] == [["far"], []]


def config_of(**fields) -> Config:
    return Config(
        workflow=solve, tasks=lambda data: ([], []), model=ModelConfig(path="unused"), **fields
    )


FLAGS = [
    ("--debug --evaluate", "argument --evaluate: not allowed with argument --debug"),
    ("--chat DIR --checkpoint DIR", "--chat names the checkpoint itself: drop --checkpoint"),
    ("--situations DIR", "--situations goes with --evaluate"),
    ("--checkpoint DIR DIR", "several --checkpoint go with --evaluate: name one"),
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
