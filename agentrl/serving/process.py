"""Process-wide settings of a process that holds an engine: made before torch and vLLM are there."""

import gc
import os
import resource
import sys

SWITCH_SECONDS = 0.001
"""How long a thread that is busy in Python keeps the stepper waiting, each time it wants to go on.

The stepper lets go of the interpreter at every operation of torch. With Python's 5 ms, one episode
in ``while True: pass`` slows generation to a tenth; with less than this, a burst of episodes that
all go on at once pays for it in switching.
"""
OPEN_FILES = 65536
"""As many as may be open, where the machine allows it: an event loop and a connection have five,
and hundreds of episodes run at once."""
VARIABLES = {
    # Trees are of ever other lengths: in segments of one size they would leave holes, which an
    # engine that wakes could not take.
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def prepare_process() -> None:
    """Set what torch and vLLM read when they start, how fast threads take turns, and how an episode
    reaches this machine. Idempotent."""
    # Weights are pushed within the process.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    sys.setswitchinterval(SWITCH_SECONDS)
    bypass_proxies("127.0.0.1", "localhost", "::1")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def bypass_proxies(*hosts: str) -> None:
    """Let clients of this process, and of those that it starts, reach these hosts themselves."""
    own = f"{os.environ.get('NO_PROXY', '')},{os.environ.get('no_proxy', '')}".split(",")
    both = ",".join(dict.fromkeys(host.strip() for host in (*own, *hosts) if host.strip()))
    os.environ |= {"NO_PROXY": both, "no_proxy": both}


def freeze_garbage() -> None:
    """What is loaded by now stays: looking through it for garbage would halt all episodes for
    0.3 s."""
    gc.collect()
    gc.freeze()
