"""Smoothness of an episode of a hundred thousand tokens, scrolled in a headless Chromium.

    python -m bench.viewer

First by the notches of a wheel, then dragged from one end to the other in a hundred frames. For
each, the longest task of the page's main thread: by the clock (the browser's long-task observer
tells those above 50 ms) and by the thread's own CPU time (the browser's trace), which other work
on the machine does not lengthen.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from agentrl.records import open_run
from tests.support import chromium
from tests.support.made_runs import make_run

NUM_TOKENS = 100_000
SCROLL = """
async ([steps, pixels]) => {
  const pane = document.querySelector(".tokens");
  const end = pane.scrollHeight - pane.clientHeight;
  const long = [];
  const observer = new PerformanceObserver((list) =>
    long.push(...list.getEntries().map((entry) => entry.duration)));
  observer.observe({ type: "longtask" });
  for (let i = 1; i <= steps; i++) {
    pane.scrollTop = pixels ? pixels * i : (end * i) / steps;
    await new Promise(requestAnimationFrame);
  }
  await new Promise((resolve) => setTimeout(resolve, 300));
  observer.disconnect();
  return long;
}
"""


def main() -> None:
    if chromium.find() is None:
        sys.exit("error: there is no Chromium here: `make tools` installs it")
    with tempfile.TemporaryDirectory() as folder, chromium.launched() as browser:
        maker = make_run(Path(folder) / "apples" / "long", recorded=0)
        maker.record(1, [maker.long_episode(NUM_TOKENS)])
        with chromium.served([open_run(maker.folder)]) as address:
            page = browser.new_page(viewport={"width": 1360, "height": 860})
            begin = time.perf_counter()
            page.goto(f"{address}#view=episodes&run=0&step=1")
            page.locator(".tokens pre").first.wait_for()
            print(f"{NUM_TOKENS:,} tokens in sight after {time.perf_counter() - begin:.2f} s")
            for name, steps, pixels in [("by the wheel", 200, 120), ("dragged", 100, None)]:
                page.evaluate("document.querySelector('.tokens').scrollTop = 0")
                page.wait_for_timeout(500)
                browser.start_tracing(categories=["toplevel", "devtools.timeline"], page=page)
                over = page.evaluate(SCROLL, [steps, pixels])
                cpu = longest_task(json.loads(browser.stop_tracing()))
                print(
                    f"{name}: {len(over)} tasks over 50 ms (longest {max(over, default=0):.0f}); "
                    f"longest by CPU time {cpu:.1f} ms"
                )
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def longest_task(trace: dict[str, Any]) -> float:
    """Milliseconds of CPU of the longest task on the page's main thread."""
    events = trace["traceEvents"]
    main_threads = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        event["tdur"] / 1000
        for event in events
        if event["name"].endswith("RunTask")
        and (event["pid"], event["tid"]) in main_threads
        and "tdur" in event
    ]
    return max(tasks)


if __name__ == "__main__":
    main()
