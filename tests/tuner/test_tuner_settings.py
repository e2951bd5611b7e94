"""Arguments of tune(): each is one of our settings, or is refused in a sentence."""

import json

import pytest

from agentrl import AlgorithmConfig, DatasetConfig, TunerModelConfig, tune
from agentrl.tuner import run
from agentrl.tuner.settings import TRINITY

TRINITYS = """
project: a
name: b
checkpoint_root_dir: c
algorithm: {algorithm_type: grpo, repeat_times: 8, optimizer: {lr: 1e-6}}
model: {model_path: m, max_response_tokens: 16}
cluster: {node_num: 1, gpu_per_node: 8}
buffer:
  total_epochs: 1
  batch_size: 32
  train_batch_size: 256
  explorer_input: {taskset: {name: gsm8k, path: openai/gsm8k, split: train}}
explorer: {runner_per_model: 16, max_timeout: 600, rollout_model: {engine_num: 4}}
synchronizer: {sync_method: nccl}
trainer: {save_interval: 100, use_dynamic_bsz: true}
monitor: {monitor_type: tensorboard}
"""


async def solve(task, model):
    return 1.0


class Configured(Exception):
    """The run would begin now."""


@pytest.fixture
def configured(monkeypatch, tiny_folder, tmp_path):
    """The Config and the flags that tune() would train with."""

    def stop(config, flags):
        raise Configured(config, flags)

    monkeypatch.setattr(run, "_train", stop)
    (tmp_path / "train.jsonl").write_text('{"question": "1?"}\n{"question": "2?"}\n')
    (tmp_path / "test.jsonl").write_text('{"question": "3?"}\n')
    given = {
        "workflow_func": solve,
        "train_dataset": DatasetConfig(path=str(tmp_path)),
        "model": TunerModelConfig(model_path=str(tiny_folder), max_model_len=64),
    }

    def configure(**more):
        with pytest.raises(Configured) as stopped:
            tune(**{**given, **more})
        return stopped.value.args

    return configure


def test_every_argument_is_a_setting(configured, tmp_path, tiny_folder):
    data = DatasetConfig(path=str(tmp_path), total_epochs=3)
    model = TunerModelConfig(
        model_path=str(tiny_folder),
        max_model_len=512,
        temperature=0.7,
        max_tokens=33,
        tool_call_parser="mistral",
        reasoning_parser="qwen3",
        inference_engine_num=1,
    )
    algorithm = AlgorithmConfig(
        algorithm_type="rloo+dapo",
        learning_rate=2e-5,
        group_size=4,
        batch_size=6,
        save_interval_steps=7,
        eval_interval_steps=9,
    )
    other = TunerModelConfig(model_path=str(tiny_folder), max_model_len=32, tool_call_parser=None)
    config, flags = configured(
        train_dataset=data,
        eval_dataset=DatasetConfig(path=str(tmp_path), split="test"),
        model=model,
        algorithm=algorithm,
        auxiliary_models={"other": other},
        project_name="p",
        experiment_name="e",
        monitor_type="wandb",
    )
    assert (config.steps, config.epochs) == (None, 3)
    assert (config.model.path, config.model.max_model_len) == (str(tiny_folder), 512)
    assert (config.model.tool_parser, config.model.reasoning_parser) == ("mistral", "qwen3")
    assert (config.sampling.temperature, config.sampling.max_tokens) == (0.7, 33)
    assert (config.algorithm.name, config.optim.lr) == ("RLOO+DAPO", 2e-5)
    assert (config.group_size, config.tasks_per_step) == (4, 6)
    assert (config.save_every, config.eval.every, config.trackers) == (7, 9, ("wandb",))
    auxiliary = config.auxiliary_models["other"]
    assert (auxiliary.model, auxiliary.max_model_len) == (str(tiny_folder), 32)
    assert (auxiliary.tool_parser, auxiliary.reasoning_parser) == (None, None)
    assert (flags.exp, flags.name, flags.resume) == ("p", "e", None)
    train, held_out = config.tasks(config.data)
    assert [[t["question"] for t in tasks] for tasks in (train, held_out)] == [["1?", "2?"], ["3?"]]


def test_what_is_not_given(configured):
    config, flags = configured()
    given = AlgorithmConfig()
    assert config.algorithm.name == "MultiStepGRPO"
    assert (config.optim.lr, config.group_size) == (given.learning_rate, given.group_size)
    assert (config.tasks_per_step, config.save_every) == (given.batch_size, 100)
    # Without held-out tasks nothing is evaluated; TensorBoard is AgentScope's own default.
    assert (config.eval.every, config.trackers, config.judge) == (None, ("tensorboard",), None)
    assert (config.steps, config.epochs, config.model.reasoning_parser) == (None, 1, None)
    assert (flags.exp, flags.resume) == ("tune", None)


def test_steps_take_the_place_of_epochs(configured, tmp_path):
    config, _ = configured(train_dataset=DatasetConfig(path=str(tmp_path), total_steps=5))
    assert (config.steps, config.epochs) == (5, None)


