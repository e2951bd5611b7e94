"""Checkpoints measured on the same tasks: a table, a picture, and whether the last is better.

What is measured lies in a folder that opens like a run's, a row a checkpoint, whose name says of
which tasks, settings and code it is: there the same command goes on, and nothing else is mixed in.
"""

import itertools
import json
import shlex
import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from agentrl.callables import experiment_modules
from agentrl.cli import to_json
from agentrl.config import Config
from agentrl.debug.command import named_in
from agentrl.learning.checkpoint import step_of
from agentrl.records import open_run
from agentrl.records.writer import Writer
from agentrl.runs.evaluation import evaluation_metrics, interval, shown, sign_flip_p_value
from agentrl.runs.model import find_model
from agentrl.runs.progress import Display
from agentrl.runs.run import Run
from agentrl.runs.summary import measures
from agentrl.tasks.jsonl import content_id
from agentrl.types import Group, Task

FAILED = "eval/episodes/error", "eval/episodes/timeout"


class Checkpoint(NamedTuple):
    step: int
    """Of its run; else its number among those that are named."""
    name: str
    folder: str


def find_checkpoints(paths: Sequence[str]) -> list[Checkpoint]:
    """Of one run, the model that it began with and all that it has; else those that are named."""
    found = sorted(Path(paths[0]).glob("checkpoints/step-*"))
    if len(paths) > 1 or not found:
        return [Checkpoint(i, _name(Path(path)), path) for i, path in enumerate(paths)]
    began = Run(Path(paths[0])).description["model"]
    is_gone = Path(began).is_absolute() and not Path(began).exists()
    own = [Checkpoint(step_of(path), path.name, str(path)) for path in found]
    return own if is_gone else [Checkpoint(0, "start", began), *own]


def _name(path: Path) -> str:
    """
    >>> _name(Path("runs/gsm8k/20260101/checkpoints/step-00040")), _name(Path("Qwen/Qwen3-0.6B"))
    ('20260101/step-00040', 'Qwen/Qwen3-0.6B')
    """
    return "/".join(path.parts[-3::2]) if path.parent.name == "checkpoints" else str(path)


class Evaluation:
    """What is measured of checkpoints, and what is left to do."""

    def __init__(self, tasks: Sequence[Task], config: Config, flags: Namespace, display: Display):
        """flags: ``exp``, and ``checkpoints``: a run, or some; none: the experiment's model."""
        # Before a model may have to be made, which imports more of an experiment.
        kind, exp, self._display = f"evaluation-{_id_of(tasks, config, flags)}", flags.exp, display
        paths = flags.checkpoints or [str(find_model(config, None, display))]
        self.checkpoints = find_checkpoints(paths)
        begun = [*(config.runs / Path(exp).stem).glob(f"*-{kind}/config.json")]
        create = partial(Run.create, config.runs, exp, to_json(config), paths[0], kind)
        self._run = Run(begun[0].parent) if begun else create()
        self._weights = {c.step: _weights_id(c.folder) for c in self.checkpoints}
        rows = open_run(self._run.folder).metrics()
        self._run.keep([r for r in rows if self._weights.get(r["step"]) == r["weights"]])
        display.line(f"evaluation of these tasks, settings and code: {self.progress}")

    @property
    def progress(self) -> str:
        done, folder = len(self._run.rows), self._run.folder
        return f"{done} of {len(self.checkpoints)} checkpoints are measured in {folder}"

    @property
    def todo(self) -> list[Checkpoint]:
        measured = {row["step"] for row in self._run.rows}
        return [checkpoint for checkpoint in self.checkpoints if checkpoint.step not in measured]

    def add(self, step: int, groups: Sequence[Group], tokenizer: Any) -> None:
        """Record all episodes of a checkpoint; then it is measured."""
        tokenizer.save_pretrained(self._run.tokenizer)
        Writer(self._run.records).write(step, groups, held_out=True)
        about = {"step": step, "weights": self._weights[step]}
        self._run.log(about | evaluation_metrics(groups))

    def show(self) -> None:
        rows = sorted(self._run.rows, key=lambda row: row["step"])
        names = dict.fromkeys([*itertools.chain(*map(measures, rows)), "eval/reward/mean"])
        table = [(n.removeprefix("eval/"), *(shown(r, n) for r in rows)) for n in names]
        table.append(("failed", *(str(sum(row[name] for name in FAILED)) for row in rows)))
        self._display.table("held-out tasks", ("", *(c.name for c in self.checkpoints)), table)
        self._compare()
        for cause in {row["eval/failure"] for row in rows} - {None}:
            self._display.line(f"the commonest failure: {cause}")
        self._run.draw_curve()
        folder = shlex.quote(str(self._run.folder))
        self._display.line(f"picture      {folder}/curve.png")
        self._display.line(f"every token  python -m agentrl.viewer {folder}")

    def _compare(self) -> None:
        """The last with the first, on the tasks that both have scored episodes of."""
        first, last = self.checkpoints[0], self.checkpoints[-1]
        before, after = self._solved(first.step), self._solved(last.step)
        rises = np.array([after[task] - before[task] for task in before.keys() & after.keys()])
        if first != last and len(rises):
            low, high = interval(rises, np.ones(len(rises)))
            self._display.line(
                f"{last.name} against {first.name}, on {len(rises)} tasks: success "
                f"{rises.mean():+.3f} [{low:+.3f}, {high:+.3f}], p = {sign_flip_p_value(rises):.2g}"
            )

    def _solved(self, step: int) -> dict[str, float]:
        """Of each task, the share of its scored episodes."""
        of_task = defaultdict(list)
        for row in open_run(self._run.folder).episodes(step=step, limit=sys.maxsize):
            if row.reward is not None:
                of_task[row.task_id].append(row.success)
        return {task: fmean(solved) for task, solved in of_task.items()}


def _id_of(tasks: Sequence[Task], config: Config, flags: Namespace) -> str:
    """What an evaluation is of, but for the weights; where runs are kept is none of it."""
    modules = experiment_modules(named_in(config, flags.exp)).values()
    files = [file for module in modules if (file := getattr(module, "__file__", None))]
    about = {
        "of": [str(Path(path).absolute()) for path in flags.checkpoints],
        "settings": json.loads(to_json(config)) | {"runs": None, "trackers": None},
        "tasks": [content_id(task) for task in tasks],
        "code": [Path(file).read_text() for file in sorted(files)],
    }
    return content_id(about)


def _weights_id(folder: str) -> str:
    """The same while nobody writes to the files of a model's folder."""
    found = (path for path in sorted(Path(folder).glob("*.*")) if path.is_file())
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in found]
    return content_id({"files": stats or folder})
