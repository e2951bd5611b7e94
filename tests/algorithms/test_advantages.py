import dataclasses

import pytest

from agentrl.algorithms.advantages import (
    centred,
    credit,
    group_normalised,
    leave_one_out,
    trainable,
)
from agentrl.types import Call, Episode, Group
from experiments.gsm8k_offline_shuffled import Shuffled


def episode(index: int, reward: float | None, num_calls: int = 1) -> Episode:
    calls = tuple(
        Call(prompt_ids=[index], completion_ids=[turn], logprobs=[0.0]) for turn in range(num_calls)
    )
    status = "error" if reward is None else "ok"
    return Episode(task={"id": "t"}, index=index, calls=calls, reward=reward, status=status)


def test_by_hand():
    # mean 0.5, sample std sqrt(4 * 0.25 / 3) = 0.57735
    assert group_normalised([1.0, 0.0, 0.0, 1.0]) == pytest.approx(
        [0.866024, -0.866024, -0.866024, 0.866024], abs=1e-6
    )


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1e9 + 0.1])
def test_equal_rewards_are_exactly_zero(reward):
    assert group_normalised([reward] * 7) == [0.0] * 7


@pytest.mark.parametrize("compare", [centred, leave_one_out])
@pytest.mark.parametrize("reward", [0.0, 0.1, -0.7, 1e9 + 0.1])
def test_without_a_std_equal_rewards_are_exactly_zero_too(compare, reward):
    assert set(compare([reward] * 3) + compare([reward] * 7)) == {0.0}


def test_alone():
    assert group_normalised([1.0]) == [0.0]
    assert group_normalised([]) == []


def test_the_control_deals_the_same_rewards_to_others():
    groups = [
        Group({"id": str(task)}, tuple(episode(i, float(task % 2)) for i in range(8)))
        for task in range(16)
    ]
    assert {sample.advantage for sample in credit(groups)} == {0.0}
    dealt = Shuffled().advantages(groups)
    assert [s.call for s in dealt] == [s.call for s in credit(groups)]
    # Half of 128 rewards are 1: by chance no group keeps eight equal ones.
    assert 0 not in {sample.advantage for sample in dealt}
    assert dealt == Shuffled().advantages(groups)


def test_failed_episodes_are_left_out_of_their_group():
    group = Group({"id": "t"}, (episode(0, 1.0), episode(1, None), episode(2, 0.0, num_calls=2)))
    found = [(s.call.prompt_ids[0], round(s.advantage, 4)) for s in credit([group])]
    # Of the two that count: mean 0.5, sample std 0.7071.
    assert found == [(0, 0.7071), (2, -0.7071), (2, -0.7071)]


def conversation(index: int, reward, *agents: str) -> Episode:
    """One call of each agent, in this order; the prompt says whose episode it is."""
    calls = tuple(
        Call(prompt_ids=[index], completion_ids=[turn], logprobs=[0.0], agent=agent)
        for turn, agent in enumerate(agents)
    )
    return Episode(task={"id": "t"}, index=index, calls=calls, reward=reward)


def found(group: Group) -> list[tuple[int, str, float]]:
    return [(s.call.prompt_ids[0], s.call.agent, round(s.advantage, 4)) for s in credit([group])]


def test_an_agent_is_compared_with_itself():
    episodes = (
        conversation(0, {"solver": 1.0, "checker": 0.0}, "solver", "checker", "solver"),
        conversation(1, {"solver": 0.0, "checker": 0.5}, "solver", "checker"),
        conversation(2, {"solver": 0.0, "checker": 1.0}, "solver", "checker"),
    )
    # Solver: 1, 0, 0 has mean 1/3 and std 0.57735. Checker: 0, 0.5, 1 has mean 0.5 and std 0.5.
    assert found(Group({"id": "t"}, episodes)) == [
        (0, "solver", 1.1547),
        (0, "checker", -1.0),
        (0, "solver", 1.1547),
        (1, "solver", -0.5773),
        (1, "checker", 0.0),
        (2, "solver", -0.5773),
        (2, "checker", 1.0),
    ]
    # What one advantage an episode would have been.
    assert [round(a, 2) for a in group_normalised([e.mean_reward for e in episodes])] == [
        0.58,
        -1.15,
        0.58,
    ]


def test_only_episodes_with_a_call_and_a_reward_of_the_agent_are_compared():
    episodes = (
        conversation(0, {"solver": 1.0, "checker": 1.0}, "solver", "checker"),
        # Rewarded for nothing: counted, it would make 1, 0, 0 of the checker's 1, 0.
        conversation(1, {"solver": 0.0, "checker": 0.0}, "solver"),
        conversation(2, {"solver": 0.0, "checker": 0.0}, "solver", "checker"),
        # An agent that is not trained may go without.
        conversation(3, {"solver": 0.0}, "solver", "checker"),
    )
    assert found(Group({"id": "t"}, episodes)) == [
        (0, "solver", 1.5),
        (0, "checker", 0.7071),
        (1, "solver", -0.5),
        (2, "solver", -0.5),
        (2, "checker", -0.7071),
        (3, "solver", -0.5),
    ]


def test_a_number_is_every_agents_reward():
    episodes = (
        conversation(0, 1.0, "solver", "checker"),
        conversation(1, 0.0, "solver", "checker"),
        conversation(2, 1.0, "solver"),
    )
    assert found(Group({"id": "t"}, episodes)) == [
        (0, "solver", 0.5773),
        (0, "checker", 0.7071),
        (1, "solver", -1.1547),
        (1, "checker", -0.7071),
        (2, "solver", 0.5773),
    ]


def test_only_the_trained_agents_samples_are_kept():
    group = Group({"id": "t"}, (conversation(0, 1.0, "solver", "checker", "solver"),))
    every = credit([group])
    assert trainable(every, None) == every
    assert trainable(every, ("solver",)) == [every[0], every[2]]
    assert trainable(every, ("solver", "checker")) == every
    assert trainable(every, ("judge",)) == []


def test_calls_under_a_grammar_are_compared_and_not_trained():
    free, forced = (conversation(i, float(i), "solver", "solver") for i in (0, 1))
    masked = dataclasses.replace(forced.calls[1], under_grammar=True)
    forced = dataclasses.replace(forced, calls=(forced.calls[0], masked))
    trained = trainable(credit([Group({"id": "t"}, (free, forced))]), None)
    assert [sample.call for sample in trained] == [*free.calls, forced.calls[0]]
    assert [round(sample.advantage, 4) for sample in trained] == [-0.7071, -0.7071, 0.7071]
