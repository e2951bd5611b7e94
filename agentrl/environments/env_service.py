"""AgentJet's environment services: ``env-service:http://127.0.0.1:8080?env_type=appworld``; what
else the query names, are ``params`` of ``/create``.

Bodies, replies, and that the instance's id is the client's, are those of its ``EnvClient``; what a
service of ours adds (``serve.py``) stands in ``params`` and ``info``. At an end ``/evaluate`` says
what the episode was worth in all, as a number or an object with a ``score``; it succeeded, where
that is 1 and nothing else is said.
"""

import asyncio
import json
import uuid
from contextlib import suppress
from typing import Any

from agentrl.environments.http import ask, http_client
from agentrl.environments.process import GRACE_SECONDS
from agentrl.environments.protocol import Action, Observation, ToolCall
from agentrl.environments.tool_calls import as_message

SPLITS = "train", "dev"


class EnvService:
    def __init__(self, url: str, /, env_type: str = "default", **params: Any):
        self._about = {"env_type": env_type, "instance_id": uuid.uuid4().hex}
        self._http, self._params, self._tools = http_client(url), params, None

    async def tasks(self) -> tuple[list[dict], ...]:
        found = [await self._ask("get_env_profile", params={"split": split}) for split in SPLITS]
        return tuple([{"id": name, "task_id": name} for name in names] for names in found)

    async def reset(self, task: dict, seed: int) -> Observation:
        await self._release()
        self._tools, self._earned, name = [], 0.0, task.get("task_id", task["id"])
        began = await self._ask("create", task_id=name, params={**self._params, "seed": seed})
        tools = await self._ask("get_info")
        # Some describe them in words, which are in the first message as well.
        self._tools = tools if isinstance(tools, list) else []
        return self._observation(began, 0.0)

    async def step(self, action: Action) -> Observation:
        if isinstance(action, ToolCall):
            name, given = action.name, action.arguments
            as_text = given if isinstance(given, str) else json.dumps(given)
            action = {"name": name, "arguments": as_text}
        seen = await self._ask("step", messages=as_message(action))
        reward = seen.get("reward")
        if seen["is_terminated"]:
            said = await self._ask("evaluate")
            score = said if isinstance(said, dict) else {"score": said}
            total, seen["info"] = score["score"], score | (seen.get("info") or {})
            return self._observation(seen, None if total is None else total - self._earned, total)
        self._earned += reward or 0.0
        return self._observation(seen, reward)

    async def close(self) -> None:
        await self._release()
        await self._http.aclose()

    async def _release(self) -> None:
        if self._tools is not None:
            # Created, or maybe.
            with suppress(RuntimeError, TimeoutError):
                await asyncio.wait_for(self._ask("release"), GRACE_SECONDS)

    async def _ask(self, route: str, **body: Any) -> Any:
        return (await ask(self._http, f"/{route}", {**self._about, **body})).get("data")

    def _observation(self, seen: dict, reward: float | None, total: Any = None) -> Observation:
        info, state = seen.get("info") or {}, seen["state"]
        messages = state if isinstance(state, list) else [state]
        return Observation(
            text="\n\n".join(str(message["content"]) for message in messages),
            tools=info.get("tools", self._tools),
            reward=reward,
            done=bool(seen.get("is_terminated")),
            success=info.get("success", None if total is None else total >= 1),
            **{name: info[name] for name in ("actions", "is_refused") if name in info},
        )


load = EnvService
