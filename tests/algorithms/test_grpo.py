"""GRPO's loss, by hand; its weights; and what its numbers may be."""

import math

import pytest
import torch

from agentrl.algorithms import GRPO
from agentrl.types import Call, Sample
from tests.support.terms import make_terms


def loss_of(logprob, sampler, advantage, proximal=None, low=0.2, high=0.3, cap=2.0):
    logprobs = torch.tensor([logprob], requires_grad=True)
    terms = make_terms(logprobs, [sampler], [advantage], None if proximal is None else [proximal])
    losses = GRPO(clip_low=low, clip_high=high, importance_sampling_cap=cap).loss(terms)
    (gradient,) = torch.autograd.grad(losses.values.sum(), logprobs)
    return losses.values.item(), gradient.item(), losses.measures["clipped"].item()


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_on_policy_the_gradient_is_minus_the_advantage(advantage):
    loss, gradient, clipped = loss_of(-1.0, -1.0, advantage)
    assert (loss, gradient, clipped) == (-advantage, -advantage, 0.0)


def test_a_good_token_becomes_likelier():
    logprobs = torch.tensor([-1.0], requires_grad=True)
    GRPO().loss(make_terms(logprobs, [-1.0], [1.0])).values.sum().backward()
    assert (logprobs - 0.1 * logprobs.grad).item() > -1.0


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.1, 1.0, -1.1, -1.1),  # inside
        (1.5, 1.0, -1.3, 0.0),  # a good token, already far likelier: 1 + clip_high
        (0.5, -1.0, 0.8, 0.0),  # a bad token, already far less likely: 1 - clip_low
        (1.5, -1.0, 1.5, 1.5),  # a bad token that became likelier is never let off
        (0.5, 1.0, -0.5, -0.5),  # a good token that became less likely is never let off
    ],
)
def test_clipping_by_hand(ratio, advantage, loss, gradient):
    found = loss_of(math.log(ratio) - 1.0, -1.0, advantage, proximal=-1.0)
    assert found == pytest.approx((loss, gradient, float(gradient == 0.0)), abs=1e-6)


def test_the_sampler_is_corrected_for_up_to_the_cap():
    # exp(-1 - -1.5) = 1.6487
    assert loss_of(-1.0, -1.5, 1.0)[:2] == pytest.approx((-1.64872, -1.64872), abs=1e-5)
    assert loss_of(-1.0, -3.0, 1.0)[:2] == pytest.approx((-2.0, -2.0), abs=1e-6)


def test_every_token_counts_the_same_and_all_of_them_divide():
    samples = [
        Sample(Call(prompt_ids=[1], completion_ids=[2] * n, logprobs=[0.0] * n), 1.0)
        for n in (3, 1, 4)
    ]
    assert GRPO().weigh(samples) == ([1.0, 1.0, 1.0], 8.0)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        ({"clip_low": 0.0}, "algorithm.clip_low is 0.0: give above 0, at most 1"),
        ({"clip_high": -1.0}, "algorithm.clip_high is -1.0: give above 0"),
        ({"updates": 0}, "algorithm.updates is 0: give at least 1"),
        ({"passes": 0}, "algorithm.passes is 0: give at least 1"),
    ],
)
def test_a_number_that_cannot_be_is_a_sentence(number, sentence):
    with pytest.raises(ValueError, match="algorithm") as refused:
        GRPO(**number)
    assert str(refused.value) == sentence
