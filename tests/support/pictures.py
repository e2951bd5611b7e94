"""Pictures of a run for the docs: an episode with each habit before training, and the same task's
after it, as the viewer has them.

    python -m tests.support.pictures runs/gsm8k_offline/TIME no_print impatient malformed
"""

import argparse
import io
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Page

from agentrl.records import EpisodeRow, RunRecords, open_run
from tests.support.checkout import ROOT
from tests.support.chromium import launched, served

SIZE = {"width": 1250, "height": 520}
TO_THE_END = "for (const part of document.querySelectorAll('.split *')) part.scrollTop = 1e9"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.pictures")
    parser.add_argument("run", type=Path)
    parser.add_argument("habits", nargs="+")
    parser.add_argument("--to", type=Path, default=ROOT / "docs")
    flags = parser.parse_args()
    run = open_run(flags.run)
    with served([run]) as address, launched() as browser:
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        for habit in flags.habits:
            sides = [shot(page, address, row) for row in pair(run, habit)]
            above(sides).save(flags.to / f"habit-{habit}.png")


def pair(run: RunRecords, habit: str) -> list[EpisodeRow]:
    """The first held-out episode that has it before training, and its task's after."""
    first, *_, last = sorted({row["step"] for row in run.metrics() if "eval/success" in row})
    before = run.episodes(step=first, held_out=True, limit=10_000)
    row = next(row for row in before if row.metrics.get(f"habit/{habit}"))
    return [row, *run.episodes(step=last, held_out=True, task_id=row.task_id, limit=1)]


def shot(page: Page, address: str, row: EpisodeRow) -> Image.Image:
    where = {"view": "episodes", "run": 0, "held": "true", "step": row.step, "task": row.task_id}
    page.goto("about:blank")
    page.goto(f"{address}#{urlencode({**where, 'group': row.group, 'episode': row.episode})}")
    page.wait_for_selector(".reading .split")
    page.evaluate(TO_THE_END)
    page.wait_for_timeout(300)
    return Image.open(io.BytesIO(page.locator(".reading").screenshot()))


def above(sides: list[Image.Image]) -> Image.Image:
    width, gap = max(side.width for side in sides), 12
    whole = Image.new("RGB", (width, sum(side.height + gap for side in sides) - gap), "white")
    for number, side in enumerate(sides):
        whole.paste(side, (0, number * (side.height + gap)))
    return whole


if __name__ == "__main__":
    main()
