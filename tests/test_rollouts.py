import numpy as np
import pytest
from agentrl.watch.rollouts import save

from agentrl.learning.advantages import samples, trainable
from agentrl.types import Call, Episode, Group
from agentrl.watch import load


def call(prompt, completion, **other):
    logprobs = [-0.5 * (i + 1) for i in range(len(completion))]
    return Call(prompt_ids=prompt, completion_ids=completion, logprobs=logprobs, **other)


GROUPS = [
    Group(
        {"id": "first"},
        (
            Episode(
                task={"id": "first"},
                index=0,
                calls=(call([1, 2], [3]), call([1, 2, 3, 4], [5, 6], finish_reason="length")),
                status="truncated",
                reward=1.0,
                success=True,
                metrics={"habit/no_print": 1.0},
            ),
            Episode(
                task={"id": "first"}, index=1, calls=(call([1, 2], [3]),), reward=0.0, success=False
            ),
        ),
    ),
    Group(
        {"id": "second"},
        (
            Episode(task={"id": "second"}, index=0, status="error", error="KeyError: 'x'"),
            Episode(
                task={"id": "second"},
                index=1,
                calls=(call([9], [8, 7], agent="checker"),),
                status="timeout",
                error="too slow",
            ),
        ),
    ),
]


def test_every_episode_comes_back(tmp_path):
    save(tmp_path / "rollouts", 7, GROUPS, samples(GROUPS))
    (step,) = load(tmp_path)
    assert step.step == 7
    written = [episode for group in GROUPS for episode in group.episodes]
    for read, episode in zip(step.episodes, written, strict=True):
        assert read["task_id"] == episode.task["id"]
        assert read["episode"] == episode.index
        for name in ("status", "error", "reward", "success", "metrics"):
            assert read[name] == getattr(episode, name)
        for theirs, mine in zip(read["calls"], episode.calls, strict=True):
            for name in ("agent", "prompt_ids", "completion_ids", "logprobs", "finish_reason"):
                assert theirs[name] == getattr(mine, name)
    assert advantages(step) == [[0.7071, 0.7071], [-0.7071], [], [None]]


def advantages(step) -> list[list[float | None]]:
    def rounded(advantage):
        return None if advantage is None else round(advantage, 4)

    return [[rounded(call["advantage"]) for call in e["calls"]] for e in step.episodes]


def test_each_agents_reward_and_each_calls_advantage_come_back(tmp_path):
    group = Group(
        {"id": "t"},
        tuple(
            Episode(
                task={"id": "t"},
                index=i,
                calls=(call([1], [2], agent="solver"), call([1, 2], [3], agent="checker")),
                reward={"solver": solver, "checker": checker},
            )
            for i, (solver, checker) in enumerate([(1.0, 0.0), (0.0, 0.0), (0.0, 1.0)])
        ),
    )
    save(tmp_path / "rollouts", 1, [group], samples([group]))
    save(tmp_path / "rollouts", 2, [group], trainable(samples([group]), ("checker",)))
    both, one = load(tmp_path)
    assert [e["reward"] for e in both.episodes] == [e.reward for e in group.episodes]
    assert advantages(both) == [[1.1547, -0.5773], [-0.5773, -0.5773], [-0.5773, 1.1547]]
    # Recorded whole, though not trained.
    assert advantages(one) == [[None, -0.5773], [None, -0.5773], [None, 1.1547]]
    assert [c["completion_ids"] for c in one.episodes[0]["calls"]] == [[2], [3]]
    assert [c["agent"] for c in one.episodes[0]["calls"]] == ["solver", "checker"]


def test_shared_prefixes_are_stored_once(tmp_path):
    path = save(tmp_path / "rollouts", 0, GROUPS, [])
    # 1 2 3 4 5 6 and 9 8 7, of 16 tokens in all.
    assert np.load(path)["ids"].tolist() == [1, 2, 3, 4, 5, 6, 9, 8, 7]


def test_a_long_conversation_grows_with_its_length_alone(tmp_path):
    rng = np.random.default_rng(0)
    context, calls = [], []
    for _ in range(40):
        context = context + rng.integers(0, 1000, 50).tolist()
        calls.append(call(context, rng.integers(0, 1000, 50).tolist()))
        context = calls[-1].ids
    episode = Episode(task={"id": "t"}, index=0, calls=tuple(calls), reward=1.0)
    path = save(tmp_path / "rollouts", 0, [Group({"id": "t"}, (episode,))], [])
    assert len(np.load(path)["ids"]) == 40 * 100
    assert [c["prompt_ids"] for c in next(load(tmp_path)).episodes[0]["calls"]] == [
        c.prompt_ids for c in calls
    ]


def test_steps_come_in_order_and_a_wrong_folder_is_said(tmp_path):
    for step in (10, 2):
        save(tmp_path / "rollouts", step, GROUPS, [])
    assert [step.step for step in load(tmp_path)] == [2, 10]
    with pytest.raises(ValueError, match="is it the folder of a run"):
        next(load(tmp_path / "rollouts"))


def test_no_calls_at_all(tmp_path):
    episode = Episode(task={"id": "t"}, index=0, status="error", error="x")
    save(tmp_path / "rollouts", 0, [Group({"id": "t"}, (episode,))], [])
    (step,) = load(tmp_path)
    assert step.episodes[0]["calls"] == []
