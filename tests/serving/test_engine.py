"""Real vLLM against the real policy: the same weights must give the same log-probabilities."""

import asyncio
import shutil
import time

import numpy as np
import pytest
import torch
from torch._inductor import metrics
from transformers import AutoConfig, AutoModelForCausalLM

from agentrl.config import EngineConfig, LoraConfig
from agentrl.learning.lora import add_adapters, without_adapters
from agentrl.learning.packing import pack
from agentrl.learning.policy import Policy
from agentrl.serving.engine import Engine
from agentrl.serving.sampling import Sampling
from agentrl.serving.vllm_args import start_vllm
from agentrl.types import Call, CannotStart, Sample
from tests.support.device import DEVICES, TOLERANCE


@pytest.fixture(params=DEVICES, autouse=True)
def device(request) -> str:
    """Of the engine and the policy: these tests are quick ones, or the GPU's."""
    return request.param


@pytest.fixture
def on_a_cpu(device) -> None:
    if device != "cpu":
        pytest.skip("of vLLM's CPU build")


async def generate(engine, prompt_ids, sampling):
    return await asyncio.wrap_future(engine.submit(prompt_ids, sampling))


def draw(engine, prompts, temperature=1.0, max_tokens=12) -> list[Sample]:
    async def all_at_once():
        sampling = [
            Sampling(temperature=temperature, max_tokens=max_tokens, seed=i) for i in prompts
        ]
        return await asyncio.gather(
            *(generate(engine, [i + 20, 7, 9], s) for i, s in zip(prompts, sampling, strict=True))
        )

    return [
        Sample(Call(prompt_ids=[i + 20, 7, 9], completion_ids=c.ids, logprobs=c.logprobs), 1.0)
        for i, c in zip(prompts, asyncio.run(all_at_once()), strict=True)
    ]


@torch.no_grad()
def gap(policy, samples, temperature=1.0) -> float:
    (micro,) = pack(samples, budget=10_000)
    micro = micro.to(next(policy.parameters()).device)
    logprobs = policy.terms(micro, temperature).logprobs
    return (logprobs - micro.sampler_logprobs).abs().max().item()


@pytest.fixture
def old(tiny_folder, device):
    """The policy that the engine has begun with."""
    return Policy.load(tiny_folder).to(device)


@pytest.fixture
def policy(tiny_folder, engine, device, old):
    yield Policy.load(tiny_folder).to(device)
    engine.sync(old.weights())


def perturb(policy) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.05 * torch.randn_like(weight))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_and_trainer_agree(engine, policy, temperature):
    assert gap(policy, draw(engine, range(40), temperature), temperature) < TOLERANCE


def test_they_agree_after_a_push(engine, policy, old):
    for _ in range(2):
        perturb(policy)
        probe = engine.sync(policy.weights())
        assert policy.probe_gap(engine.probe, probe) < TOLERANCE
        assert old.probe_gap(engine.probe, probe) > 100 * TOLERANCE
        assert gap(policy, draw(engine, range(40))) < TOLERANCE


def test_they_agree_after_a_push_of_adapters(tiny_folder, engine, policy, device, old):
    """They are merged: without them vLLM has the weights that it began with."""
    add_adapters(policy.lm, LoraConfig(rank=8))
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.to(device).trainable():
            weight.normal_(0, 0.02)
    probe = engine.sync(policy.weights(engine.dtype))
    assert policy.probe_gap(engine.probe, probe) < TOLERANCE
    assert gap(policy, draw(engine, range(40))) < TOLERANCE
    assert old.probe_gap(engine.probe, probe) > 100 * TOLERANCE
    with without_adapters(policy.lm):
        assert policy.probe_gap(engine.probe, probe) == old.probe_gap(engine.probe, probe)


@pytest.mark.parametrize("level", [1, 2])
def test_they_agree_after_sleep(engine, policy, old, device, level, monkeypatch):
    """Twice: what wakes is what was pushed, and neither the weights before nor those on disk. On a
    CPU nothing sleeps."""
    monkeypatch.setattr(engine, "sleep_level", level)
    for _ in range(2):
        perturb(policy)
        engine.sleep()
        assert engine._call(engine._llm.is_sleeping) == (device == "cuda")
        probe = engine.sync(policy.weights(engine.dtype))
        assert policy.probe_gap(engine.probe, probe) < TOLERANCE
        assert old.probe_gap(engine.probe, probe) > 100 * TOLERANCE
        assert gap(policy, draw(engine, range(40))) < TOLERANCE


