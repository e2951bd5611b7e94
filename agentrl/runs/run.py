"""Run: a folder, ``runs/<experiment>/<time>/``."""

import itertools
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from agentrl.records import open_run
from agentrl.records.files import cut_back
from agentrl.runs import curve
from agentrl.runs.provenance import provenance, save_source

DESCRIPTION = "config.json"


class Run:
    """Where everything that a run leaves behind is written, as it happens."""

    def __init__(self, folder: Path, *, writes: bool = True):
        """writes: of several ranks, one does; the others only remember."""
        self.folder, self._writes = folder, writes
        self.records, self.checkpoints = folder / "records", folder / "checkpoints"
        self.tokenizer, self._metrics = folder / "tokenizer", folder / "metrics.jsonl"
        """The tokenizer is as it was when the run began: what the records' token ids mean."""
        self.rows: list[dict[str, Any]] = []
        """Of metrics.jsonl."""
        self.followers: list[Callable[[dict[str, Any]], None]] = []
        """Called with every row that is logged from then on."""

    @classmethod
    def create(
        cls,
        runs: Path,
        exp: str,
        config_json: str,
        model: str | Path,
        kind: str = "",
        name: str | None = None,
    ) -> "Run":
        """exp: the experiment's name, or its file. model: what the run begins with. kind: said in
        the folder's name, where nothing is trained. name: the folder's, if not the time."""
        name = name or datetime.now().strftime("%Y%m%d-%H%M%S") + f"-{kind}" * bool(kind)
        folder = runs / Path(exp).stem / name
        for number in itertools.count(2):
            # Another run may have begun in the same second.
            with suppress(FileExistsError):
                folder.mkdir(parents=True)
                break
            folder = folder.with_name(f"{name}-{number}")
        run = cls(folder)
        file = str(Path(exp).resolve()) if exp.endswith(".py") else None
        experiment = {"experiment": Path(exp).stem, "file": file, "model": str(model)}
        run._describe({**experiment, **provenance(config_json), "resumed": []})
        save_source(folder / "source", run._names)
        return run

    @classmethod
    def reopen(cls, folder: Path, experiment: str, *, writes: bool = True) -> "Run":
        """Raises ValueError where the folder is no run, or another experiment's."""
        try:
            described = cls(folder).description["experiment"]
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"--resume {folder} is not the folder of a run: name one of runs/<experiment>/"
            ) from error
        if described != experiment:
            raise ValueError(
                f"--resume {folder} is a run of {described}, not of {experiment}: "
                f"use --exp {described}"
            )
        return cls(folder, writes=writes)

    def go_on(self, after_step: int | None, config_json: str) -> dict[str, tuple[Any, Any]]:
        """Take up a run after a step, or from the start: what was logged later is cut off.

        Returns the settings that are not what they were, each with both values.
        """
        last = -1 if after_step is None else after_step
        self.keep([row for row in open_run(self.folder).metrics() if row["step"] <= last])
        if not self._writes:
            return {}
        cut_back(self.records, last)
        described = self.description
        new = provenance(config_json)
        before, now = flatten(described["config"]), flatten(new["config"])
        changed = {
            name: (before.get(name), now[name]) for name in now if now[name] != before.get(name)
        }
        described["resumed"].append({"after_step": after_step, **new})
        self._describe(described)
        save_source(self.folder / f"source-resumed-{len(described['resumed'])}", self._names)
        return changed

    @property
    def description(self) -> dict[str, Any]:
        """What config.json holds."""
        return json.loads((self.folder / DESCRIPTION).read_text())

    @property
    def settings(self) -> dict[str, Any]:
        """The config that the run was begun or last resumed with."""
        described = self.description
        return [described, *described["resumed"]][-1]["config"]

    @property
    def _names(self) -> list[str]:
        """The names of the experiment's module, and of its callables and whatever looks alike."""
        described = self.description
        values = flatten(self.settings).values()
        return [
            described["file"] or f"experiments.{described['experiment']}",
            *(value for value in values if isinstance(value, str) and ":" in value),
        ]

    def best_step(self, metric: str) -> int | None:
        """The evaluated step whose metric is the highest so far; of equals, the last."""
        values = {row["step"]: row[metric] for row in self.rows if metric in row}
        return max(values, key=lambda step: (values[step], step), default=None)

    def log(self, row: dict[str, Any], *, is_whole: bool = True) -> None:
        """Append one step's metrics; what was logged of that step before is replaced.

        Followers get rows that are whole.
        """
        if self.rows and self.rows[-1]["step"] == row["step"]:
            self.keep(self.rows[:-1])
        self.rows.append(row)
        if self._writes:
            with self._metrics.open("a") as file:
                file.write(json.dumps(row) + "\n")
        for follow in self.followers if is_whole else ():
            follow(row)

    def keep(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        if self._writes:
            replace_text(self._metrics, "".join(f"{json.dumps(row)}\n" for row in rows))

    def _describe(self, description: dict[str, Any]) -> None:
        replace_text(self.folder / DESCRIPTION, json.dumps(description, indent=2) + "\n")

    def draw_curve(self) -> None:
        if self._writes:
            curve.draw(self.folder / "curve.png", self.folder.parent.name, [self.rows])


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """
    >>> flatten({"steps": 3, "optim": {"lr": 0.1}})
    {'steps': 3, 'optim.lr': 0.1}
    """
    flat = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def replace_text(path: Path, text: str) -> None:
    """A reader, or a kill, finds the old text or the new, never half of one."""
    beside = path.with_name(f".{path.name}")
    beside.write_text(text)
    beside.replace(path)
