"""Settings of ours, by their dotted names, that the tuner's configs come to, or a YAML file has."""

import difflib
import os
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from agentrl.algorithms.named import load_algorithm
from agentrl.config import AuxiliaryModel, Config, EngineConfig
from agentrl.runs.run import flatten
from agentrl.tuner.configs import AlgorithmConfig, DatasetConfig, TunerModelConfig

MONITORS = ("tensorboard", "wandb", "swanlab")
TRINITY = {
    "algorithm.algorithm_type": "algorithm",
    "algorithm.repeat_times": "group_size",
    "algorithm.optimizer": "optim",
    "model.model_path": "model.path",
    "model.max_response_tokens": "sampling.max_tokens",
    "model.temperature": "sampling.temperature",
    "buffer.batch_size": "tasks_per_step",
    "buffer.total_epochs": "epochs",
    "buffer.explorer_input": "tasks, as hf:owner/name or files:PATH, with data",
    "buffer": "tasks_per_step, steps and epochs",
    "explorer.eval_interval": "eval.every",
    "explorer.max_timeout": "episode_seconds",
    "explorer.rollout_model.tool_call_parser": "model.tool_parser",
    "explorer.rollout_model.reasoning_parser": "model.reasoning_parser",
    "explorer.rollout_model": "engine",
    "explorer.runner_per_model": "concurrent_episodes",
    "explorer": "engine, eval and episode_seconds",
    "trainer.save_interval": "save_every",
    "trainer": "optim, micro_batch_tokens and save_every",
    "monitor": "trackers",
    "checkpoint_root_dir": "runs",
    "project": "the argument project_name of tune()",
    "name": "the argument experiment_name of tune()",
    "cluster": "accelerate launch --num_processes",
    "synchronizer": "nothing: every step's weights are pushed before the next is sampled",
}
"""What a key of Trinity's is here, and what begins with it."""


def read_settings(path: Path) -> dict[str, Any]:
    """A YAML file's settings, under the names that the flags have: ``optim: {lr: 1e-5}``.

    Raises ValueError, in a sentence, where it cannot be read, or has a key that is none of ours.
    """
    # Slow to import, and only needed here.
    import yaml

    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read {path} ({' '.join(str(error).split())})") from error
    if not isinstance(read, dict):
        raise ValueError(f"{path} is no YAML of settings: write such as `optim: {{lr: 1e-5}}`")
    found = {name: value for name, value in flatten(read).items() if value != {}}
    # As config.json writes an algorithm that has numbers of its own.
    if "algorithm.name" in found:
        found["algorithm"] = found.pop("algorithm.name")
    known = {"algorithm", *_names(Config)}
    if isinstance(named := found.get("algorithm"), str):
        known |= {f"algorithm.{field.name}" for field in fields(load_algorithm(named))}
    for name in sorted(found.keys() - known):
        raise ValueError(f"{path}: {_unknown(name, known)}")
    return found


def _names(config: type, prefix: str = "") -> Iterator[str]:
    for name, kind in get_type_hints(config).items():
        if is_dataclass(kind):
            yield from _names(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _unknown(name: str, known: Iterable[str]) -> str:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if ours := TRINITY.get(".".join(parts[:end])):
            return f"{name} is a key of Trinity's; here it is {ours}"
    near = difflib.get_close_matches(name, known, n=1)
    hint = f": did you mean {near[0]}?" if near else ", see python train.py --exp gsm8k --help"
    return f"there is no setting {name}{hint}"


def of_model(model: TunerModelConfig) -> dict[str, Any]:
    """Raises ValueError for what would train another distribution than is sampled, and so on."""
    if model.top_p != 1:
        raise ValueError(
            f"model.top_p is {model.top_p}: what is trained is drawn from the whole distribution, "
            "leave it 1"
        )
    num_engines = int(os.environ.get("WORLD_SIZE", 1)) // model.tensor_parallel_size
    if model.inference_engine_num not in (None, num_engines):
        num_processes = model.inference_engine_num * model.tensor_parallel_size
        raise ValueError(
            f"model.inference_engine_num is {model.inference_engine_num}, but there are processes "
            f"for {num_engines}: `accelerate launch --num_processes {num_processes}`, or leave it "
            "out"
        )
    return {
        "model.path": model.model_path,
        "model.max_model_len": model.max_model_len,
        "model.tool_parser": model.tool_call_parser,
        "model.reasoning_parser": model.thinking_parser,
        "sampling.temperature": model.temperature,
        "sampling.max_tokens": model.max_tokens,
        "engine.tensor_parallel_size": model.tensor_parallel_size,
    }


def auxiliary_model(name: str, model: TunerModelConfig) -> AuxiliaryModel:
    if model.inference_engine_num not in (None, 1):
        raise ValueError(
            f"auxiliary_models.{name}.inference_engine_num is {model.inference_engine_num}: each "
            "process has one engine of it, leave it out"
        )
    size = model.tensor_parallel_size
    return AuxiliaryModel(
        model=model.model_path,
        max_model_len=model.max_model_len,
        tool_parser=model.tool_call_parser,
        reasoning_parser=model.thinking_parser,
        engine=EngineConfig(gpu_memory_utilization=0.2, tensor_parallel_size=size),
    )


def of_algorithm(algorithm: AlgorithmConfig, is_evaluated: bool) -> dict[str, Any]:
    return {
        "algorithm": algorithm.algorithm_type,
        "optim.lr": algorithm.learning_rate,
        "group_size": algorithm.group_size,
        "tasks_per_step": algorithm.batch_size,
        "save_every": algorithm.save_interval_steps,
        "eval.every": algorithm.eval_interval_steps if is_evaluated else None,
    }


def of_train_dataset(train: DatasetConfig) -> dict[str, Any]:
    if train.total_steps is not None:
        return {"steps": train.total_steps, "epochs": None}
    return {"steps": None, "epochs": train.total_epochs}


def of_monitor(name: str | None) -> dict[str, Any]:
    if name is not None and name not in MONITORS:
        raise ValueError(f"monitor_type is {name!r}: there are {', '.join(MONITORS)}")
    return {"trackers": [name or MONITORS[0]]}
