"""HTTP server of the models: OpenAI's and Anthropic's APIs, in this process and over a socket.

Every episode gets a client of its own (``client.ModelClient``) with an unguessable key. A request
under that key is rendered, sampled and recorded: exactly the ids that the engine was given and
returned. vLLM's own serving classes are not used here: docs/serving.md says why.
"""

import asyncio
import hashlib
import logging
import secrets
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import uvicorn
from pydantic import ValidationError
from pydantic_core import from_json
from pydantic_core import to_json as any_to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from agentrl.serving.dialects import (
    Dialect,
    chat_completions,
    completions,
    messages,
    openai_error,
    responses,
)
from agentrl.serving.dialects.base import Body
from agentrl.serving.handler import Handler
from agentrl.serving.http_reply import HttpReply, answer
from agentrl.serving.process import bypass_proxies
from agentrl.serving.protocol import Request, RequestRefused, Response, invalid, valid_json
from agentrl.serving.recording import Attempt, Recording

log = logging.getLogger(__name__)

to_json = partial(any_to_json, inf_nan_mode="null")
APIS = (chat_completions, completions, responses, messages)
DIALECTS = {dialect.path: dialect for dialect in (*(api.DIALECT for api in APIS), messages.COUNT)}


@dataclass(frozen=True)
class AgentKey:
    """What a key opens: the recording of one agent's calls in one episode."""

    recording: Recording
    agent: str
    handler: Handler


class Server:
    """Answers the requests of all episodes. An HTTP server starts when ``url`` is first read."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0):
        self.agent_keys: dict[str, AgentKey] = {}
        self._numbers = count()
        self._host, self._port = host, port
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def register(self, recording: Recording, agent: str, handler: Handler) -> str:
        """A new key, under which one agent's requests are recorded in one episode."""
        key = f"sk-{secrets.token_urlsafe(24)}"
        # An episode that has ended gets no new ones, whoever asks.
        if recording.is_open:
            self.agent_keys[key] = AgentKey(recording, agent, handler)
        return key

    def episode_url(self) -> str:
        """An address that no other client has; without ``/v1``."""
        return f"{self.url}/episode/{next(self._numbers)}"

    def unregister(self, recording: Recording) -> list[str]:
        """The keys of a recording open nothing any more; what still runs is aborted.

        Returns those keys.
        """
        ended = {recording, *recording.companions}
        keys = [key for key, one in list(self.agent_keys.items()) if one.recording in ended]
        for key in keys:
            self.agent_keys.pop(key, None)
        for one in ended:
            one.close()
        return keys

    @property
    def url(self) -> str:
        """The server's address, without ``/v1``."""
        with self._lock:
            if self._server is None:
                self._start()
        return f"http://{self._host}:{self._port}"

    def close(self) -> None:
        """Stop the HTTP server, where it was started."""
        with self._lock:
            if self._server is not None:
                self._server.should_exit = self._server.force_exit = True
                self._thread.join()
                self._server = None

    async def respond(self, path: str, raw: bytes, headers: Mapping[str, str]) -> HttpReply:
        """Answer one request. Cancelling it leaves nothing behind.

        headers: their names in lower case, or in any where the mapping ignores it.
        An answer is drawn and parsed whole, and only then written down, as one object or as the
        events of a stream: both say the same, and what goes wrong has a status of its own.
        """
        dialect = DIALECTS.get(path)
        try:
            agent_key = self._find_agent_key(headers)
            if dialect is None:
                return HttpReply(200, to_json(_models_at(path, agent_key.handler.name)))
            body = _parse(dialect.body, raw)
            if dialect.counts:
                return _count(dialect, body, agent_key)
            fingerprint = hashlib.blake2b(path.encode() + raw, digest_size=16).digest()
            is_retry = headers.get("x-stainless-retry-count", "0") != "0"
            attempt = agent_key.recording.begin(agent_key.agent, fingerprint, is_retry=is_retry)
            return await _carry_out(dialect, body, agent_key.handler, attempt)
        except RequestRefused as refusal:
            return _refuse(refusal, dialect)
        except Exception as error:
            # A client would hide it behind "Connection error".
            log.exception("a request failed")
            message = f"{type(error).__name__}: {error}"
            return _refuse(RequestRefused(500, "internal_error", message), dialect)

    def _find_agent_key(self, headers: Mapping[str, str]) -> AgentKey:
        bearer = headers.get("authorization", "")
        key = bearer[7:] if bearer[:7].lower() == "bearer " else headers.get("x-api-key", "")
        agent_key = self.agent_keys.get(key)
        if agent_key is None:
            raise RequestRefused(401, "invalid_api_key", "this key belongs to no live episode")
        return agent_key

    def _start(self) -> None:
        bypass_proxies(self._host)
        listener = socket.create_server((self._host, self._port), backlog=4096)
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            make_app(self),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            # A connection that is closed just as a client uses it again looks like a lost request.
            timeout_keep_alive=3600,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="server", daemon=True
        )
        self._thread.start()


