"""Cost of a call of the Python tool: ``python -m bench.tools``.

Each way runs ``print(1 + 2)``. The first call starts a worker; the others find it warm. CPU time
is the workers' and the code's, all in all; it says more than the clock where a machine is shared.
Beside the tool, behind walls and in the open: a new Python for each call, plain and, where it is
installed, in bubblewrap.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil

from agentrl.agents.tools import PythonTool
from agentrl.sandbox import process
from agentrl.sandbox.rootfs import readable

CODE = "print(1 + 2)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=64)
    options = parser.parse_args()
    best = process.isolation()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.calls} calls a way")
    print(f"{'':22} {'threads':>7} {'first ms':>9} {'median':>7} {'95%':>7} {'calls/s':>8} CPU ms")
    for kind in dict.fromkeys([best, "open"]):
        process.isolation = lambda kind=kind: kind
        for threads in (1, options.threads):
            report_tool(f"the tool, {kind}", threads, options.calls)
    report("a new Python", lambda code: new_python([], code), 1, options.calls // 40)
    if shutil.which("bwrap"):
        within = bubblewrap()
        report("one in bubblewrap", lambda code: new_python(within, code), 1, options.calls // 40)


def report_tool(way: str, threads: int, calls: int) -> None:
    tool = PythonTool()
    report(
        way, tool.run, threads, calls, lambda: sum(map(cpu_seconds, psutil.Process().children()))
    )
    while not tool._idle.empty():
        tool._idle.get().close()


def report(
    way: str,
    run: Callable[[str], str],
    threads: int,
    calls: int,
    cpu: Callable[[], float] | None = None,
) -> None:
    """Time one way and print its line."""
    first = timed(run)
    with ThreadPoolExecutor(threads) as pool:
        # Afterwards every worker is warm.
        list(pool.map(timed, [run] * 2 * threads))
        before, started = cpu and cpu(), time.perf_counter()
        milliseconds = sorted(pool.map(timed, [run] * calls))
        rate = calls / (time.perf_counter() - started)
    spent = f"{1e3 * (cpu() - before) / calls:6.1f}" if cpu else ""
    median, late = statistics.median(milliseconds), milliseconds[int(0.95 * calls)]
    print(f"{way:22} {threads:7} {first:9.1f} {median:7.1f} {late:7.1f} {rate:8.0f} {spent}")


def timed(run: Callable[[str], str]) -> float:
    started = time.perf_counter()
    assert run(CODE) == "3"
    return 1e3 * (time.perf_counter() - started)


def cpu_seconds(worker: psutil.Process) -> float:
    """Of a worker, what it started, and the code that has ended."""
    times = [p.cpu_times() for p in (worker, *worker.children(recursive=True))]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


def new_python(within: list[str], code: str) -> str:
    command = [*within, sys.executable, "-I", "-c", code]
    return subprocess.check_output(command, text=True).strip()


def bubblewrap() -> list[str]:
    folders = [word for path in readable() for word in ("--ro-bind", path, path)]
    short = [name for name in ("/bin", "/lib", "/lib64") if os.path.islink(name)]
    links = [word for name in short for word in ("--symlink", os.readlink(name), name)]
    rest = ["--unshare-all", "--die-with-parent", "--dev", "/dev", "--tmpfs", "/scratch"]
    return ["bwrap", *rest, *folders, *links, "--clearenv", "--"]


if __name__ == "__main__":
    main()
