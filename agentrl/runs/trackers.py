"""Trackers: metrics in TensorBoard, Weights & Biases or SwanLab, through Accelerate.

Each gets the numbers of every row of ``metrics.jsonl`` under the row's step, and the settings as
hyperparameters; what is no number (``failure``) stays in the file. A run that goes on starts in
each of them with the rows that it kept, so that they hold what the file holds: in TensorBoard in
the place of what was there, in the others as a second run, whose name says "resumed".

Where they send it, and as whom, is their own affair: ``wandb login``, ``WANDB_MODE=offline``,
``SWANLAB_MODE=offline`` and so on. What they write lies in the run's folder. wandb and SwanLab add
what they measure of the machine.
"""

import importlib.util
import json
import logging
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, SwanLabTracker, TensorBoardTracker, WandBTracker

from agentrl.runs.quiet import quiet
from agentrl.runs.run import Run, flatten
from agentrl.types import CannotStart

log = logging.getLogger(__name__)

# TensorBoard rounds to fp32 unless it is told otherwise.
LOG_OPTIONS = {"tensorboard": {"new_style": True, "double_precision": True}}


def check_trackers(names: Sequence[str]) -> None:
    """Raise ValueError where one is not installed, or wants a login that is not there."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"trackers has {name}, which is not installed: install the {name} that "
                "requirements.txt pins, or leave it out"
            )
        if not _can_log_in(name):
            variable = name.upper()
            raise ValueError(
                f"trackers has {name}, which cannot log in: run `{name} login`, set "
                f"{variable}_API_KEY, or keep its files here with {variable}_MODE=offline"
            )


def _can_log_in(name: str) -> bool:
    """Whether a tracker knows as whom it sends what it gets, or sends nothing."""
    # Both are slow to import.
    if name == "wandb":
        import wandb

        with quiet(), suppress(wandb.Error):
            # Asks the server, too, where there is a key.
            return wandb.setup().settings.mode != "online" or wandb.login(prompt=False)
        return False
    if name == "swanlab":
        import swanlab

        settings = swanlab.Settings()
        return settings.mode != "online" or settings.api_key is not None
    return True


class Trackers:
    """Those that a run was given; finished when the block that they are opened for ends."""

    def __init__(self, names: Sequence[str]):
        self._names = tuple(dict.fromkeys(names))
        self._started: list[GeneralTracker] = []

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        for tracker in list(self._started):
            with self._surviving(tracker), silent():
                _finish(tracker, error)
        self._started.clear()

    def follow(self, run: Run, rows: Sequence[dict[str, Any]]) -> list[str]:
        """Log these rows of the run, and from now on each that it logs.

        Returns where each tracker is to be looked at. Raises CannotStart where one does not start.
        """
        for name in self._names:
            try:
                with silent():
                    tracker = _make(name, run.folder, goes_on=bool(rows))
                    tracker.start()
            except Exception as error:
                raise CannotStart(
                    f"{name} did not start ({type(error).__name__}: {error}): "
                    "see to it, or leave it out of --trackers"
                ) from error
            self._started.append(tracker)
            tracker.store_init_configuration(_hyperparameters(run.settings))
        for row in rows:
            self._log(row)
        run.followers.append(self._log)
        return [f"{tracker.name}: {_location(tracker, run.folder)}" for tracker in self._started]

    def _log(self, row: dict[str, Any]) -> None:
        for tracker in list(self._started):
            with self._surviving(tracker):
                tracker.log(numbers(row), step=row["step"], **LOG_OPTIONS.get(tracker.name, {}))

    @contextmanager
    def _surviving(self, tracker: GeneralTracker) -> Iterator[None]:
        """A tracker that breaks is left out from there on: nothing is lost that the file has."""
        try:
            yield
        except Exception as error:
            self._started.remove(tracker)
            log.warning(
                "warning: %s has broken off (%s: %s): it gets nothing more before a --resume; "
                "metrics.jsonl has it all",
                *(tracker.name, type(error).__name__, error),
            )


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """What of a row a tracker gets; its step is given apart.

    >>> numbers({"step": 3, "loss": 0.5, "degenerate": False, "failure": "it broke"})
    {'loss': 0.5, 'degenerate': 0.0}
    """
    return {
        name: float(value)
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float)
    }


def _make(name: str, folder: Path, *, goes_on: bool) -> GeneralTracker:
    project, title = folder.parent.name, folder.name + " resumed" * goes_on
    if name == "tensorboard":
        # Two files of a run would be shown as one curve.
        shutil.rmtree(folder / name, ignore_errors=True)
        return TensorBoardTracker(name, folder)
    # Neither is to catch what the terminal shows: the bars would fill their logs.
    if name == "wandb":
        return WandBTracker(project, dir=folder, name=title, settings={"console": "off"})
    # Slow to import.
    import swanlab

    settings = swanlab.Settings(terminal={"proxy_type": "none"})
    return SwanLabTracker(project, log_dir=str(folder / name), name=title, settings=settings)


def _location(tracker: GeneralTracker, folder: Path) -> str:
    """The page of a run that is sent somewhere, or the folder here."""
    if tracker.name == "tensorboard":
        return f"tensorboard --logdir {folder}"
    # SwanLab refuses to say where a run is that it does not send.
    is_sent = tracker.name == "wandb" or tracker.run.mode == "online"
    return (tracker.run.url if is_sent else None) or str(folder / tracker.name)


def _finish(tracker: GeneralTracker, error: BaseException | None) -> None:
    """Close it, and tell those that can be told where a run did not come to its end."""
    if error is None or tracker.name == "tensorboard":
        tracker.finish()
    elif tracker.name == "wandb":
        tracker.tracker.finish(exit_code=1)
    else:
        tracker.tracker.finish(state="crashed", error=f"{type(error).__name__}: {error}")


def _hyperparameters(settings: dict[str, Any]) -> dict[str, Any]:
    """Trackers take plain values.

    >>> _hyperparameters({"steps": None, "optim": {"betas": [0.9, 0.95]}})
    {'steps': 'null', 'optim.betas': '[0.9, 0.95]'}
    """
    return {
        name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for name, value in flatten(settings).items()
    }


@contextmanager
def silent() -> Iterator[None]:
    """Their greetings are held back, and Ctrl-C stays ours: SwanLab would take it."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        with quiet(), redirect_stdout(sys.stderr):
            yield
    finally:
        signal.signal(signal.SIGINT, handler)
