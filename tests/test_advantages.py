import pytest

from agentrl.learning.advantages import group_advantages, samples
from agentrl.types import Call, Episode, Group
from experiments.gsm8k_offline_shuffled import shuffled


def episode(index: int, reward: float | None, num_calls: int = 1) -> Episode:
    calls = tuple(
        Call(prompt_ids=[index], completion_ids=[turn], logprobs=[0.0]) for turn in range(num_calls)
    )
    status = "error" if reward is None else "ok"
    return Episode(task={"id": "t"}, index=index, calls=calls, reward=reward, status=status)


def test_by_hand():
    # mean 0.5, sample std sqrt(4 * 0.25 / 3) = 0.57735
    assert group_advantages([1.0, 0.0, 0.0, 1.0]) == pytest.approx(
        [0.866024, -0.866024, -0.866024, 0.866024], abs=1e-6
    )


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1e9 + 0.1])
def test_equal_rewards_are_exactly_zero(reward):
    assert group_advantages([reward] * 7) == [0.0] * 7


def test_alone():
    assert group_advantages([1.0]) == [0.0]
    assert group_advantages([]) == []


def test_the_control_deals_the_same_rewards_to_others():
    groups = [
        Group({"id": str(task)}, tuple(episode(i, float(task % 2)) for i in range(8)))
        for task in range(16)
    ]
    assert {sample.advantage for sample in samples(groups)} == {0.0}
    dealt = shuffled(groups)
    assert [s.call for s in dealt] == [s.call for s in samples(groups)]
    # Half of 128 rewards are 1: by chance no group keeps eight equal ones.
    assert 0 not in {sample.advantage for sample in dealt}
    assert dealt == shuffled(groups)


def test_failed_episodes_are_left_out_of_their_group():
    group = Group({"id": "t"}, (episode(0, 1.0), episode(1, None), episode(2, 0.0, num_calls=2)))
    found = [(s.call.prompt_ids[0], round(s.advantage, 4)) for s in samples([group])]
    # Of the two that count: mean 0.5, sample std 0.7071.
    assert found == [(0, 0.7071), (2, -0.7071), (2, -0.7071)]
