"""Runs whose episodes are in workers, on real engines: as in one process, and nothing is left."""

import signal

import pytest

from agentrl.records import open_run
from tests.support.running import TWO_RANKS, Running, metrics, start, the_run

pytestmark = pytest.mark.slow
FEW = ("--steps", "2", "--eval.every", "2", "--eval.num-tasks", "4")


def run(folder, model, *flags, **options) -> Running:
    return start(folder, model, *FEW, *flags, **options)


def drawn(folder) -> list:
    """What the first step's calls are, in the order of tasks and episodes."""
    episodes = open_run(the_run(folder)).episodes(step=1, limit=100)
    return [(e.task_id, e.episode, e.status, e.reward) for e in episodes]


def test_the_first_batch_is_the_one_of_a_single_process(tmp_path, tiny_folder):
    sides = {}
    for number in ("0", "2"):
        one = run(tmp_path / number, tiny_folder, "--workers", number)
        assert one.end() == 0, one.said
        first, last = metrics(the_run(tmp_path / number))[1:]
        assert (first["episodes/error"], last["episodes/error"]) == (0, 0)
        assert max(row["gap/max_abs_logprob"] for row in (first, last)) < 1e-4
        sides[number] = first["reward/mean"], first["tokens/trained"], drawn(tmp_path / number)
    assert len(sides["2"][2]) == 8
    assert sides["0"] == sides["2"]


def test_two_ranks_with_a_worker_each(tmp_path, tiny_folder):
    one = run(tmp_path, tiny_folder, "--workers", "1", launch=TWO_RANKS)
    assert one.end() == 0, one.said
    assert len(drawn(tmp_path)) == 8


@pytest.mark.parametrize(
    ("number", "flags"),
    [
        (signal.SIGINT, ("--workers", "2")),
        (signal.SIGKILL, ("--workers", "2")),
        (signal.SIGINT, ("--overlap", "--workers", "1")),
    ],
)
def test_an_end_in_the_middle_leaves_nothing(tmp_path, tiny_folder, number, flags):
    one = run(tmp_path, tiny_folder, *flags, "--steps", "50", "--save-every", "1")
    one.wait_for("step  2/50").signal(number)
    # ``end`` waits until no process of it is left.
    assert one.end() == (130 if number == signal.SIGINT else -9), one.said
    before = len(metrics(the_run(tmp_path)))
    again = run(tmp_path / "again", tiny_folder, "--steps", "50", "--resume", the_run(tmp_path))
    again.wait_for(f"step {before + 1:>2}/50").signal(signal.SIGINT)
    assert again.end() == 130, again.said
