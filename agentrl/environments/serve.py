"""Server of any environment by AgentJet's six routes, for ``env-service`` and AgentJet's clients.

    python -m agentrl.environments.serve 'gymnasium:FrozenLake-v1?is_slippery=false' --port 8080

An instance is a world of its own, of one player; one that nobody asked for in an hour is released
when another is created. In ``info`` stands what an observation has beside its text; a seed in
``params`` is the episode's.
"""

import asyncio
import time
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from agentrl.environments.named import environment, tasks_of
from agentrl.environments.protocol import Observation, settled
from agentrl.environments.tool_calls import as_call
from agentrl.types import Task

IDLE_SECONDS = 3600.0
ROUTES = "get_env_profile", "create", "step", "evaluate", "get_info", "release"
INFO = "tools", "actions", "success", "is_refused"


class Asked(BaseModel):
    """The body of every route; ``env_type`` is not looked at, the server's is one."""

    task_id: str | None = None
    instance_id: str = ""
    messages: dict[str, Any] = {}
    params: dict[str, Any] = {}


@dataclass
class Instance:
    """A world, and what an episode in it has come to."""

    world: Any
    stack: AsyncExitStack
    about: dict[str, str]
    seen: Observation
    total: float | None = 0.0
    """Of its rewards; None where a judge decides."""
    used: float = field(default_factory=time.monotonic)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def told(self) -> dict[str, Any]:
        state = [{"role": "user", "content": self.seen.text}]
        info = {**self.about, **{name: getattr(self.seen, name) for name in INFO}}
        reply = {"state": state, "reward": self.seen.reward, "info": info}
        return {**reply, "is_terminated": self.seen.done}


class EnvServer:
    """The instances of one environment; its methods are the routes.

    They raise ValueError, in a sentence, for what a client asked wrongly.
    """

    def __init__(self, name: str, splits: tuple[list[Task], list[Task]]):
        self._name, self._instances = name, {}
        self._rows = {
            split: {str(row.get("id", f"{split}-{i}")): row for i, row in enumerate(rows)}
            for split, rows in zip(("train", "dev"), splits, strict=True)
        }

    async def get_env_profile(self, asked: Asked) -> list[str]:
        """Ids of the tasks of a split; of one that is not there, none."""
        return list(self._rows.get(asked.params.get("split", "train"), ()))

    async def create(self, asked: Asked) -> dict[str, Any]:
        for name, instance in list(self._instances.items()):
            if time.monotonic() - instance.used >= IDLE_SECONDS:
                await self.release(Asked(instance_id=name))
        task = next((of[asked.task_id] for of in self._rows.values() if asked.task_id in of), None)
        name = asked.instance_id or uuid.uuid4().hex
        if task is None or name in self._instances:
            raise ValueError(f"no task {asked.task_id}, or {name} is an instance already")
        async with AsyncExitStack() as stack:
            world = await stack.enter_async_context(environment(self._name))
            seen = await settled(world.reset(task, asked.params.get("seed", 0)))
            about = {"instance_id": name, "task_id": asked.task_id}
            self._instances[name] = Instance(world, stack.pop_all(), about, seen)
        return self._instances[name].told()

    async def step(self, asked: Asked) -> dict[str, Any]:
        """Its first call is taken, or else its words."""
        instance, said = self._instance(asked), asked.messages
        calls = [as_call(call["function"]) for call in said.get("tool_calls") or ()]
        async with instance.turn:
            if instance.seen.done:
                raise ValueError(f"the episode of {asked.instance_id} is over")
            action = calls[0] if calls else str(said.get("content") or "")
            instance.seen = await settled(instance.world.step(action))
            reward, total = instance.seen.reward, instance.total
            instance.total = None if None in (reward, total) else total + reward
        return instance.told()

    async def evaluate(self, asked: Asked) -> float | None:
        return self._instance(asked).total

    async def get_info(self, asked: Asked) -> list[dict[str, Any]]:
        """The tools that can be called now."""
        return list(self._instance(asked).seen.tools)

    async def release(self, asked: Asked) -> bool:
        instance = self._instances.pop(asked.instance_id, None)
        if instance is not None:
            await instance.stack.aclose()
        return instance is not None

    def _instance(self, asked: Asked) -> Instance:
        if asked.instance_id not in self._instances:
            raise ValueError(f"there is no instance {asked.instance_id}")
        instance = self._instances[asked.instance_id]
        instance.used = time.monotonic()
        return instance


def make_app(server: EnvServer) -> FastAPI:
    app = FastAPI()
    for name in ROUTES:
        app.post(f"/{name}")(_route(getattr(server, name)))
    return app


def _route(method: Callable) -> Callable:
    async def answer(asked: Asked) -> JSONResponse:
        try:
            data = await method(asked)
        except (ValueError, RuntimeError) as error:
            # A world's failure is its instance's.
            status = 400 if isinstance(error, ValueError) else 500
            return JSONResponse({"success": False, "detail": str(error)}, status)
        return JSONResponse({"success": data is not False, "data": data})

    return answer


def serve(
    name: Annotated[str, tyro.conf.Positional], host: str = "127.0.0.1", port: int = 8080
) -> None:
    """Offer an environment, NAME:WHAT as --env takes it, by AgentJet's six routes."""
    app = make_app(EnvServer(name, asyncio.run(tasks_of(name))))
    print(f"env-service:http://{host}:{port} is {name}", flush=True)
    uvicorn.run(app, host=host, port=port, log_level="warning")


if __name__ == "__main__":
    try:
        tyro.cli(serve)
    except ValueError as error:
        raise SystemExit(str(error)) from error
