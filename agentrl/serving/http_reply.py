"""HTTP reply, and the wait for it: clients that hang up, and signs of life in a stream."""

import asyncio
from asyncio import Future
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

PATIENCE = 15.0
"""Seconds after which a stream says that its answer is still drawn, each time: Node's clients give
up on what does not say a word for five minutes."""


@dataclass(frozen=True)
class HttpReply:
    """An HTTP response, whatever carries it."""

    status: int
    body: bytes
    content_type: str = "application/json"
    take_back: Callable[[], None] = lambda: None
    """For whoever finds that nobody is there to read it: what was recorded is taken back."""

    @property
    def headers(self) -> dict[str, str]:
        # Nothing that is refused here would be accepted a second time.
        retry = {} if self.status == 200 else {"x-should-retry": "false"}
        return {"content-type": self.content_type, **retry}

    @property
    def response(self) -> Response:
        return Response(self.body, status_code=self.status, headers=self.headers)

    @property
    def events(self) -> bytes:
        """The rest of a stream that has begun; what is refused now has no status any more."""
        return self.body if self.status == 200 else b"event: error\ndata: %s\n\n" % self.body


async def answer(
    http_request: Request, raw: bytes, work: Coroutine[Any, Any, HttpReply]
) -> ASGIApp:
    """Do the work, unless the client hangs up: then it is cancelled.

    raw: the request's body.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(http_request.receive())
    try:
        if not await _first_of(task, gone, PATIENCE) and _streams(raw):
            return partial(_begun, task, gone)
        await _first_of(task, gone)
    except asyncio.CancelledError:
        await _settled(task, gone)
        raise
    http_reply = await _settled(task, gone)
    # Whoever has gone reads nothing of what is sent to it.
    return http_reply.response if http_reply else Response(status_code=499)


async def _first_of(task: Future, gone: Future, seconds: float | None = None) -> bool:
    """Whether there is an answer, or nobody to read it, within this time."""
    first = asyncio.FIRST_COMPLETED
    done, _ = await asyncio.wait({task, gone}, timeout=seconds, return_when=first)
    return bool(done)


async def _settled(task: Future, gone: Future) -> HttpReply | None:
    """The answer; None where there is none, or nobody to read it."""
    try:
        if gone.done() and task.done():
            task.result().take_back()
        return task.result() if task.done() and not gone.done() else None
    finally:
        for waiting in (task, gone):
            waiting.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _streams(raw: bytes) -> bool:
    with suppress(ValueError, AttributeError):
        return from_json(raw).get("stream") is True
    return False


async def _begun(task: Future, gone: Future, scope: Scope, receive: Receive, send: Send) -> None:
    """A stream before its answer is there: comments, which no client reads."""
    headers = [(b"content-type", b"text/event-stream")]
    part = {"type": "http.response.body", "body": b": still drawn\n\n", "more_body": True}
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    try:
        await send(part)
        while not await _first_of(task, gone, PATIENCE):
            await send(part)
    finally:
        http_reply = await _settled(task, gone)
    if http_reply:
        await send({**part, "body": http_reply.events, "more_body": False})
