"""The OpenAI-compatible front of the trained model: sessions, recording, errors.

Every episode gets a door of its own (``Model``) with an unguessable key. A request that comes
through it is rendered, drawn and recorded as one ``Call``: exactly the ids that the engine was
given and returned. What would bias training (temperature, top_p, seed, penalties) is not the
agent's to choose.

This module speaks chat completions to clients in this process, whole answers only.
"""

import asyncio
import hashlib
import itertools
import json
import logging
import secrets
import time
from concurrent.futures import Future
from functools import cached_property
from typing import Any

import httpx2
import openai

from agentrl.serving.chat import Chat, Context
from agentrl.serving.engine import Completion, Engine, Sampling
from agentrl.types import Call

log = logging.getLogger(__name__)

OVERRIDDEN = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty")
UNDERSTOOD = {"model", "messages", "tools", "tool_choice", "max_tokens", "max_completion_tokens"}
UNDERSTOOD |= {"stop", "n", "stream", "user", "metadata", "parallel_tool_calls", *OVERRIDDEN}


class RequestRefused(Exception):
    """Becomes an error in OpenAI's form. Its status says whether a client should try again."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": "invalid_request_error", "code": code}}


class Session:
    """The record of one episode."""

    def __init__(self, seed: tuple):
        self.seed = seed
        self.requests = itertools.count()
        self.calls: list[Call] = []
        self.past: dict[str, list[Context]] = {}
        self.running: set[Future[Completion]] = set()
        self.keys: list[str] = []
        """Of all its agents."""
        self.closed = False
        self.context_full = False
        """Whether the last request did not fit any more."""


class Model:
    """The door to the trained model, bound to one episode and one agent's name."""

    def __init__(self, endpoint: "Endpoint", session: Session, agent: str):
        self._endpoint, self._session, self._agent = endpoint, session, agent
        self.api_key = secrets.token_urlsafe(24)
        session.keys.append(self.api_key)
        endpoint.seats[self.api_key] = (session, agent)
        # A workflow that was left behind may ask for an agent after the end.
        if session.closed:
            self.close()

    def agent(self, name: str) -> "Model":
        """The same episode under another agent's name: one record, a key of its own."""
        return Model(self._endpoint, self._session, name)

    @cached_property
    def openai(self) -> openai.AsyncOpenAI:
        """A client in this process, no socket; for any number of concurrent calls."""
        return openai.AsyncOpenAI(
            api_key=self.api_key,
            base_url="http://agentrl/v1",
            http_client=httpx2.AsyncClient(transport=_InProcess(self._endpoint), trust_env=False),
            max_retries=0,
        )

    @property
    def calls(self) -> tuple[Call, ...]:
        return tuple(self._session.calls)

    @property
    def context_full(self) -> bool:
        return self._session.context_full

    @property
    def truncated(self) -> bool:
        """Whether the context or a length limit ended the episode's last call."""
        calls = self._session.calls
        return self.context_full or bool(calls and calls[-1].finish_reason == "length")

    def close(self) -> None:
        """From now on no key of the episode opens anything, whichever agent's it is; what still
        runs is aborted and not recorded."""
        self._session.closed = True
        for key in self._session.keys:
            self._endpoint.seats.pop(key, None)
        for future in list(self._session.running):
            future.cancel()


