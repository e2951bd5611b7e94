import dataclasses
import json
import re

import pytest
import torch
from transformers import AutoConfig

from agentrl.algorithms import GRPO
from agentrl.cli import load_experiment
from agentrl.config import Config, EngineConfig, ModelConfig, ServerConfig
from agentrl.runs import memory, preflight
from agentrl.runs.progress import Display
from agentrl.types import Call, Episode, Group


async def solve(task, model):
    return 1.0


def make_config(folder, runs, **changes) -> Config:
    model = ModelConfig(path=str(folder), max_model_len=256)
    made = Config(
        workflow=solve, tasks=lambda data: ([], []), model=model, runs=runs, tasks_per_step=4
    )
    return dataclasses.replace(made, **{"micro_batch_tokens": 512, **changes})


def surroundings(config, train=(), held_out=(), ranks=1) -> None:
    preflight.check_surroundings(
        config, list(train), list(held_out), ranks=ranks, display=Display()
    )


def check(config, train=(), num_steps=4, ranks=1, ranks_here=None) -> None:
    preflight.check_model(
        config,
        config.model.path,
        list(train),
        num_steps=num_steps,
        ranks=ranks,
        ranks_here=ranks_here or ranks,
        display=Display(),
    )


def test_a_length_that_is_not_given_is_the_models(tiny_folder, tmp_path, capsys):
    """At most 4096; said where the model decides. One that is given stays."""

    def resolved(folder, max_model_len=None):
        config = make_config(folder, tmp_path)
        config = dataclasses.replace(
            config, model=ModelConfig(path=str(folder), max_model_len=max_model_len)
        )
        return preflight.with_max_model_len(config, folder, Display()).model.max_model_len

    assert resolved(tiny_folder) == 2048
    said = "model.max_model_len: 2048, as many positions as the model has\n"
    assert capsys.readouterr().out == said
    assert [resolved(tiny_folder, 99), resolved(tiny_folder, 5000)] == [99, 5000]
    described = json.loads((tiny_folder / "config.json").read_text())
    described["max_position_embeddings"] = 32768
    (tmp_path / "config.json").write_text(json.dumps(described))
    assert resolved(tmp_path) == 4096
    stretched = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4}
    described |= {"max_position_embeddings": 2048, "rope_parameters": stretched}
    (tmp_path / "config.json").write_text(json.dumps(described))
    assert resolved(tmp_path) == 4096
    assert capsys.readouterr().out == ""
    assert load_experiment("gsm8k").model.max_model_len is None


def test_what_is_counted_of_a_model(tiny_folder, tmp_path):
    config, model = make_config(tiny_folder, tmp_path), AutoConfig.from_pretrained(tiny_folder)
    parameters = memory.num_parameters(model)
    # Tied weights are one.
    saved = (tiny_folder / "model.safetensors").stat().st_size
    assert saved == pytest.approx(4 * parameters, rel=0.05)
    assert [memory.state_bytes(config, 1000, ranks) for ranks in (1, 2)] == [16000, 8000]
    compared = dataclasses.replace(config, algorithm=Compared())
    assert memory.state_bytes(compared, 1000, 1) == 20000
    # Keys and values of 2 layers, of one head of 32, 4 bytes each, for 256 tokens.
    assert (model.num_hidden_layers, model.num_key_value_heads, model.head_dim) == (2, 1, 32)
    assert memory.engine_bytes(config, model, 1000) == (4000, 2 * 2 * 32 * 4 * 256)
    spanning = dataclasses.replace(config, engine=EngineConfig(tensor_parallel_size=2))
    assert memory.engine_bytes(spanning, model, 1000) == (2000, 2 * 32 * 4 * 256)
    # 512 rows of logits, the vocabulary's columns rounded up to 128.
    columns = -(-model.vocab_size // 128) * 128
    assert memory.bytes_on_cpu(config, model, 1000) == 4 * 512 * columns + 4000 + 2**30


class Compared(GRPO):
    reference = True


def test_a_control_group_limits_the_memory(tmp_path):
    """Version 2's files, and version 1's; ``max`` and an absent file limit nothing."""
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("50\n")
    unlimited = memory.free_bytes(tmp_path)
    (tmp_path / "memory").mkdir()
    for folder, names in (
        (tmp_path, ("memory.max", "memory.current")),
        (tmp_path / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
    ):
        for name, number in zip(names, ("80", "50"), strict=True):
            (folder / name).write_text(f"{number}\n")
    assert 2**20 < unlimited < 2**50
    assert memory.free_bytes(tmp_path) == 30
    assert 0 < memory.free_bytes() < 2**50


def test_the_table(tiny_folder, tmp_path, capsys):
    check(make_config(tiny_folder, tmp_path), [{"id": "a", "question": "1 2 3"}])
    said = capsys.readouterr().out
    assert "million weights, 1 rank on cpu" in said
    rows = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in _cells(said)}
    assert list(rows) == [
        "memory, without activations",
        "KV cache, for the longest call",
        "disk, for each checkpoint",
        "longest question, in tokens",
    ]
    assert rows["KV cache, for the longest call"] == ["0.1 MiB", "1.0 GiB"]
    # One token a digit and one a space, or one for both.
    assert rows["longest question, in tokens"] in (["5", "256"], ["3", "256"])
    assert "warning" not in said


def _cells(table: str) -> list[list[str]]:
    return [line.strip("│").split("│") for line in table.splitlines() if line.startswith("│")]


def test_memory_that_is_not_there(tiny_folder, tmp_path, monkeypatch):
    """The sum of what is sure to be held, of all ranks of this machine; not a byte less will do."""
    config, model = make_config(tiny_folder, tmp_path), AutoConfig.from_pretrained(tiny_folder)
    parameters = memory.num_parameters(model)

    def needed(ranks):
        return memory.state_bytes(config, parameters, ranks) + memory.bytes_on_cpu(
            config, model, parameters
        )

    def refused(free, **ranks) -> str:
        monkeypatch.setattr(memory, "free_bytes", lambda: free)
        with pytest.raises(ValueError, match="without activations") as error:
            check(config, **ranks)
        return str(error.value)

    assert re.fullmatch(
        r"1.0 GiB of memory are needed, without activations, and 512.0 MiB are free: train a "
        r"smaller model, launch fewer processes, or lower --engine.cpu-cache-gib",
        refused(2**29),
    )
    refused(needed(1) - 1), refused(4 * needed(4) - 1, ranks=4)
    for free, ranks in ((needed(1), 1), (4 * needed(4), 4)):
        monkeypatch.setattr(memory, "free_bytes", lambda free=free: free)
        check(config, ranks=ranks)
    # Of four ranks, one is on this machine.
    monkeypatch.setattr(memory, "free_bytes", lambda: needed(4))
    check(config, ranks=4, ranks_here=1)


def test_memory_of_a_gpu(tiny_folder, tmp_path, monkeypatch, capsys):
    """There the sum is of what is trained alone: how much a step takes besides is tried."""
    config = make_config(tiny_folder, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**25, 2**30))
    check(config)
    assert _cells(capsys.readouterr().out)[0][2].strip() == "32.0 MiB"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**10, 2**30))
    with pytest.raises(ValueError, match="0.0 MiB are free: train a smaller model, or launch more"):
        check(config)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**25, 2**10))
    with pytest.raises(ValueError, match="is 0.0 MiB: raise engine.gpu_memory_utilization, or low"):
        check(config)


