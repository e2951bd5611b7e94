"""Session: a run as the training loop sees it, from what was typed to how it ends.

It owns the run's folder, the phases of a step (clock and bar in one), what is logged, recorded and
saved, and going on after an end; ``ending`` opens it and closes it. It knows nothing of the
algorithm: what is trained, and how, is ``train.py``'s.
"""

import math
import os
import sys
import time
from argparse import Namespace
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoTokenizer

from agentrl.algorithms.named import describe
from agentrl.cli import to_json
from agentrl.config import Config
from agentrl.learning import checkpoint, lora
from agentrl.learning.learner import Learner
from agentrl.learning.policy import Policy
from agentrl.learning.ranks import Ranks
from agentrl.records.recorder import Recorder
from agentrl.runs import preflight, summary
from agentrl.runs.evaluation import has_stopped
from agentrl.runs.metrics import Clock
from agentrl.runs.model import find_model, find_model_once
from agentrl.runs.progress import Display
from agentrl.runs.quiet import quiet
from agentrl.runs.run import Run
from agentrl.runs.seams import Moment, load_state, state_of
from agentrl.runs.tally import Tally
from agentrl.runs.trackers import Trackers
from agentrl.runs.trial import try_step
from agentrl.types import CannotStart, Group, NotFinite, Report, StoppedEarly, Task
from kernels.tree_attention import choose

Item = TypeVar("Item")


