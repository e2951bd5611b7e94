"""What ``train.update`` makes of an algorithm's methods and traits, against transformers alone.

Everything here would be silent: a wrong divisor, weight or order trains, too. So each has a control
that the same comparison tells apart.
"""

import copy
import re
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from agentrl.algorithms import GRPO, Losses
from agentrl.algorithms.advantages import credit
from agentrl.algorithms.named import load_algorithm
from agentrl.learning.loading import load_as, load_reference
from agentrl.learning.packing import pack
from agentrl.learning.policy import Policy
from agentrl.runs.run import Run
from agentrl.runs.session import Session
from agentrl.runs.trackers import Trackers
from agentrl.types import Call, Chunk, NotFinite, Sample
from tests.support import updating
from tests.support.small_samples import groups
from tests.support.updating import (
    gradient_by_hand,
    gradient_of_update,
    language_model,
    largest_difference,
    make_config,
    one_rank,
    rewarded,
    scored,
    updated,
)

EXACT, WRONG = 2e-6, 1e-3
"""Differences relative to a weight's largest entry; what is packed is fp32."""
GROUPS = groups()
SAMPLES = credit(GROUPS)
CALLS = [sample.call for sample in SAMPLES]
ADVANTAGE = {id(sample.call): sample.advantage for sample in SAMPLES}


def num_tokens(calls) -> int:
    return sum(len(call.completion_ids) for call in calls)


class Plain(GRPO):
    """The policy gradient without a correction, which is as easy by hand."""

    def loss(self, terms):
        return Losses(-terms.advantages * terms.logprobs)


class CallMean(Plain):
    def weigh(self, samples):
        return [1 / len(sample.call.completion_ids) for sample in samples], float(len(samples))


def surrogate(call: Call, logprobs, entropies):
    return -(ADVANTAGE[id(call)] * logprobs).sum()


# Weights and divisors.


def test_the_token_mean_by_hand():
    mine = gradient_of_update(Plain(), GROUPS)
    by_hand = gradient_by_hand(CALLS, lambda *c: surrogate(*c) / num_tokens(CALLS))
    assert largest_difference(mine, by_hand) < EXACT


def test_weights_a_call_by_hand():
    mine = gradient_of_update(CallMean(), GROUPS)
    by_hand = gradient_by_hand(
        CALLS, lambda call, *c: surrogate(call, *c) / len(call.completion_ids) / len(CALLS)
    )
    assert largest_difference(mine, by_hand) < EXACT
    # Calls of 4 and of 5 tokens: a token mean is another gradient.
    assert {len(call.completion_ids) for call in CALLS} == {4, 5}
    assert largest_difference(gradient_of_update(Plain(), GROUPS), by_hand) > WRONG


@pytest.mark.parametrize("algorithm", [GRPO(), CallMean()])
def test_several_chunks_give_the_gradient_of_one(algorithm):
    first, last = (
        Chunk(GROUPS[:1], is_first=True, is_last=False),
        Chunk(GROUPS[1:], is_first=False, is_last=True),
    )
    one = updated(Policy(language_model()), algorithm, GROUPS)
    two = updated(Policy(language_model()), algorithm, [first, last])
    assert largest_difference(two.moved, one.moved) < EXACT
    assert (one.run.num_updates, two.run.num_updates) == (1, 1)
    for name in ("loss", "grad_norm", "entropy", "gap/mean_abs_prob"):
        assert two.metrics[name] == pytest.approx(one.metrics[name], rel=1e-6), name
    numbers = [(s.group, s.episode, s.advantage) for s in one.run.tally.samples]
    assert [(s.group, s.episode, s.advantage) for s in two.run.tally.samples] == numbers


def test_chunks_that_are_steps_of_their_own_would_be_noticed():
    both = updated(Policy(language_model()), GRPO(), [Chunk(GROUPS[:1]), Chunk(GROUPS[1:])])
    assert both.run.num_updates == 2
    assert largest_difference(both.moved, gradient_of_update(GRPO(), GROUPS)) > WRONG


