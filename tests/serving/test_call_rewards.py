"""model.reward and model.state: what a workflow says of its calls, and whose it is."""

import math

import pytest

from tests.support.families import QWEN25
from tests.support.spy import Scripted

ASK = [{"role": "user", "content": "2+3?"}]


@pytest.fixture
def episode():
    made = Scripted(QWEN25)
    yield made
    made.client.close()
    made.serving.server.close()


def asks(episode, *, is_retry=False, client=None) -> None:
    episode.says("five")
    episode.ask(ASK, is_retry=is_retry, client=client)


def given(episode) -> list[tuple]:
    return [(call.agent, call.reward, call.state) for call in episode.calls]


def test_a_reward_is_the_last_calls_and_a_state_the_next_ones(episode):
    asks(episode)
    episode.client.reward(0.5)
    episode.client.state("kitchen")
    asks(episode)
    asks(episode)
    episode.client.reward(1.0)
    episode.client.reward(-1.0)
    assert given(episode) == [
        ("agent", 0.5, None),
        ("agent", None, "kitchen"),
        ("agent", -1.0, None),
    ]
    # What was sampled is as it was.
    assert len({tuple(call.logprobs) for call in episode.calls}) == 1


def test_each_agent_has_its_own(episode):
    other = episode.client.agent("other")
    other.state("hall")
    asks(episode)
    asks(episode, client=other)
    asks(episode)
    other.reward(2.0)
    assert given(episode) == [("agent", None, None), ("other", 2.0, "hall"), ("agent", None, None)]


def test_a_retry_keeps_the_state_and_what_it_takes_back_its_reward(episode):
    episode.client.state("kitchen")
    asks(episode)
    episode.client.reward(3.0)
    asks(episode, is_retry=True)
    assert given(episode) == [("agent", None, "kitchen")]


@pytest.mark.parametrize(
    ("calls", "value", "cause"),
    [
        (0, 1.0, "model.reward has no call yet of agent"),
        (1, math.nan, "model.reward is nan, not a finite number"),
    ],
)
def test_a_reward_that_cannot_be_is_a_sentence(episode, calls, value, cause):
    for _ in range(calls):
        asks(episode)
    with pytest.raises(ValueError, match="model.reward") as refused:
        episode.client.reward(value)
    assert str(refused.value) == cause
