"""A talk with a model whose answers the test writes, and a person whose lines it types."""

import json
from argparse import Namespace

import pytest

from agentrl.agents.tools import PYTHON_TOOL, ChatSetting, Tool
from agentrl.debug import chat as talking
from agentrl.debug.command import default_experiment
from agentrl.runs.progress import Display
from experiments import gsm8k, gsm8k_offline
from tests.support.families import QWEN25, write
from tests.support.spy import Scripted


async def run(arguments: str) -> str:
    return str(json.loads(arguments)["a"] + 1)


SETTING = ChatSetting(system="Be brief.", tools=(Tool(PYTHON_TOOL, run),))


@pytest.fixture
def person(monkeypatch, capsys):
    """A function that types lines, and returns what was said and the calls that were made."""

    def types(script, *lines, setting=SETTING):
        todo = list(lines)

        def read(prompt):
            line = todo.pop(0) if todo else EOFError()
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", read)
        talking.talk(script.client, setting, Display(), lambda: None)
        return capsys.readouterr().out, script.calls

    return types


def call(name: str, **arguments) -> str:
    return write(QWEN25, None, "", [{"name": name, "arguments": arguments}])


def said_to(call) -> list[str]:
    return [f"{message['role']}: {message['content']}" for message in call.messages]


def test_a_tool_is_run_and_shown(person):
    script = Scripted(QWEN25)
    script.says(call("python", a=1))
    script.says("two")
    out, calls = person(script, "1+1?")
    assert out.splitlines()[1:] == [
        "assistant: ",
        '  python({"a": 1})',
        "tool: 2",
        "assistant: two",
        "",
    ]
    assert calls[0].tools == (PYTHON_TOOL,)
    assert said_to(calls[1]) == ["system: Be brief.", "user: 1+1?", "assistant: ", "tool: 2"]


def test_what_goes_wrong_in_a_tool_is_told_to_the_model(person):
    script = Scripted(QWEN25)
    script.says(call("python"))
    script.says(call("nothing"))
    script.says("sorry")
    _, calls = person(script, "1+1?")
    assert said_to(calls[2])[-3::2] == ["tool: KeyError: 'a'", "tool: There is no tool nothing."]


def test_starting_over(person):
    script = Scripted(QWEN25)
    for text in ("one", "two", "three"):
        script.says(text)
    _, calls = person(script, "a", KeyboardInterrupt(), "", "c", "/new", "d")
    assert [said_to(call) for call in calls] == [
        ["system: Be brief.", "user: a"],
        ["system: Be brief.", "user: a", "assistant: one", "user: c"],
        ["system: Be brief.", "user: d"],
    ]
    # It grows as an episode does: from the exact ids.
    assert calls[1].prompt_ids[: len(calls[0].ids)] == calls[0].ids


def test_a_full_context_is_said_and_the_talk_goes_on(person):
    script = Scripted(QWEN25)
    script.serving.policy.max_model_len = 300
    script.says("hello")
    out, calls = person(script, "a b " * 2000, "Hi", setting=ChatSetting())
    assert "This model's maximum context length is 300 tokens" in out
    assert [said_to(call) for call in calls] == [["user: Hi"]]


def test_ctrl_c_stops_an_answer(person, monkeypatch):
    script = Scripted(QWEN25)
    script.says("late")
    respond, interrupted = script.serving.server.respond, []

    async def is_interrupted(*request):
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        return await respond(*request)

    monkeypatch.setattr(script.serving.server, "respond", is_interrupted)
    out, calls = person(script, "first", "second", setting=ChatSetting())
    assert "stopped; what you said is forgotten" in out
    assert [said_to(call) for call in calls] == [["user: second"]]


def test_whose_tools(tmp_path, capsys):
    """A checkpoint of a run knows its experiment; for another one it has to be named."""
    checkpoint = tmp_path / "checkpoints" / "step-00001"
    checkpoint.mkdir(parents=True)
    flags = Namespace(chat=str(checkpoint))
    with pytest.raises(SystemExit):
        default_experiment(flags)
    said = capsys.readouterr().err
    assert said == f"error: {checkpoint} is no run's checkpoint: name an experiment with --exp\n"
    for file, found in ((None, "gsm8k_offline"), ("/a/mine.py", "/a/mine.py")):
        described = {"experiment": "gsm8k_offline", "file": file}
        (tmp_path / "config.json").write_text(json.dumps(described))
        assert default_experiment(flags) == found
    assert default_experiment(Namespace(chat=None)) is None
    assert [tool.name for tool in gsm8k_offline.talk.tools] == ["python"]
    assert gsm8k.talk is gsm8k_offline.talk
