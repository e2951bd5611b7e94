"""The presets: every formula against numbers worked out by hand, and what would be wrong beside."""

import json
import math
from argparse import Namespace
from collections import Counter
from dataclasses import fields, replace
from itertools import chain

import pytest
import torch

import rollout
from agentrl.algorithms import GRPO
from agentrl.algorithms.named import algorithm_names, describe, load_algorithm
from agentrl.algorithms.weights import aggregate
from agentrl.cli import parse
from agentrl.types import Call, CallScores, Group, Sample, weighted_sum
from tests.support.by_hand import advantages, call, gradient, group
from tests.support.terms import make_terms

FOUR = group((1.0, [1]), (0.0, [1]), (0.0, [1]), (1.0, [1]))


def ratios(*values: float, advantages: list[float], **other) -> dict:
    """Terms with these ratios, at a log-prob of -1, sampled from the proximal policy."""
    proximal = [-1 - math.log(value) for value in values]
    return {"proximal": proximal, "sampler": proximal, "advantages": advantages, **other}


def values(algorithm: GRPO, num_terms: int, **terms) -> list[float]:
    return algorithm.loss(make_terms(torch.full((num_terms,), -1.0), **terms)).values.tolist()


# Weights.


def of(group: int, episode: int, num_tokens: int) -> Sample:
    return Sample(call(num_tokens), 1.0, group=group, episode=episode)


@pytest.mark.parametrize(
    ("over", "weights", "divisor"),
    [
        ("token", [1, 1, 1, 1], 20),
        ("call", [1 / 2, 1 / 2, 1 / 12, 1 / 4], 4),
        ("episode", [1 / 4, 1 / 4, 1 / 12, 1 / 4], 3),
        ("prompt", [1 / 16, 1 / 16, 1 / 16, 1 / 4], 2),
        (100, [1, 1, 1, 1], 300),
    ],
)
def test_weights_and_their_divisor(over, weights, divisor):
    # An episode of two calls and one of one in a group; the number of one is not another's.
    samples = [of(0, 0, 2), of(0, 0, 2), of(0, 1, 12), of(1, 0, 4)]
    assert aggregate(samples, over) == (pytest.approx(weights), divisor)
    assert GRPO(aggregation=over).weigh(samples) == (pytest.approx(weights), divisor)
    # What a group has does not depend on the others, and divisors add up.
    parts = [aggregate(part, over) for part in (samples[:3], samples[3:])]
    assert list(chain(*(w for w, _ in parts))) == pytest.approx(weights)
    assert sum(d for _, d in parts) == divisor


# Credit.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dr_grpo", [0.5, -0.5, -0.5, 0.5]),
        # The own reward in its baseline would make halves of them.
        ("rloo", [2 / 3, -2 / 3, -2 / 3, 2 / 3]),
        ("maxrl", [1.0, -1.0, -1.0, 1.0]),
        ("grpo", [0.866024, -0.866024, -0.866024, 0.866024]),
        ("sft", [1.0] * 4),
        ("rejection", [1.0] * 2),
    ],
)
def test_credit_of_two_successes_in_four(name, expected):
    assert advantages(load_algorithm(name), FOUR) == pytest.approx(expected, abs=1e-6)


def test_one_episode_alone_has_no_baseline():
    assert advantages(load_algorithm("rloo"), group((1.0, [1]))) == [0.0]
    assert advantages(load_algorithm("maxrl"), group((0.0, [1]), (0.0, [2]))) == [0.0, 0.0]


def test_maxrl_weighs_what_is_rarely_solved():
    rare = group((1.0, [1]), *[(0.0, [1])] * 3)
    assert advantages(load_algorithm("maxrl"), rare) == [3.0, -1.0, -1.0, -1.0]


