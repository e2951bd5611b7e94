import dataclasses
import json
import re
import shutil

import pytest
import torch
from transformers import AutoConfig

from agentrl.algorithms import GRPO
from agentrl.algorithms.named import load_algorithm
from agentrl.cli import load_experiment, to_json
from agentrl.config import (
    Config,
    EngineConfig,
    LoraConfig,
    ModelConfig,
    SamplingConfig,
    ServerConfig,
)
from agentrl.runs import memory, preflight
from agentrl.runs.progress import Display
from agentrl.types import Call, CannotStart, Episode, Group


async def solve(task, model):
    return 1.0


def make_config(folder, runs, **changes) -> Config:
    model = ModelConfig(path=str(folder), max_model_len=256)
    made = Config(
        workflow=solve, tasks=lambda data: ([], []), model=model, runs=runs, tasks_per_step=4
    )
    return dataclasses.replace(made, **{"micro_batch_tokens": 512, **changes})


def surroundings(config, train=(), held_out=(), ranks=1) -> None:
    preflight.check_surroundings(config, list(train), list(held_out), ranks, Display())


def check(config, ranks=1, ranks_here=None) -> None:
    preflight.check_model(config, config.model.path, ranks, ranks_here or ranks, Display())


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


def test_how_long_a_call_may_be_is_samplings_where_an_algorithm_asks(tmp_path):
    """DAPO's penalty is of what nearly reaches the end; 20480, as published, would be out of it."""

    def resolved(name, **numbers):
        algorithm = dataclasses.replace(load_algorithm(name), **numbers)
        sampling = SamplingConfig(max_tokens=192)
        config = dataclasses.replace(
            make_config(tmp_path, tmp_path), algorithm=algorithm, sampling=sampling
        )
        return preflight.with_max_tokens(config).algorithm

    assert resolved("dapo+kl").max_tokens == 192
    assert resolved("dapo", max_tokens=100).max_tokens == 100
    assert resolved("grpo") == GRPO()


def test_what_is_counted_of_a_model(tiny_folder, tmp_path, monkeypatch):
    config, model = make_config(tiny_folder, tmp_path), AutoConfig.from_pretrained(tiny_folder)
    # Tied weights are one.
    saved = (tiny_folder / "model.safetensors").stat().st_size
    assert saved == pytest.approx(4 * memory.num_parameters(model).total, rel=0.05)
    # Weights, gradients, two moments; then vLLM's weights and its cache, of every rank here.
    thousand = memory.NumParameters(1000, 100, trained=1000)
    assert memory.needed_bytes(config, thousand, 1, 1) == 16000 + 4000 + 2**30
    assert memory.needed_bytes(config, thousand, 4, 2) == 2 * (4000 + 4000 + 4000 + 2**30)
    spanning = dataclasses.replace(config, engine=EngineConfig(tensor_parallel_size=2))
    assert memory.needed_bytes(spanning, thousand, 2, 2) == 2 * (8000 + 4000 + 2000 + 2**30)
    compared = dataclasses.replace(config, algorithm=Compared())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert memory.needed_bytes(config, thousand, 1, 1) == 16000
    assert memory.needed_bytes(compared, thousand, 1, 1) == 20000
    # In a push: no gradients, but vLLM's weights in bf16, and a layer of them whole. Of many ranks
    # that is more than a step.
    assert memory.push_bytes(config, thousand, 1) == 12000 + 2 * (1000 + 100)
    assert memory.push_bytes(compared, thousand, 1) == 16000 + 2 * (1000 + 100)
    assert memory.needed_bytes(config, thousand, 8, 8) == 1500 + 2 * (1000 + 100)
    assert memory.push_bytes(spanning, thousand, 8) == 1500 + 2 * (500 + 100)


