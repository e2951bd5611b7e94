"""Server of any environment by AgentJet's six routes, for ``env-service`` and AgentJet's clients.

    python -m agentrl.environments.serve 'gymnasium:FrozenLake-v1?is_slippery=false' --port 8080

An instance is a world of its own, of one player, and released after an hour in which nobody asked
for it. In ``info`` stands what an observation has beside its text; a seed in ``params`` is the
episode's.
"""

import asyncio
import dataclasses
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any

import tyro
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from agentrl.environments.named import environment, tasks_of
from agentrl.environments.protocol import Action, Observation, ToolCall, settled
from agentrl.types import Task, parsed_arguments

IDLE_SECONDS = 3600.0
ROUTES = "get_env_profile", "create", "step", "evaluate", "get_info", "release"


class Asked(BaseModel):
    """The body of every route."""

    env_type: str | None = None
    """Not looked at: the server's is one."""
    task_id: str | None = None
    instance_id: str | None = None
    messages: dict[str, Any] = {}
    params: dict[str, Any] = {}


@dataclasses.dataclass
class Instance:
    """A world, and what an episode in it has come to."""

    world: Any
    stack: AsyncExitStack
    task_id: str
    seen: Observation
    total: float | None = 0.0
    """Of its rewards; None where a judge decides."""
    used: float = dataclasses.field(default_factory=time.monotonic)
    turn: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)

    def told(self, instance_id: str) -> dict[str, Any]:
        seen = vars(self.seen)
        rest = {name: seen[name] for name in ("tools", "actions", "success")}
        return {
            "state": [{"role": "user", "content": seen["text"]}],
            "reward": seen["reward"],
            "is_terminated": seen["done"],
            "info": {"instance_id": instance_id, "task_id": self.task_id, **rest},
        }


class EnvServer:
    """The instances of one environment; its methods are the routes.

    They raise ValueError, in a sentence, for what a client asked wrongly.
    """

    def __init__(self, name: str, splits: tuple[list[Task], list[Task]]):
        self._name, self._instances = name, {}
        rows = {"train": splits[0], "dev": splits[1]}
        self._rows = {
            split: {str(row.get("id", f"{split}-{i}")): row for i, row in enumerate(of)}
            for split, of in rows.items()
        }

    async def get_env_profile(self, asked: Asked) -> list[str]:
        """Ids of the tasks of a split; of one that is not there, none."""
        return list(self._rows.get(asked.params.get("split", "train"), ()))

    async def create(self, asked: Asked) -> dict[str, Any]:
        task = next((of[asked.task_id] for of in self._rows.values() if asked.task_id in of), None)
        name = asked.instance_id or uuid.uuid4().hex
        if task is None or name in self._instances:
            raise ValueError(f"no task {asked.task_id}, or {name} is an instance already")
        async with AsyncExitStack() as stack:
            world = await stack.enter_async_context(environment(self._name))
            seen = await settled(world.reset(task, asked.params.get("seed", 0)))
            instance = Instance(world, stack.pop_all(), asked.task_id, seen)
        self._instances[name] = instance
        return instance.told(name)

    async def step(self, asked: Asked) -> dict[str, Any]:
        instance = self._instance(asked)
        async with instance.turn:
            if instance.seen.done:
                raise ValueError(f"the episode of {asked.instance_id} is over")
            instance.seen = await settled(instance.world.step(_action(asked.messages)))
            reward, total = instance.seen.reward, instance.total
            instance.total = None if None in (reward, total) else total + reward
        return instance.told(asked.instance_id)

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

    async def release_idle(self, seconds: float) -> None:
        """Release what nobody has asked for so long."""
        for name, instance in list(self._instances.items()):
            if time.monotonic() - instance.used >= seconds:
                await self.release(Asked(instance_id=name))

    def _instance(self, asked: Asked) -> Instance:
        if asked.instance_id not in self._instances:
            raise ValueError(f"there is no instance {asked.instance_id}")
        instance = self._instances[asked.instance_id]
        instance.used = time.monotonic()
        return instance


def make_app(server: EnvServer, idle_seconds: float = IDLE_SECONDS) -> FastAPI:
    async def release_for_ever() -> None:
        while True:
            await asyncio.sleep(idle_seconds / 10)
            await server.release_idle(idle_seconds)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        releasing = asyncio.create_task(release_for_ever())
        yield
        releasing.cancel()
        await server.release_idle(0.0)

    app = FastAPI(lifespan=lifespan)
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


def _action(message: dict[str, Any]) -> Action:
    """The first call of a message, or else its words."""
    for call in message.get("tool_calls") or ():
        function = call["function"]
        return ToolCall(name=function["name"], arguments=parsed_arguments(function["arguments"]))
    return str(message.get("content") or "")


def serve(
    name: Annotated[str, tyro.conf.Positional], host: str = "127.0.0.1", port: int = 8080
) -> None:
    """Offer an environment by AgentJet's six routes.

    Args:
        name: NAME:WHAT, as --env takes it.
        host: The address to listen at.
        port: The port there.
    """
    splits = asyncio.run(tasks_of(name))
    print(f"env-service:http://{host}:{port} is {name}", flush=True)
    uvicorn.run(make_app(EnvServer(name, splits)), host=host, port=port, log_level="warning")


if __name__ == "__main__":
    try:
        tyro.cli(serve)
    except ValueError as error:
        raise SystemExit(str(error)) from error