def test_reinforce_pp_baseline_is_whitened_over_the_tokens_of_the_batch():
    algorithm = load_algorithm("reinforce_pp_baseline")
    assert not algorithm.separable
    # Centred: 0.5 on 3 tokens, -0.5 on 1; 0 on 4. Mean 1/8, variance (ddof 1) 0.875 / 7 = 0.125.
    two = group((1.0, [3]), (0.0, [1])), group((1.0, [2]), (1.0, [2]))
    expected = [0.375, -0.625, -0.125, -0.125]
    assert advantages(algorithm, *two) == pytest.approx([a / math.sqrt(0.125) for a in expected])
    # Whitened over calls, the mean would have been 0.
    assert advantages(algorithm, group((1.0, [1]), (1.0, [1]))) == [0.0, 0.0]


# Losses.


def test_gspo_has_one_ratio_a_call():
    algorithm = replace(load_algorithm("gspo"), clip_low=0.1, clip_high=0.22)
    logprobs = torch.tensor([-1.0, -1.2, -0.5], requires_grad=True)
    proximal = [-1.1, -1.5, -0.4]
    terms = make_terms(logprobs, proximal, [1.0] * 3, proximal=proximal, call=[0, 0, 1])
    losses = algorithm.loss(terms)
    # Log ratios 0.1 and 0.3 have the mean 0.2: exp is 1.2214, just beyond; -0.1: 0.9048.
    assert losses.values.tolist() == pytest.approx([-1.22, -1.22, -math.exp(-0.1)], abs=1e-6)
    assert losses.measures["clipped"].tolist() == [1, 1, 0]
    # Clipped by tokens, the first would be within: exp(0.1) = 1.105.
    token_wise = GRPO(clip_low=0.1, clip_high=0.22).loss(terms)
    assert token_wise.measures["clipped"].tolist() == [0, 1, 0]
    wider = replace(algorithm, clip_low=0.5, clip_high=0.5).loss(terms)
    weights = torch.tensor([0.5, 0.5, 1.0])
    (found,) = torch.autograd.grad((wider.values * weights).sum(), logprobs)
    # d s / d logp of a token is s / tokens.
    assert found.tolist() == pytest.approx([-math.exp(0.2) / 2] * 2 + [-math.exp(-0.1)])
    samples = algorithm.advantages([group((1.0, [2]), (0.0, [8]))])
    assert algorithm.weigh(samples) == ([1 / 2, 1 / 8], 2.0)


def test_gspo_of_tokens_has_the_gradient_of_each_tokens_advantage():
    given = ratios(1.0, 1.0, advantages=[1.0, 3.0])
    algorithm = load_algorithm("gspo")
    assert gradient(algorithm, [-1.0, -1.0], **given) == [-2.0, -2.0]
    assert gradient(replace(algorithm, level="token"), [-1.0, -1.0], **given) == [-1.0, -3.0]


def test_cispo_keeps_the_gradient_of_what_it_clips():
    algorithm = replace(load_algorithm("cispo"), clip_high=0.28)
    given = ratios(math.exp(0.5), math.exp(-0.5), advantages=[2.0, -1.0])
    # exp(0.5) = 1.65 is clipped to 1.28; exp(-0.5) = 0.61 is not: there is no lower bound.
    assert gradient(algorithm, [-1.0, -1.0], **given) == pytest.approx([-2.56, math.exp(-0.5)])
    assert gradient(GRPO(clip_high=0.28), [-1.0, -1.0], **given) == [0.0, 0.0]
    both = gradient(replace(algorithm, clip_low=0.2), [-1.0, -1.0], **given)
    assert both == pytest.approx([-2.56, 0.8])
    # As published elsewhere: 5, whatever the ratio's distance from 1.
    far = ratios(7.0, 4.0, advantages=[1.0, 1.0])
    assert gradient(load_algorithm("cispo"), [-1.0, -1.0], **far) == pytest.approx([-5.0, -4.0])
    # The sampler's correction multiplies: exp(-1.5 - -1.6).
    given["sampler"] = [-1.6, -0.5]
    found = gradient(algorithm, [-1.0, -1.0], **given)
    assert found[0] == pytest.approx(-2.56 * math.exp(0.1))


