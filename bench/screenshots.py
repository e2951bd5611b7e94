"""Pictures of the viewer for docs/, taken in a headless Chromium.

python -m bench.screenshots                          # of made runs
python -m bench.screenshots runs/gsm8k_offline/*     # of these
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Page

from agentrl.records import EpisodeRow, RunRecords, open_run
from tests.support import chromium
from tests.support.made_runs import make_run

DOCS = Path(__file__).parent.parent / "docs"
SIZE = {"width": 1280, "height": 800}


def main(folders: Sequence[Path]) -> None:
    if chromium.find() is None:
        sys.exit("error: there is no Chromium here: `make tools` installs it")
    with tempfile.TemporaryDirectory() as made:
        if not folders:
            folders = [Path(made) / "apples" / f"seed-{seed}" for seed in range(3)]
            for seed, folder in enumerate(folders):
                make_run(folder, seed=seed)
        runs = [open_run(folder) for folder in folders]
        with chromium.served(runs) as address, chromium.launched() as browser:
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport=SIZE, color_scheme=scheme)
                take(page, address, scheme, runs[0])
                page.close()


def take(page: Page, address: str, scheme: str, run: RunRecords) -> None:
    page.goto(address)
    page.locator(".panel canvas").first.wait_for()
    if scheme == "light":
        shoot(page, "runs")
    row = worst(run)
    call = run.read(row.step, row.task_id, row.episode, row.group).calls[0]
    token = call.path[call.start + call.sampler_logprobs.argmin()]
    where = {"view": "episodes", "step": row.step, "task": row.task_id, "group": row.group}
    page.goto(f"{address}#{urlencode({**where, 'episode': row.episode, 'at': token})}")
    box = page.locator(".cursor").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 12)
    page.locator("#card").wait_for()
    shoot(page, f"episode-{scheme}")


def worst(run: RunRecords) -> EpisodeRow:
    """Of a task in the first recorded step, while there is something to learn."""
    first = next(row.step for row in run.episodes(status="ok", held_out=False))
    rows = run.episodes(step=first, status="ok", held_out=False)
    return min(rows, key=lambda row: (row.reward, -row.num_calls))


def shoot(page: Page, name: str) -> None:
    page.wait_for_timeout(500)
    path = DOCS / f"viewer-{name}.png"
    page.screenshot(path=path)
    print(f"{path.relative_to(DOCS.parent)}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