def test_what_is_counted_of_adapters(tiny_folder, tmp_path, monkeypatch):
    """Gradients and moments are theirs alone; what is frozen is once, in what is computed in."""
    config, model = make_config(tiny_folder, tmp_path), AutoConfig.from_pretrained(tiny_folder)
    found = memory.num_parameters(model, LoraConfig(rank=8, targets=("q_proj",)))
    assert (found.total, found.trained) == (memory.num_parameters(model).total, 2 * 8 * (64 + 64))
    few, config = memory.NumParameters(1000, 100, trained=10), with_lora(config, rank=8)
    assert memory.needed_bytes(config, few, 1, 1) == 160 + 4000 + 4000 + 2**30
    assert memory.needed_bytes(config, few, 2, 2) == 2 * (2080 + 40 + 4000 + 2**30)
    assert memory.checkpoint_bytes(config, few) == 4000 + 160
    itself, taught = (dataclasses.replace(config, algorithm=a) for a in (ToStart(), Compared()))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert memory.needed_bytes(config, few, 1, 1) == 120 + 2000 + 2 * (1000 + 100)
    # Without its adapters it is its own reference.
    assert memory.push_bytes(itself, few, 1) == memory.push_bytes(config, few, 1)
    assert memory.push_bytes(taught, few, 1) == 120 + 4000 + 2 * (1000 + 100)
    assert memory.checkpoint_bytes(config, few) == 2000 + 160


class ToStart(GRPO):
    reference = True


def with_lora(config: Config, **fields) -> Config:
    model = dataclasses.replace(config.model, lora=LoraConfig(**fields))
    return dataclasses.replace(config, model=model)


def test_adapters_are_said_and_have_to_fit(tiny_folder, tmp_path, capsys):
    config = make_config(tiny_folder, tmp_path)
    check(with_lora(config, rank=8))
    assert "0.1 million weights, of LoRA 0.02, 1 rank on cpu" in capsys.readouterr().out
    with pytest.raises(ValueError, match="rank is 99, but k_proj has a side of 32: give at most"):
        check(with_lora(config, rank=99))


@pytest.mark.parametrize("now", [{}, {"rank": 4}, {"rank": 8, "alpha": 8}])
def test_a_run_goes_on_with_the_adapters_that_it_began_with(tmp_path, now):
    config = make_config(tmp_path, tmp_path)
    before = with_lora(config, rank=8, targets=("q_proj",))
    preflight.check_same_lora(before, json.loads(to_json(before)))
    for new, settings in ((with_lora(config, **now), before), (before, with_lora(config, **now))):
        with pytest.raises(ValueError, match="model.lora.* when the run began, and is .*: give"):
            preflight.check_same_lora(new, json.loads(to_json(settings)))
    # Of a run that is older than the setting.
    preflight.check_same_lora(config, {"model": {"path": "m"}})


def test_a_push_holds_a_layer_whole(tiny_folder):
    """Or the embedding, where that is larger: here by so many words."""
    model = AutoConfig.from_pretrained(tiny_folder)
    assert memory.num_parameters(model).largest_layer == model.vocab_size * model.hidden_size
    model.vocab_size = 8
    few = memory.num_parameters(model)
    # Two layers, the embedding, which is the head, too, and the last norm.
    assert few.total == 2 * few.largest_layer + (8 + 1) * model.hidden_size


class Compared(GRPO):
    reference = "a/teacher"


def test_what_vllm_has_on_gpus_alone_is_refused(tiny_folder, tmp_path):
    config = make_config(tiny_folder, tmp_path, engine=EngineConfig(async_scheduling=True))
    with pytest.raises(ValueError, match="async_scheduling is True: vLLM has it on GPUs alone"):
        check(config)


def test_a_control_group_limits_the_memory(tmp_path):
    """``max`` and an absent file limit nothing."""
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("50\n")
    unlimited = memory.free_bytes(tmp_path)
    (tmp_path / "memory.max").write_text("80\n")
    assert 2**20 < unlimited < 2**50
    assert memory.free_bytes(tmp_path) == 30
    assert 0 < memory.free_bytes() < 2**50


def test_what_a_model_takes_is_said(tiny_folder, tmp_path, monkeypatch, capsys):
    """Of this machine, or of a GPU: there the sum is of what is trained alone."""
    config = make_config(tiny_folder, tmp_path)
    check(config)
    assert re.fullmatch(
        r"0\.\d million weights, 1 rank on cpu: 1\.1 GB of \d.* memory, without activations; "
        r"\d.* of \d.* disk a checkpoint\n",
        capsys.readouterr().out,
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3 * 10**7, 10**9))
    check(config)
    assert re.search(
        r"1 rank on cuda: .* of 30.0 MB memory, without activations, in a push \d.* [kM]B; ",
        capsys.readouterr().out,
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**3, 10**9))
    with pytest.raises(ValueError, match="1.0 kB are free: train a smaller model, or launch more"):
        check(config)


