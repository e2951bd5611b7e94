"""Published ideas, a file each: every formula against numbers worked out by hand."""

import asyncio
import math
from argparse import Namespace
from dataclasses import replace
from itertools import combinations
from statistics import fmean, pstdev

import pytest
import torch

from agentrl.algorithms import GRPO
from agentrl.types import Call, CallScores
from tests.support.by_hand import advantages, call, gradient, group
from tests.support.ideas import LINES, PRESETS, config_of, load
from tests.support.terms import make_terms


@pytest.mark.parametrize("idea", LINES)
def test_an_idea_is_a_file_of_at_most_40_lines(idea):
    assert LINES[idea] <= 40
    assert len(LINES) - len(PRESETS) == 16


@pytest.mark.parametrize("idea", LINES)
def test_train_py_is_told_by_flags(idea):
    config, module = config_of(idea, "m"), load(idea)
    seams = [getattr(config, name) for name in ("collect", "batches", "after_step", "load_policy")]
    if hasattr(module, "config"):
        assert config.algorithm == module.config.algorithm
        changed = any(seams) or config.algorithm != GRPO()
        assert changed
    else:
        assert seams == [None] * 4
        assert config.algorithm.name == module.algorithm.name


def test_several_passes():
    algorithm = load("several_passes").algorithm
    assert (algorithm.passes, algorithm.updates, algorithm.has_proximal) == (2, 4, True)
    # The ratio is to what the policy was: exp(0.5), clipped; corrected by exp(-1.5 - -1.4).
    given = {"sampler": [-1.4], "advantages": [1.0], "proximal": [-1.5]}
    value = algorithm.loss(make_terms(torch.tensor([-1.0]), **given)).values.item()
    assert value == pytest.approx(-math.exp(-0.1) * 1.2)


def valued(*values: float, **fields) -> Call:
    """A call whose tokens have these values."""
    nothing = (0.0,) * len(values)
    scores = CallScores(logprobs=nothing, entropies=nothing, others={"values": values})
    return call(len(values), scores=scores, **fields)


def test_critic_has_gae_over_the_calls_of_an_episode():
    algorithm = replace(load("critic").config.algorithm, discount=0.5, decay=0.5)
    three = [valued(1.0, 2.0), valued(3.0, reward=0.5), valued(4.0)]
    # Backwards: 1 - 4; 0.5 + 4/2 - 3 = -0.5 and a quarter of -3; 3/2 - 2 = -0.5 and a quarter of
    # -1.25; 2/2 - 1 = 0 and a quarter of -0.8125.
    by_hand = [[-0.203125, -0.8125], [-1.25], [-3.0]]
    assert advantages(algorithm, group((1.0, three))) == by_hand
    # Another episode, and another agent in between, are apart.
    between = [three[0], valued(9.0, agent="other"), *three[1:]]
    found = advantages(algorithm, group((1.0, between), (5.0, [valued(7.0)])))
    assert found == [by_hand[0], [-8.0], *by_hand[1:], [-2.0]]
    # What is not trained has no values: its reward, and the episode's, come with the call before.
    (*found, last, none) = advantages(algorithm, group((1.0, [*three, call(2, reward=0.25)])))
    assert (last, none) == ([-2.75], [])
    assert found == [[-0.203125 + 0.25 / 4**3, -0.8125 + 0.25 / 4**2], [-1.25 + 0.25 / 4]]
    # Of both 1: the return, less the value.
    plain = replace(algorithm, discount=1.0, decay=1.0)
    assert advantages(plain, group((1.0, three))) == [[0.5, -0.5], [-1.5], [-3.0]]


