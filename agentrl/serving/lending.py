"""A served model lent to other processes: they open episodes here, and fetch their records.

    GET  /lent            what is served             with the lender's key
    POST /lent/episodes   opens one: its keys        with the lender's key
    POST /lent/decode     token ids as text          with the lender's key
    POST /lent/agents     another agent's key        with the episode's
    GET  /lent/record     its calls so far           with the episode's
    POST /lent/close      ends it; its calls         with the episode's

Sessions, templates, parsers and the engine stay in this process, so what is recorded is what
training would record; the other process has nothing to load. ``lent`` is its side of this. The
lender's key opens the agents' APIs, too, as a plain server's: nothing of that is recorded.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from agentrl.config import Config
from agentrl.serving.client import ModelClient, Serving
from agentrl.serving.lent import settings_of
from agentrl.serving.recording import AgentKey, Attempt, Session


class Unrecorded(Session):
    """For whoever comes with the lender's key: no episode, and it never ends."""

    def begin(self, agent: str, fingerprint: bytes, *, is_retry: bool) -> Attempt:
        attempt = super().begin(agent, fingerprint, is_retry=False)
        self._attempts.clear()
        return attempt

    def deliver(self, attempt: Attempt, calls: Sequence, contexts: Sequence) -> bool:
        attempt.state = "delivered"
        return True


class Lender:
    """Lends what ``serving`` serves to whoever has the key."""

    def __init__(self, serving: Serving, config: Config, folder: str, key: str):
        self._serving, self._key = serving, key
        self._about = {"folder": folder, "settings": settings_of(config)}
        self._doors: dict[str, ModelClient] = {}
        seat = AgentKey(Unrecorded(own_sampling=True), "agent", serving.policy)
        serving.endpoint.seats[key] = seat
        serving.endpoint.routers.append(self._router())

    def _router(self) -> APIRouter:
        router = APIRouter(prefix="/lent")
        router.add_api_route("", self.about, methods=["GET"])
        router.add_api_route("/episodes", self.open, methods=["POST"])
        router.add_api_route("/decode", self.decode, methods=["POST"])
        router.add_api_route("/agents", self.agent, methods=["POST"])
        router.add_api_route("/record", self.record, methods=["GET"])
        router.add_api_route("/close", self.close, methods=["POST"])
        return router

    async def about(self, request: Request) -> Response:
        self._check(request)
        return _json(self._about)

    async def open(self, request: Request) -> Response:
        self._check(request)
        door, auxiliary = self._serving.open(**await request.json())
        # Those behind a URL of their own are the borrower's to reach.
        own = {
            name: self._described(m) for name, m in auxiliary.items() if isinstance(m, ModelClient)
        }
        return _json({"model": self._described(door), "auxiliary": own})

    async def decode(self, request: Request) -> Response:
        self._check(request)
        return _json(self._serving.decode(await request.json()))

    async def agent(self, request: Request) -> Response:
        return _json(self._described(self._door(request).agent(await request.json())))

    async def record(self, request: Request) -> Response:
        return _json(_record(self._door(request)))

    async def close(self, request: Request) -> Response:
        door = self._door(request)
        # First: what is delivered from now on is not recorded any more.
        door.close()
        self._serving.release(door)
        live = self._serving.endpoint.seats
        self._doors = {key: d for key, d in self._doors.items() if key in live}
        return _json(_record(door))

    def _described(self, door: ModelClient) -> dict[str, str]:
        self._doors[door.api_key] = door
        return {"name": door.name, "base_url": door.base_url, "api_key": door.api_key}

    def _check(self, request: Request) -> None:
        if _key_of(request.headers) != self._key:
            raise HTTPException(401, "this is not the lender's key")

    def _door(self, request: Request) -> ModelClient:
        door = self._doors.get(_key_of(request.headers))
        if door is None:
            raise HTTPException(401, "this key belongs to no live episode")
        return door


def _record(door: ModelClient) -> dict[str, Any]:
    return {
        "calls": [dataclasses.asdict(call) for call in door.calls],
        "context_full": door.context_full,
        "truncated": door.truncated,
    }


def _key_of(headers: Mapping[str, str]) -> str:
    return headers.get("authorization", "").removeprefix("Bearer ")


def _json(value: Any) -> Response:
    # A log-probability may be minus infinity, which JSON proper has no word for.
    return Response(to_json(value, inf_nan_mode="constants"), media_type="application/json")