# Advantages a token.


def slopes(call: Call) -> list[float]:
    """An advantage a token that no other order has."""
    return [0.5 - 0.3 * i for i in range(len(call.completion_ids))]


@dataclass(frozen=True, kw_only=True)
class PerToken(Plain):
    flipped: bool = False

    def advantages(self, groups):
        order = -1 if self.flipped else 1
        return [replace(s, advantage=slopes(s.call)[::order]) for s in credit(groups)]


def test_an_advantage_a_token_reaches_its_term():
    def by_token(call, logprobs, entropies):
        return -(torch.tensor(slopes(call)) * logprobs).sum() / num_tokens(CALLS)

    by_hand = gradient_by_hand(CALLS, by_token)
    assert largest_difference(gradient_of_update(PerToken(), GROUPS), by_hand) < EXACT
    assert largest_difference(gradient_of_update(PerToken(flipped=True), GROUPS), by_hand) > WRONG


def test_an_advantage_a_token_is_packed_with_its_token():
    calls = [
        Call(prompt_ids=[1], completion_ids=ids, logprobs=[-float(i) for i in ids])
        for ids in ([7, 8, 9], [4], [7, 8, 2])
    ]
    samples = [Sample(call, [10.0 * i for i in call.completion_ids]) for call in calls]
    (micro,) = pack(samples, 100)
    tokens = micro.ids[micro.trained][micro.term].tolist()
    assert micro.advantages.tolist() == [10.0 * i for i in tokens]
    assert micro.sampler_logprobs.tolist() == [-float(i) for i in tokens]
    assert sorted(tokens) == [2, 4, 7, 7, 8, 8, 9]
    with pytest.raises(ValueError, match="an advantage a token: 2 were given for 3 tokens"):
        pack([Sample(calls[0], [1.0, 2.0])], 100)


# Several optimizer steps a batch.


def two_steps_by_hand(proximal_of):
    """A step a group; ratios are to what ``proximal_of`` says of (first, present) model."""
    first = language_model()
    lm = copy.deepcopy(first)
    for number in (0, 1):
        calls = [s.call for s in SAMPLES if s.group == number]
        proximal_lm = proximal_of(first, lm)
        proximal_lm.set_attn_implementation("eager")
        with torch.no_grad():
            before = {id(call): scored(proximal_lm, call)[0] for call in calls}

        def loss(call, logprobs, entropies, before=before, calls=calls):
            ratio, advantage = (logprobs - before[id(call)]).exp(), ADVANTAGE[id(call)]
            bounded = ratio.clamp(0.8, 1.2)
            sampled = torch.tensor(call.logprobs, dtype=torch.float32)
            weight = (before[id(call)] - sampled).exp().clamp(max=2.0)
            worse = torch.minimum(ratio * advantage, bounded * advantage)
            return -(weight * worse).sum() / num_tokens(calls)

        for weight, gradient in zip(lm.parameters(), gradient_by_hand(calls, loss, lm)):
            weight.data -= gradient
    return [a.detach() - b.detach() for a, b in zip(first.parameters(), lm.parameters())]


def test_two_updates_are_split_by_groups_and_ratios_are_to_the_first_policy():
    found = updated(Policy(language_model()), GRPO(updates=2), GROUPS)
    assert found.run.num_updates == 2
    assert largest_difference(found.moved, two_steps_by_hand(lambda first, lm: first)) < 1e-5
    # Some of the second step's ratios are off 1 so far that clipping cuts them.
    assert found.metrics["clipped"] > 0
    # What ratios to the present policy would give: 1, and nothing is clipped.
    wrong = two_steps_by_hand(lambda first, lm: copy.deepcopy(lm))
    assert largest_difference(found.moved, wrong) > WRONG