def test_a_teacher_has_the_same_tokens(tiny_folder, tmp_path):
    config, teacher = make_config(tiny_folder, tmp_path), tmp_path / "teacher"
    shutil.copytree(tiny_folder, teacher)
    taught = dataclasses.replace(load_algorithm("opd"), teacher=str(teacher))
    config = dataclasses.replace(config, algorithm=taught)
    check(config)
    file = teacher / "tokenizer.json"
    vocabulary = json.loads(file.read_text())
    vocabulary["added_tokens"].append(
        {**vocabulary["added_tokens"][-1], "id": 9999, "content": "<new>"}
    )
    file.write_text(json.dumps(vocabulary))
    with pytest.raises(ValueError, match=f"reference is {teacher}, whose tokens are not those of"):
        check(config)


def test_memory_that_is_not_there(tiny_folder, tmp_path, monkeypatch):
    """The sum of what is sure to be held, of all ranks of this machine; not a byte less will do."""
    config, model = make_config(tiny_folder, tmp_path), AutoConfig.from_pretrained(tiny_folder)
    parameters = memory.num_parameters(model)

    def refused(free, **ranks) -> str:
        monkeypatch.setattr(memory, "free_bytes", lambda: free)
        with pytest.raises(ValueError, match="without activations") as error:
            check(config, **ranks)
        return str(error.value)

    assert re.fullmatch(
        r"1.1 GB of memory are needed, without activations, and 500.0 MB are free: train a "
        r"smaller model, launch fewer processes, or lower --engine.cpu-cache-gib",
        refused(5 * 10**8),
    )
    for ranks, here in ((1, 1), (4, 4), (4, 1)):
        needed = memory.needed_bytes(config, parameters, ranks, here)
        refused(needed - 1, ranks=ranks, ranks_here=here)
        monkeypatch.setattr(memory, "free_bytes", lambda needed=needed: needed)
        check(config, ranks, here)


def test_disk_that_is_not_there(tiny_folder, tmp_path, monkeypatch):
    config = make_config(tiny_folder, tmp_path)
    checkpoint = 12 * memory.num_parameters(AutoConfig.from_pretrained(tiny_folder)).total

    def disk(free):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)

    disk(checkpoint)
    check(config)
    disk(checkpoint - 1)
    with pytest.raises(ValueError, match="a checkpoint takes .* left: make room, or give another"):
        check(config)


def test_tasks_over_ranks(tmp_path, capsys):
    config = make_config("m", tmp_path)
    for ranks in (1, 3, 4):
        surroundings(config, ranks=ranks)
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="5 ranks share tasks_per_step 4: launch fewer processes"):
        surroundings(config, ranks=5)
    config = dataclasses.replace(config, server=ServerConfig(port=8000))
    with pytest.raises(ValueError, match="port is 8000, but each of 2 ranks needs one: leave it 0"):
        surroundings(config, ranks=2)


def test_tasks_that_repeat(tmp_path, capsys):
    config = make_config("m", tmp_path)
    surroundings(config, [{"id": "a"}, {"id": "b"}, {"id": "a"}], [{"id": "b"}])
    assert capsys.readouterr().out == "warning: 1 held-out tasks are train tasks, too\n"
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


def test_part_weights_name_parts_that_there_are(tmp_path):
    parts = {"right": 1.0, "short": 0.0}
    episode = Episode(task={"id": "t"}, index=0, reward=1.0, parts=parts)
    groups = [Group({"id": "t"}, (episode,))]

    def first_batch(**weights: float) -> None:
        config = make_config("m", tmp_path, algorithm=GRPO(part_weights=weights))
        preflight.check_first_batch(groups, config, Display())

    first_batch(right=2.0)
    with pytest.raises(CannotStart, match="part_weights names wrong, but .* made of right, short"):
        first_batch(right=2.0, wrong=1.0)