def test_sapo_closes_a_gate_softly():
    given = ratios(1.5, 1.5, 1.0, advantages=[1.0, -1.0, 1.0])
    gates = [4 / (1 + math.exp(-0.5)), 4 / 1.05 / (1 + math.exp(-0.525)), 2.0]
    assert values(load_algorithm("sapo"), 3, **given) == pytest.approx([-gates[0], gates[1], -2.0])
    # 4 g (1 - g) of the ratio: 1 at a ratio of 1, where it is the policy gradient, and less beyond.
    found = gradient(load_algorithm("sapo"), [-1.0] * 3, **given)
    g = gates[0] / 4
    assert found[0] == pytest.approx(-4 * g * (1 - g) * 1.5)
    assert found[2] == pytest.approx(-1.0)


def test_dual_clip_bounds_a_bad_token_that_became_likelier():
    given = ratios(5.0, 2.0, 5.0, 0.5, advantages=[-1.0, -1.0, 1.0, -1.0])
    algorithm = load_algorithm("dual_clip")
    assert values(algorithm, 4, **given) == pytest.approx([3.0, 2.0, -1.2, 0.8])
    assert gradient(algorithm, [-1.0] * 4, **given) == pytest.approx([0.0, 2.0, 0.0, 0.0])
    assert values(GRPO(), 4, **given) == pytest.approx([5.0, 2.0, -1.2, 0.8])
    losses = algorithm.loss(make_terms(torch.full((4,), -1.0), **given))
    assert losses.measures["clipped"].tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("divergence", "kept"),
    # Of 0.1 to 0.35 and back: KL 0.17 and 0.23. The last moved the other way.
    [("tv", [0, 0, 1, 1]), ("kl", [1, 0, 1, 1])],
)
def test_dppo_masks_by_the_probability_that_moved(divergence, kept):
    moved = [(0.1, 0.35, 1.0), (0.35, 0.1, -1.0), (0.9, 0.95, 1.0), (0.1, 0.35, -1.0)]
    logprobs = torch.tensor([math.log(pi) for _, pi, _ in moved], requires_grad=True)
    mu, goods = [math.log(m) for m, *_ in moved], [a for *_, a in moved]
    # Ratios are to what it was sampled with, whatever the policy was before the first step.
    terms = make_terms(logprobs, mu, goods, proximal=[-1.0, -2.0, -0.3, -0.7])
    algorithm = replace(load_algorithm("dppo"), divergence=divergence)
    losses = algorithm.loss(terms)
    expected = [-k * pi / m * a for (m, pi, a), k in zip(moved, kept)]
    assert losses.values.tolist() == pytest.approx(expected)
    assert losses.measures["clipped"].tolist() == [1 - k for k in kept]
    (found,) = torch.autograd.grad(losses.values.sum(), logprobs)
    assert found.tolist() == pytest.approx(expected)


def test_dppo_kl_by_hand():
    algorithm = replace(load_algorithm("dppo"), divergence="kl", clip_low=0.15, clip_high=0.15)
    mu, pi = torch.tensor([0.1, 0.35, 0.9]), torch.tensor([0.35, 0.1, 0.95])
    assert algorithm.moved(pi, mu).tolist() == pytest.approx([0.16761, 0.22696, 0.02065], abs=1e-4)
    terms = make_terms(pi.log(), mu.log().tolist(), [1.0, -1.0, 1.0])
    assert algorithm.loss(terms).measures["clipped"].tolist() == [1, 1, 0]


def test_icepop_drops_what_truncation_keeps():
    given = {"sampler": [-1.2, -3.0, 0.0], "advantages": [1.0] * 3, "call": [0, 0, 1]}
    # exp(0.2), exp(2) and exp(-1) = 0.37.
    assert values(GRPO(), 3, **given) == pytest.approx([-math.exp(0.2), -2.0, -math.exp(-1)])
    algorithm = load_algorithm("icepop")
    assert values(algorithm, 3, **given) == pytest.approx([-math.exp(0.2), 0.0, 0.0])
    whole = replace(algorithm, importance_level="sequence")
    # The call of both: exp(2.2) = 9.03.
    assert values(whole, 3, **given) == [0.0, 0.0, 0.0]
    wider = replace(whole, importance_sampling_cap=10.0)
    assert values(wider, 3, **given) == pytest.approx([-math.exp(2.2)] * 2 + [0.0])
    truncated = replace(whole, importance_sampling_floor=0.0)
    assert values(truncated, 3, **given) == pytest.approx([-5.0, -5.0, -math.exp(-1)])


