"""Models and datasets by name: a folder here, or the Hugging Face hub's.

Whether the hub answers is found out once, in seconds: its libraries try again for half a minute
before they look into their cache.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import TemporaryFile

PATIENCE_SECONDS = 5.0
LAUNCHED = ("RANK", "LOCAL_", "WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
"""How the variables begin by which a launcher tells a process which rank it is."""
OFFLINE = "or try --exp gsm8k_offline, which downloads nothing"
"""What works without it."""


@cache
def stay_offline_where_unreachable() -> None:
    """Let the hub's libraries use their cache alone, where the hub does not answer."""
    # Slow to import, and only needed here.
    import httpx2
    from huggingface_hub import constants, get_session

    try:
        if not constants.HF_HUB_OFFLINE:
            get_session().head(constants.ENDPOINT, timeout=PATIENCE_SECONDS)
    except httpx2.TransportError:
        # For what is imported already, and for what is not yet.
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"


def check_model(path: str) -> None:
    """Raise ValueError, in a sentence, for what is no model that transformers could load."""
    from transformers import AutoConfig, AutoTokenizer

    if Path(path).is_dir():
        _check_folder(Path(path))
    elif not Path(path).is_absolute() and not path.startswith("."):
        stay_offline_where_unreachable()
    try:
        AutoConfig.from_pretrained(path)
        AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is neither a transformers folder nor a hub model within reach "
            f"({str(error).splitlines()[0]}): give one, {OFFLINE}"
        ) from error


def _check_folder(folder: Path) -> None:
    for what, patterns in {
        "config.json": ["config.json"],
        "weights": ["*.safetensors", "*.bin"],
    }.items():
        if not any(path for pattern in patterns for path in folder.glob(pattern)):
            checkpoints = sorted(folder.glob("checkpoints/step-*"))
            right = f"did you mean {checkpoints[-1]}?" if checkpoints else "give another"
            raise ValueError(f"{folder} is no transformers folder, as it has no {what}: {right}")


@contextmanager
def behind_url(path: str) -> Iterator[tuple[str, str, str]]:
    """The URL of a model's API, a key and its name there, while a process of its own serves it.

    Raises ValueError, in a sentence, where it cannot.
    """
    # It is no rank of whoever starts it.
    env = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHED)}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    command = [sys.executable, "-m", "agentrl.debug.serve", path]
    pipes = {"stdin": PIPE, "stdout": PIPE, "text": True}
    # A file takes all that it says: a pipe that nobody reads would fill, and it would wait.
    with TemporaryFile("w+") as errors, Popen(command, **pipes, stderr=errors, env=env) as process:
        if not (line := process.stdout.readline()):
            process.wait()
            errors.seek(0)
            said = errors.read().strip().splitlines() or ["it ended without a word"]
            raise ValueError(f"{path} cannot be served: {said[-1].removeprefix('error: ')}")
        # Its standard input is closed with the process's own context.
        yield tuple(json.loads(line))
