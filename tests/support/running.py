"""A run of train.py in a session of its own, to be watched, interrupted and killed."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import psutil
import torch
from safetensors.torch import load_file

from tests.support.checkout import ROOT
from tests.support.warm import LAUNCHER, RANK, WarmProcess

EXPERIMENT = str(Path(__file__).with_name("drawn_rewards.py"))
STEPS = 8
"""Of a run that others are compared with."""
TWO_RANKS = ("--use_fsdp", "--fsdp_version", "2", "--num_processes", "2")


class Running:
    """One process, or a launcher and its ranks, whose output can be waited for.

    Whatever of them is left when a test ends is killed then; see ``conftest``.
    """

    started: ClassVar[list["Running"]] = []

    def __init__(
        self,
        log: Path,
        *flags: str | Path,
        launch: tuple[str, ...] | None = None,
        within: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        afresh: bool = False,
    ):
        """launch: flags of ``accelerate launch``; without, train.py is started by itself.
        within: a command that runs the rest. afresh: as a person starts it, from nothing, and not
        from what other runs have imported already; what is within a command always is."""
        self._log, self._mark = log, uuid.uuid4().hex
        self._ranks = log.with_name(f"{log.name}.ranks")
        environment = {**os.environ, "MARK": self._mark, **(environment or {})}
        command = ["train.py", *map(str, flags)]
        with log.open("w") as file:
            if afresh or within:
                launcher = [] if launch is None else ["-m", "accelerate.commands.launch", *launch]
                self.process = subprocess.Popen(
                    [*within, sys.executable, *launcher, *command],
                    cwd=ROOT,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            else:
                if launch is not None:
                    self._ranks.mkdir()
                    environment |= {"PYTHON_EXEC": str(RANK), "RANKS": str(self._ranks)}
                    command = [LAUNCHER, *launch, *command]
                self.process = WarmProcess(command, file, environment)
        self._sessions = {self.process.pid}
        self.started.append(self)

    @property
    def said(self) -> str:
        return self._log.read_text()

    @property
    def alive(self) -> list[psutil.Process]:
        """Every process of its sessions, whoever its parent is by now.

        A launcher gives each rank a session of its own, which shows by the rank's environment.
        """
        sessions = {p: _session(p) for p in psutil.process_iter()}
        self._sessions |= {sessions[p] for p in sessions if self._mark in _environment(p).values()}
        self._sessions |= {*self._forked}
        return [p for p, session in sessions.items() if session in self._sessions]

    @property
    def ranks(self) -> list[psutil.Process]:
        """The trainers among them, in the order of their ranks."""
        if forked := self._forked:
            return sorted((p for p in self.alive if p.pid in forked), key=lambda p: forked[p.pid])
        trainers = [p for p in self.alive if "train.py" in p.cmdline()[1:3]]
        return sorted(trainers, key=lambda p: int(p.environ().get("RANK", 0)))

    @property
    def _forked(self) -> dict[int, int]:
        """The launched ranks that were, and their numbers, by process id."""
        return {int(p.read_text()): int(p.name) for p in self._ranks.glob("*")}

    def wait_for(self, text: str, seconds: float = 240) -> "Running":
        deadline = time.monotonic() + seconds
        while text not in self.said:
            assert self.process.poll() is None, f"it ended before {text!r}:\n{self.said}"
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.said}"
            time.sleep(0.05)
        # Noted while they live: what ends with them is looked for later.
        assert self.alive
        return self

    def signal(self, number: int, *, all_of_them: bool = False) -> "Running":
        """To the process that was started, or as a terminal does, to its whole session."""
        # What stands for a rank would pass on what the rank gets itself.
        everyone = [p for p in self.alive if str(RANK) not in _command(p)] if all_of_them else []
        for process in everyone or [self.process]:
            os.kill(process.pid, number)
        return self

    def end(self, seconds: float = 240) -> int:
        """Its exit status, when nothing of it is left."""
        status = self.process.wait(seconds)
        # A launcher may end before what it launched.
        deadline = time.monotonic() + 40
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.05)
        left = self.alive
        assert left == [], [p.cmdline() for p in left]
        return status

    def kill(self) -> None:
        for process in self.alive:
            process.kill()
        self.end()


def _session(process: psutil.Process) -> int | None:
    try:
        is_zombie = process.status() == psutil.STATUS_ZOMBIE
        return None if is_zombie else os.getsid(process.pid)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def start(folder: Path, model: Path, *flags: str | Path, experiment: str = EXPERIMENT, **options):
    """A run of the experiment, whose runs and output are in this folder."""
    folder.mkdir(exist_ok=True)
    run = ("--exp", experiment, "--model.path", model, "--runs", folder / "runs")
    return Running(folder / "log", *run, *flags, **options)


def the_run(folder: Path) -> Path:
    """The folder of the one run that was started there."""
    (run,) = folder.glob("runs/*/*")
    return run


def repeatable(steps: int) -> tuple[str, ...]:
    """Flags of a run that does the same to the bit every time, and can go on from any step."""
    half = str(steps // 2)
    return ("--steps", str(steps), "--save-every", "1", "--eval.every", half, "--deterministic")


def said_of(step: int, steps: int) -> str:
    """How the line begins that a run prints after a step."""
    return f"step {step:>{len(str(steps))}}/{steps}"


def metrics(run: Path) -> list[dict]:
    """The rows of a run, timings aside."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def steps_saved(run: Path) -> list[int]:
    return sorted(int(p.name.removeprefix("step-")) for p in run.glob("checkpoints/[!.]*"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Those of the newest checkpoint."""
    return load_file(run / "checkpoints" / f"step-{steps_saved(run)[-1]:05d}" / "model.safetensors")


def moments(run: Path) -> dict[str, torch.Tensor]:
    """AdamW's, of the newest checkpoint."""
    # A second of imports, which most tests need not wait for.
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import FileSystemReader

    reader = FileSystemReader(run / "checkpoints" / f"step-{steps_saved(run)[-1]:05d}" / "resume")
    kept = reader.read_metadata().state_dict_metadata
    found = {n: torch.empty(k.size) for n, k in kept.items() if ".exp_avg" in n}
    assert found
    dcp.load(found, storage_reader=reader, no_dist=True)
    return found


def are_equal(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return set(mine) == set(theirs) and all(torch.equal(mine[n], theirs[n]) for n in theirs)
