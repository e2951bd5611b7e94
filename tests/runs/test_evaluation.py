"""Success over tasks: pass@k, intervals, p-values against what can be counted."""

import itertools
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest

from agentrl.config import EvalConfig
from agentrl.runs import evaluation
from agentrl.runs.evaluation import (
    evaluation_metrics,
    has_stopped,
    interval,
    pass_at_k,
    sign_flip_p_value,
)
from agentrl.types import EVAL_SET, Episode, Group


def test_pass_at_k_is_the_share_of_choices_that_hold_a_solution():
    for n in range(1, 8):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            solved = [True] * c + [False] * (n - c)
            counted = fmean(map(any, itertools.combinations(solved, k)))
            assert pass_at_k(n, c, k) == pytest.approx(counted, abs=1e-15)
            # The control: with replacement is another thing.
            assert k == 1 or c in (0, n) or 1 - (1 - c / n) ** k < counted - 1e-6


def covered(rng, worlds: int, *, by_task: bool, tasks: int = 200, k: int = 8) -> float:
    """In which share of worlds the interval holds the success that all tasks have."""
    held, truth = 0, 0.625
    for _ in range(worlds):
        # Tasks are of unlike difficulty: Beta(1.25, 0.75).
        solved = rng.binomial(k, rng.beta(2 * truth, 2 * (1 - truth), tasks))
        if by_task:
            low, high = interval(solved, np.full(tasks, k))
        else:
            low, high = interval(np.arange(tasks * k) < solved.sum(), np.ones(tasks * k))
        held += low <= truth <= high
    return held / worlds


def test_intervals_cover_what_they_say(monkeypatch):
    rng = np.random.default_rng(0)
    # Few resamples, drawn anew in every world.
    monkeypatch.setattr(evaluation, "RESAMPLES", 300)
    monkeypatch.setattr(np.random, "default_rng", lambda seed: rng)
    # Three standard deviations of 2,000 draws.
    assert covered(rng, 2000, by_task=True) == pytest.approx(0.95, abs=0.015)
    # The control: an episode is no draw of its own where several are of one task.
    assert covered(rng, 200, by_task=False) < 0.85


def counted(differences) -> float:
    signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
    return float((np.abs(signs @ differences) >= abs(sum(differences)) - 1e-9).mean())


def test_p_values_are_those_of_all_signs(monkeypatch):
    rng = np.random.default_rng(1)
    for size in (1, 5, 12):
        for differences in (rng.integers(-4, 5, size) / 4, rng.normal(0.3, 1, size)):
            assert sign_flip_p_value(differences) == pytest.approx(counted(differences), abs=1e-12)
    assert (sign_flip_p_value(np.array([])), sign_flip_p_value(np.zeros(3))) == (1, 1)
    # Of more sums some are drawn; and of equal differences there are few, however many tasks.
    monkeypatch.setattr(evaluation, "SUMS", 1000)
    # Four standard deviations of 100,000 draws.
    assert sign_flip_p_value(differences) == pytest.approx(counted(differences), abs=0.0064)
    assert sign_flip_p_value(np.ones(900)) < 1e-200


def a_group(name: str, *successes: bool | None, of: str | None = None) -> Group:
    task = {"id": name} | ({EVAL_SET: of} if of else {})
    episode = Episode(task=task, index=0)
    return Group(
        task,
        tuple(
            replace(episode, index=i, reward=None if s is None else float(s), success=s)
            for i, s in enumerate(successes)
        ),
    )


def test_what_is_measured_of_two_sets():
    groups = [
        a_group("a", True, True, False, False, of="easy"),
        a_group("b", False, False, True, None, of="easy"),
        a_group("c", False, False, False, False, of="hard"),
    ]
    found = evaluation_metrics(groups)
    assert found["eval/success"] == 3 / 11
    # Of b there are three episodes: it counts in pass@2 alone.
    assert found["eval/pass@2"] == pytest.approx((5 / 6 + 2 / 3 + 0) / 3)
    assert found["eval/pass@4"] == 0.5
    assert found["eval/easy/success"] == 3 / 7
    assert found["eval/easy/pass@4"] == 1
    assert (found["eval/hard/success"], found["eval/episodes/ok"]) == (0, 12)
    assert found["eval/success/low"] < 3 / 11 < found["eval/success/high"]
    # One task says nothing of others.
    assert "eval/hard/success/low" not in found
    alone = evaluation_metrics([a_group("a", True), a_group("b", False)])
    assert [name for name in alone if "pass@" in name or "easy" in name] == []


def test_when_a_run_has_stopped():
    rows = [{"eval/success": value} for value in (0.5, 0.7, 0.6, 0.7)]
    assert [has_stopped(rows[:n], "eval/success", 2) for n in range(5)] == [False] * 4 + [True]
    assert not has_stopped(rows, "eval/success", None)
    assert not has_stopped([{"reward/mean": 1.0}], "eval/success", 1)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"samples": 4, "temperature": 0.0}, "eval.samples is 4: .*1 where eval.temperature is 0"),
        ({"temperature": -1.0}, "eval.temperature is -1.0: give 0 to 2"),
        ({"sets": ("hard",)}, r"eval.sets is \('hard',\): give each as NAME=FILE.jsonl"),
        ({"sets": ("a=x", "a=y")}, "give each as NAME=FILE.jsonl, and its own name"),
        ({"best": "success"}, "eval.best is success: name a metric of an evaluation, eval/"),
        ({"patience": 2, "every": None}, "eval.patience is 2: .*--eval.every"),
    ],
)
def test_settings_that_cannot_be_meant(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        EvalConfig(**settings)
