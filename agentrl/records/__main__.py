"""Command over records: ``freeze`` adds a recorded call to a folder of situations."""

import argparse
import sys
from pathlib import Path

from agentrl.records import open_run
from agentrl.records.situations import freeze


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m agentrl.records", description=__doc__)
    command = parser.add_subparsers(required=True).add_parser("freeze")
    command.add_argument("run", type=Path, metavar="RUN")
    command.add_argument("--step", type=int, required=True)
    command.add_argument("--task", required=True, metavar="ID")
    command.add_argument("--episode", type=int, default=0, help="its number in the group")
    command.add_argument("--call", type=int, required=True, help="its number in the episode")
    command.add_argument("--expect", required=True, metavar="FILE.py:FUNCTION")
    command.add_argument("--to", type=Path, default=Path("situations"), metavar="FOLDER")
    flags = vars(parser.parse_args())
    try:
        situation = freeze(open_run(flags.pop("run")), **flags)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print("{id}: it said {answer!r}, is_expected {is_expected}".format_map(situation))


if __name__ == "__main__":
    main()
