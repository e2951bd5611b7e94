"""Viewer of runs in a browser: every metric, and every token of every episode.

python -m agentrl.viewer runs/gsm8k/20261121-120000
python -m agentrl.viewer runs/gsm8k                      # all runs of an experiment
python -m agentrl.viewer RUN --export run.html           # one file, which needs no server
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from agentrl.records import RunRecords, open_run
from agentrl.viewer.export import export
from agentrl.viewer.server import serve


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m agentrl.viewer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="its folder")
    parser.add_argument("--port", type=int, default=6070, help="on the loopback; 0: any free")
    parser.add_argument("--export", type=Path, metavar="FILE.html", help="write one file instead")
    parser.add_argument(
        "--steps", nargs="+", type=int, help="with --export: the steps whose tokens go in"
    )
    flags = parser.parse_args(argv)
    if flags.steps and not flags.export:
        parser.error("--steps chooses what --export writes: give both, or neither")
    if not 0 <= flags.port < 2**16:
        parser.error(f"--port is {flags.port}: give 0 to 65535; 0: any free")
    try:
        runs = [run for folder in flags.runs for run in opened(folder)]
        if flags.export:
            _export(runs, flags.export, flags.steps)
        else:
            serve(runs, flags.port)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def opened(folder: Path) -> list[RunRecords]:
    """The runs of a folder. Of an experiment's, those that cannot be read are told and passed over.

    Raises ValueError where none can be read.
    """
    folders = runs_in(folder)
    if folders == [folder]:
        return [open_run(folder)]
    runs = []
    for inside in folders:
        try:
            runs.append(open_run(inside))
        except ValueError as error:
            print(error, file=sys.stderr)
    if not runs:
        raise ValueError(f"no run in {folder} can be read")
    return runs


def runs_in(folder: Path) -> list[Path]:
    """The folder itself, or the runs in it, where it is an experiment's."""
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    return inside if inside and not (folder / "config.json").exists() else [folder]


def _export(runs: Sequence[RunRecords], file: Path, steps: Sequence[int] | None) -> None:
    try:
        left_out = export(runs, file, steps=steps, report=_show)
    finally:
        _show("")
    print(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")
    for sentence in left_out:
        print(sentence)


def _show(sentence: str) -> None:
    """In place of the one before it."""
    print(f"\r\033[K{sentence}", end="", file=sys.stderr)


if __name__ == "__main__":
    main()