@pytest.mark.parametrize(
    ("estimate", "value", "slope"),
    # d = log-prob - reference = 0.5.
    [("k1", 0.5, 1.0), ("k2", 0.125, 0.5), ("k3", 0.106531, 0.393469), ("k3+", 0.106531, 0.5)],
)
def test_kl_to_the_reference(estimate, value, slope):
    algorithm = replace(load_algorithm("kl"), kl_estimate=estimate)
    same = {"sampler": [-1.0], "advantages": [0.0], "ref_logprobs": torch.tensor([-1.5])}
    losses = algorithm.loss(make_terms(torch.tensor([-1.0]), **same))
    assert losses.values.item() == pytest.approx(0.04 * value, abs=1e-6)
    assert losses.measures["kl/reference"].item() == pytest.approx(value, abs=1e-6)
    assert gradient(algorithm, [-1.0], **same) == pytest.approx([0.04 * slope], abs=1e-6)
    assert (algorithm.reference, algorithm.every_call) == (True, True)


def scored(logprobs: tuple[float, ...], references: tuple[float, ...], **fields) -> Call:
    nothing = (0.0,) * len(logprobs)
    scores = CallScores(logprobs=logprobs, entropies=nothing, ref_logprobs=references)
    return call(len(logprobs), scores=scores, **fields)


def test_kl_in_the_reward_goes_around_any_credit():
    away = scored((-1.0, -2.0), (-1.5, -4.0)), scored((-1.0,), (-2.0,), agent="other")
    near = scored((-1.0, -2.0), (-1.0, -2.0)), scored((-1.0,), (-1.0,), agent="other")
    both = load_algorithm("kl_in_reward+dr_grpo")
    found = advantages(replace(both, kl_weight=0.1), group((1.0, [*away]), (1.0, [*near])))
    # Of 2.5 nats the agent loses 0.25; of 1 nat of its own the other loses 0.1.
    assert found == pytest.approx([-0.125, -0.05, 0.125, 0.05])
    assert (both.reference, both.scores) == (True, True)


def test_entropy_bonus():
    algorithm = load_algorithm("entropy_bonus")
    entropies = torch.tensor([0.7], requires_grad=True)
    plain = make_terms(torch.tensor([-1.0]), [-1.0], [1.0])
    losses = algorithm.loss(replace(plain, entropies=entropies))
    assert losses.values.item() == pytest.approx(-1.0 - 0.01 * 0.7)
    assert torch.autograd.grad(losses.values.sum(), entropies)[0].tolist() == pytest.approx([-0.01])
    assert algorithm.every_call


@pytest.mark.parametrize("name", ["rejection", "sft"])
def test_likelihood_whatever_the_ratios_are(name):
    given = {"sampler": [-1.5], "advantages": [1.0], "proximal": [-2.0]}
    assert gradient(load_algorithm(name), [-1.0], **given) == [-1.0]
    # The surrogate would be cut off here.
    assert gradient(GRPO(), [-1.0], **given) == [0.0]


def test_rejection_is_a_mean_over_what_it_keeps():
    algorithm = load_algorithm("rejection")
    samples = algorithm.advantages([group((1.0, [3, 1]), (0.0, [5]), (0.5, [7]))])
    assert [(s.episode, s.advantage) for s in samples] == [(0, 1.0), (0, 1.0)]
    assert algorithm.weigh(samples) == ([1.0, 1.0], 4.0)


def test_distillation():
    algorithm = load_algorithm("opd")
    (found,) = advantages(algorithm, group((1.0, [scored((-1.0, -2.0), (-0.5, -3.0))])))
    assert found == [0.5, -1.0]
    assert (algorithm.scores, algorithm.every_call) == (True, False)


