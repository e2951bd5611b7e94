"""From saving an edited workflow to reading its new transcript, with a served engine.

    python -m bench.debug [--exp gsm8k_offline] [--checkpoint DIR] [--rounds 5]

Serves the experiment's model, then edits a copy of the gsm8k agent, saves it, and runs
``rollout.py --debug --engine URL`` until the edited prompt stands in the printed transcript.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agentrl.serving.recording import AgentKey

ROOT = Path(__file__).parent.parent
AGENT = ROOT / "experiments" / "gsm8k" / "openai_sdk.py"


def serve(exp: str, checkpoint: str | None, key: str) -> tuple[subprocess.Popen, str]:
    """A process that serves, and its URL."""
    flags = ["--checkpoint", checkpoint] if checkpoint else []
    server = subprocess.Popen(
        [sys.executable, "-u", "rollout.py", "--exp", exp, "--serve", "--api-key", key, *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in server.stdout:
        print(line, end="", flush=True)
        if found := re.search(r"URL (\S+)", line):
            return server, found[1]
    raise SystemExit("the server ended before it served")


def seconds_to_see(exp: str, url: str, key: str, edited: Path, text: str) -> float:
    """Save, run, and read until the text is there."""
    started = time.perf_counter()
    edited.write_text(AGENT.read_text().replace('"content": SYSTEM', f'"content": "{text}"'))
    command = [sys.executable, "-u", "rollout.py", "--exp", exp, "--workflow", f"{edited}:solve"]
    command += ["--debug", "--engine", url, "--api-key", key]
    client = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    seen = None
    for line in client.stdout:
        if text in line and seen is None:
            seen = time.perf_counter() - started
    if client.wait() or seen is None:
        raise SystemExit(f"{text!r} was not in the transcript")
    print(f"{text}: {seen:.2f} s, ended after {time.perf_counter() - started:.2f} s", flush=True)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exp", default="gsm8k_offline")
    parser.add_argument("--checkpoint")
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    key = AgentKey.new_key()
    server, url = serve(flags.exp, flags.checkpoint, key)
    try:
        with tempfile.TemporaryDirectory() as folder:
            edited = Path(folder) / "edited.py"
            seconds = [
                seconds_to_see(flags.exp, url, key, edited, f"Edit number {i}.")
                for i in range(flags.rounds)
            ]
    finally:
        server.terminate()
        server.wait()
    print(f"median {statistics.median(seconds):.2f} s, of {flags.rounds} rounds")


if __name__ == "__main__":
    main()
