"""MCP servers: ``mcp:COMMAND`` starts one for each episode, and its tools are the model's.

The task's ``question`` is what is asked; an answer without a call ends the episode, and a judge
says what it was worth. The protocol's lines of JSON are spoken here, which are the same for servers
of mcp 1 and 2. The program ends with the world's process, which has it in its group. It is given
what a shell sets for everybody; what else it needs, by ``env NAME=VALUE`` in the command. What it
draws by chance is its own: the protocol has no seeds.
"""

import json
import shlex
from contextlib import suppress
from subprocess import PIPE
from tempfile import TemporaryFile
from typing import Any

from agentrl.environments.protocol import Action, Observation
from agentrl.environments.tool_calls import as_tool
from agentrl.sandbox.linux import start_bare
from agentrl.types import parsed_arguments


class MCP:
    def __init__(self, command: str):
        self._command, self._program, self._number = shlex.split(command), None, 0

    def reset(self, task: dict, seed: int) -> Observation:
        if "question" not in task:
            raise ValueError("a task has no question: give some by --tasks, such as files:q.jsonl")
        self.close()
        self._errors = TemporaryFile()  # noqa: SIM115
        pipes = {"stdin": PIPE, "stdout": PIPE, "stderr": self._errors}
        self._program = start_bare(self._command, **pipes, encoding="utf-8", bufsize=1)
        about = {"protocolVersion": "2025-06-18", "capabilities": {}}
        self._ask("initialize", **about, clientInfo={"name": "agentrl", "version": "1"})
        self._send(method="notifications/initialized")
        self._tools = self._listed()
        return Observation(text=task["question"], tools=self._tools, reward=None)

    def step(self, action: Action) -> Observation:
        if isinstance(action, str):
            return Observation(text="", reward=None, done=True)
        try:
            result = self._ask("tools/call", name=action.name, arguments=action.arguments)
            said = [one.get("text", f"({one['type']})") for one in result.get("content", ())]
        except ValueError as error:
            said = [str(error)]
        return Observation(text="\n".join(said), tools=self._tools, reward=None)

    def close(self) -> None:
        if self._program is not None:
            self._program.communicate()

    def _listed(self, **cursor: str) -> list[dict[str, Any]]:
        page = self._ask("tools/list", **cursor)
        tools = [as_tool(t["name"], t["inputSchema"], t.get("description")) for t in page["tools"]]
        more = page.get("nextCursor")
        return tools + (self._listed(cursor=more) if more else [])

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The result. Raises ValueError for what the server calls an error."""
        self._number += 1
        self._send(id=self._number, method=method, params=params)
        for line in self._program.stdout:
            match parsed_arguments(line):
                # What a server asks its client, if only whether it is there.
                case {"method": _, "id": asked}:
                    self._send(id=asked, result={})
                case {"id": self._number, "result": result}:
                    return result
                case {"id": self._number, "error": error}:
                    raise ValueError(error["message"])
        self._errors.seek(0)
        said = self._errors.read()[-1000:].decode(errors="replace").strip()
        raise RuntimeError(f"{shlex.join(self._command)} ended: {said}")

    def _send(self, **message: Any) -> None:
        # One that has ended is seen where it does not answer.
        with suppress(BrokenPipeError):
            self._program.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")


load = MCP
