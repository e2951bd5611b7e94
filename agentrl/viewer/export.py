"""Export of runs to one HTML file, which opens anywhere and asks for nothing.

Metrics and the list of episodes go in whole. Tokens are what is large: each run has a share of the
file, which its newest steps fill first, and the page says which steps it has.
"""

import base64
import gzip
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from agentrl.records import EpisodeRow, RunRecords
from agentrl.viewer import answers, page

MAX_BYTES = 64 * 2**20
"""Of tokens: what a browser opens from a file without a pause."""


def export(
    runs: Sequence[RunRecords],
    file: Path,
    *,
    steps: Sequence[int] | None = None,
    report: Callable[[str], None] = lambda sentence: None,
) -> list[str]:
    """Write the page; return what was left out of it, in sentences.

    steps: those whose tokens go in; all, newest first, where None. report: is told what is being
    done. Raises ValueError where no run has one of the steps.
    """
    told = {
        "runs": answers.describe(runs),
        "metrics": [answers.metrics(run) for run in runs],
        "steps": [run.steps() for run in runs],
        "rows": [],
        "episodes": {},
        "held": [],
    }
    if unknown := set(steps or ()).difference(*told["steps"]):
        raise ValueError(f"--steps {min(unknown)}: no run has recorded it; leave it out")
    left, left_out = MAX_BYTES, []
    for number, run in enumerate(runs):
        found = run.page(limit=sys.maxsize)
        chosen = [step for step in told["steps"][number] if steps is None or step in steps]
        # What the runs before did not need is shared by the rest.
        share = left // (len(runs) - number)
        blocks, held, sentences = _tokens(run, number, found.rows, chosen, share, report)
        left -= _size(blocks)
        told["rows"].append([answers.row_of(row) for row in found.rows])
        told["episodes"] |= blocks
        told["held"].append(held)
        left_out += found.unread + sentences
    file.write_text(page.whole(answers.to_json(told).decode()))
    return left_out


def _tokens(
    run: RunRecords,
    number: int,
    rows: Sequence[EpisodeRow],
    steps: Sequence[int],
    share: int,
    report: Callable[[str], None],
) -> tuple[dict[str, str], list[int], list[str]]:
    """Episodes by the key under which the page looks for them; the steps of which it has all; and
    what is left out, in sentences.

    rows: in order. share: so many bytes may go in.
    """
    of_step = {step: list(own) for step, own in groupby(rows, key=lambda row: row.step)}
    kept, held, unread, left_out = {}, [], [], []
    for step in reversed(steps):
        report(f"{run.name}: step {step}")
        blocks, failed = _blocks(run, number, of_step.get(step, []))
        if _size(kept) + _size(blocks) > share:
            left_out.append(f"{run.name}: no room for the tokens of step {step} and before it")
            break
        kept |= blocks
        unread += failed
        if not failed and step in of_step:
            held.insert(0, step)
    if unread:
        left_out.append(
            f"{run.name}: episodes without their tokens: {len(unread)}; the first: {unread[0]}"
        )
    return kept, held, left_out


def _blocks(
    run: RunRecords, number: int, rows: Sequence[EpisodeRow]
) -> tuple[dict[str, str], list[str]]:
    """A step's episodes, and why the others cannot be had."""
    blocks, failed = {}, []
    for row in rows:
        try:
            block = answers.episode(run, row.step, row.task_id, row.episode, row.group)
        except ValueError as error:
            failed.append(str(error))
            continue
        key = f"{number}/{row.step}/{row.group}/{row.episode}"
        blocks[key] = base64.b64encode(gzip.compress(block, 6)).decode()
    return blocks, failed


def _size(blocks: dict[str, str]) -> int:
    return sum(map(len, blocks.values()))
