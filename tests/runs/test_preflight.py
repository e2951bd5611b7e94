import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from agentrl.cli import load_experiment
from agentrl.config import Config, EngineConfig, ModelConfig, ServerConfig
from agentrl.runs import memory, preflight
from agentrl.runs.memory import Shape
from agentrl.runs.progress import Display
from agentrl.types import Call, Episode, Group
from tests.support.sizes import some_of

ROOT = Path(__file__).parents[2]
SHAPE = Shape(parameters=1000, layers=2, width=8, inner=24, query=8, key=4, vocabulary=50)
MIB = 2**20


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
        dtype="float32",
        attention="segments",
        device=torch.device("cpu"),
        display=Display(),
    )


def measure(*flags: str) -> dict:
    result = subprocess.run(
        [sys.executable, "-m", "bench.memory", *flags],
        cwd=ROOT,
        # What is freed goes back at once: the highest size is then what tensors took, every time.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


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


@pytest.mark.slow
def test_the_estimate_is_near_what_a_step_takes():
    taken = measure("--hidden", "128", "--layers", "4", "--tokens", "1024")
    assert 1 / preflight.TOLERANCE < taken["ratio"] < preflight.TOLERANCE
    # The control: without activations it would be far off.
    assert taken["state"] < 0.3 * taken["measured"]


@pytest.mark.parametrize(
    "flags",
    some_of(
        [
            ("--hidden 256 --layers 4 --tokens 2048",),
            ("--hidden 256 --layers 4 --tokens 8192",),
            ("--hidden 256 --layers 4 --tokens 8192 --recompute full",),
            ("--hidden 256 --layers 4 --tokens 8192 --recompute selective",),
            ("--hidden 512 --layers 8 --tokens 2048",),
        ],
        in_slow=["--hidden 256 --layers 4 --tokens 2048"],
    ),
)
def test_the_estimate_at_other_sizes(flags):
    taken = measure(*flags.split())
    print(flags, f"estimate/measured {taken['ratio']:.2f}, {taken['measured'] / MIB:.0f} MiB")
    assert 1 / preflight.TOLERANCE < taken["ratio"] < preflight.TOLERANCE


def test_state_is_divided_over_ranks_and_counted_by_hand(tiny_folder):
    assert [memory.state_bytes(SHAPE, ranks) for ranks in (1, 2)] == [16000, 8000]
    assert memory.checkpoint_bytes(SHAPE) == 12000
    # 2 layers, keys and values of 4, 2 bytes each.
    assert memory.cache_bytes_per_token(SHAPE, "bfloat16") == 2 * 2 * 4 * 2
    shape = memory.shape_of(tiny_folder)
    config = json.loads((tiny_folder / "config.json").read_text())
    assert (shape.layers, shape.width) == (config["num_hidden_layers"], config["hidden_size"])
    # Tied weights are one.
    saved = (tiny_folder / "model.safetensors").stat().st_size
    assert saved == pytest.approx(4 * shape.parameters, rel=0.05)


def test_checkpointing_keeps_less_and_more_tokens_more():
    def activations(recompute, tokens=4096):
        return memory.activation_bytes(
            dataclasses.replace(SHAPE, layers=30),
            tokens=tokens,
            longest=512,
            dtype="float32",
            recompute=recompute,
            attention="segments",
        )

    full, selective, off = map(activations, ("full", "selective", "off"))
    assert full < selective < off / 4
    assert activations("off", 8192) == pytest.approx(2 * off, rel=0.03)


def test_a_control_group_limits_the_memory(tmp_path, monkeypatch):
    """Version 2's files, and version 1's; ``max`` and an absent file limit nothing."""
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("50\n")
    unlimited = memory._cgroup_free(tmp_path)
    (tmp_path / "memory").mkdir()
    for folder, names in (
        (tmp_path, ("memory.max", "memory.current")),
        (tmp_path / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
    ):
        for name, number in zip(names, ("80", "50"), strict=True):
            (folder / name).write_text(f"{number}\n")
    assert min(unlimited) == sys.maxsize
    assert min(memory._cgroup_free(tmp_path)) == 30
    assert 0 < memory.free_bytes() < 2**50


def test_the_table(tiny_folder, tmp_path, capsys):
    check(make_config(tiny_folder, tmp_path), [{"id": "a", "question": "1 2 3"}])
    said = capsys.readouterr().out
    assert re.search(r"million weights, 1 rank on cpu", said)
    rows = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in _cells(said)}
    assert list(rows) == [
        "weights, gradients, AdamW's moments",
        "activations (512 tokens at once)",
        "vLLM",
        "memory in all",
        "disk, for each checkpoint",
        "longest question, in tokens",
    ]
    # One token a digit and one a space, or one for both.
    assert rows["longest question, in tokens"] in (["5", "256"], ["3", "256"])
    assert "warning" not in said


def _cells(table: str) -> list[list[str]]:
    return [line.strip("│").split("│") for line in table.splitlines() if line.startswith("│")]


@pytest.mark.parametrize(
    ("share", "sentence"),
    [
        (0.5, r"refused: about .* GiB of memory are needed and .* free: try a smaller --micro-"),
        (0.9, r"warning: .* of .* may be too close: if it fails, try a smaller --micro-batch-tok"),
        (1.1, r"warning: .* may be too close"),
        (1.5, None),
    ],
)
def test_memory_that_is_not_there(tiny_folder, tmp_path, monkeypatch, capsys, share, sentence):
    config = make_config(tiny_folder, tmp_path)
    shape = memory.shape_of(tiny_folder)
    needed = memory.state_bytes(shape, 1) + preflight._activations(
        config, shape, "float32", "segments", torch.device("cpu")
    )
    needed += preflight._engine(config.engine, shape, "float32", 256, torch.device("cpu"))
    monkeypatch.setattr(memory, "free_bytes", lambda: int(share * needed))
    try:
        check(config)
        said = capsys.readouterr().out
    except ValueError as error:
        said = f"refused: {error}"
    assert bool(re.search("refused:|warning:", said)) == (sentence is not None)
    assert re.search(sentence or "", said)


def test_ranks_of_a_cpu_share_its_memory(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 4 * 2**30)
    config = make_config(tiny_folder, tmp_path)
    check(config, ranks=1)
    check(config, ranks=4, ranks_here=1)
    with pytest.raises(ValueError, match="GiB of memory are needed and 4.0 GiB free"):
        check(config, ranks=4)


def test_a_cache_that_one_call_overflows(tmp_path):
    shape = dataclasses.replace(SHAPE, layers=64, key=1024)
    with pytest.raises(
        ValueError,
        match=r"model.max_model_len 4096 takes 2.0 GiB of KV cache a call, .* is 1.0 GiB: ",
    ):
        preflight._engine(EngineConfig(), shape, "float32", 4096, torch.device("cpu"))


def test_disk_that_is_not_there(tiny_folder, tmp_path, monkeypatch, capsys):
    config = make_config(tiny_folder, tmp_path, save_every=1)
    checkpoint = memory.checkpoint_bytes(memory.shape_of(tiny_folder))

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
        preflight.CannotStart, match="^every first prompt is longer than model.max_model_len 512"
    ):
        preflight._check_prompts_fit([group(full, full), group(full)], 512)
