"""Episodes in worker processes of an engine that is scripted: what comes back, and who dies."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from agentrl.cli import config_of
from agentrl.config import ServerConfig
from agentrl.runs import preflight
from agentrl.runs.session import Session
from agentrl.serving.start import front
from agentrl.types import CannotStart, Episode
from agentrl.workers.pool import WorkerPool
from agentrl.workers.start import serve
from tests.support.pooled import SOURCE, Drawing, Pooled, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pooled(tiny_folder):
    engine = Drawing()
    pool = WorkerPool(config_of(*SOURCE), tiny_folder, tiny_folder, SOURCE)
    yield Pooled(pool.attach({"policy": engine}), engine)
    pool.close()


def wait_until_ready(pooled) -> None:
    """Those that were started anew, which until then get nothing."""
    for worker in pooled.workers.workers:
        if not worker.is_ready:
            assert pooled.workers.receive(worker) == []


def processes(episodes: list[Episode]) -> set[int]:
    return {int(e.metrics["process"]) for e in episodes if e.metrics}


def test_they_are_what_they_are_in_one_process(pooled, tiny_folder):
    tasks = [{}, {"does": "http"}, {"does": "schema"}, {"does": "raise"}]
    before, told = pooled.num_tokens, []
    there = run(pooled, *tasks, group_size=3, report=lambda *words: told.append(words))
    assert len(processes(there)) == 2
    here = front(config_of(*SOURCE), tiny_folder, tiny_folder, lambda *_: Drawing())
    alone = run(here, *tasks, group_size=3)
    here.close()

    def plain(episode):
        calls = [(c.prompt_ids, c.completion_ids, c.logprobs, c.text) for c in episode.calls]
        return episode.status, episode.error, episode.reward, calls

    assert [*map(plain, there)] == [*map(plain, alone)]
    assert [e.index for e in there] == [0, 1, 2] * 4
    assert {e.status for e in there[-3:]} == {"error"}
    drawn = sum(len(c.completion_ids) for e in there for c in e.calls)
    assert (pooled.num_tokens - before, told[-1][0]) == (drawn, 1.0)
    assert "12 done, 0 running, 3 failed" in told[-1][1]
    # A schema and a stop string come through.
    bound = [s for s in pooled.engine.samplings if s.grammar is not None]
    assert {s.stop for s in bound} == {("}",)}
    assert bound[0].grammar.json == {"type": "object", "properties": {}}


def test_a_worker_that_dies_costs_its_episodes_and_another_takes_its_part(pooled):
    workers = [worker.process.pid for worker in pooled.workers.workers]
    ended = run(pooled, {"does": "exit"}, *[{}] * 3)
    lost = [e for e in ended if e.status == "error"]
    assert 1 <= len(lost) <= 2
    assert "worker 0, in which it ran, ended with 3" in {e.error for e in lost}
    wait_until_ready(pooled)
    again = run(pooled, *[{}] * 8)
    assert {e.status for e in again} == {"truncated"}
    assert len({*workers} & processes(again)) == 1
    assert len(processes(again)) == 2


def test_one_that_hangs_with_the_interpreter_is_killed(pooled, monkeypatch):
    monkeypatch.setattr("agentrl.workers.pool.HUNG_SECONDS", 1.0)
    started = time.monotonic()
    hung, *others = run(pooled, {"does": "hang"}, {})
    assert hung.error.endswith("in which it ran, ended with -9")
    assert time.monotonic() - started < 30
    assert [e.status for e in others] == ["truncated"]
    wait_until_ready(pooled)
    assert len(processes(run(pooled, *[{}] * 8))) == 2


def test_an_episode_that_is_too_long_ends_alone(pooled):
    long, other = run(pooled, {"does": "block"}, {})
    assert (long.status, other.status) == ("timeout", "truncated")
    assert long.error == "the episode ran longer than 8 s"


def test_who_stops_a_batch_leaves_nothing_running(pooled):
    class Enough(Exception):
        pass

    def check():
        if time.monotonic() > started + 1:
            raise Enough

    started = time.monotonic()
    with pytest.raises(Enough):
        run(pooled, *[{"does": "block"}] * 4, check=check)
    # And the next has its own alone.
    assert {e.status for e in run(pooled, *[{}] * 4)} == {"truncated"}


def test_what_cannot_be_loaded_is_a_sentence(tiny_folder, tmp_path):
    experiment = tmp_path / "mine.py"
    experiment.write_text(Path(SOURCE[0]).read_text() + "\nconfig = 1 / 0\n")
    config = config_of(*SOURCE)
    pool = WorkerPool(config, tiny_folder, tiny_folder, (str(experiment), None, []))
    with pytest.raises(CannotStart, match=r"(?s)worker 0 cannot load the experiment.*1 / 0"):
        pool.attach({"policy": Drawing()})
    assert not any(worker.process.is_alive() for worker in pool.workers)


PARENT = """
import sys, time
from agentrl.cli import config_of
from agentrl.config import ServerConfig
from agentrl.runs import preflight
from agentrl.workers.pool import WorkerPool

if __name__ == "__main__":
    from tests.support.pooled import SOURCE, Drawing, Pooled, run
    pool = WorkerPool(config_of(*SOURCE), *sys.argv[1:] * 2, SOURCE).attach({"policy": Drawing()})
    print(*(worker.process.pid for worker in pool.workers), flush=True)
    run(Pooled(pool, Drawing()), {"does": "leave a program"}, {"does": "block"})
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_who_started_them(tiny_folder, tmp_path, number):
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    root = Path(__file__).parents[2]
    variables = {**os.environ, "PYTHONPATH": str(root), "MARKED": str(tmp_path)}
    command = [sys.executable, program, tiny_folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        time.sleep(2)
        parent.send_signal(number)
        parent.wait(30)
    deadline = time.monotonic() + 15
    while left := [p for p in psutil.process_iter() if _is_marked(p, str(tmp_path))]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def _is_marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("MARKED") == mark
    except psutil.Error:
        return False


def test_none_are_started_where_nobody_can_load_what_is_given(tiny_folder, monkeypatch, caplog):
    config = config_of(*SOURCE)
    serving = front(config, tiny_folder, tiny_folder, lambda *_: Drawing())
    monkeypatch.setattr("agentrl.serving.start.serve", lambda *given: serving)
    run = object.__new__(Session)
    vars(run).update(model=tiny_folder, first_model=tiny_folder, source=None)
    assert serve(config, run).workers is None
    assert "Episodes run in the engine's process" in caplog.text


def test_each_worker_has_a_port():
    """A given one is the first of theirs; one that is taken is named before anything starts."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = replace(config_of(*SOURCE), server=ServerConfig(port=port - 1))
        with pytest.raises(ValueError, match=f"cannot serve at .* server.port {port} "):
            preflight.check_serving_addresses(config)
