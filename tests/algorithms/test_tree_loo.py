"""Tree leave-one-out by hand: who came to where a call begins."""

from dataclasses import dataclass

import pytest

from agentrl.algorithms.tree_loo import TreeLOO
from agentrl.types import Call, Episode, Group
from tests.support.updating import rewarded


@dataclass(frozen=True, kw_only=True)
class Named(Call):
    state: str | None = None


def call(prompt: list[int], completion: list[int], **fields) -> Named:
    logprobs = [0.0] * len(completion)
    return Named(prompt_ids=prompt, completion_ids=completion, logprobs=logprobs, **fields)


def group(*episodes: tuple) -> Group:
    """Of each episode its reward and its calls."""
    made = [
        Episode(task={"id": "t"}, index=i, calls=tuple(calls), reward=reward)
        for i, (reward, *calls) in enumerate(episodes)
    ]
    return Group({"id": "t"}, tuple(made))


def found(algorithm: TreeLOO, *groups: Group) -> dict[tuple, float]:
    """By group, episode and prompt: the advantage."""
    samples = algorithm.advantages(groups)
    return {(s.group, s.episode, *s.call.prompt_ids): s.advantage for s in samples}


FOUR = group(
    # All begin with 1 and say 5 or 6; a tool answers 8 or 9, and they go on.
    (1.0, call([1], [5]), call([1, 5, 8], [3])),
    (0.0, call([1], [5]), call([1, 5, 8], [4])),
    (0.5, call([1], [5]), call([1, 5, 9], [3])),
    (0.1, call([1], [6])),
)


def test_a_call_is_compared_with_those_who_came_to_where_it_begins():
    advantages = found(TreeLOO(), FOUR)
    assert advantages == {
        # Where the first calls begin came all: leave-one-out, 1 - 0.6 / 3.
        (0, 0, 1): pytest.approx(0.8),
        (0, 1, 1): pytest.approx(-1.6 / 3),
        (0, 2, 1): pytest.approx(0.5 - 1.1 / 3),
        (0, 3, 1): pytest.approx(0.1 - 0.5),
        # To 1 5 8 came two.
        (0, 0, 1, 5, 8): 1.0,
        (0, 1, 1, 5, 8): -1.0,
        # To 1 5 9 nobody else; to 1 5, above it, the other two.
        (0, 2, 1, 5, 9): 0.0,
    }


def test_the_own_reward_moves_no_baseline():
    """As it would, by a share, in a mean over all who came: that is what would bias."""
    before, after = (found(TreeLOO(), rewarded(FOUR, r, 0.0, 0.5, 0.1)) for r in (1.0, 3.0))
    assert [after[key] - before[key] for key in before if key[1] == 0] == pytest.approx([2.0, 2.0])


def test_groups_and_agents_are_apart():
    first = group((1.0, call([1], [5])), (0.0, call([1], [5])))
    assert found(TreeLOO(), first, first)[1, 0, 1] == 1.0
    shown = {"solver": 1.0, "checker": 0.5}, {"solver": 0.0, "checker": 1.0}
    two = group(*[(r, *(call([n], [2], agent=a) for n, a in enumerate(r, 1))) for r in shown])
    assert found(TreeLOO(), two) == {
        (0, 0, 1): 1.0,
        (0, 1, 1): -1.0,
        (0, 0, 2): -0.5,
        (0, 1, 2): 0.5,
    }


def test_whoever_shares_nothing_is_above_the_first_token():
    apart = group((1.0, call([1], [5])), (0.0, call([2], [5])), (0.5, call([3], [5])))
    assert found(TreeLOO(), apart) == {(0, 0, 1): 0.75, (0, 1, 2): -0.75, (0, 2, 3): 0.0}
    assert found(TreeLOO(), group((1.0, call([1], [5])))) == {(0, 0, 1): 0.0}


def test_over_states():
    """The same question in other words: what it says of the state is what counts."""
    three = group(
        (1.0, call([1], [5], state="start"), call([1, 5, 8], [3], state="door")),
        (0.0, call([1], [6], state="start"), call([1, 6, 9], [3], state="door")),
        (0.4, call([1], [6], state="start"), call([1, 6, 7], [3], state="window")),
    )
    over_states = found(TreeLOO(states=True), three)
    assert over_states[0, 0, 1, 5, 8] == 1.0
    # At the window was nobody else: at the start were both.
    assert over_states[0, 2, 1, 6, 7] == pytest.approx(0.4 - 0.5)
    over_tokens = found(TreeLOO(), three)
    assert over_tokens[0, 0, 1, 5, 8] == pytest.approx(1.0 - 0.2)
    assert over_tokens[0, 2, 1, 6, 7] == pytest.approx(0.4)


def test_the_divisor_counts_episodes_and_nothing_that_is_drawn():
    algorithm = TreeLOO(aggregation=10)
    assert algorithm.weigh(algorithm.advantages([FOUR, FOUR])) == ([1.0] * 14, 80.0)
