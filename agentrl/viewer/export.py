"""Export of runs to one HTML file, which opens anywhere and asks for nothing.

Metrics and the list of episodes go in whole. Tokens are what is large: each run has a share of the
file, which its newest episodes fill first.
"""

import base64
import gzip
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from agentrl.records import EpisodeRow, RunRecords
from agentrl.viewer import answers, page

MAX_BYTES = 64 * 2**20
"""Of tokens: what a browser opens from a file without a pause."""


def export(runs: Sequence[RunRecords], file: Path) -> list[str]:
    """Write the page; return what was left out of it, in sentences."""
    told = {
        "runs": answers.describe(runs),
        "metrics": [answers.metrics(run) for run in runs],
        "batches": [run.batches() for run in runs],
        "rows": [],
        "episodes": [],
    }
    left_out = []
    for run in runs:
        found = run.page(limit=sys.maxsize)
        blocks, sentences = _tokens(run, found.rows, MAX_BYTES // len(runs))
        told["rows"].append(found.rows)
        told["episodes"].append(blocks)
        left_out += found.unread + sentences
    file.write_text(page.whole(answers.to_json(told).decode()))
    return left_out


def _tokens(
    run: RunRecords, rows: Sequence[EpisodeRow], share: int
) -> tuple[dict[str, str], list[str]]:
    """Episodes by step, group and number, and what is left out, in sentences.

    rows: in order. share: so many bytes may go in.
    """
    blocks, unread, left = {}, [], share
    shown = Console(stderr=True)
    for row in track(rows[::-1], run.name, console=shown, transient=True):
        try:
            block = answers.episode(run, row.step, row.task_id, row.episode, row.group)
        except ValueError as error:
            unread.append(str(error))
            continue
        text = base64.b64encode(gzip.compress(block, 6)).decode()
        left -= len(text)
        if left < 0:
            full = f"{run.name}: no room for the tokens of step {row.step} and before it"
            return blocks, [full, *unread[:1]]
        blocks["/".join(map(str, row.key))] = text
    of = f"{run.name}: episodes without their tokens: {len(unread)}; the first: "
    return blocks, [of + one for one in unread[:1]]