@pytest.mark.parametrize("numbers", [{"updates": 2}, {"passes": 2}])
def test_tokens_are_counted_alike_where_calls_are_scored(numbers):
    """A call that is scored is another object."""
    once, several = (
        updated(Policy(language_model()), GRPO(**kind), GROUPS).metrics for kind in ({}, numbers)
    )
    names = ("tokens/logical", "tokens/unique", "tokens/trained")
    assert [several[name] for name in names] == [once[name] for name in names]
    assert min(once[name] for name in names) > 0


def test_the_proximal_policy_is_the_one_before_the_first_step():
    """Of every pass, for every call: what the trainer itself says of the untouched model."""
    seen = {}

    class Looking(GRPO):
        def loss(self, terms):
            seen.setdefault("first", []).append(
                (terms.proximal_logprobs - terms.logprobs).abs().max().item()
            )
            seen.setdefault("proximal", []).extend(terms.proximal_logprobs.tolist())
            own, before = (o["first"] for o in (terms.others, terms.proximal_others))
            seen.setdefault("own", []).append((before - own).abs().max().item())
            seen.setdefault("before", []).extend(before.tolist())
            return super().loss(terms)

    updated(WithDepth(language_model()), Looking(passes=2), GROUPS, micro_batch_tokens=10_000)
    for apart, proximal in (("first", "proximal"), ("own", "before")):
        # At the first step it is the policy; at the second the policy has moved away from it.
        assert seen[apart][0] < 1e-6
        assert seen[apart][1] > 1e-2
        half = len(seen[proximal]) // 2
        assert seen[proximal][:half] == seen[proximal][half:]
    # Of one step, and where nothing was scored, it is the policy's own.
    seen.clear()
    updated(WithDepth(language_model()), Looking(), GROUPS, micro_batch_tokens=10_000)
    assert seen["own"] == [0.0]


def test_without_several_steps_no_call_is_scored_before():
    sample = updated(Policy(language_model()), GRPO(), GROUPS).run.tally.samples[0]
    assert sample.call.scores is None
    sample = updated(Policy(language_model()), GRPO(passes=2), GROUPS).run.tally.samples[0]
    assert len(sample.call.scores.logprobs) == len(sample.call.completion_ids)


# A gradient where the advantage is 0.

BETA = 0.5


class Entropy(Plain):
    every_call = True

    def loss(self, terms):
        plain = super().loss(terms)
        return replace(plain, values=plain.values - BETA * terms.entropies)


class ForgetfulEntropy(Entropy):
    """It does not say that its loss has a gradient where the advantage is 0."""

    every_call = False


EQUAL = [rewarded(group, 1.0, 1.0, 1.0, 1.0) for group in GROUPS]


def bonus(call, logprobs, entropies):
    return -BETA * entropies.sum()


def test_an_entropy_bonus_counts_where_no_advantage_does():
    by_hand = gradient_by_hand(CALLS, lambda *c: bonus(*c) / num_tokens(CALLS))
    found = updated(Policy(language_model()), Entropy(), EQUAL)
    assert largest_difference(found.moved, by_hand) < EXACT
    assert not found.metrics["degenerate"]


def test_a_bonus_that_does_not_say_so_is_caught():
    """Its batch without advantages is no batch to learn from: nothing moves."""
    found = updated(Policy(language_model()), ForgetfulEntropy(), EQUAL)
    assert max(moved.abs().max().item() for moved in found.moved) == 0
    assert found.metrics["degenerate"]


def test_calls_without_an_advantage_are_in_every_calls_gradient():
    """The first group compares, the second's rewards are equal; dropping its calls would show."""
    mixed = [GROUPS[0], EQUAL[1]]
    calls = {g: [s.call for s in SAMPLES if s.group == g] for g in (0, 1)}
    both = [*calls[0], *calls[1]]

    def loss(call, logprobs, entropies):
        compared = call in calls[0]
        of_rewards = surrogate(call, logprobs, entropies) if compared else 0.0
        return (of_rewards + bonus(call, logprobs, entropies)) / num_tokens(both)

    mine = gradient_of_update(Entropy(), mixed)
    assert largest_difference(mine, gradient_by_hand(both, loss)) < EXACT
    assert largest_difference(mine, gradient_by_hand(calls[0], loss)) > WRONG


