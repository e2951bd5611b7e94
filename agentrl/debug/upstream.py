"""Upstream: somebody's OpenAI-compatible server, for ``--debug`` without an engine here.

A workflow gets a plain client of it. What goes through ``model.openai`` is noted for a transcript:
messages, and no token ids. Whoever calls ``model.base_url`` is not seen.
"""

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import httpx2
import openai

from agentrl.serving.dialects.chat_completions import plain_message
from agentrl.serving.remote import RemoteModel
from agentrl.types import Call

NOT_NOTED = [{"message": {"content": "[streamed, and not noted]"}, "finish_reason": "stop"}]


class UpstreamModel(RemoteModel):
    """One agent's client of the server; what an episode's agents say is noted by the first."""

    def __init__(self, name: str, base_url: str, api_key: str, agent: str = "agent", first=None):
        super().__init__(name, base_url, api_key)
        self._agent, self._first = agent, first or self
        self.calls: tuple[Call, ...] = ()
        self.context_full = False

    @cached_property
    def openai(self) -> openai.AsyncOpenAI:
        """A client that fails at once, and keeps no connection for longer than an answer."""
        once, hooks = httpx2.Limits(max_keepalive_connections=0), {"response": [self._note]}
        client = httpx2.AsyncClient(limits=once, timeout=600.0, event_hooks=hooks)
        return openai.AsyncOpenAI(
            api_key=self.api_key, base_url=self.base_url, http_client=client, max_retries=0
        )

    def agent(self, name: str) -> "UpstreamModel":
        """A client under another agent's name."""
        return UpstreamModel(self.name, self.base_url, self.api_key, name, self._first)

    @property
    def truncated(self) -> bool:
        """Whether the context or a length limit ended the last call."""
        return self.context_full or bool(self.calls and self.calls[-1].finish_reason == "length")

    def close(self) -> None:
        """An episode leaves nothing here that would have to be closed."""

    async def _note(self, response: httpx2.Response) -> None:
        if not response.request.url.path.endswith("/completions"):
            return
        asked, choices = json.loads(response.request.content), NOT_NOTED
        if response.status_code != 200 or not asked.get("stream"):
            answer = json.loads(await response.aread() or "{}")
            choices, refused = answer.get("choices", []), str(answer.get("error"))
            signs = ("context_length_exceeded", "maximum context length")
            self._first.context_full = any(sign in refused for sign in signs)
        given = asked.get("messages") or [{"role": "prompt", "content": str(asked["prompt"])}]
        for choice in choices:
            message = choice.get("message") or {"content": choice["text"]}
            call = Call(
                **{unknown: [] for unknown in ("prompt_ids", "completion_ids", "logprobs")},
                finish_reason=choice["finish_reason"] or "stop",
                agent=self._agent,
                messages=tuple(map(plain_message, given)),
                reply=plain_message({**message, "role": "assistant"}),
            )
            self._first.calls += (call,)


class Upstream:
    """The server at a URL, ``/v1`` included, in the place of a run's models.

    Raises ValueError, in a sentence, where it cannot be. model: None where it has one only.
    """

    def __init__(self, url: str, key: str, model: str | None, auxiliary: Mapping[str, Callable]):
        self._url, self._key, self._auxiliary = url.rstrip("/"), key, auxiliary
        self._model = _choose(self._url, self._list_models(), model)

    num_tokens = 0
    """Of those that are sampled there nothing is known."""

    def open(self, **_: Any) -> tuple[UpstreamModel, dict[str, RemoteModel]]:
        """A new episode's client, and those of the auxiliary models."""
        auxiliary = {name: make() for name, make in self._auxiliary.items()}
        return UpstreamModel(self._model, self._url, self._key), auxiliary

    @property
    def engine(self) -> "Upstream":
        """What would know that nothing can be drawn any more."""
        return self

    def raise_if_stopped(self) -> None:
        """A server that is gone shows in the next call."""

    def release(self, model: UpstreamModel) -> None:
        """Nothing waits for an episode here."""

    def decode(self, ids: list[int]) -> str:
        """Without token ids there is no text of them."""
        return ""

    def _list_models(self) -> list[str]:
        try:
            headers = {"authorization": f"Bearer {self._key}"}
            response = httpx2.get(f"{self._url}/models", headers=headers, timeout=10.0)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise ValueError(
                f"--base-url {self._url} is no address: give one like http://127.0.0.1:8000/v1"
            ) from error
        except httpx2.TransportError as error:
            raise ValueError(
                f"nothing answers at --base-url {self._url} ({error}): is the server running?"
            ) from error
        if response.status_code in (401, 403):
            raise ValueError(f"{self._url} does not take this key: give its own, --api-key")
        try:
            return [model["id"] for model in response.json()["data"]]
        except (ValueError, KeyError, TypeError):
            return []


def _choose(url: str, listed: list[str], name: str | None) -> str:
    if name is None and len(listed) > 1:
        raise ValueError(f"{url}/models lists {', '.join(listed)}: choose one with --model")
    if name is None and not listed:
        raise ValueError(
            f"{url}/models lists no models: does --base-url end in /v1? Else name one with --model"
        )
    return name or listed[0]
