"""OpenEnv's servers: ``openenv:http://127.0.0.1:8000``; what an action is made of, is a tool.

Its WebSocket is spoken here: the package's own client imports fastmcp, two seconds in the trainer's
process. State lives in that connection alone. Whether an episode succeeded, no server tells.
"""

import asyncio
import json
from contextlib import suppress

from agentrl.environments.http import ask, http_client
from agentrl.environments.protocol import Action, Observation
from agentrl.environments.requirement import required
from agentrl.environments.tool_calls import as_call, as_tool

SOCKET = {"close_timeout": 1, "max_size": 100 << 20}
"""Seconds, and bytes of a message."""


class OpenEnv:
    def __init__(self, url: str):
        self._ws = required("websockets", "websockets==17.4")
        self._url, self._http, self._socket = url.rstrip("/"), http_client(url), None

    async def tasks(self) -> tuple[list[dict], list[dict]] | None:
        names = await ask(self._http, "/list_environments", absent=[404])
        splits = names and await ask(self._http, f"/{names[0]}/splits", absent=[404, 501])
        train, held_out = [], []
        for split in splits or ():
            counted = await ask(self._http, f"/{names[0]}/num_tasks", {"split": split["name"]})
            rows = train if split["type"] == "train" else held_out
            rows += [{"split": split["name"], "index": i} for i in range(counted["num_tasks"])]
        return (train, held_out) if splits else None

    async def reset(self, task: dict, seed: int) -> Observation:
        schema = (await ask(self._http, "/schema"))["action"]
        schema["properties"].pop("metadata", None)
        self._tools = [as_tool("step", schema, schema.pop("description", None))]
        asked = {"seed": seed, **{k: task[k] for k in ("seed", "split", "index") if k in task}}
        while "code" in (seen := await self._ask("reset", asked, "CAPACITY_REACHED")):
            # Until another episode ends, or the time of this one.
            self._socket = await asyncio.sleep(0.2)
        return self._observation(seen)

    async def step(self, action: Action) -> Observation:
        call = as_call({"name": "step", "arguments": action}) if isinstance(action, str) else action
        if call.name != "step":
            return self._observation({"code": "", "message": "Call the tool step."})
        return self._observation(await self._ask("step", call.arguments, "VALIDATION_ERROR"))

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()
        await self._http.aclose()

    async def _ask(self, kind: str, data: object, expected: str) -> dict:
        """What the server has to say; expected: the code of an error that is no fault of it."""
        self._socket = self._socket or await self._ws.connect(f"ws{self._url[4:]}/ws", **SOCKET)
        try:
            # One that has no capacity says so and closes, which may be read afterwards.
            with suppress(self._ws.ConnectionClosed):
                await self._socket.send(json.dumps({"type": kind, "data": data}))
            reply = json.loads(await self._socket.recv())
        except self._ws.ConnectionClosed as error:
            raise RuntimeError(f"{self._url} went away: {error}") from error
        said = reply["data"]
        if reply["type"] == "error" and said["code"] != expected:
            raise RuntimeError(f"{self._url}, asked to {kind}: {said['message']} ({said['code']})")
        return said

    def _observation(self, seen: dict) -> Observation:
        if "code" in seen:
            wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in seen.get("errors", ())]
            text = "\n".join([seen["message"], *wrong])
            return Observation(text=text, tools=self._tools, is_refused=True)
        shown = {key: one for key, one in seen["observation"].items() if key != "metadata"}
        only = next(iter(shown.values())) if len(shown) == 1 else None
        text, reward = only if isinstance(only, str) else json.dumps(shown), seen["reward"] or 0.0
        return Observation(text=text, tools=self._tools, reward=reward, done=seen["done"])


load = OpenEnv