class Session:
    """One run of one process; of several ranks, the first writes."""

    def __init__(self, config: Config, flags: Namespace, ranks: Ranks, trackers: Trackers):
        """flags: ``exp``; ``resume``, a run that is to go on; ``name``, its folder's, if not the
        time: where there is one of that name, it goes on."""
        self.config, self.ranks = config, ranks
        self.display = Display(silent=not ranks.is_first, on_closed=ranks.signals.interrupt)
        self.num_steps, self.num_updates = 0, 0
        """Of the run; and those whose weights there are so far."""
        self.serving: Any = None
        """What the run samples from, from when it is there."""
        self.is_checked = False
        """Whether what can be known to fail has been checked: from then on errors are ours."""
        self._exp, self._name, self._trackers = flags.exp, vars(flags).get("name"), trackers
        self.source = vars(flags).get("source")
        """What its config comes from, where that is a command's flags."""
        self._resume = flags.resume or self._run_of_that_name()
        self._started, self._clock = time.monotonic(), Clock()
        self.report: Report = lambda share, note: None
        """How far the phase is: a share from 0 to 1, and a few words."""
        self._recorder: Recorder | None = None
        self._unrecorded: tuple[int, Sequence[Group]] | None = None
        self._may_stop = True
        self._saves: Any = None

    # Before the first step.

    def check(self, tasks: Sequence[Task], held_out: Sequence[Task], batches: Sequence) -> Config:
        """What can be known to fail is said here, before minutes are spent; the run's folder is
        there from then on. Returns the config with what the model decides. Raises ValueError."""
        config, ranks = self.config, self.ranks
        self.num_steps = len(batches)
        attention = choose(config.attention, ranks.device, ranks.dtype)
        if self._resume is not None:
            preflight.check_same_lora(config, self.run.settings)
        preflight.check_surroundings(config, tasks, held_out, ranks.num_engines, self.display)
        if config.deterministic:
            compute_repeatably()
        config = preflight.with_max_model_len(config, self.model, self.display)
        config = self.config = preflight.with_max_tokens(config)
        preflight.check_model(config, self.model, ranks.size, ranks.size_here, self.display)
        self._begin()
        self._recorder = Recorder(self.run.records, writes=ranks.is_first)
        self.display.line(f"algorithm: {describe(config.algorithm)}; attention: {attention}")
        self.is_checked = True
        return config

    @cached_property
    def model(self) -> str | Path:
        """What to load: the newest checkpoint of a run that goes on, or what its adapters are
        beside; else what it starts from."""
        if self._checkpoint and (self._checkpoint / lora.FOLDER).exists():
            return find_model(self.config, str(self.first_model), self.display)
        return self._checkpoint or find_model_once(self.config, self.ranks, self.display)

    @cached_property
    def first_model(self) -> str | Path:
        """The model that the run began with, also after a resume."""
        return self.run.description.get("model") or self.model

    @cached_property
    def run(self) -> Run:
        """The run's folder. Raises ValueError where --resume names none of this experiment."""
        if self._resume is not None:
            return Run.reopen(self._resume, Path(self._exp).stem, writes=self.ranks.is_first)
        made = []
        if self.ranks.is_first:
            described = (to_json(self.config), self.model)
            made = [Run.create(self.config.runs, self._exp, *described, name=self._name)]
        (folder,) = self.ranks.gather([run.folder for run in made], "run's folder")
        return Run(folder, writes=self.ranks.is_first)

    def _run_of_that_name(self) -> Path | None:
        """As the first rank sees it, which makes it where it is not there."""
        if self._name is None:
            return None
        folder = self.config.runs / Path(self._exp).stem / self._name
        found = [folder] if self.ranks.is_first and folder.exists() else []
        return next(iter(self.ranks.gather(found, "run's folder")), None)

    @cached_property
    def _checkpoint(self) -> Path | None:
        return checkpoint.newest(self.run.checkpoints) if self._resume else None

    def _begin(self) -> None:
        if self._resume is None:
            self.display.line(f"run: {self.run.folder}")
            return
        step = checkpoint.step_of(self._checkpoint) if self._checkpoint else None
        self.ranks.wait("resume")
        changed = self.run.go_on(step, to_json(self.config))
        where = "from the start" if step is None else f"after step {step}"
        self.display.line(f"run: {self.run.folder}, {where}")
        for name, (before, now) in changed.items():
            self.display.line(f"warning: {name} was {before} and is {now} from here on")

    def restore(self, policy: Policy, optimizer: torch.optim.Optimizer) -> int:
        """Put back what a checkpoint holds besides the weights; returns the updates made so far.

        Call it last: vLLM seeds every generator when it starts. From here on a signal ends the run
        where it can end, saved.
        """
        tokenizer = AutoTokenizer.from_pretrained(self.model)
        if self.ranks.is_first:
            tokenizer.save_pretrained(self.run.tokenizer)
        if self._checkpoint:
            seams, lost = checkpoint.load(self._checkpoint, policy, optimizer, self.ranks)
            load_state(self.config, seams)
            self.num_updates = checkpoint.step_of(self._checkpoint)
            if lost:
                self.display.line(f"warning: {lost}")
        self._saves = (policy, optimizer, tokenizer)
        self._random_state = checkpoint.get_random_state()
        rows = self.run.rows
        if rows and self.is_evaluated(self.num_updates):
            # It is logged whole when it has been evaluated.
            rows = rows[:-1]
        for line in self._trackers.follow(self.run, rows):
            self.display.line(line)
        self.ranks.signals.postpone()
        self._clock = Clock()
        return self.num_updates

    def try_step(self, learner: Learner, serving: Any) -> None:
        """On a GPU: whether a step of the largest micro-batch fits; said before the first rollout.

        Leaves vLLM asleep: the first push comes next. Raises CannotStart where it does not fit.
        """
        self.serving = serving
        if self.ranks.device.type == "cuda":
            with self.phase("trial"):
                line = try_step(learner, serving, self.config, self.ranks)
            self.display.line(line)
            # No step counts it.
            self._clock = Clock()

    # In a step.

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The clock and the bar of a part of a step; ``time/<name>_seconds``."""
        held_back = quiet() if name == "load" else nullcontext()
        with self._clock(name), self.display.phase(name) as self.report, held_back:
            yield

    def progress(self, items: Collection[Item]) -> Iterator[Item]:
        """The items, each told; between them a run can be interrupted, on all ranks at once, until
        an optimizer step of the batch has been made."""
        for i, item in enumerate(items):
            if self._may_stop:
                self.ranks.check_in_step()
            yield item
            self.report((i + 1) / len(items), f"{i + 1} of {len(items)} trees")

    def stepped(self) -> None:
        """An optimizer step was made: the batch is trained on to its end."""
        self._may_stop = False

    def is_evaluated(self, step: int) -> bool:
        """Whether the weights after so many updates are evaluated, and have not been yet."""
        every = self.config.eval.every
        if every is None or not (step % every == 0 or step == self.num_steps):
            return False
        rows = self.run.rows
        return not (rows and rows[-1]["step"] == step and "eval/episodes/ok" in rows[-1])

    def check_batch(self, step: int, groups: Sequence[Group]) -> None:
        """Raise where a step's episodes are nothing to train on; they are recorded all the same."""
        self._unrecorded = (step, groups)
        preflight.check_failures(groups, self.config.max_failed)
        if step == 1:
            preflight.check_first_batch(groups, self.config, self.display)
        preflight.check_trainable(groups, self.config.trained_agents)

    def record(self, step: int, tally: Tally) -> None:
        """Record a step's episodes, and what was trained of them."""
        self._recorder.add(step, tally.groups, tally.samples, tally.scores)
        self._unrecorded, self._trained = None, tally

    def record_evaluation(self, groups: Sequence[Group]) -> None:
        self._recorder.add(self.num_updates, groups, held_out=True)

    def after_step(self, step: int, metrics: dict[str, Any], policy: Policy, serving: Any) -> dict:
        """The metrics of the seam ``after_step``, where there is one."""
        if self.config.after_step is None:
            return {}
        groups, samples = self._trained.groups, self._trained.samples
        moment = Moment(step, groups, samples, metrics, policy, serving)
        return self.config.after_step(moment) or {}

    def start(self, step: int, metrics: dict[str, Any]) -> None:
        """Log what the first push has shown; a run that goes on has it already."""
        self._check_probe(step, metrics)
        if not self.run.rows:
            self.log(step, metrics)

    def end_step(self, step: int, metrics: dict[str, Any]) -> None:
        """There are ``step`` updates: log them, and save where that is due.

        Raises NotFinite, and saves nothing, where they have made weights of no use.
        """
        self._check_probe(step, metrics)
        self.num_updates, self._random_state = step, checkpoint.get_random_state()
        self._may_stop = True
        self._log(step, metrics)
        every = self.config.save_every
        if step == self.num_steps or (every and step % every == 0):
            self._save()
            # The next step does not count it.
            self._clock = Clock()
        self._show(step)

    def _check_probe(self, step: int, metrics: dict[str, Any]) -> None:
        if not math.isfinite(gap := metrics["gap/probe"]):
            raise NotFinite(
                f"the weights of step {step} give log-probabilities that are not finite (gap/probe "
                f"{gap}): start from another model, or lower --optim.lr"
            )

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Add metrics to the row of a step, and show it when it is whole.

        Raises StoppedEarly, having saved, where evaluations have not got better for long enough.
        Every rank has the same rows.
        """
        self._log(step, metrics)
        self._show(step)
        best, patience = self.config.eval.best, self.config.eval.patience
        if step < self.num_steps and has_stopped(self.run.rows, best, patience):
            self._save()
            self.display.line(f"stopped early: {best} has not risen in {patience} evaluations")
            raise StoppedEarly

    def _log(self, step: int, metrics: dict[str, Any]) -> None:
        """Exits where the first evaluation scored nothing."""
        if step == 0 and metrics.get("eval/failure") and "eval/success" not in metrics:
            sys.exit(f"error: no episode could be scored: {metrics['eval/failure']}")
        rows, best = self.run.rows, self.config.eval.best
        is_measured = isinstance((metrics | (rows or [{}])[0]).get(best), int | float)
        if "eval/success" in metrics and not is_measured:
            known = ", ".join(name for name in metrics if name.startswith("eval/"))
            raise CannotStart(f"eval.best is {best}, which is not measured: choose of {known}")
        row = rows[-1] if rows and rows[-1]["step"] == step else {"step": step}
        times = self._clock.metrics()
        self._clock = Clock()
        timed = {name: row.get(name, 0.0) + seconds for name, seconds in times.items()}
        row = row | metrics | timed
        # A row to which an evaluation is to come is not whole yet.
        self.run.log(row, is_whole="eval/episodes/ok" in metrics or not self.is_evaluated(step))

    def _show(self, step: int) -> None:
        """A row in a line, when no evaluation is to come to it; whatever it says is saved."""
        if self.is_evaluated(step):
            return
        if "eval/success" in self.run.rows[-1]:
            self.run.draw_curve()
        self.display.line(summary.step_line(self.run.rows, self.num_steps))

    # How it ends.

    def finish(self) -> None:
        """The picture, and the summary."""
        self.run.draw_curve()
        seconds = time.monotonic() - self._started
        summary.summary(self.display, self._exp, self.run, seconds)

    def leave(self, cause: BaseException) -> None:
        """Save what is done, and say where to go on from."""
        if self._may_stop:
            self._save()
        done = self.num_updates
        what = f"after step {done}" if self.run.rows else "before the first step was done"
        self.display.line(f"{cause} {what}: go on with --resume {self.run.folder}")

    def close(self, error: BaseException | None) -> None:
        """Write what waits. Episodes that something was wrong with are what one looks at."""
        if self._recorder is None:
            return
        if self._unrecorded is not None and isinstance(error, Exception):
            self._recorder.add(*self._unrecorded)
        self._recorder.close()

    def _save(self) -> None:
        if self._saves is None or not self.run.rows:
            return
        # Whoever goes on from a checkpoint finds the records of what led to it.
        self._recorder.flush()
        folder = self.run.checkpoints / f"step-{self.num_updates:05d}"
        if not folder.exists():
            with quiet():
                seams = state_of(self.config)
                checkpoint.save(folder, *self._saves, self.ranks, self._random_state, seams)
        if self.config.keep_last and self.ranks.is_first:
            best = self.run.best_step(self.config.eval.best)
            checkpoint.prune(self.run.checkpoints, self.config.keep_last, best)


def compute_repeatably() -> None:
    """One thread, and no kernel whose result depends on timing."""
    torch.set_num_threads(1)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