def test_a_push_moves_no_generator_of_the_process(engine, policy):
    """A checkpoint holds their states. For a probe without a seed vLLM takes one from numpy's on a
    GPU, and to draw a token, whatever its seed, a number from torch's on a CPU."""

    def states() -> list:
        _, keys, position, *_ = np.random.get_state()
        return [keys.tolist(), position, torch.get_rng_state().tolist()]

    before = states()
    engine.sync(policy.weights())
    assert states() == before


def test_a_push_left_out_is_caught_by_the_gap_and_by_the_probe(engine, policy):
    perturb(policy)
    assert gap(policy, draw(engine, range(40))) > 100 * TOLERANCE
    assert policy.probe_gap(engine.probe, engine.score(engine.probe)) > 100 * TOLERANCE


def test_a_stale_head_is_caught_by_the_probe(engine, policy, on_a_cpu, monkeypatch):
    monkeypatch.setattr("agentrl.serving.vllm_args._refresh_head", lambda model: None)
    perturb(policy)
    assert policy.probe_gap(engine.probe, engine.sync(policy.weights())) > 100 * TOLERANCE


@pytest.mark.slow
def test_nothing_is_compiled_on_a_cpu(engine, policy, on_a_cpu):
    """It would take half a minute on a new machine, at the first push."""
    # What was compiled before is forgotten, but stays counted.
    torch._dynamo.reset()
    before = metrics.generated_kernel_count
    engine.sync(policy.weights())
    assert metrics.generated_kernel_count == before
    # The control: it counts what is.
    torch.compile(lambda x: x + 1)(torch.zeros(3))
    assert metrics.generated_kernel_count > before
    metrics.reset()


@pytest.mark.slow
def test_a_head_of_its_own_is_pushed_too(tmp_path, tiny_folder, tokenizer, device):
    config = AutoConfig.from_pretrained(tiny_folder, tie_word_embeddings=False)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    untied = Policy.load(tmp_path).to(device)
    options = {"max_model_len": 128, "dtype": "float32", "config": EngineConfig()}
    # One of two in this process.
    engine = Engine(start_vllm(tmp_path, use="auxiliary", **options))
    perturb(untied)
    assert untied.probe_gap(engine.probe, engine.score(engine.probe)) > 100 * TOLERANCE
    assert untied.probe_gap(engine.probe, engine.sync(untied.weights())) < TOLERANCE
    engine.close()


def test_the_cache_of_the_old_weights_is_forgotten(engine, policy):
    long_prompt = list(range(20, 20 + 200))

    async def draw_one():
        return await generate(engine, long_prompt, Sampling(temperature=1.0, max_tokens=4, seed=0))

    asyncio.run(draw_one())
    perturb(policy)
    engine.sync(policy.weights())
    drawn = asyncio.run(draw_one())
    call = Call(prompt_ids=long_prompt, completion_ids=drawn.ids, logprobs=drawn.logprobs)
    assert gap(policy, [Sample(call, 1.0)]) < TOLERANCE


def test_seeds_decide_what_is_drawn(engine):
    first, second = draw(engine, range(8)), draw(engine, range(8))
    assert [s.call.completion_ids for s in first] == [s.call.completion_ids for s in second]
    assert len({tuple(s.call.completion_ids) for s in first}) > 1


def test_a_cancelled_call_leaves_the_engine(engine):
    async def cancel():
        task = asyncio.create_task(
            generate(engine, [20, 7, 9], Sampling(temperature=1.0, max_tokens=500))
        )
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    deadline = time.monotonic() + 5
    while engine._llm.has_unfinished_requests() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine._waiting == {}
    assert not engine._llm.has_unfinished_requests()


def test_a_prompt_that_does_not_fit_is_an_error_of_its_own_call(engine):
    async def too_long():
        await generate(engine, [20] * 600, Sampling(temperature=1.0, max_tokens=4))

    with pytest.raises(ValueError, match="512"):
        asyncio.run(too_long())
    assert len(draw(engine, range(2))) == 2


@pytest.mark.slow
def test_a_cache_that_one_call_overflows_is_a_sentence(tmp_path, tiny_folder, on_a_cpu):
    """Keys and values of 128 heads of 256 in 4 layers: 2 GiB for 2,048 tokens."""
    shutil.copytree(tiny_folder, tmp_path, dirs_exist_ok=True)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 4, "head_dim": 256}
    heads = {"num_attention_heads": 128, "num_key_value_heads": 128}
    config = AutoConfig.from_pretrained(
        tiny_folder, **sizes, **heads, layer_types=["full_attention"] * 4
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(CannotStart, match="vLLM cannot serve .*KV cache"):
        start_vllm(tmp_path, max_model_len=2048, dtype="float32", config=EngineConfig())
