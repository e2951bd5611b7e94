"""Time from saving an edited workflow to reading its new transcript, in one debugging process.

    python -m bench.debug [--exp gsm8k_offline] [--checkpoint DIR] [--rounds 5]

Starts ``rollout.py --debug`` on a copy of the gsm8k agent. Then it edits that, saves it, and types
Enter, until the edited prompt stands in the printed transcript.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agentrl.callables import ROOT

AGENT = ROOT / "experiments" / "gsm8k" / "openai_sdk.py"


def edit(file: Path, text: str) -> None:
    file.write_text(AGENT.read_text().replace('"content": SYSTEM', f'"content": "{text}"'))


def seconds_until(process: subprocess.Popen, text: str) -> float:
    """Read what a process says until the text is there."""
    started = time.perf_counter()
    for line in process.stdout:
        if text in line:
            return time.perf_counter() - started
    raise SystemExit(f"it ended before it said {text!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exp", default="gsm8k_offline")
    parser.add_argument("--checkpoint")
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        edited, seconds = Path(folder) / "edited.py", []
        edit(edited, "As it was.")
        command = [sys.executable, "-u", "rollout.py", "--exp", flags.exp, "--debug"]
        command += ["--workflow", f"{edited}:solve"]
        command += ["--checkpoint", flags.checkpoint] if flags.checkpoint else []
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=ROOT, text=True, bufsize=1, **pipes)
        print(f"start: {seconds_until(process, 'As it was.'):.2f} s", flush=True)
        for number in range(flags.rounds):
            seconds_until(process, "Enter")
            edit(edited, f"Edit number {number}.")
            process.stdin.write("\n")
            seconds.append(seconds_until(process, f"Edit number {number}."))
            print(f"edit {number}: {seconds[-1]:.2f} s", flush=True)
        process.stdin.close()
        process.stdout.read()
        process.wait()
    print(f"median {statistics.median(seconds):.2f} s, of {flags.rounds} rounds")


if __name__ == "__main__":
    main()
