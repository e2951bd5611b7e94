"""OpenEnv's servers: ``openenv:http://127.0.0.1:8000``; what an action is made of, is a tool.

Its WebSocket is spoken here: the package's own client imports fastmcp, two seconds in the trainer's
process. State lives in that connection alone. Whether an episode succeeded, no server tells.
"""

import asyncio
import json
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any

from agentrl.environments.http import ask, http_client
from agentrl.environments.protocol import Action, Observation, ToolCall
from agentrl.environments.requirement import required
from agentrl.environments.tool_calls import drawn_call, to_json
from agentrl.types import parsed_arguments

LONGEST_MESSAGE = 100 << 20
MOST_REFUSED = 3
"""Actions in a row that are none, after which an episode ends."""


def load(what: str) -> partial:
    return partial(OpenEnv, what.rstrip("/"))


class OpenEnv:
    def __init__(self, url: str):
        self._ws = required("websockets", "websockets==17.4")
        self._url, self._http, self._socket, self._refused = url, http_client(url), None, 0

    async def tasks(self) -> tuple[list[dict], list[dict]] | None:
        names = await ask(self._http, "/list_environments", absent=[404])
        splits = names and await ask(self._http, f"/{names[0]}/splits", absent=[404, 501])
        rows = {True: [], False: []}
        for split in splits or ():
            counted = await ask(self._http, f"/{names[0]}/num_tasks", {"split": split["name"]})
            numbers = range(counted["num_tasks"])
            rows[split["type"] == "train"] += [
                {"split": split["name"], "index": i} for i in numbers
            ]
        return (rows[True], rows[False]) if splits else None

    async def reset(self, task: dict, seed: int) -> Observation:
        schema = (await ask(self._http, "/schema"))["action"]
        schema["properties"].pop("metadata", None)
        about = {"description": schema.pop("description", ""), "parameters": schema}
        self._tools = [{"type": "function", "function": {"name": "step", **about}}]
        self._rng, pause = Random(seed), 0.02
        own = {key: task[key] for key in ("seed", "split", "index") if key in task}
        address, options = "ws" + self._url[4:] + "/ws", {"max_size": LONGEST_MESSAGE}
        while True:
            self._socket = await self._ws.connect(address, close_timeout=1, **options)
            seen = await self._ask("reset", {"seed": seed, **own}, "CAPACITY_REACHED")
            if "code" not in seen:
                return self._observation(seen)
            # Until another episode ends, or the time of this one.
            await asyncio.sleep(pause := min(2 * pause, 2.0))

    async def step(self, action: Action) -> Observation:
        is_call = isinstance(action, ToolCall)
        seen = {"message": "Call the tool step.", "code": "none"}
        if not is_call or action.name == "step":
            asked = action.arguments if is_call else parsed_arguments(action)
            try:
                seen = await self._ask("step", asked, "VALIDATION_ERROR")
            except ValueError as error:
                seen["message"] = str(error)
        self._refused = self._refused + 1 if "code" in seen else 0
        return self._observation(seen)

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()
        await self._http.aclose()

    async def _ask(self, kind: str, data: Any, expected: str) -> dict:
        """What the server has to say; expected: the code of an error that is no fault of it."""
        message = to_json({"type": kind, "data": data})
        try:
            # One that has no capacity says so and closes, which may be read afterwards.
            with suppress(self._ws.ConnectionClosed):
                await self._socket.send(message)
            reply = json.loads(await self._socket.recv())
        except self._ws.ConnectionClosed as error:
            raise RuntimeError(f"{self._url} went away: {error}") from error
        said = reply["data"]
        if reply["type"] == "error" and said["code"] != expected:
            raise RuntimeError(f"{self._url}, asked to {kind}: {said['message']} ({said['code']})")
        return said

    def _observation(self, seen: dict) -> Observation:
        if "code" in seen:
            errors = seen.get("errors", ())
            wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in errors]
            text, over = "\n".join([seen["message"], *wrong]), self._refused == MOST_REFUSED
        else:
            shown = {key: one for key, one in seen["observation"].items() if key != "metadata"}
            only = next(iter(shown.values())) if len(shown) == 1 else None
            text, over = only if isinstance(only, str) else json.dumps(shown), seen["done"]
        return Observation(
            text=text,
            tools=self._tools,
            reward=seen.get("reward") or 0.0,
            done=over,
            actions=[drawn_call(self._tools[0], self._rng)],
        )