# Scores, and the reference.


class Looking(Plain):
    """Notes the calls that credit sees."""

    scores, reference, seen = True, True, []

    def advantages(self, groups):
        type(self).seen = [call for g in groups for e in g.episodes for call in e.calls]
        return super().advantages(groups)


class WithDepth(Policy):
    """A policy that has something of its own to say of a token."""

    def others(self, drawn_from):
        return {"first": drawn_from[:, 0]}


def test_scores_are_there_before_credit_and_are_the_policys_own():
    lm, other = language_model(), language_model(seed=1)
    updated(WithDepth(copy.deepcopy(lm)), Looking(), GROUPS, reference=Policy(copy.deepcopy(other)))
    lm.set_attn_implementation("eager"), other.set_attn_implementation("eager")
    assert len(Looking.seen) == len(CALLS)
    for call in Looking.seen:
        with torch.no_grad():
            logprobs, entropies = scored(lm, call)
            ref_logprobs, _ = scored(other, call)
        assert call.scores.logprobs == pytest.approx(logprobs.tolist(), abs=1e-5)
        assert call.scores.entropies == pytest.approx(entropies.tolist(), abs=1e-5)
        assert call.scores.ref_logprobs == pytest.approx(ref_logprobs.tolist(), abs=1e-5)
        assert len(call.scores.others["first"]) == len(call.completion_ids)
        # The one is not the other.
        assert (logprobs - ref_logprobs).abs().max() > 1e-3


def test_scores_are_of_the_policy_as_it_is_now():
    policy = Policy(language_model())
    learned = [
        updated(policy, Looking(), GROUPS, reference=policy) and Looking.seen for _ in range(2)
    ]
    before, after = (torch.tensor(calls[0].scores.logprobs) for calls in learned)
    assert (before - after).abs().max() > 1e-2


class ToReference(GRPO):
    reference, every_call = True, True

    def loss(self, terms):
        return Losses((terms.logprobs - terms.ref_logprobs) ** 2)


def test_the_reference_is_frozen_and_what_the_loss_compares_with():
    lm, other = language_model(), language_model(seed=1)
    reference = one_rank().freeze(Policy(copy.deepcopy(other)))
    before = [weight.clone() for weight in reference.parameters()]
    found = updated(Policy(copy.deepcopy(lm)), ToReference(), GROUPS, reference=reference)
    other.set_attn_implementation("eager")

    def squared(call, logprobs, entropies):
        with torch.no_grad():
            ref_logprobs, _ = scored(other, call)
        return ((logprobs - ref_logprobs) ** 2).sum() / num_tokens(CALLS)

    assert largest_difference(found.moved, gradient_by_hand(CALLS, squared)) < EXACT
    assert not any(weight.requires_grad for weight in reference.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, reference.parameters(), strict=True))
    # A reference that is the policy itself would have no gradient here.
    policy = Policy(language_model())
    itself = updated(policy, ToReference(), GROUPS, reference=policy)
    assert max(moved.abs().max().item() for moved in itself.moved) < 1e-6


def test_after_a_resume_the_reference_is_the_model_that_the_run_began_with(tmp_path, tiny_folder):
    config = make_config(ToReference())
    run = Run.create(tmp_path, "mine", "{}", model=tiny_folder)
    policy = load_as(Policy, tiny_folder, config, one_rank())
    with torch.no_grad():
        policy.lm.get_input_embeddings().weight.mul_(2)
    newest = run.checkpoints / "step-00002"
    policy.lm.save_pretrained(newest)
    flags = Namespace(exp="mine", resume=run.folder)
    session = Session(config, flags, one_rank(), Trackers(()))
    assert (Path(session.model), Path(session.first_model)) == (newest, Path(tiny_folder))
    reference = load_reference(policy, session.first_model, config, one_rank())
    first = load_as(Policy, tiny_folder, config, one_rank())
    pairs = list(zip(reference.parameters(), first.parameters(), policy.parameters(), strict=True))
    assert all(torch.equal(mine, began) for mine, began, _ in pairs)
    assert not all(torch.equal(mine, now) for mine, _, now in pairs)


