"""An engine that stays up in one process, and agents of another."""

import asyncio
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from agentrl.cli import load_experiment
from agentrl.config import AuxiliaryModel, Config, ModelConfig, ServerConfig
from agentrl.debug.engine import KEY_VARIABLE, connect, key_file, serve_engine
from agentrl.debug.episodes import debug
from agentrl.runs.progress import Display
from agentrl.types import EngineStopped
from tests.support.checkout import ROOT
from tests.support.debugging import write_agent
from tests.support.faults import ask


async def solve(task, model):
    return 1.0


def config(**fields) -> Config:
    return Config(
        workflow=solve, tasks=lambda data: ([], []), model=ModelConfig(path="m"), **fields
    )


@pytest.fixture
def up(serving, tiny_folder, tmp_path, monkeypatch):
    """The tests' engine, served; its address, and what ends it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    serving.folder, display, said, stopped = tiny_folder, Display(), [], threading.Event()
    display.line = said.append

    def raise_if_stopped():
        if stopped.is_set():
            raise EngineStopped("enough")

    monkeypatch.setattr(serving.engine, "raise_if_stopped", raise_if_stopped)
    ends = []

    def run():
        with pytest.raises(EngineStopped):
            serve_engine(ServerConfig(), serving, display)
        ends.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    while not said:
        time.sleep(0.01)
    _, address = said[0].partition(", until")[0].split()
    yield address
    stopped.set()
    thread.join(10)
    assert ends == [True]
    # Its key has gone with it.
    assert not key_file(int(address.rpartition(":")[2])).exists()


def test_its_tokens_are_those_of_this_process(up, serving):
    there = connect(config(), up)
    drawn = []
    for one in (serving, there):
        model, _ = one.open(step=1, task_id="t", episode=2)
        said = asyncio.run(ask(model, stop=["e"]))
        drawn.append([(c.prompt_ids, c.completion_ids, c.logprobs, said) for c in model.calls])
        model.close()
    assert len(drawn[0]) == 1
    assert drawn[0] == drawn[1]
    assert (there.policy.max_model_len, there.num_tokens) == (512, len(drawn[0][0][1]))
    assert stat.S_IMODE(key_file(int(up.rpartition(":")[2])).stat().st_mode) == 0o600


def test_episodes_are_debugged_over_it(up, tmp_path, capsys):
    experiment = load_experiment(str(write_agent(tmp_path)))
    debug([{"id": "0"}], experiment, connect(experiment, up), step=-1, display=Display())
    said = capsys.readouterr().out
    assert "user: QUESTION 0" in said
    assert "1 calls," in said


def test_who_has_not_the_key_is_refused_and_others_come(up, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "another")
    with pytest.raises(ValueError, match=f"at {up} has another key: set {KEY_VARIABLE}"):
        connect(config(), up)
    monkeypatch.delenv(KEY_VARIABLE)
    assert connect(config(), up).policy.name == "policy"


def test_who_speaks_something_else_or_nothing_stops_none(up):
    host, _, port = up.rpartition(":")
    with socket.create_connection((host, int(port))):
        with socket.create_connection((host, int(port))) as other:
            other.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert connect(config(), up).policy.name == "policy"
        assert connect(config(), up).policy.name == "policy"


def test_a_model_that_it_has_not_is_a_sentence(up):
    other = config(auxiliary_models={"judge": AuxiliaryModel(model="j")})
    with pytest.raises(ValueError, match=f"the engine at {up} has no model judge: start it with"):
        connect(other, up)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere", ":", "127.0.0.1:x"])
def test_no_engine_is_a_sentence(address):
    with pytest.raises(ValueError, match=f"no engine at --engine {address} .*give the HOST:PORT"):
        connect(config(), address)


@pytest.mark.parametrize(
    "flags",
    [
        "--engine h:1 --evaluate",
        "--engine h:1 --checkpoint d",
        "--engine h:1 --serve",
        "--engine h:1 --debug --base-url u",
        "--serve --num-tasks 2",
        "--serve --debug",
    ],
)
def test_what_does_not_go_together(flags, monkeypatch, capsys):
    import rollout

    monkeypatch.setattr("sys.argv", ["rollout.py", "--exp", "gsm8k_offline", *flags.split()])
    with pytest.raises(SystemExit) as stopped:
        rollout.main()
    assert stopped.value.code == 2
    assert "error" in capsys.readouterr().err


@pytest.mark.slow
def test_two_commands(tiny_folder, tmp_path):
    agent = write_agent(tmp_path)
    command = [sys.executable, "rollout.py", "--exp", agent]
    serving = [*command, "--serve", "--model.path", tiny_folder]
    with subprocess.Popen(serving, cwd=ROOT, stdout=subprocess.PIPE, text=True) as up:
        try:
            lines = iter(up.stdout.readline, "")
            line = next(line for line in lines if line.startswith("--engine"))
            engine = line.partition(",")[0].split()
            done = subprocess.run(
                [*command, "--debug", *engine], cwd=ROOT, capture_output=True, text=True
            )
            assert (done.returncode, "1 calls," in done.stdout) == (0, True), done.stderr[-2000:]
        finally:
            up.send_signal(signal.SIGINT)
        assert up.wait(30) == 0
    done = subprocess.run([*command, "--debug", *engine], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "error: no engine at --engine" in done.stderr) == (1, True)
