"""Rows of the report: a number, what was expected of it, and whether it came."""

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bench.gpu import ON_GPU

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("torch", "triton", "transformers", "accelerate", "liger_kernel", "vllm")
WIDTHS = (46, 12, 12, 12, 8)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a check found."""

    name: str
    value: float | None = None
    """None: not measured; the note says why."""
    unit: str = ""
    least: float | None = None
    most: float | None = None
    """What is expected: at least, at most."""
    is_needed: bool = False
    """Something is wrong where it is missed; other expectations are of speed and room."""
    note: str = ""
    error: str | None = None
    """What the check raised."""
    seconds: float = 0.0
    """How long the check worked on it."""

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "unmeasured"
        # Written so that NaN misses.
        bounds = [self.least is None or self.value >= self.least]
        bounds += [self.most is None or self.value <= self.most]
        return "met" if all(bounds) else "missed"

    @property
    def has_failed(self) -> bool:
        return self.error is not None or (self.is_needed and self.verdict == "missed")

    @property
    def expectation(self) -> str:
        bounds = {">=": self.least, "<=": self.most}
        return " ".join(f"{sign} {n:g}" for sign, n in bounds.items() if n is not None)


def right(name: str, value: float, **fields: Any) -> Row:
    """A row without which something is wrong, on any machine."""
    return Row(name=name, value=value, is_needed=True, **fields)


def speed(name: str, value: float | None, **fields: Any) -> Row:
    """A row of a GPU's speed or memory: a CPU has come this far, and that is all it says."""
    if ON_GPU:
        return Row(name=name, value=value, **fields)
    return Row(name=name, **{"note": "needs a GPU", **fields})


def line(row: Row) -> str:
    value = "" if row.value is None else f"{row.value:.4g}"
    columns = (row.name, f"{value} {row.unit}".strip(), row.expectation, row.verdict)
    cells = "".join(f"{cell:<{width}} " for cell, width in zip(columns, WIDTHS))
    return f"{cells}{row.seconds:>6.1f} s  {row.error or row.note}".rstrip()


def heading() -> str:
    columns = ("check", "value", "expected", "verdict")
    return "".join(f"{cell:<{width}} " for cell, width in zip(columns, WIDTHS))


@cache
def versions() -> dict[str, str]:
    """Of what the figures depend on; what is not installed is left out."""
    found = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for package in PACKAGES:
        # vLLM's CPU build has a name of its own.
        for name in (package, f"{package}-cpu"):
            try:
                found[package] = importlib.metadata.version(name)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return {name: version for name, version in found.items() if version}


def machine() -> dict[str, Any]:
    if not ON_GPU:
        return {"name": "cpu", "gpu": None}
    gpu = torch.cuda.get_device_properties(0)
    name = gpu.name.removeprefix("NVIDIA ").split()[0].lower()
    described = f"{gpu.name}, {gpu.total_memory / 2**30:.1f} GiB, {gpu.multi_processor_count} SMs"
    return {"name": name, "gpu": described, "count": torch.cuda.device_count()}


def default_path() -> Path:
    return ROOT / "experiments" / "gpu" / f"{machine()['name']}-{date.today()}.json"


@cache
def commit() -> str | None:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    # A machine may hold the files without their history.
    return described.stdout.strip() or None


def write(path: Path, rows: Iterable[Row]) -> None:
    """Put rows into a file; those of other checks stay there, so that halves make a whole."""
    old = json.loads(path.read_text()) if path.is_file() else {}
    shared = {"versions": versions(), "commit": commit()}
    new = [
        {k: v for k, v in asdict(row).items() if v is not None and v != ""}
        | {"value": row.value, "expectation": row.expectation, "verdict": row.verdict}
        | shared
        for row in rows
    ]
    checks = {_check_of(row["name"]) for row in new}
    kept = [row for row in old.get("rows", []) if _check_of(row["name"]) not in checks]
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {**old, "machine": old.get("machine", machine()), "rows": kept + new}
    path.write_text(json.dumps(document, indent=1) + "\n")


def _check_of(name: str) -> str:
    return name.partition(":")[0]


def summary(rows: Sequence[Row]) -> str:
    counts = {v: sum(r.verdict == v for r in rows) for v in ("met", "missed", "unmeasured")}
    failed = [row.name for row in rows if row.has_failed]
    said = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
    return f"{said}; failed: {', '.join(failed) or 'none'}"
