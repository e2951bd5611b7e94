"""Chunks as their groups are complete, and runs that train on them."""

import asyncio
import threading

import pytest

from agentrl import overlap
from agentrl.algorithms.named import load_algorithm
from agentrl.config import Config, ModelConfig
from agentrl.learning.ranks import Ranks
from agentrl.runs.session import Session
from agentrl.types import NothingToTrain
from tests.support.running import TWO_RANKS, metrics, start, the_run
from tests.support.scripted_model import ScriptedModel


class ScriptedServing:
    def __init__(self):
        self.num_tokens, self.workers, self.engine, self.models = 0, None, self, []

    def raise_if_stopped(self):
        pass

    def open(self, **_):
        self.models.append(ScriptedModel())
        return self.models[-1], {}

    def release(self, model):
        pass

    def decode(self, ids):
        return str(ids)


def config(workflow, **fields) -> Config:
    given = {"group_size": 2, "overlap": True, **fields}
    return Config(
        workflow=workflow, tasks=lambda data: ([], []), model=ModelConfig(path="m"), **given
    )


class Watched(Session):
    """What chunks need of a run."""

    def __init__(self):
        self.checked, self.told = [], []
        self.report = lambda share, note: self.told.append(share)

    def check_batch(self, step, groups):
        self.checked.append((step, len(groups)))


class OneRank(Ranks):
    size = num_engines = _ranks_per_engine = 1
    rank = 0

    def __init__(self):
        pass

    def check(self):
        pass


def tasks(*ids: str) -> list[dict]:
    return [{"id": one} for one in ids]


def chunks(workflow, ids, run=None, serving=None, **fields):
    made = (config(workflow, **fields), OneRank(), run or Watched())
    return overlap.chunks(tasks(*ids), serving or ScriptedServing(), *made, step=3)


def test_groups_come_as_they_are_complete_and_the_last_is_marked():
    go_on = {"b": threading.Event(), "c": threading.Event()}

    async def solve(task, model):
        while task["id"] in go_on and not go_on[task["id"]].is_set():
            await asyncio.sleep(0.01)
        return 1.0

    run, found = Watched(), []
    for chunk in chunks(solve, "abc", run):
        found.append(([g.task["id"] for g in chunk.groups], chunk.is_first, chunk.is_last))
        assert all(len(group.episodes) == 2 for group in chunk.groups)
        # What is still drawn goes on only now: nobody waits for the slowest.
        go_on["c" if len(found) == 1 else "b"].set()
    assert found == [(["a"], True, False), (["c"], False, False), (["b"], False, True)]
    # All groups at once, before the optimizer step.
    assert run.checked == [(3, 3)]


def test_a_batch_that_is_there_at_once_is_whole():
    async def solve(task, model):
        await asyncio.sleep(0.05)
        return 1.0

    (chunk,) = chunks(solve, "a")
    assert chunk.is_whole


def test_what_ends_the_batch_ends_the_chunks():
    async def solve(task, model):
        return 1.0

    run = Watched()

    def refuse(step, groups):
        raise NothingToTrain("nothing")

    run.check_batch = refuse
    with pytest.raises(NothingToTrain):
        list(chunks(solve, "ab", run))

    class Stopped(ScriptedServing):
        def raise_if_stopped(self):
            raise RuntimeError("the engine has stopped")

    with pytest.raises(RuntimeError, match="the engine has stopped"):
        list(chunks(solve, "ab", serving=Stopped()))


def test_who_goes_away_leaves_nothing_running():
    serving = ScriptedServing()

    async def solve(task, model):
        await asyncio.sleep(0 if task["id"] == "a" else 10**6)
        return 1.0

    stream = chunks(solve, "ab", serving=serving)
    assert [group.task["id"] for group in next(stream).groups] == ["a"]
    stream.close()
    assert all(model.closed for model in serving.models)
    assert "episodes" not in {thread.name for thread in threading.enumerate()}


def test_what_cannot_overlap_is_a_sentence():
    async def solve(task, model):
        return 1.0

    sentence = "overlap is True: this needs groups one by one, one optimizer step a batch"
    for algorithm in ("gdpo", "rae", "gspo"):
        with pytest.raises(ValueError, match=sentence):
            config(solve, algorithm=load_algorithm(algorithm))
    for fields in ({"deterministic": True}, {"collect": print}):
        with pytest.raises(ValueError, match=sentence):
            config(solve, **fields)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "launch"), [("0", None), ("1", None), ("0", TWO_RANKS)])
def test_a_run_is_the_one_that_waits(tmp_path, tiny_folder, workers, launch):
    """To rounding: the same draws, the same gradient."""
    sides = {}
    for name, flags in {"waits": (), "overlaps": ("--overlap", "--workers", workers)}.items():
        folder = tmp_path / name
        experiment = folder.with_suffix(".py")
        experiment.write_text(EXPERIMENT)
        run = {"experiment": str(experiment), "launch": launch}
        one = start(folder, tiny_folder, "--steps", "2", *flags, **run)
        assert one.end() == 0, one.said
        sides[name] = metrics(the_run(folder))[1]
    first, second = sides["waits"], sides["overlaps"]
    for name in ("reward/mean", "tokens/trained", "tokens/logical", "episodes/ok"):
        assert first[name] == second[name], name
    assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=2e-5)
    assert second["loss"] == pytest.approx(first["loss"], abs=2e-6)
    assert second["gap/max_abs_logprob"] < 1e-4


EXPERIMENT = """
import dataclasses

from agentrl.algorithms import GRPO
from tests.support import drawn_rewards

# Whose credit draws nothing itself.
config = dataclasses.replace(drawn_rewards.config, algorithm=GRPO(), tasks_per_step=6)
"""