def test_critic_pulls_its_values_to_where_they_were_and_the_advantage():
    algorithm = load("critic").config.algorithm
    values = torch.tensor([0.25, 0.75], requires_grad=True)
    logprobs = torch.tensor([-1.0, -1.0], requires_grad=True)
    # Targets 0.5 + 1 and 0.5 - 1: of an earlier step's values, not of these.
    before = {"values": torch.tensor([0.5, 0.5])}
    given = {"others": {"values": values}, "proximal_others": before}
    losses = algorithm.loss(make_terms(logprobs, [-1.0, -1.0], [1.0, -1.0], **given))
    assert losses.values.tolist() == pytest.approx([-1.0 + 1.25**2 / 2, 1.0 + 1.25**2 / 2])
    of_policy, of_values = torch.autograd.grad(losses.values.sum(), (logprobs, values))
    assert (of_policy.tolist(), of_values.tolist()) == ([-1.0, 1.0], [-1.25, 1.25])
    assert algorithm.every_call
    assert algorithm.updates > 1


def test_pass_at_k():
    algorithm = load("pass_at_k").PassAtK(k=2)
    # One of four: p = 1 - 3/6; the solved (1 - p) / 0.5, the others (0.5 - 2/3) / 0.5.
    assert algorithm.compare([1.0, 0.0, 0.0, 0.0]) == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert algorithm.compare([0.0] * 4) == algorithm.compare([1.0] * 4) == [0.0] * 4
    # With three of four, every choice of two has one that succeeds.
    assert algorithm.compare([1.0, 1.0, 1.0, 0.0]) == [0.0] * 4
    assert algorithm.compare([1.0]) == [0.0]


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("num_solved", [1, 2, 4])
def test_pass_at_k_is_grpo_over_all_choices_of_k(k, num_solved):
    rewards = [1.0] * num_solved + [0.0] * (6 - num_solved)
    choices = list(combinations(range(6), k))
    succeeds = {choice: max(rewards[i] for i in choice) for choice in choices}
    p, std = fmean(succeeds.values()), pstdev(succeeds.values())
    by_hand = [
        fmean((succeeds[choice] - p) / std for choice in choices if i in choice) if std else 0.0
        for i in range(6)
    ]
    assert load("pass_at_k").PassAtK(k=k).compare(rewards) == pytest.approx(by_hand)
    assert load("pass_at_k").pass_at(k, rewards) == pytest.approx(p)


def test_pass_at_k_is_logged():
    one_of_four = group((1.0, [1]), (0.0, [1]), (0.0, [1]), (0.0, [1]))
    moment = Namespace(groups=[one_of_four, group(*[(0.0, [1])] * 4)])
    assert load("pass_at_k").measure(moment) == {"pass@1": 0.125, "pass@4": 0.5}


@pytest.mark.parametrize(
    ("mine", "theirs", "reward", "success"),
    [("2", "3", 1.0, True), ("2", "2", 0.0, True), ("3", "2", -1.0, False), ("3", "3", 0.0, False)],
)
def test_self_play(monkeypatch, mine, theirs, reward, success):
    self_play = load("self_play")

    async def solve(task, model):
        return Namespace(response=f"\\boxed{{{model}}}")

    monkeypatch.setattr(self_play, "solve", solve)
    played = asyncio.run(self_play.play({"answer": "#### 2"}, mine, {"opponent": theirs}))
    assert (played.reward, played.success) == (reward, success)


def test_the_opponent_takes_the_policys_weights_now_and_then():
    taken = []
    opponent = Namespace(engine=Namespace(sync=taken.append))
    serving = Namespace(auxiliary={"opponent": opponent})
    for step in (1, 2, 3, 4):
        policy = Namespace(weights=lambda step=step: step)
        load("self_play").renew_opponent(Namespace(step=step, policy=policy, serving=serving))
    assert taken == [2, 4]


def at_ratios(*ratios: float, advantages: list[float]) -> dict:
    """Terms of one call at a log-prob of -1, sampled from the policy before the first step."""
    proximal = [-1 - math.log(ratio) for ratio in ratios]
    return {"proximal": proximal, "sampler": proximal, "advantages": advantages}


