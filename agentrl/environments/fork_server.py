"""Fork server of worlds: a process that has loaded one by name and forks for every episode.

It ends when the process that started it does, or closes its socket; and with it all that it forked.
"""

import asyncio
import dataclasses
import json
import os
import random
import resource
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

from agentrl.environments.named import load_environment
from agentrl.environments.protocol import ToolCall, settled
from agentrl.environments.random_play import random_play
from agentrl.sandbox.linux import die_with_parent

MEMORY_BYTES = 4 << 30
"""What a world may hold; one that leaks ends there, with its episode."""


def main() -> None:
    """The command line: a name, the number of the socket, and that of the process that asks."""
    _, name, number, starter = sys.argv
    asked = socket.socket(fileno=int(number))
    try:
        make = load_environment(name)
        # One is made here and dropped: what is imported and read for it, is there for all.
        make()
    except Exception as error:
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        return asked.sendall(f"the environment {name}: {said}".replace("\n", " ").encode() + b"\n")
    # Those that ended are nobody's to wait for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    asked.sendall(b"\n")
    ended = os.pidfd_open(int(starter))
    while ended not in select.select([asked, ended], [], [])[0]:
        _, connections, _, _ = socket.recv_fds(asked, 1, 1)
        if not connections:
            return
        if os.fork() == 0:
            asked.close()
            _live(make, socket.socket(fileno=connections[0]))
        os.close(connections[0])


def _live(make: Any, connection: socket.socket) -> None:
    """Be a world until nobody listens. Never returns."""
    try:
        # Its own processes end with it, and it with the server.
        os.setpgid(0, 0)
        die_with_parent()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
        with suppress(BrokenPipeError, ConnectionResetError):
            asyncio.run(_answer_all(make, connection))
    finally:
        os._exit(0)


async def _answer_all(make: Any, connection: socket.socket) -> None:
    world, requests, replies = None, connection.makefile("r"), connection.makefile("w")
    _reply(replies, {"returned": os.getpid()})
    for line in requests:
        request = json.loads(line)
        try:
            world = world or make()
            returned = await settled(_call(world, request["method"], request["arguments"]))
            reply = {"returned": returned}
        except Exception as error:
            reply = {"raised": f"{type(error).__name__}: {error}".rstrip(": ")}
        _reply(replies, reply)


def _call(world: Any, method: str, arguments: dict[str, Any]) -> Any:
    if "seed" in arguments:
        # Of the process's generator, which some worlds draw from, as of their own.
        random.seed(arguments["seed"])
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(arguments["seed"] % 2**32)
    if isinstance(arguments.get("action"), dict):
        arguments["action"] = ToolCall(**arguments["action"])
    if method == "random_play":
        return random_play(world, **arguments)
    function = getattr(world, method, None)
    return function(**arguments) if function else None


def _reply(replies: Any, message: dict) -> None:
    replies.write(json.dumps(message, default=_plain) + "\n")
    replies.flush()


def _plain(value: Any) -> Any:
    """What JSON has no form for: observations, numpy's numbers and arrays; else its text."""
    if dataclasses.is_dataclass(value):
        return vars(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)


if __name__ == "__main__":
    main()
