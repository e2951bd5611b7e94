"""What vLLM is handed on a GPU: arguments, environment, and the order of calls."""

import os
import time
from argparse import Namespace
from collections import deque

import pytest
import torch

from agentrl.config import EngineConfig
from agentrl.serving import vllm_args
from agentrl.serving.engine import Engine
from agentrl.serving.follower import Schedule
from agentrl.serving.process import VARIABLES
from agentrl.serving.vllm_args import arguments


def handed(monkeypatch, use="training", dtype="bfloat16", deterministic=False, **config):
    """The arguments of an engine on a machine that has a GPU of 80 GB, half of them free."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (40 * 10**9, 80 * 10**9))
    monkeypatch.delenv("TRITON_F32_DEFAULT", raising=False)
    options = {"dtype": dtype, "config": EngineConfig(**config), "use": use}
    return arguments("m", max_model_len=4096, deterministic=deterministic, **options)


def test_prefill_logits_and_graphs(monkeypatch):
    given = handed(monkeypatch)
    assert given["max_num_batched_tokens"] == 16384
    assert given["hf_overrides"] == {"head_dtype": "float32"}
    assert given["enforce_eager"] is False


@pytest.mark.parametrize(
    ("use", "sleeps", "share", "eager"),
    [("training", True, 0.4, False), ("auxiliary", False, 0.4, True), ("alone", False, 0.9, False)],
)
def test_one_engine_of_a_process_sleeps_and_none_where_nothing_trains(
    monkeypatch, use, sleeps, share, eager
):
    given = handed(monkeypatch, use)
    assert given["enable_sleep_mode"] is given["sleep_mode_offload_cudagraph"] is sleeps
    assert (given["gpu_memory_utilization"], given["enforce_eager"]) == (share, eager)
    assert handed(monkeypatch, use, gpu_memory_utilization=0.7)["gpu_memory_utilization"] == 0.7


@pytest.mark.parametrize("use", ["training", "alone"])
def test_deterministic_leaves_nothing_to_what_a_start_measures(monkeypatch, use):
    """Neither how large the cache is, nor which kernel is the fastest."""
    given, measured = (handed(monkeypatch, use, deterministic=d) for d in (True, False))
    different = {name: given[name] for name in given if given[name] != measured[name]}
    half = {"training": 16 * 10**9, "alone": 36 * 10**9}[use]
    assert different == {"enforce_eager": True, "kv_cache_memory_bytes": half}
    assert measured["kv_cache_memory_bytes"] is None


def test_async_scheduling_is_asked_for(monkeypatch):
    given = [handed(monkeypatch, **c)["async_scheduling"] for c in ({}, {"async_scheduling": True})]
    assert given == [False, True]


@pytest.mark.parametrize(("dtype", "default"), [("float32", "ieee"), ("bfloat16", None)])
def test_float32_is_multiplied_as_such(monkeypatch, dtype, default):
    handed(monkeypatch, dtype=dtype)
    assert os.environ.get("TRITON_F32_DEFAULT") == default


def test_fp32_is_fp32_whatever_the_environment_says(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("TRITON_F32_DEFAULT", "tf32")
    arguments("m", max_model_len=64, dtype="float32", config=EngineConfig())
    assert os.environ["TRITON_F32_DEFAULT"] == "ieee"


def test_segments_of_the_gpus_memory_grow():
    assert VARIABLES["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert "expandable_segments:True" in os.environ["PYTORCH_CUDA_ALLOC_CONF"]


class Llm:
    """vLLM as far as a push goes; notes what it is told."""

    model_config = Namespace(
        dtype=torch.bfloat16, enable_sleep_mode=True, max_model_len=64, get_vocab_size=lambda: 9
    )
    vllm_config = Namespace(parallel_config=Namespace(tensor_parallel_size=1))

    def __init__(self, *, asleep: bool):
        self.told, self.asleep = [], asleep
        self.engine_core = Namespace(shutdown=lambda: self.told.append("shut down"))

    def sleep(self, level):
        self.told.append(f"sleep {level}")
        self.asleep = True

    def is_sleeping(self):
        return self.asleep

    def wake_up(self, tags=None):
        self.told.append(f"wake {tags}")
        self.asleep = tags == ["weights"]

    def has_unfinished_requests(self):
        return False

    def collective_rpc(self, name, kwargs):
        self.told.append(name)
        self.told.extend(f"take {n}" for n, _ in kwargs["weights_iterator"])

    def apply_model(self, function):
        pass

    def reset_prefix_cache(self):
        self.told.append("reset_prefix_cache")
        return True


@pytest.mark.parametrize("level", [None, 1, 2])
def test_weights_come_before_the_cache_wakes(monkeypatch, level):
    """And one by one: the second is made when vLLM has taken the first."""
    llm = Llm(asleep=False)
    engine = Engine(llm, sleep_level=level or 1)
    monkeypatch.setattr(engine, "score", lambda ids: [-1.0])

    def weights():
        for name in "ab":
            llm.told.append(f"make {name}")
            yield name, torch.zeros(1)

    if level is not None:
        engine.sleep()
    assert engine.sync(weights()) == [-1.0]
    engine.close()
    loaded = ["reload_weights", "make a", "take a", "make b", "take b", "reset_prefix_cache"]
    assert llm.told == (
        loaded
        if level is None
        else [f"sleep {level}", "wake ['weights']", *loaded, "wake ['kv_cache']"]
    )


@pytest.mark.parametrize("has_room", [True, False])
def test_what_sleeps_wakes_before_it_is_shut_down(monkeypatch, has_room):
    """Else vLLM would unmap what is not mapped; without room for it, that is how it ends."""
    llm = Llm(asleep=True)
    monkeypatch.setattr(vllm_args, "_OPEN", [llm])
    wake_up = llm.wake_up

    def wake():
        wake_up()
        if not has_room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    llm.wake_up = wake
    Engine(llm).close()
    assert llm.told == ["wake None", "shut down"]


class Ahead(Llm):
    """vLLM with async scheduling: when the last call is done it has begun two steps more."""

    def __init__(self):
        super().__init__(asleep=False)
        self.queue = deque("abc")
        self.engine_core.engine_core = Namespace(batch_queue=self.queue)

    def has_unfinished_requests(self):
        return len(self.queue) > 2

    def step(self):
        self.told.append(f"step {self.queue.popleft()}")
        return []


def test_nothing_is_in_flight_when_the_weights_change_or_sleep(monkeypatch):
    steps = ["step a", "step b", "step c"]
    llm = Ahead()
    engine = Engine(llm)
    while llm.queue:
        time.sleep(0.001)
    monkeypatch.setattr(engine, "score", lambda ids: [-1.0])
    engine.sleep()
    engine.sync([])
    engine.close()
    loaded = ["wake ['weights']", "reload_weights", "reset_prefix_cache", "wake ['kv_cache']"]
    assert llm.told == [*steps, "sleep 1", *loaded]
    # The control: where nobody looks, the new weights meet what the old ones have begun.
    monkeypatch.setattr(Schedule, "_in_flight", None)
    llm = Ahead()
    Schedule(llm).step()
    assert (llm.told, list(llm.queue)) == (["step a"], ["b", "c"])
