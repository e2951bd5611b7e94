"""What vLLM is handed on a GPU: arguments, environment, and the order of calls."""

import os
from argparse import Namespace

import pytest
import torch

from agentrl.config import EngineConfig
from agentrl.serving.engine import Engine
from agentrl.serving.process import VARIABLES
from agentrl.serving.vllm_args import arguments


def handed(monkeypatch, use="training", dtype="bfloat16", **config):
    """The arguments of an engine on a machine that has a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("TRITON_F32_DEFAULT", raising=False)
    config = EngineConfig(**config)
    return arguments("m", max_model_len=4096, dtype=dtype, config=config, use=use)


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


@pytest.mark.parametrize(("dtype", "default"), [("float32", "ieee"), ("bfloat16", None)])
def test_float32_is_multiplied_as_such(monkeypatch, dtype, default):
    handed(monkeypatch, dtype=dtype)
    assert os.environ.get("TRITON_F32_DEFAULT") == default


def test_a_person_has_the_last_word(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("TRITON_F32_DEFAULT", "tf32")
    arguments("m", max_model_len=64, dtype="float32", config=EngineConfig())
    assert os.environ["TRITON_F32_DEFAULT"] == "tf32"


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
        self.told, self.asleep, self.engine_core = [], asleep, Namespace(shutdown=lambda: None)

    def sleep(self, level):
        self.told.append(f"sleep {level}")
        self.asleep = True

    def is_sleeping(self):
        return self.asleep

    def wake_up(self, tags):
        self.told.append(f"wake {tags}")

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
    if level is None:
        assert llm.told == loaded
    else:
        assert llm.told == [
            f"sleep {level}",
            "wake ['weights']",
            *loaded,
            "wake ['kv_cache']",
        ]