def test_the_teacher_is_the_reference_also_of_a_combination():
    for names in ("opd", "opd+icepop", "entropy_bonus+opd"):
        flags = ["--exp", "gsm8k_offline", "--algorithm", names, "--algorithm.teacher", "t"]
        assert parse(flags, "")[0].algorithm.reference == "t"


def test_a_teacher_has_to_be_named(capsys):
    with pytest.raises(SystemExit):
        parse(["--exp", "gsm8k_offline", "--algorithm", "opd"], "")
    assert "--algorithm.teacher" in capsys.readouterr().err


# DAPO.


def test_dapo_penalises_what_is_overlong():
    algorithm = replace(load_algorithm("dapo+dr_grpo"), max_tokens=64, buffer=0.25)
    lengths = (1, 48, 52, 56, 64, 80)
    rewards = [0, 0, -0.25, -0.5, -1, -1]
    found = advantages(algorithm, group(*[(0.0, [n]) for n in lengths]))
    assert [a - found[0] for a in found] == pytest.approx(rewards)
    # The longest call counts.
    pair = advantages(algorithm, group((1.0, [10, 56]), (1.0, [10, 10])))
    assert pair == pytest.approx([-0.25, -0.25, 0.25, 0.25])


def test_dapo_clips_higher():
    algorithm = load_algorithm("dapo")
    # Ratios of 1.25 and 1.3: the one still counts, where GRPO's 1.2 has cut it.
    given = ratios(1.25, 1.3, advantages=[1.0, 1.0])
    assert gradient(algorithm, [-1.0, -1.0], **given) == pytest.approx([-1.25, 0.0])
    assert gradient(GRPO(), [-1.0, -1.0], **given) == [0.0, 0.0]


def test_dapos_buffer_is_a_share():
    with pytest.raises(ValueError, match=r"algorithm.buffer is 4096.0: give a share, above 0 to 1"):
        replace(load_algorithm("dapo"), buffer=4096.0)


def test_what_dapo_switches_on_is_a_line():
    assert describe(load_algorithm("dapo")) == (
        "DAPO, clip_high 0.28, updates 16, buffer 0.2, collect rollout:refill"
    )
    assert describe(GRPO()) == "GRPO"


def refilled(monkeypatch, pool, num_tasks=4, **rule):
    """What a step of the first tasks comes to, where those of an odd number have equal rewards."""
    asked = []

    def collect(tasks, *_):
        asked.append([task["id"] for task in tasks])
        return [group((1.0, [1]), (float(int(t["id"]) % 2), [1]), task=t) for t in tasks]

    monkeypatch.setattr(rollout, "collect", collect)
    monkeypatch.setattr(rollout, "find_tasks", lambda config: (pool, []))
    kept = rollout.refill(pool[:num_tasks], Namespace(seed=0), None, None, None, 1, **rule)
    return [g.task["id"] for g in kept], asked


def test_refill_takes_other_tasks_in(monkeypatch):
    pool = [{"id": str(i)} for i in range(40)]
    ids, asked = refilled(monkeypatch, pool)
    assert len(ids) == len(set(ids)) == 4
    assert [int(i) % 2 for i in ids][:3] == [0, 0, 0]
    assert asked[0] == ["0", "1", "2", "3"]
    # Nobody is asked twice, and as many as are missing; the same on every rank.
    assert max(Counter(chain(*asked)).values()) == 1
    assert len(asked[1]) == 2
    assert refilled(monkeypatch, pool)[0] == ids


@pytest.mark.parametrize(("num_tasks", "rounds"), [(20, 3), (6, 2), (4, 1)])
def test_refill_is_bounded(monkeypatch, num_tasks, rounds):
    """Where no group differs, the batch is what there is: after three rounds, or of all tasks."""
    pool = [{"id": str(2 * i + 1)} for i in range(num_tasks)]
    ids, asked = refilled(monkeypatch, pool)
    assert ids == ["1", "3", "5", "7"]
    assert sum(map(bool, asked)) == rounds


