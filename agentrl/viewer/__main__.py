"""Viewer of runs in a browser: every metric, and every token of every episode.

python -m agentrl.viewer runs/gsm8k/20261121-120000
python -m agentrl.viewer runs/gsm8k                      # all runs of an experiment
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from agentrl.records import RunRecords, open_run
from agentrl.viewer.server import serve


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m agentrl.viewer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="its folder")
    parser.add_argument("--port", type=int, default=6070, help="on the loopback; 0: any free")
    flags = parser.parse_args(argv)
    if not 0 <= flags.port < 2**16:
        parser.error(f"--port is {flags.port}: give 0 to 65535; 0: any free")
    try:
        runs = [run for folder in flags.runs for run in opened(folder)]
        serve(runs, flags.port)
    except ValueError as error:
        sys.exit(f"error: {error}")


def opened(folder: Path) -> list[RunRecords]:
    """The run, or the runs of an experiment's folder: those that cannot be read are told and passed
    over. Raises ValueError where none can be read."""
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    if not inside or (folder / "config.json").exists():
        return [open_run(folder)]
    runs = []
    for run in inside:
        try:
            runs.append(open_run(run))
        except ValueError as error:
            print(error, file=sys.stderr)
    if not runs:
        raise ValueError(f"no run in {folder} can be read")
    return runs


if __name__ == "__main__":
    main()
