"""Run of the tuner: ``tune()``, in this process or in each that ``accelerate launch`` starts."""

import os
import signal
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agentrl.callables import named_like
from agentrl.cli import with_settings
from agentrl.config import Config, DataConfig, EvalConfig, ModelConfig
from agentrl.runs.run import Run
from agentrl.serving.process import prepare_process
from agentrl.tuner.configs import AlgorithmConfig, DatasetConfig, TunerModelConfig
from agentrl.tuner.functions import as_judge, as_workflow
from agentrl.tuner.settings import (
    auxiliary_model,
    of_algorithm,
    of_model,
    of_monitor,
    of_train_dataset,
    read_settings,
)
from agentrl.types import Task

_TRAINED: list[str] = []
"""The projects of this process's runs."""


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """What a run has come to, the same on every rank."""

    best: float | None
    """The highest of what ``eval.best`` names (eval/success); None where nothing was evaluated."""
    checkpoint: Path | None
    """The best step's, where it is kept; else the last. A transformers folder."""
    folder: Path
    """The run's."""


def tune(
    *,
    workflow_func: Callable,
    judge_func: Callable | None = None,
    train_dataset: DatasetConfig | None = None,
    eval_dataset: DatasetConfig | None = None,
    model: TunerModelConfig | None = None,
    auxiliary_models: Mapping[str, TunerModelConfig] | None = None,
    algorithm: AlgorithmConfig | None = None,
    project_name: str | None = None,
    experiment_name: str | None = None,
    monitor_type: str | None = None,
    config_path: str | None = None,
) -> TuneResult:
    """Train the model behind a workflow; returns when the run has come to its end.

    workflow_func: async (task, model[, auxiliary_models, logger]); models are AgentScope's.
    judge_func: async (task, response[, ...]), or an AgentScope ``MetricBase``.
    project_name: the folder of ``runs/`` it is written to. experiment_name: the run's in there,
    which goes on where there is one already; None: the time. monitor_type: tensorboard (None),
    wandb or swanlab. config_path: a YAML of our settings, which the arguments override.
    Raises ValueError where these cannot be used, and in processes that have trained together
    already. A run ends as train.py does: what a person caused exits with a sentence, and Ctrl-C
    saves.
    """
    settings = read_settings(Path(config_path)) if config_path else {}
    # Tasks of the file may have held-out ones.
    in_file = train_dataset is None and settings.get("eval.every", 1) is not None
    is_evaluated = eval_dataset is not None or in_file
    if model is not None:
        settings |= of_model(model)
    if algorithm is not None or config_path is None:
        settings |= of_algorithm(algorithm or AlgorithmConfig(), is_evaluated)
    if monitor_type is not None or "trackers" not in settings:
        settings |= of_monitor(monitor_type)
    if train_dataset is not None:
        settings |= of_train_dataset(train_dataset)
    elif eval_dataset is not None or "tasks" not in settings:
        raise ValueError("train_dataset is missing: give one, or `tasks` in config_path's file")
    others = auxiliary_models or {}
    config = Config(
        workflow=as_workflow(workflow_func, model, others),
        judge=None if judge_func is None else as_judge(judge_func, others),
        tasks=_as_tasks(train_dataset, eval_dataset),
        # The rest of it is among the settings; without a path there is no Config at all.
        model=ModelConfig(path=settings.get("model.path")),
        eval=EvalConfig() if is_evaluated else EvalConfig(every=None),
        auxiliary_models={name: auxiliary_model(name, one) for name, one in others.items()},
    )
    config = with_settings(config, settings)
    run = _train(config, _flags(project_name or "tune", experiment_name))
    return _result(run, config.eval.best)


def _as_tasks(train: DatasetConfig | None, held_out: DatasetConfig | None) -> Callable:
    def tasks(data: DataConfig) -> tuple[list[Task], list[Task]]:
        return train.rows(), held_out.rows() if held_out else []

    # What config.json says of where they are from.
    return named_like(tasks, f"datasets:{'; '.join(str(d) for d in (train, held_out) if d)}")


def _flags(project: str, name: str | None) -> Namespace:
    """What train.py has from its command line."""
    for argument, given in {"project_name": project, "experiment_name": name}.items():
        if given is not None and (given.startswith(".") or Path(given).name != given):
            raise ValueError(f"{argument} is {given!r}: give the name of a folder, and no path")
    return Namespace(exp=project, name=name, resume=None)


def _train(config: Config, flags: Namespace) -> Run:
    if _TRAINED and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        # The end of an engine is the end of their process group.
        raise ValueError("processes that train together tune() once: launch them again")
    _TRAINED.append(flags.exp)
    prepare_process()
    # The page: slow to import, and nobody else imports it.
    from agentrl.runs.ending import open_session
    from train import train

    with _own_signals(), open_session(config, flags) as (session, ranks):
        train(config, session, ranks)
    # The memory is the caller's again.
    session.serving.close()
    return session.run


@contextmanager
def _own_signals() -> Iterator[None]:
    """Whoever called has Ctrl-C and SIGTERM back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _result(run: Run, metric: str) -> TuneResult:
    step = run.best_step(metric)
    best = next((row[metric] for row in run.rows if row["step"] == step), None)
    folders = sorted(run.checkpoints.glob("step-*"))
    of_best = [
        folder for folder in folders if step is not None and folder.name == f"step-{step:05d}"
    ]
    return TuneResult(
        best=best, checkpoint=next(reversed(of_best or folders), None), folder=run.folder
    )