def test_a_cache_that_one_call_overflows(tiny_folder, tmp_path):
    described = json.loads((tiny_folder / "config.json").read_text())
    model = AutoConfig.for_model(**{**described, "head_dim": 2**16})
    config = make_config(tiny_folder, tmp_path)
    config = dataclasses.replace(config, model=ModelConfig(path="m", max_model_len=4096))
    with pytest.raises(
        ValueError,
        match="model.max_model_len 4096 takes 4.0 GiB of KV cache a call, and there is 1.0 GiB: "
        "raise engine.cpu_cache_gib, or lower model.max_model_len",
    ):
        preflight._check_cache(config, model, 1000)


def test_disk_that_is_not_there(tiny_folder, tmp_path, monkeypatch, capsys):
    config = make_config(tiny_folder, tmp_path, save_every=1)
    checkpoint = 12 * memory.num_parameters(AutoConfig.from_pretrained(tiny_folder))

    def disk(free):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)

    disk(4 * checkpoint)
    check(config, num_steps=4)
    assert "warning" not in capsys.readouterr().out
    check(config, num_steps=5)
    assert "warning: 5 checkpoints take" in capsys.readouterr().out
    disk(checkpoint - 1)
    with pytest.raises(ValueError, match="a checkpoint takes .* left: make room, or give another"):
        check(config)


def test_a_question_longer_than_the_context(tiny_folder, tmp_path, capsys):
    config = make_config(tiny_folder, tmp_path)
    check(config, [{"id": "a", "question": "7" * 255}])
    assert "warning" not in capsys.readouterr().out
    check(config, [{"id": "a", "question": "7" * 256}])
    assert (
        "warning: the longest question has 256 tokens and model.max_model_len is 256: "
        in capsys.readouterr().out
    )


def test_tasks_over_ranks(tmp_path, capsys):
    config = make_config("m", tmp_path)
    for ranks in (1, 2, 4):
        surroundings(config, ranks=ranks)
    assert capsys.readouterr().out == ""
    surroundings(config, ranks=3)
    assert "warning: 4 tasks a step do not divide over 3 ranks" in capsys.readouterr().out
    with pytest.raises(ValueError, match="5 ranks share tasks_per_step 4: launch fewer processes"):
        surroundings(config, ranks=5)
    config = dataclasses.replace(config, server=ServerConfig(port=8000))
    with pytest.raises(ValueError, match="port is 8000, but each of 2 ranks needs one: leave it 0"):
        surroundings(config, ranks=2)


def test_tasks_that_repeat(tmp_path, capsys):
    config = make_config("m", tmp_path)
    surroundings(config, [{"id": "a"}, {"id": "b"}, {"id": "a"}], [{"id": "b"}])
    assert capsys.readouterr().out == (
        "warning: 2 train tasks are repetitions of each other\n"
        "warning: 1 held-out tasks are train tasks, too\n"
    )
    with pytest.raises(ValueError, match="two different held-out tasks have the id 'a'"):
        surroundings(config, [], [{"id": "a", "x": 1}, {"id": "a", "x": 2}])


def test_a_folder_is_made_and_left_as_it_was(tmp_path):
    surroundings(make_config("m", tmp_path / "new" / "runs"))
    assert list((tmp_path / "new").rglob("*")) == [tmp_path / "new" / "runs"]


def test_a_first_batch_in_which_no_prompt_fits():
    def group(*episodes):
        return Group({"id": "t"}, episodes)

    task = {"id": "t"}
    full = Episode(task=task, index=0, status="truncated", reward=0.0)
    call = Call(prompt_ids=[1], completion_ids=[2], logprobs=[0.0])
    late = dataclasses.replace(full, calls=(call,))
    wrong = Episode(task=task, index=0, status="error", error="KeyError")
    for fine in ([group(full, late)], [group(full), group(wrong)]):
        preflight._check_prompts_fit(fine, 512)
    with pytest.raises(
        preflight.CannotStart, match="every first prompt is longer than model.max_model_len 512"
    ):
        preflight._check_prompts_fit([group(full, full), group(full)], 512)
