"""The curriculum draws by success so far, leaves out what it should, and remembers."""

import json
from argparse import Namespace
from statistics import fmean

import pytest

from agentrl.algorithms import GRPO
from agentrl.tasks.curriculum import Curriculum
from agentrl.types import Episode, Group
from tests.support.updating import make_config

EASY, HARD, NEW = ({"id": name} for name in ("easy", "hard", "new"))


def group(task: dict, *solved: bool) -> Group:
    """One more episode than told, which could not be scored."""
    made = [Episode(task=task, index=i, reward=float(s), success=s) for i, s in enumerate(solved)]
    return Group(task, (*made, Episode(task=task, index=len(made), status="error")))


def learned(*groups: Group, **options) -> Curriculum:
    curriculum = Curriculum(**options)
    curriculum.learn(Namespace(groups=groups))
    return curriculum


def drawn(curriculum: Curriculum, num_steps: int, tasks=(EASY, HARD), size: int = 1) -> list[str]:
    batches = curriculum(tasks, make_config(GRPO(), steps=num_steps, tasks_per_step=size))
    assert len(batches) == num_steps
    return [task["id"] for step in range(num_steps) for task in batches[step]]


def test_draws_in_proportion_to_p_times_1_less_p():
    assert fmean(i == "easy" for i in drawn(Curriculum(), 2000)) == pytest.approx(0.5, abs=0.03)
    # Of ten, nine solved: 0.09, against 0.25 of what nobody has tried.
    share = fmean(i == "easy" for i in drawn(learned(group(EASY, *[True] * 8), tried=9), 2000))
    assert share == pytest.approx(0.09 / 0.34, abs=0.03)


def test_what_is_too_easy_or_too_hard_is_drawn_for_want_of_others():
    curriculum = learned(group(EASY, *[True] * 8), group(HARD, *[False] * 8))
    assert set(drawn(curriculum, 200, (EASY, HARD, NEW))) == {"new"}
    assert set(drawn(curriculum, 50)) == {"easy", "hard"}
    pairs = drawn(curriculum, 50, (EASY, HARD, NEW), size=2)
    assert pairs[::2] == ["new"] * 50
    # Seven episodes say too little.
    few = learned(group(EASY, *[True] * 7), group(HARD, *[False] * 7))
    assert set(drawn(few, 200, (EASY, HARD, NEW))) == {"easy", "hard", "new"}
    bounded = learned(group(EASY, *[True] * 7, False), easiest=0.8)
    assert set(drawn(bounded, 100)) == {"hard"}
    assert set(drawn(learned(group(EASY, *[True] * 7, False)), 100)) == {"easy", "hard"}


def test_a_batch_holds_no_task_twice():
    tasks = [{"id": str(i)} for i in range(6)]
    batches = Curriculum()(tasks, make_config(GRPO(), steps=3, tasks_per_step=5))
    assert [len({task["id"] for task in batch}) for batch in batches] == [5, 5, 5]


def test_tasks_of_a_kind_are_counted_together():
    curriculum = learned(group(EASY, True), group(HARD, False), kind=lambda task: "any")
    assert curriculum.state() == {"any": [1, 2]}


def test_remembers():
    curriculum = learned(group(HARD, True, False))
    state, before = json.loads(json.dumps(curriculum.state())), drawn(curriculum, 50)
    assert state == {"hard": [1, 2]}
    again = learned(group(HARD, *[True] * 20))
    assert drawn(again, 50) != before
    again.load_state(state)
    assert drawn(again, 50) == before
    # What was handed out does not change.
    again.learn(Namespace(groups=[group(HARD, True)]))
    assert state == {"hard": [1, 2]}


def test_too_few_tasks_are_a_sentence():
    with pytest.raises(ValueError, match="tasks_per_step is 3, but there are only 2 train tasks"):
        drawn(Curriculum(), 1, size=3)
