"""A run of LoRA, killed and gone on with, and what others make of its checkpoints."""

import random
import time
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from agentrl.config import EngineConfig
from agentrl.serving.engine import Engine
from agentrl.serving.vllm_args import start_vllm
from tests.support.running import (
    are_equal,
    metrics,
    moments,
    said_of,
    start,
    steps_saved,
    the_run,
    weights,
)
from tests.support.sizes import sizes

STEPS = 4
FLAGS = (
    *("--model.lora.rank", "4", "--algorithm", "kl", "--optim.lr", "1e-2", "--deterministic"),
    *("--steps", str(STEPS), "--save-every", "1", "--eval.every", "None"),
    *("--tasks-per-step", "2", "--group-size", "4", "--sampling.max-tokens", "24"),
)


def last(run: Path) -> Path:
    return run / "checkpoints" / f"step-{steps_saved(run)[-1]:05d}"


def adapters(run: Path) -> dict[str, torch.Tensor]:
    return load_file(last(run) / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def whole(tiny_folder, tmp_path_factory) -> Path:
    """A run that is left alone."""
    folder = tmp_path_factory.mktemp("lora")
    run = start(folder, tiny_folder, *FLAGS)
    assert run.end() == 0, run.said
    return the_run(folder)


@pytest.mark.parametrize("kills", sizes(2, soak=3))
def test_killed_it_ends_as_if_left_alone(tmp_path, tiny_folder, whole, kills):
    """Compared with the model that it began with, whenever it goes on."""
    rng, resume = random.Random(0), ()
    for kill in range(kills):
        run = start(tmp_path, tiny_folder, *FLAGS, *resume)
        run.wait_for(said_of(kill + 1, STEPS))
        time.sleep(rng.uniform(0, 0.3))
        run.kill()
        resume = ("--resume", the_run(tmp_path))
    run = start(tmp_path, tiny_folder, *FLAGS, *resume, afresh=True)
    assert run.end() == 0, run.said
    again = the_run(tmp_path)
    assert metrics(again) == metrics(whole)
    assert are_equal(adapters(again), adapters(whole))
    assert are_equal(weights(again), weights(whole))
    assert are_equal(moments(again), moments(whole))
    divergences = [row["kl/reference"] for row in metrics(whole)[1:]]
    assert divergences[0] == 0 < min(divergences[1:])
    assert max(row["gap/probe"] for row in metrics(whole)) < 1e-4


@pytest.mark.slow
def test_others_load_its_checkpoints(tiny_folder, whole):
    """Plain transformers and vLLM the folder, plain peft the adapter in it: they compute the same,
    and not what the run began with."""
    base, merged = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (tiny_folder, last(whole))
    )
    options = {"max_model_len": 128, "dtype": "float32", "config": EngineConfig()}
    engine = Engine(start_vllm(last(whole), use="auxiliary", **options))
    scores = torch.tensor(engine.score(engine.probe))
    engine.close()
    ids = torch.tensor([engine.probe])
    with torch.no_grad():
        before, expected = base(ids).logits, merged(ids).logits
        theirs = peft.PeftModel.from_pretrained(base, last(whole) / "adapter")(ids).logits
    drawn = expected[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    assert (theirs - expected).abs().max() < 1e-4
    assert (scores - drawn).abs().max() < 1e-4
    assert (before - expected).abs().max() > 1e-2