def test_a_file_of_settings_which_arguments_override(configured, tmp_path, tiny_folder):
    file = tmp_path / "settings.yaml"
    # 1e-4 is a text in YAML.
    file.write_text(
        "tasks: files:rows\nalgorithm: {name: dapo, clip_high: 0.3}\n"
        "optim: {lr: 1e-4, betas: [0.8, 0.9]}\n"
        "group_size: 3\ncompile: true\nsteps: null\ntrackers: []\n"
        f"model: {{path: {tiny_folder}, lora: {{rank: 2}}}}\n"
    )
    alone = {"config_path": str(file), "train_dataset": None, "model": None}
    config, _ = configured(**alone)
    assert (config.algorithm.name, config.algorithm.clip_high) == ("DAPO", 0.3)
    assert (config.optim.lr, config.optim.betas, config.group_size) == (1e-4, (0.8, 0.9), 3)
    assert (config.compile, config.steps, config.trackers) == (True, None, ())
    assert (config.model.path, config.model.lora.rank) == (str(tiny_folder), 2)
    config, _ = configured(**alone | {"algorithm": AlgorithmConfig(group_size=5)})
    assert (config.group_size, config.optim.lr, config.model.lora.rank) == (5, 1e-6, 2)
    assert config.algorithm.name == "MultiStepGRPO"


@pytest.mark.parametrize(
    ("written", "algorithm", "every"),
    [
        ("", None, 20),
        ("eval: {every: 5}", None, 5),
        ("eval: {every: 5}", AlgorithmConfig(eval_interval_steps=7), 7),
        ("eval: {every: null}", AlgorithmConfig(eval_interval_steps=7), None),
    ],
)
def test_tasks_of_a_file_are_evaluated_as_it_says(
    configured, tmp_path, tiny_folder, written, algorithm, every
):
    file = tmp_path / "settings.yaml"
    file.write_text(f"tasks: files:rows\nmodel: {{path: {tiny_folder}}}\n{written}\n")
    given = {"config_path": str(file), "train_dataset": None, "model": None}
    assert configured(**given, algorithm=algorithm)[0].eval.every == every


def test_every_key_of_trinitys_is_refused_with_ours_beside_it(tmp_path):
    import yaml

    file = tmp_path / "trinity.yaml"
    for key, value in yaml.safe_load(TRINITYS).items():
        for inner in value.items() if isinstance(value, dict) else [(None, value)]:
            file.write_text(json.dumps({key: dict([inner]) if inner[0] else inner[1]}))
            with pytest.raises(
                ValueError, match=f"{key}.* is a key of Trinity's; here it is ."
            ) as e:
                tune(workflow_func=solve, config_path=str(file))
            assert str(e.value).rpartition("here it is ")[2] in TRINITY.values()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("optim: {rl: 1}", "there is no setting optim.rl: did you mean optim.lr?"),
        ("[1, 2]", "is no YAML of settings"),
        ("a: [", "cannot read"),
        ("model: Qwen/Qwen3-0.6B", "there is no setting model: did you mean model."),
        (
            "optim: {lr: fast}\ntasks: files:rows\nmodel: {path: m}",
            "--optim.lr: could not convert string to float: 'fast'$",
        ),
    ],
)
def test_files_that_cannot_be_used(tmp_path, written, said):
    file = tmp_path / "settings.yaml"
    file.write_text(written)
    with pytest.raises(ValueError, match=said):
        tune(workflow_func=solve, config_path=str(file))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": {"top_p": 0.9}}, "model.top_p is 0.9: .* leave it 1"),
        ({"model": {"inference_engine_num": 4}}, "launch --num_processes 4`, or leave it out"),
        ({"monitor_type": "mlflow"}, "'mlflow': there are tensorboard, wandb, swanlab"),
        ({"project_name": "a/b"}, "project_name is 'a/b': give the name of a folder"),
        ({"experiment_name": ".."}, "experiment_name is '..': give the name of a folder"),
        ({"train_dataset": None}, "train_dataset is missing"),
        ({"model": None}, "model.path is None: name a transformers folder"),
        ({"algorithm": AlgorithmConfig(algorithm_type="ppo")}, "there is no algorithm 'ppo'"),
        ({"algorithm": AlgorithmConfig(group_size=1)}, "^group_size is 1: give at least 2"),
        ({"algorithm": AlgorithmConfig(learning_rate=9.0)}, "^optim.lr is 9.0: give 0 to 1: AdamW"),
    ],
)
def test_what_cannot_be_honoured_is_refused(given, said, tmp_path, tiny_folder):
    rows = DatasetConfig(path=str(tmp_path))
    model = {"model_path": str(tiny_folder), "max_model_len": 64}
    if given.get("model"):
        given = {**given, "model": TunerModelConfig(**model, **given["model"])}
    given = {"model": TunerModelConfig(**model), "train_dataset": rows, **given}
    with pytest.raises(ValueError, match=said):
        tune(workflow_func=solve, **given)


def test_several_processes_tune_once(monkeypatch, tmp_path, tiny_folder):
    """The group in which they meet ends with their engines."""
    monkeypatch.setattr(run, "_TRAINED", ["before"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="tune.. once: launch them again"):
        tune(
            workflow_func=solve,
            train_dataset=DatasetConfig(path=str(tmp_path)),
            model=TunerModelConfig(model_path=str(tiny_folder), max_model_len=64),
        )


def test_a_preview_prints_what_it_returns(tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text('{"question": "1+1?"}\n{"question": "Größe?"}\n' * 3)
    rows = DatasetConfig(path=str(tmp_path)).preview(2)
    assert rows == [{"question": "1+1?"}, {"question": "Größe?"}]
    assert json.loads(capsys.readouterr().out) == rows
    with pytest.raises(ValueError, match=r"cannot load .*: give a folder of jsonl"):
        DatasetConfig(path=str(tmp_path / "none")).preview()
