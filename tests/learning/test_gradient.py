"""Merging contexts must never change the gradient; here it is compared with one row per call."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from agentrl.learning.packing import pack, with_gradient
from agentrl.learning.policy import Policy
from agentrl.types import Sample
from kernels.tree_attention.segments import _batches
from tests.support.small_samples import SIZES, TEMPERATURE, conversations, loss_sum


class CountAttention(TorchDispatchMode):
    times = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.times += operator.name() == "aten::_scaled_dot_product_flash_attention_for_cpu"
        return operator(*args, **(kwargs or {}))


def language_model(family: str):
    torch.manual_seed(0)
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**SIZES)).double()
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)).double()


def gradients(module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in module.parameters()]


def per_call_gradients(lm, samples) -> list[torch.Tensor]:
    """transformers' own attention, one row per call."""
    lm = copy.deepcopy(lm)
    lm.set_attn_implementation("eager")
    for sample in samples:
        ids = torch.tensor([sample.call.ids])
        logprobs = (lm(input_ids=ids, use_cache=False).logits / TEMPERATURE).log_softmax(-1)
        start = len(sample.call.prompt_ids)
        drawn = logprobs[0, start - 1 : -1].gather(-1, ids[0, start:, None])[:, 0]
        advantages = torch.full_like(drawn, np.float32(sample.advantage))
        loss_sum(drawn, torch.tensor(sample.call.logprobs), advantages).backward()
    return gradients(lm)


def merged_gradients(lm, samples, budget, **options) -> list[torch.Tensor]:
    policy = Policy(copy.deepcopy(lm), **options)
    for micro in pack(samples, budget):
        logprobs = policy(micro, TEMPERATURE)[0][micro.term]
        loss_sum(logprobs, micro.sampler_logprobs, micro.advantages.to(logprobs.dtype)).backward()
    return gradients(policy)


def largest_difference(mine, theirs) -> float:
    """Relative to the largest entry of each weight's gradient."""
    return max(
        ((a - b).abs().max() / b.abs().max()).item() for a, b in zip(mine, theirs, strict=True)
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("recompute", ["off", "full", "selective"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_merged_equals_per_call(family, recompute, dtype, tolerance):
    lm, samples = language_model(family).to(dtype), conversations()
    mine = merged_gradients(lm, samples, budget=10_000, recompute=recompute)
    assert largest_difference(mine, per_call_gradients(lm, samples)) < tolerance


@pytest.mark.parametrize(("recompute", "runs"), [("off", 1), ("full", 2), ("selective", 1)])
def test_selective_checkpointing_attends_once(recompute, runs):
    """Counted below autograd: how often each layer attends in a forward and a backward pass."""
    with CountAttention() as counted:
        merged_gradients(language_model("qwen3"), conversations(), 10_000, recompute=recompute)
    (micro,) = pack(conversations(), 10_000)
    batches = len(_batches(micro.plan, torch.float64).batches)
    assert counted.times == runs * batches * SIZES["num_hidden_layers"]


def test_bf16_with_fp32_weights():
    """Under autocast: gradients in fp32, as close to the exact ones as bf16 can tell."""
    lm, samples = language_model("qwen3"), conversations()
    exact = merged_gradients(lm, samples, 10_000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine = merged_gradients(lm.float(), samples, 10_000)
    assert {g.dtype for g in mine} == {torch.float32}
    assert 1e-4 < largest_difference(mine, exact) < 0.1


def test_one_micro_batch_equals_many():
    lm, samples = language_model("qwen3"), conversations()
    assert [len(pack(samples, budget)) for budget in (10_000, 60)] == [1, 4]
    whole = merged_gradients(lm, samples, budget=10_000)
    assert largest_difference(merged_gradients(lm, samples, budget=60), whole) < 2e-6


def test_a_lost_term_would_be_noticed():
    lm, samples = language_model("qwen3"), conversations()
    theirs = per_call_gradients(lm, samples)
    assert largest_difference(merged_gradients(lm, samples[:-1], 10_000), theirs) > 1e-3


def test_positions_along_the_row_would_be_noticed():
    lm, samples = language_model("qwen3"), conversations()
    policy = Policy(copy.deepcopy(lm))
    (micro,) = pack(samples, 10_000)
    wrong = micro.__class__(**{**vars(micro), "depth": torch.arange(len(micro.ids))})
    logprobs = policy(wrong, TEMPERATURE)[0][micro.term]
    loss_sum(logprobs, micro.sampler_logprobs, micro.advantages.double()).backward()
    assert largest_difference(gradients(policy), per_call_gradients(lm, samples)) > 1e-3


def test_naively_summed_advantages_would_be_noticed():
    """Terms that share a token may be clipped apart: one summed weight per token is not enough."""
    lm, samples = language_model("qwen3"), conversations()
    policy = Policy(copy.deepcopy(lm))
    (micro,) = pack(samples, 10_000)
    per_token = policy(micro, TEMPERATURE)[0]
    summed = torch.zeros_like(per_token).index_add_(0, micro.term, micro.advantages.double())
    first = torch.zeros(len(per_token), dtype=torch.long)
    first[micro.term.flip(0)] = torch.arange(len(micro.term)).flip(0)
    loss_sum(per_token, micro.sampler_logprobs[first], summed).backward()
    assert largest_difference(gradients(policy), per_call_gradients(lm, samples)) > 1e-3


def half_without_credit() -> list[Sample]:
    """Every other call, twins and parts of longer ones among them, has no advantage."""
    samples = conversations()
    return [replace(s, advantage=0.0) if i % 2 else s for i, s in enumerate(samples)]


@pytest.mark.parametrize("budget", [10_000, 60])
def test_calls_without_credit_need_not_be_computed(budget):
    lm, samples = language_model("qwen3"), half_without_credit()
    every = merged_gradients(lm, samples, budget)
    kept, weights = with_gradient(samples, [1.0] * len(samples))
    assert len(kept) == len(weights) == (len(samples) + 1) // 2
    assert largest_difference(merged_gradients(lm, kept, budget), every) < 2e-7


def test_calls_without_credit_that_a_loss_still_counts_would_be_noticed():
    """An entropy bonus has a gradient there: left out, it is another one."""
    lm, samples = language_model("qwen3"), half_without_credit()

    def entropy_gradients(chosen) -> list[torch.Tensor]:
        policy = Policy(copy.deepcopy(lm))
        for micro in pack(chosen, 10_000):
            (-policy.terms(micro, TEMPERATURE).entropies.sum()).backward()
        return gradients(policy)

    kept, _ = with_gradient(samples, [1.0] * len(samples))
    assert largest_difference(entropy_gradients(kept), entropy_gradients(samples)) > 1e-2