class Endpoint:
    """Answers the requests of all episodes from one engine."""

    def __init__(
        self,
        engine: Engine,
        chat: Chat,
        *,
        temperature: float,
        max_tokens: int,
        max_len: int,
        seed: int,
    ):
        self.seats: dict[str, tuple[Session, str]] = {}
        self.num_tokens = 0
        """Completion tokens drawn so far, for the progress display."""
        self.engine, self._chat = engine, chat
        self._temperature, self._max_tokens = temperature, max_tokens
        self._max_len, self._seed = max_len, seed
        self._has_warned = False

    def open(self, *, step: int, task_id: str, episode: int) -> Model:
        """A new episode's door."""
        return Model(self, Session((self._seed, step, task_id, episode)), "agent")

    async def answer(self, path: str, key: str, body: dict[str, Any]) -> tuple[int, dict]:
        """Answer one request: an HTTP status and a body."""
        try:
            if key not in self.seats:
                raise RequestRefused(401, "invalid_api_key", "this key belongs to no live episode")
            if not path.endswith("/chat/completions"):
                raise RequestRefused(404, "unknown_url", f"nothing is served at {path}")
            given = {name: value for name, value in body.items() if value is not None}
            return 200, await self._chat_completion(key, given)
        except RequestRefused as refusal:
            return refusal.status, refusal.body
        except Exception as error:
            # A client would hide it behind "Connection error".
            refusal = RequestRefused(500, "internal_error", f"{type(error).__name__}: {error}")
            return refusal.status, refusal.body

    async def _chat_completion(self, key: str, body: dict[str, Any]) -> dict:
        session, agent = self.seats[key]
        self._check(body)
        tools = body.get("tools") if body.get("tool_choice", "auto") != "none" else None
        past = session.past.setdefault(agent, [])
        prompt = self._chat.prompt(body["messages"], tools, past)
        number = next(session.requests)
        stop = body.get("stop") or ()
        sampling = Sampling(
            temperature=self._temperature,
            max_tokens=self._room(session, prompt, body),
            seed=_hash(*session.seed, number),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
        )
        drawn = await self._draw(key, session, prompt, sampling)
        call_id = f"call-{number}"
        reply = self._chat.reply(drawn.ids, drawn.cut_text, tools, call_id)
        context = self._chat.finished(prompt, drawn.ids, reply)
        if drawn.cut_text is None:
            # Else the agent saw less than was drawn, and cannot go on from there.
            past.append(context)
        self.num_tokens += len(drawn.ids)
        session.context_full = False
        session.calls.append(
            Call(
                prompt_ids=prompt.ids,
                completion_ids=drawn.ids,
                logprobs=drawn.logprobs,
                finish_reason=drawn.finish_reason,
                agent=agent,
                text=context.text[len(prompt.text) :],
                messages=tuple(body["messages"]),
                reply=reply,
            )
        )
        return _completion(call_id, body.get("model", "policy"), prompt.ids, drawn, reply)

    async def _draw(
        self, key: str, session: Session, prompt: Context, sampling: Sampling
    ) -> Completion:
        future = self.engine.submit(prompt.ids, sampling)
        session.running.add(future)
        try:
            # Whoever closes the door takes the seat first and then cancels what runs.
            if key not in self.seats:
                future.cancel()
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if key in self.seats:
                raise
            raise RequestRefused(401, "invalid_api_key", "the episode has ended") from None
        finally:
            session.running.discard(future)
            future.cancel()

    def _check(self, body: dict[str, Any]) -> None:
        wanted = set(body)
        unknown = wanted - UNDERSTOOD
        if body.get("stream") or body.get("n", 1) != 1:
            unknown |= {"stream" if body.get("stream") else "n"}
        if body.get("tool_choice", "auto") not in ("auto", "none"):
            unknown |= {"tool_choice"}
        if unknown:
            names = ", ".join(sorted(unknown))
            raise RequestRefused(400, "unsupported_parameter", f"not supported here: {names}")
        if not body.get("messages"):
            raise RequestRefused(400, "missing_required_parameter", "messages must not be empty")
        overridden = wanted & set(OVERRIDDEN) - {"temperature"}
        if body.get("temperature", self._temperature) != self._temperature:
            overridden |= {"temperature"}
        if overridden and not self._has_warned:
            self._has_warned = True
            log.warning(
                "the agent chose its own %s; every call is drawn at temperature %g instead, "
                "so that what is trained is what was sampled (said once)",
                ", ".join(sorted(overridden)),
                self._temperature,
            )

    def _room(self, session: Session, prompt: Context, body: dict[str, Any]) -> int:
        left = self._max_len - len(prompt.ids)
        if left < 1:
            session.context_full = True
            raise RequestRefused(
                400,
                "context_length_exceeded",
                f"This model's maximum context length is {self._max_len} tokens, "
                f"and the messages come to {len(prompt.ids)}.",
            )
        wanted = body.get("max_completion_tokens") or body.get("max_tokens") or self._max_tokens
        return min(wanted, self._max_tokens, left)


class _InProcess(httpx2.AsyncBaseTransport):
    """Carries a client's requests to the endpoint on the caller's own event loop."""

    def __init__(self, endpoint: Endpoint):
        self._endpoint = endpoint

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        body = json.loads(await request.aread() or b"{}")
        status, answer = await self._endpoint.answer(request.url.path, key, body)
        return httpx2.Response(status, json=answer, request=request)


def _hash(*parts: Any) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _completion(call_id: str, model: str, prompt_ids: list[int], drawn: Any, reply: dict) -> dict:
    finish_reason = "tool_calls" if reply.get("tool_calls") else drawn.finish_reason
    return {
        "id": call_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": reply, "finish_reason": finish_reason}],
        "usage": {
            "prompt_tokens": len(prompt_ids),
            "completion_tokens": len(drawn.ids),
            "total_tokens": len(prompt_ids) + len(drawn.ids),
        },
    }
