"""Curve of one run, or of one experiment over several seeds, as a picture."""

import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def draw(path: Path, title: str, runs: Sequence[Sequence[Row]]) -> None:
    """Draw held-out success, training reward, rewards by agent and part, and habits over the steps.

    runs: the rows of each. The band is a run's interval; of several, one standard deviation to each
    side of their mean.
    """
    # Slow to import.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, label, style in _lines(row for rows in runs for row in rows):
        curves = [{row["step"]: row[name] for row in rows if name in row} for rows in runs]
        steps = sorted(set().union(*curves))
        if not steps:
            continue
        at = {step: [curve[step] for curve in curves if step in curve] for step in steps}
        means = [statistics.fmean(at[step]) for step in steps]
        axes.plot(steps, means, label=label, **style)
        if len(runs) > 1:
            off = [statistics.stdev(at[s]) if len(at[s]) > 1 else 0.0 for s in steps]
            band = [(s, m - o, m + o) for s, m, o in zip(steps, means, off, strict=True)]
        else:
            ends = "step", f"{name}/low", f"{name}/high"
            band = [[row[end] for end in ends] for row in runs[0] if ends[1] in row]
        if band:
            axes.fill_between(
                *zip(*band, strict=True), color=style["color"], alpha=0.12, linewidth=0
            )
    axes.set(xlabel="step", title=title)
    values = [value for line in axes.lines for value in line.get_ydata()]
    # Shares have the whole picture; rewards may be anything.
    if all(0 <= value <= 1 for value in values):
        axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(loc="center right")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _lines(rows: Iterable[Row]) -> list[tuple[str, str, dict[str, Any]]]:
    """The metrics to draw, each with its label and style."""
    drawn = re.compile(r"habit/.*|eval/(reward/(?!mean(/|$)).*|pass@\d+|[^/]+/success)")
    own = sorted(filter(drawn.fullmatch, {name for row in rows for name in row}))
    return [
        ("reward/mean", "training reward", {"color": "C0", "alpha": 0.5}),
        ("eval/success", "held-out success", {"color": "C0", "marker": "o", "linewidth": 2}),
        *(
            (name, name, {"color": f"C{i + 1}", "linestyle": "--", "linewidth": 1})
            for i, name in enumerate(own)
        ),
    ]
