"""Runs in one HTML file, which opens anywhere and asks for nothing.

Metrics and the list of episodes go in whole. Tokens are what is large: the newest steps' go in
first, as many as the file may hold, and the page says which steps it has.
"""

import base64
import gzip
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agentrl.watch.records import RunRecords
from agentrl.watch.viewer import answers, page

MAX_BYTES = 64 * 2**20
"""Of tokens: what a browser opens from a file without a pause."""


def export(
    runs: Sequence[RunRecords],
    file: Path,
    *,
    steps: Sequence[int] | None = None,
    report: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Write the page. steps: those whose tokens go in; all, newest first, where None."""
    told = {
        "runs": answers.describe(runs),
        "metrics": [answers.metrics(run) for run in runs],
        "steps": [run.steps() for run in runs],
        "rows": [_rows(run) for run in runs],
        "episodes": {},
        "held": [],
    }
    left = MAX_BYTES
    for number, run in enumerate(runs):
        held = []
        chosen = [step for step in run.steps() if steps is None or step in steps]
        for step in reversed(chosen):
            report(f"{run.name}: step {step}")
            blocks = _blocks(run, number, step)
            left -= sum(map(len, blocks.values()))
            if left < 0:
                report("the file is full: older steps are listed without their tokens")
                break
            told["episodes"] |= blocks
            held.append(step)
        told["held"].append(sorted(held))
    file.write_text(page.whole(answers.to_json(told).decode()))


def _rows(run: RunRecords) -> list[dict[str, Any]]:
    return [answers.row_of(row) for row in run.episodes(limit=sys.maxsize)]


def _blocks(run: RunRecords, number: int, step: int) -> dict[str, str]:
    """A step's episodes by the key under which the page looks for them."""
    blocks = {}
    for row in run.episodes(step=step, limit=sys.maxsize):
        block = answers.episode(run, step, row.task_id, row.episode, row.place)
        key = f"{number}/{step}/{row.place}/{row.episode}"
        blocks[key] = base64.b64encode(gzip.compress(block, 6)).decode()
    return blocks
