"""MCP servers: ``mcp:COMMAND`` starts one for each episode, and its tools are the model's.

The task's ``question`` is what is asked; an answer without a call ends the episode, and a judge
says what it was worth. The protocol's lines of JSON are spoken here, which are the same for servers
of mcp 1 and 2. The program ends with the world's process, which has it in its group. It is given
what a shell sets for everybody; what else it needs, by ``env NAME=VALUE`` in the command.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
from collections import deque
from contextlib import suppress
from functools import partial
from random import Random
from threading import Thread
from typing import Any

from agentrl.environments.protocol import Action, Observation, ToolCall
from agentrl.environments.tool_calls import drawn_call, to_json
from agentrl.sandbox.linux import PR_SET_PDEATHSIG, prctl

INHERITED = "HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "USER"
VERSION = "2025-06-18"
"""Of the protocol."""


def load(what: str) -> partial:
    return partial(MCP, what)


class MCP:
    def __init__(self, command: str):
        self._command, self._program, self._number = shlex.split(command), None, 0
        if shutil.which(self._command[0]) is None:
            raise ValueError(f"there is no program {self._command[0]!r}")

    def reset(self, task: dict, seed: int) -> Observation:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        variables = {name: os.environ[name] for name in INHERITED if name in os.environ}
        # Whatever becomes of this process: it may be killed before it can close.
        ends = partial(prctl, PR_SET_PDEATHSIG, signal.SIGKILL)
        if "question" not in task:
            raise ValueError(
                "a task has no question: give some with --tasks, such as files:q.jsonl"
            )
        self._program = subprocess.Popen(self._command, **pipes, env=variables, preexec_fn=ends)
        said = iter(partial(self._program.stderr.readline, 1000), b"")
        self._said: deque[bytes] = deque(maxlen=10)
        Thread(target=self._said.extend, args=[said], daemon=True).start()
        who = {"name": "agentrl", "version": "1"}
        self._ask("initialize", protocolVersion=VERSION, capabilities={}, clientInfo=who)
        self._send(method="notifications/initialized")
        self._tools, self._rng = [_tool(one) for one in self._listed()], Random(seed)
        return self._observation(task["question"])

    def step(self, action: Action) -> Observation:
        if not isinstance(action, ToolCall):
            return self._observation("", done=True)
        try:
            reply = self._ask("tools/call", name=action.name, arguments=action.arguments)
        except ValueError as error:
            return self._observation(str(error))
        if "error" in reply:
            return self._observation(reply["error"]["message"])
        parts = reply["result"].get("content", ())
        return self._observation("\n".join(p.get("text", f"({p['type']})") for p in parts))

    def close(self) -> None:
        if self._program is not None:
            self._program.stdin.close()
            self._program.wait()

    def _listed(self) -> list[dict[str, Any]]:
        tools, more = [], {}
        while more is not None:
            listed = self._ask("tools/list", **more)["result"]
            tools += listed["tools"]
            more = {"cursor": listed["nextCursor"]} if listed.get("nextCursor") else None
        return tools

    def _observation(self, text: str, done: bool = False) -> Observation:
        calls = [drawn_call(tool, self._rng) for tool in self._tools]
        # At random it says something, too, which ends its episode.
        actions = [*calls, "enough"]
        return Observation(text=text, tools=self._tools, reward=None, done=done, actions=actions)

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The reply, a result or an error. Raises ValueError for params that are no JSON."""
        self._number += 1
        self._send(id=self._number, method=method, params=params)
        for line in self._program.stdout:
            reply = _parsed(line)
            if "method" in reply and "id" in reply:
                # What a server asks its client, if only whether it is there.
                self._send(id=reply["id"], result={})
            elif reply.get("id") == self._number:
                return reply
        said = b"".join(self._said).decode(errors="replace").strip()
        raise RuntimeError(f"{shlex.join(self._command)} ended: {said}")

    def _send(self, **message: Any) -> None:
        # One that has ended is seen where it does not answer.
        with suppress(BrokenPipeError):
            self._program.stdin.write(to_json({"jsonrpc": "2.0", **message}).encode() + b"\n")
            self._program.stdin.flush()


def _parsed(line: bytes) -> dict[str, Any]:
    """A message; nothing, of what else a program prints."""
    with suppress(ValueError):
        if isinstance(message := json.loads(line), dict):
            return message
    return {}


def _tool(described: dict[str, Any]) -> dict[str, Any]:
    function = {"name": described["name"], "description": described.get("description", "")}
    return {"type": "function", "function": {**function, "parameters": described["inputSchema"]}}