def test_a_reference_may_be_another_model(tmp_path, tiny_folder):
    class Taught(ToReference):
        reference = str(tiny_folder)

    theirs = load_as(Policy, tiny_folder, make_config(GRPO()), one_rank())
    nowhere = tmp_path / "not looked at"
    found = load_reference(theirs, nowhere, make_config(Taught()), one_rank())
    pairs = zip(found.parameters(), theirs.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert load_reference(theirs, tiny_folder, make_config(GRPO()), one_rank()) is None


# What stops the device.


class Stops(TorchDispatchMode):
    """What waits for a tensor's values, by name: below autograd; by Python, as ``tolist``."""

    def __init__(self, found: list[str]):
        super().__init__()
        self.found, self.by_python = found, StopsByPython(found)

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.name() in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal"):
            self.found.append(operator.name())
        return operator(*args, **(kwargs or {}))


class StopsByPython(TorchFunctionMode):
    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.__array__):
            self.found.append(function.__name__)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def stops(monkeypatch) -> list[str]:
    """Of all micro-batches of an update."""
    found: list[str] = []

    def progress(run, items):
        for micro in items:
            with Stops(found) as mode, mode.by_python:
                yield micro

    monkeypatch.setattr(updating.Watched, "progress", progress)
    return found


class MeanOfCall(Looking):
    """It reads calls, scores, the reference and two optimizer steps."""

    def loss(self, terms):
        mean = terms.mean_of_call(terms.logprobs - terms.ref_logprobs)
        return replace(super().loss(terms), measures={"apart": mean.detach()})


@pytest.mark.parametrize("algorithm", [GRPO(), MeanOfCall(updates=2)])
def test_no_micro_batch_waits_for_the_device(stops, algorithm):
    lm = language_model()
    metrics = updated(Policy(lm), algorithm, GROUPS, reference=Policy(lm)).metrics
    assert (stops, metrics["tokens/computed"] > 200) == ([], True)


class Reading(Plain):
    def loss(self, terms):
        assert (terms.logprobs.max() < 0, terms.call.tolist()[:1]) == (True, [0])
        return super().loss(terms)


def test_a_loss_that_waits_would_be_noticed(stops):
    updated(Policy(language_model()), Reading(), GROUPS)
    assert stops == ["tolist", "aten::_local_scalar_dense"] * 4


# Two algorithms in one.


def test_two_algorithms_train_as_one():
    both = replace(load_algorithm("rloo+entropy_bonus"), entropy_weight=BETA)
    advantages = {id(s.call): s.advantage for s in both.advantages(GROUPS)}

    def loss(call, logprobs, entropies):
        sampled = torch.tensor(call.logprobs, dtype=torch.float32)
        weight = (logprobs.detach() - sampled).exp().clamp(max=2.0)
        rewarded = -(weight * advantages[id(call)] * logprobs).sum()
        return (rewarded + bonus(call, logprobs, entropies)) / num_tokens(CALLS)

    mine = gradient_of_update(both, GROUPS)
    assert largest_difference(mine, gradient_by_hand(CALLS, loss)) < EXACT
    for one in ("rloo", "entropy_bonus"):
        alone = gradient_of_update(load_algorithm(one), GROUPS)
        assert largest_difference(alone, mine) > WRONG


# Numbers that are none.

SECOND = GROUPS[1].episodes[2]
OF_SECOND = torch.tensor([logprob for call in SECOND.calls for logprob in call.logprobs])


class Spoilt(Plain):
    """The plain loss, and what is added to the terms of one episode."""

    def spoil(self, terms):
        return torch.full_like(terms.logprobs, torch.nan)

    def loss(self, terms):
        is_second = torch.isin(terms.sampler_logprobs, OF_SECOND)
        spoilt = torch.where(is_second, self.spoil(terms), 0.0)
        return Losses(super().loss(terms).values + spoilt)