def test_groups_are_dropped_or_kept_by_a_rule(monkeypatch):
    pool = [{"id": str(i)} for i in range(8)]
    # One round: nothing is refilled. What has no differences goes.
    assert refilled(monkeypatch, pool, rounds=1, drop=True) == (["0", "2"], [["0", "1", "2", "3"]])
    by_name = {"keep": lambda group: group.task["id"] in ("1", "2"), "rounds": 1}
    assert refilled(monkeypatch, pool, drop=True, **by_name)[0] == ["1", "2"]
    assert refilled(monkeypatch, pool, **by_name)[0] == ["1", "2", "0", "3"]
    # Where none is wanted all stay: a step of nothing would be of no use.
    nothing = {"keep": lambda group: False, "rounds": 1, "drop": True}
    assert refilled(monkeypatch, pool, **nothing)[0] == ["0", "1", "2", "3"]


def test_flags_of_a_combination_are_those_of_both():
    flags = ["--exp", "gsm8k_offline", "--algorithm", "rloo+cispo+kl"]
    config, _ = parse([*flags, "--algorithm.kl-weight", "0.5", "--algorithm.aggregation", "7"], "")
    assert (config.algorithm.kl_weight, config.algorithm.aggregation) == (0.5, 7)
    assert json.dumps(config.algorithm.name) == '"RLOO+CISPO+KL"'


# What is not read.


class Reading:
    """The numbers that were read of an algorithm, by name."""

    def __getattribute__(self, name):
        if name in (own := vars(type(self))["own"]):
            own[name] = True
        return super().__getattribute__(name)


def unread(algorithm: GRPO) -> set[str]:
    """The numbers that none of its methods asks for, nor the loop, the rewards, the loading."""
    elsewhere = {"updates", "passes", "part_weights", "teacher"}
    names = {field.name for field in fields(algorithm)} - elsewhere
    kind = type("Watched", (Reading, type(algorithm)), {"own": dict.fromkeys(names, False)})
    watched = kind(**{field.name: getattr(algorithm, field.name) for field in fields(algorithm)})
    made = [group((float(i), [scored((-1.0,), (-2.0,), state="s")])) for i in (0, 1)]
    made = replace(made[0], episodes=(*made[0].episodes, *made[1].episodes))
    kind.own |= dict.fromkeys(names, False)
    watched.weigh(watched.advantages([made, made]))
    given = {"sampler": [-1.0], "advantages": [1.0], "ref_logprobs": torch.tensor([-2.0])}
    terms = make_terms(torch.tensor([-1.0], requires_grad=True), **given)
    watched.loss(replace(terms, entropies=torch.tensor([0.5])))
    return {name for name, was_read in kind.own.items() if not was_read}


@pytest.mark.parametrize("name", algorithm_names())
def test_what_is_said_not_to_be_read_is_what_is_not(name):
    numbers = {"dapo": {"max_tokens": 8}, "opd": {"teacher": "t"}}.get(name, {})
    algorithm = replace(load_algorithm(name), **numbers)
    assert unread(algorithm) == {*algorithm.ignored()}


@pytest.mark.parametrize("names", ["turns+sapo", "sapo+turns"])
def test_what_two_do_not_read_is_refused_in_either_order(names):
    algorithm = load_algorithm(names)
    assert {*algorithm.ignored()} == {"clip_low", "clip_high", "discount"}
    with pytest.raises(ValueError, match=r"discount is 0.5: \S+ does not read it, leave it out"):
        replace(algorithm, discount=0.5)
    returns = replace(algorithm, turn_credit="returns", discount=0.5)
    assert "turn_weight" not in describe(returns)
    with pytest.raises(ValueError, match=r"turn_weight is 0.5: \S+ does not read it"):
        replace(returns, turn_weight=0.5)


def test_what_another_preset_brings_and_is_not_read_is_not_refused():
    assert load_algorithm("dapo+sft").clip_high == 0.28
    with pytest.raises(ValueError, match=r"clip_high is 0.3: DAPO\+SFT does not"):
        replace(load_algorithm("dapo+sft"), clip_high=0.3)


def test_what_corrects_for_the_sampler_does_not_go_with_a_likelihood():
    for name in ("sft", "rejection"):
        with pytest.raises(ValueError, match="both have their own importance: choose one"):
            load_algorithm(f"icepop+{name}")


