"""Look at runs in a browser: every metric, and every token of every episode.

python -m agentrl.watch runs/gsm8k/20261121-120000
python -m agentrl.watch runs/gsm8k                      # all runs of an experiment
python -m agentrl.watch RUN --export run.html           # one file, which needs no server
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from agentrl.watch.records import open_run
from agentrl.watch.viewer.export import export
from agentrl.watch.viewer.server import serve


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m agentrl.watch",
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
        runs = [open_run(folder) for given in flags.runs for folder in runs_in(given)]
        if flags.export:
            say = lambda sentence: print(f"\r\033[K{sentence}", end="", file=sys.stderr)  # noqa: E731
            export(runs, flags.export, steps=flags.steps, report=say)
            print(f"\r\033[K{flags.export}: {flags.export.stat().st_size / 2**20:.1f} MiB")
        else:
            serve(runs, flags.port)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def runs_in(folder: Path) -> list[Path]:
    """The folder itself, or the runs in it, where it is an experiment's."""
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    return inside if inside and not (folder / "config.json").exists() else [folder]


if __name__ == "__main__":
    main()
