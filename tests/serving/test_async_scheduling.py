"""vLLM's async scheduling, for real. Its CPU platform turns that off (``platforms/cpu.py``, in
``check_and_update_config``): here it is left on, and streams and events, which a CPU has none of,
do nothing."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from agentrl.config import EngineConfig
from agentrl.learning.policy import Policy
from agentrl.serving.engine import Engine
from agentrl.serving.follower import Schedule
from agentrl.serving.sampling import Completion, Sampling
from agentrl.serving.vllm_args import start_vllm
from tests.support.device import DEVICES, ON_GPU, TOLERANCE


def stream(*_, **__):
    nothing = dict.fromkeys(("record", "synchronize", "wait_stream"), lambda *_: None)
    return SimpleNamespace(device=torch.device("cpu"), **nothing)


@pytest.fixture
def ahead(monkeypatch, tiny_folder):
    """An engine that schedules a step while the one before it runs."""
    from vllm.platforms import current_platform

    if not ON_GPU:
        cpu, update = type(current_platform), current_platform.check_and_update_config

        def left_on(vllm_config):
            update(vllm_config)
            vllm_config.scheduler_config.async_scheduling = True

        monkeypatch.setattr(cpu, "check_and_update_config", staticmethod(left_on))
        for name in ("Event", "Stream", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    options = {"max_model_len": 512, "dtype": "float32", "use": "auxiliary"}
    config = EngineConfig(async_scheduling=True)
    engine = Engine(start_vllm(tiny_folder, config=config, **options))
    yield engine
    engine.close()


def draw(engine: Engine) -> list[Completion]:
    sampling = [Sampling(temperature=1.0, max_tokens=8 + 4 * (i % 3), seed=i) for i in range(6)]
    calls = [engine.submit([20, 7, i], s) for i, s in enumerate(sampling)]
    return [call.result() for call in calls]


def in_flight(engine: Engine) -> int:
    return engine._call(lambda: len(engine._llm.engine_core.engine_core.batch_queue))


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_calls_and_pushes_are_those_of_an_engine_without_it(
    ahead, engine, tiny_folder, device, monkeypatch
):
    policy = Policy.load(tiny_folder).to(device)
    old = list(policy.weights())
    # A GPU's products round by the batch that they are in.
    before = draw(ahead)
    assert [c.ids for c in before] == [c.ids for c in draw(engine)]
    for weight in policy.lm.parameters():
        weight.data = 1.1 * weight.data
    for each in (ahead, engine):
        assert policy.probe_gap(each.probe, each.score(each.probe)) > 100 * TOLERANCE
        assert policy.probe_gap(each.probe, each.sync(policy.weights())) < TOLERANCE
    after = draw(ahead)
    assert [c.ids for c in after] == [c.ids for c in draw(engine)]
    assert [c.logprobs for c in after] != [c.logprobs for c in before]
    engine.sync(old)
    # It ran ahead: where nobody takes in what it has begun, that waits for the next weights.
    assert in_flight(ahead) == 0
    monkeypatch.setattr(Schedule, "_in_flight", None)
    draw(ahead)
    assert in_flight(ahead) == 1