# Named rewards, rewards and states a call.


def turn(reward: float | None = None, num_tokens: int = 1, **fields) -> Call:
    return call(num_tokens, reward=reward, **fields)


def with_parts(*parts: dict[str, float], num_tokens=1, weights=None) -> Group:
    """An episode each, whose reward is the parts' weighted sum."""
    rewards = [weighted_sum(own, weights or {}) for own in parts]
    plain = group(*[(reward, [num_tokens]) for reward in rewards])
    pairs = zip(plain.episodes, parts, strict=True)
    return replace(plain, episodes=tuple(replace(e, parts=own) for e, own in pairs))


def test_gdpo_compares_each_part_by_itself():
    """What is right is rare and worth 10, what is short is worth 1: both have a say."""
    algorithm = replace(load_algorithm("gdpo"), part_weights={"right": 1.0, "short": 0.5})
    made = with_parts(
        {"right": 10.0, "short": 0.0},
        {"right": 0.0, "short": 1.0},
        {"right": 0.0, "short": 0.0},
        weights=algorithm.part_weights,
    )
    # Each part: 2 / sqrt 3 for the one, -1 / sqrt 3 for the others. Whitened, of mean 0.
    a = 1 / math.sqrt(3)
    before = [2 * a - 0.5 * a, -a + 0.5 * 2 * a, -a - 0.5 * a]
    std = math.sqrt(sum(x * x for x in before) / 2)
    found = advantages(algorithm, made)
    assert found == pytest.approx([x / std for x in before], abs=1e-5)
    # Their sum drowns the smaller.
    assert advantages(GRPO(), made)[1:] == pytest.approx([-0.54, -0.62], abs=0.02)
    # A part that a weight of 0 takes out has none.
    alone = replace(algorithm, part_weights={"short": 0.0})
    parts = {"right": 10.0, "short": 0.0}, {"right": 0.0, "short": 1.0}, {"right": 0.0}
    only = with_parts(*parts, weights=alone.part_weights)
    assert advantages(alone, only)[1] == pytest.approx(advantages(alone, only)[2])


def test_gdpo_takes_a_penalty_for_a_part():
    algorithm = replace(load_algorithm("dapo+gdpo"), max_tokens=64)
    long, short = with_parts({"right": 1.0}, num_tokens=64), with_parts({"right": 1.0})
    both = replace(long, episodes=(*long.episodes, replace(short.episodes[0], index=1)))
    found = advantages(algorithm, both)
    assert found[0] < 0 < found[1]


def test_gdpo_without_parts_is_whitened_grpo():
    found = advantages(load_algorithm("gdpo"), FOUR)
    assert found == pytest.approx([0.866025, -0.866025, -0.866025, 0.866025], abs=1e-5)


def test_rae_compares_with_what_an_agent_usually_gets():
    algorithm = replace(load_algorithm("rae"), decay=0.9)
    mine, theirs = call(1, agent="mine"), call(1, agent="theirs")
    game = group(({"mine": 1.0, "theirs": -1.0}, [mine, theirs, mine]), ({"mine": 1.0}, [mine]))
    # The mean is 0 for the first, and then 0.1.
    assert advantages(algorithm, game) == pytest.approx([1.0, -1.0, 1.0, 0.9])
    state = json.loads(json.dumps(algorithm.state()))
    assert state == {"mine": pytest.approx(0.19), "theirs": pytest.approx(-0.1)}
    again = replace(load_algorithm("rae"), decay=0.9)
    assert again.state() == {}
    again.load_state(state)
    assert advantages(again, game) == advantages(algorithm, game)
    # A combination remembers, too.
    assert load_algorithm("rae+cispo").state() == {}


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({}, [0.70711, 0.70711, -0.70711, 0.0, 0.0]),
        ({"step_norm": True}, [0.35355, 0.35355, -0.70711, 0.0, 0.0]),
        # The batch's 1, 0, 0.5, 0.5 have a standard deviation of 0.40825.
        ({"std_over": "batch"}, [1.22474, 1.22474, -1.22474, 0.0, 0.0]),
        ({"std_over": "batch", "step_norm": True}, [0.61237, 0.61237, -1.22474, 0.0, 0.0]),
    ],
)
def test_multi_step_grpo(numbers, expected):
    algorithm = replace(load_algorithm("multi_step_grpo"), **numbers)
    # The last step's own reward comes on top; an earlier one's does not count.
    two = group((0.5, [turn(7.0), turn(0.5)]), (0.0, [1])), group((0.5, [1]), (0.5, [1]))
    assert advantages(algorithm, *two) == pytest.approx(expected, abs=1e-5)
    assert algorithm.separable == ("std_over" not in numbers)