def test_gmpo_clips_before_the_mean():
    algorithm = load("gmpo").algorithm
    given = at_ratios(math.exp(1.0), math.exp(0.2), advantages=[1.0, 1.0])
    # Log ratios 1 and 0.2, the first clipped to 0.4: exp(0.3) for both.
    losses = algorithm.loss(make_terms(torch.full((2,), -1.0), **given))
    assert losses.values.tolist() == pytest.approx([-math.exp(0.3)] * 2)
    assert gradient(algorithm, [-1.0, -1.0], **given) == pytest.approx([0.0, -math.exp(0.3)])
    assert algorithm.weigh(algorithm.advantages([group((1.0, [2]), (0.0, [8]))]))[0] == [0.5, 0.125]


def test_topr_lets_go_of_bad_calls_that_became_unlikely():
    algorithm = load("topr").algorithm
    assert advantages(algorithm, group((1.0, [1]), (0.0, [1]))) == [0.5, -0.5]
    for advantage, alpha in ((0.5, 1.0), (-0.5, 0.5 * 0.8)):
        given = at_ratios(0.5, 0.8, advantages=[advantage] * 2)
        found = gradient(algorithm, [-1.0, -1.0], **given)
        assert found == pytest.approx([-alpha * advantage] * 2)


def test_opsm_masks_bad_calls_that_the_policy_has_left():
    algorithm = load("opsm").algorithm
    left, near = (
        at_ratios(0.5, 0.9, advantages=[-1.0] * 2),
        at_ratios(0.95, 1.0, advantages=[-1.0] * 2),
    )
    assert gradient(algorithm, [-1.0] * 2, **left) == [0.0, 0.0]
    assert gradient(algorithm, [-1.0] * 2, **near) == pytest.approx([0.95, 1.0])
    good = {**left, "advantages": [1.0, 1.0]}
    assert gradient(algorithm, [-1.0] * 2, **good) == pytest.approx([-0.5, -0.9])


def test_opo_weighs_its_baseline_by_length():
    found = advantages(load("opo").algorithm, group((1.0, [3]), (0.0, [1])))
    assert found == [0.25, -0.75]


def test_gpg_makes_up_for_groups_that_say_nothing():
    two = group((1.0, [1]), (0.0, [1])), group((1.0, [1]), (1.0, [1]))
    assert advantages(load("gpg").algorithm, *two) == [1.0, -1.0, 0.0, 0.0]
    assert advantages(load("gpg").algorithm, two[1]) == [0.0, 0.0]


def test_opmd_has_a_soft_maximum_for_a_baseline():
    found = advantages(load("opmd").algorithm, group((1.0, [1]), (0.0, [1])))
    assert found == pytest.approx([1 - 0.620115, -0.620115], abs=1e-6)
    assert gradient(load("opmd").algorithm, [-1.0], sampler=[-1.0], advantages=[3.0]) == [-1.5]


def test_reinforce_pp_is_whitened_over_the_tokens():
    algorithm = load("reinforce_pp").ReinforcePP(discount=0.5)
    found = advantages(algorithm, group((1.0, [2]), (0.0, [1])))
    # 0.5, 1 and 0: of mean 0.5 and deviation 0.5.
    assert found == [pytest.approx([0.0, 1.0], abs=1e-6), pytest.approx([-1.0])]


def test_m2po_drops_what_is_furthest_from_its_sampler():
    gaps = [(0.1, 0.3), (0.2, 2.0)]
    calls = [
        call(2, scores=CallScores(logprobs=tuple(g - 1.0 for g in two), entropies=(0.0, 0.0)))
        for two in gaps
    ]
    found = advantages(load("m2po").algorithm, group((1.0, [calls[0]]), (0.0, [calls[1]])))
    # Squares 0.01, 0.04, 0.09: their mean is 0.0467, and of two 0.025.
    a = 0.70711
    assert found == [pytest.approx([a, 0.0], abs=1e-5), pytest.approx([-a, 0.0], abs=1e-5)]


def test_kpop_masks_by_the_larger_divergence():
    algorithm = load("kpop").algorithm
    p, q = torch.tensor([0.9, 0.3]), torch.tensor([0.5, 0.25])
    terms = make_terms(p.log(), q.log().tolist(), [1.0, 1.0])
    # 0.37 and 0.51 nats; 0.006.
    assert algorithm.importance(terms).tolist() == pytest.approx([0.0, 1.2])