def make_app(server: Server) -> Starlette:
    """The HTTP routes over a server."""

    async def respond(http_request: HttpRequest) -> ASGIApp:
        path = http_request.scope["path"].removeprefix(http_request.scope["root_path"])
        raw = await http_request.body()
        return await answer(http_request, raw, server.respond(path, raw, http_request.headers))

    async def not_found(http_request: HttpRequest, error: HTTPException) -> HttpResponse:
        message = f"{http_request.method} {http_request.url.path}: {error.detail}"
        return _refuse(RequestRefused(error.status_code, "unknown_url", message), None).response

    routes = [Route(path, respond, methods=["POST"]) for path in DIALECTS]
    routes += [Route(path, respond) for path in ("/v1/models", "/v1/models/{name}")]
    # Libraries keep clients by base URL for the whole process (LangChain does), and a client is
    # bound to the event loop that it was first used in. Each episode has a loop of its own.
    routes.append(Mount("/episode/{number}", routes=list(routes)))
    return Starlette(routes=routes, exception_handlers={HTTPException: not_found})


def _models_at(path: str, name: str) -> dict:
    """OpenAI's list of models, or one of it: the one that a key opens."""
    model = {"id": name, "object": "model", "created": 0, "owned_by": "agentrl"}
    found = {"/v1/models": {"object": "list", "data": [model]}, f"/v1/models/{name}": model}
    if path not in found:
        raise RequestRefused(404, "unknown_url", f"nothing is served at {path}")
    return found[path]


def _count(dialect: Dialect, body: Body, key: AgentKey) -> HttpReply:
    request = dialect.request(body, key.recording.conversations)
    num_tokens = key.handler.count(request, key.recording, key.agent)
    return HttpReply(200, to_json({"input_tokens": num_tokens}))


async def _carry_out(dialect: Dialect, body: Body, handler: Handler, attempt: Attempt) -> HttpReply:
    try:
        conversations = attempt.recording.conversations
        request = dialect.request(body, conversations)
        response = await handler.respond(request, attempt)
        conversations |= dialect.conversation(response, body, request)
        kind, written = _write(dialect, response, body, request)
        return HttpReply(200, written, kind, partial(attempt.recording.drop, attempt, "lost"))
    except BaseException as error:
        was_left = isinstance(error, asyncio.CancelledError)
        attempt.recording.drop(attempt, "lost" if was_left else "over")
        raise


def _write(dialect: Dialect, response: Response, body: Body, request: Request) -> tuple[str, bytes]:
    if not body.stream:
        return "application/json", to_json(dialect.whole(response, body, request))
    events = [_encode_event(*event) for event in dialect.events(response, body, request)]
    return "text/event-stream", b"".join(events)


def _encode_event(name: str | None, data: Any) -> bytes:
    line = b"event: %s\n" % name.encode() if name else b""
    return line + b"data: %s\n\n" % (data.encode() if isinstance(data, str) else to_json(data))


def _parse(kind: type[Body], raw: bytes) -> Body:
    body = _read(raw)
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise invalid(error, body) from error


def _read(raw: bytes) -> Any:
    with suppress(ValueError):
        return from_json(raw, allow_inf_nan=False)
    try:
        return from_json(valid_json(raw.decode("utf-8", "surrogatepass")))
    except (ValueError, RecursionError) as error:
        raise RequestRefused(400, "invalid_request", f"the body is no JSON: {error}") from error


def _refuse(refusal: RequestRefused, dialect: Dialect | None) -> HttpReply:
    body = dialect.error(refusal) if dialect else openai_error(refusal)
    return HttpReply(refusal.status, to_json(body))