def test_gigpo_compares_calls_of_the_same_state():
    algorithm = replace(load_algorithm("gigpo"), discount=0.5)
    first = [turn(1.0, state="start"), turn(0.0, state="shop"), turn(2.0)]
    other = [turn(0.0, state="start"), turn(0.0, state="street"), turn(state="shop")]
    # Elsewhere the same name is another state.
    elsewhere = group((0.0, [turn(9.0, state="shop")]), (0.0, [turn(0.0, state="street")]))
    found = advantages(algorithm, group((1.0, first), (0.0, other)), elsewhere)
    # Sums 4 and 0. Returns: 1 + 0 + 3/4, 3/2, 3; 0, 0, 0. Compared at "start" and at "shop".
    by_hand = [2 + 0.875, 2 + 0.75, 2.0, -2 - 0.875, -2.0, -2 - 0.75]
    assert found == pytest.approx([*by_hand, 4.5, -4.5])
    weighed = advantages(replace(algorithm, omega=0.0), group((1.0, first), (0.0, other)))
    assert weighed == [2.0, 2.0, 2.0, -2.0, -2.0, -2.0]
    scaled = replace(algorithm, std=True)
    two = advantages(scaled, group((1.0, first), (0.0, other)))
    assert two[0] == pytest.approx(2 * 0.70711, abs=1e-4)


def test_turns_add_what_a_turn_was_worth():
    algorithm = replace(load_algorithm("turns"), turn_weight=0.5)
    two = group((1.0, [turn(1.0), turn()]), (0.0, [turn(0.0), turn()]))
    a = 0.70711
    assert advantages(algorithm, two) == pytest.approx([1.5 * a, a, -1.5 * a, -a], abs=1e-4)
    # A turn is compared with the same turn: rewards of the second are equal, whatever the first's.
    late = group((1.0, [turn(5.0), turn(1.0)]), (1.0, [turn(0.0), turn(1.0)]), (1.0, [turn(5.0)]))
    b = 5 / (5 / math.sqrt(3)) / 3
    found = advantages(algorithm, late)
    assert found == pytest.approx([b / 2, 0.0, -b, 0.0, b / 2], abs=1e-4)


def test_returns_from_a_turn_on():
    algorithm = replace(load_algorithm("turns"), turn_credit="returns", discount=0.5)
    two = group((2.0, [turn(1.0), turn()]), (0.0, [turn(1.0), turn(4.0)]))
    # 1 + 1 and 2; 1 + 2 and 4.
    a = 0.70711
    assert advantages(algorithm, two) == pytest.approx([-a, -a, a, a], abs=1e-4)
    undiscounted = replace(algorithm, discount=1.0)
    three = group((2.0, [turn(1.0), turn()]), (0.0, [turn(1.0), turn(2.0)]))
    assert advantages(undiscounted, three) == [0.0, 0.0, 0.0, 0.0]


def test_part_weights_are_typed_as_names_and_numbers(capsys):
    flags = ["--exp", "gsm8k_offline", "--algorithm", "gdpo", "--algorithm.part-weights"]
    config, _ = parse([*flags, "right=2", "short=-0.5"], "")
    assert config.algorithm.part_weights == {"right": 2.0, "short": -0.5}
    with pytest.raises(SystemExit):
        parse([*flags, "right"], "")
    assert "part-weights" in capsys.readouterr().err