class InfiniteLoss(Spoilt):
    """A constant: the gradient is as it was."""

    def spoil(self, terms):
        return torch.full_like(terms.logprobs, torch.inf).detach()


class InfiniteSlope(Spoilt):
    def spoil(self, terms):
        return (terms.logprobs - terms.logprobs.detach()).abs().sqrt()


class InfiniteAdvantage(Plain):
    def advantages(self, groups):
        own = {id(call) for call in SECOND.calls}
        return [
            replace(s, advantage=torch.inf) if id(s.call) in own else s
            for s in super().advantages(groups)
        ]


class NoDivisor(Plain):
    def weigh(self, samples):
        return super().weigh(samples)[0], 0.0


class NoWeight(Plain):
    def weigh(self, samples):
        weights, divisor = super().weigh(samples)
        own = {id(call) for call in SECOND.calls}
        pairs = zip(weights, samples, strict=True)
        return [torch.nan if id(sample.call) in own else w for w, sample in pairs], divisor


OWNER = f"in episode {SECOND.index} of task {SECOND.task['id']}"
TWICE = [Chunk(GROUPS[1:], is_first=True, is_last=False), Chunk(GROUPS[:1], is_first=False)]


@pytest.mark.parametrize(
    ("algorithm", "chunks", "cause"),
    [
        (Spoilt(), GROUPS, f"the loss of 17 terms is, such as nan {OWNER}"),
        (Spoilt(), TWICE, f"the loss of 17 terms is, such as nan {OWNER}"),
        (InfiniteLoss(), GROUPS, f"the loss of 17 terms is, such as inf {OWNER}"),
        (InfiniteSlope(), GROUPS, "its terms are finite: their derivative, or divisor, is not"),
        (InfiniteAdvantage(), GROUPS, f"the advantage of 17 terms is, such as inf {OWNER}"),
        (NoWeight(), GROUPS, f"the weight of 17 terms is, such as nan {OWNER}"),
        (NoDivisor(), GROUPS, "its terms are finite: their derivative, or divisor, is not"),
    ],
)
def test_what_is_not_finite_ends_a_run_before_the_step(algorithm, chunks, cause):
    policy = Policy(language_model())
    with pytest.raises(NotFinite) as error:
        updated(policy, algorithm, chunks, micro_batch_tokens=1000)
    assert re.sub(r"norm \S+ and loss \S+ ", "", str(error.value)) == (
        f"a gradient of is not finite, so no step was made: {cause}"
    )
    weights = zip(policy.lm.parameters(), language_model().parameters(), strict=True)
    assert all(torch.equal(mine, before) for mine, before in weights)


def test_weights_that_are_not_finite_end_a_run_before_the_step():
    policy = Policy(language_model())
    policy.lm.base_model.layers[1].mlp.down_proj.weight.data[0, 0] = torch.inf
    with pytest.raises(NotFinite, match="the log-probability of .* terms is, such as nan in epis"):
        updated(policy, GRPO(), GROUPS)


def test_an_infinite_gap_is_shown_as_one():
    spoilt = replace(SECOND.calls[0], logprobs=[-torch.inf, *SECOND.calls[0].logprobs[1:]])
    episode = replace(SECOND, calls=(spoilt, *SECOND.calls[1:]))
    group = replace(GROUPS[1], episodes=(*GROUPS[1].episodes[:2], episode, GROUPS[1].episodes[3]))
    found = updated(Policy(language_model()), Plain(), [GROUPS[0], group])
    assert found.metrics["gap/max_abs_logprob"] == torch.inf
    nan = replace(spoilt, logprobs=[torch.nan, *spoilt.logprobs[1:]])
    episode = replace(SECOND, calls=(nan, *SECOND.calls[1:]))
    group = replace(group, episodes=(*GROUPS[1].episodes[:2], episode, GROUPS[1].episodes[3]))
    found = updated(Policy(language_model()), Plain(), [GROUPS[0], group])
    assert str(found.metrics["gap/max_abs_logprob"]) == "nan"
